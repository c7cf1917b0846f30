"""Several writers: who may write beside others waits for nobody, who asks to be alone is, and a killed one lets go."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from ml.features.build import DbtError, retried
from ml.foundation.settings import PROJECT_ROOT, Settings, SettingsError
from ml.foundation.writers import writing

HOLDER = """
import sys
from ml.foundation.settings import Settings
from ml.foundation.writers import writing
with writing(Settings(), alone=True):
    print("alone", flush=True)
    sys.stdin.read()
"""


def test_the_embedded_catalog_has_one_writer(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="lake_writers is 2, but the embedded catalog has one writer"):
        Settings(home=tmp_path, lake_writers=2)
    with writing(Settings(home=tmp_path), alone=True), writing(Settings(home=tmp_path)):
        pass


def test_writers_meet_each_other_but_not_who_asked_to_be_alone(postgres: Callable[[str], str], tmp_path: Path) -> None:
    url = postgres("writers")
    settings = Settings(home=tmp_path, catalog_url=SecretStr(url), lake_writers=2)
    order: list[str] = []

    def alone() -> None:
        with writing(settings, alone=True):
            order.append("alone")

    with writing(settings), writing(settings):
        thread = threading.Thread(target=alone)
        thread.start()
        time.sleep(0.3)
        order.append("both ended")
    thread.join(30)
    assert order == ["both ended", "alone"]

    environment = os.environ | {"CROSSFADE_HOME": str(tmp_path), "CROSSFADE_CATALOG_URL": url}
    environment |= {"CROSSFADE_LAKE_WRITERS": "2", "PYTHONPATH": str(PROJECT_ROOT)}
    command = [sys.executable, "-c", HOLDER]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout and holder.stdout.readline() == b"alone\n"
        os.kill(holder.pid, signal.SIGKILL)
    with writing(settings):
        order.append("after a kill")
    assert order[-1] == "after a kill"


def test_a_conflict_is_built_again_as_a_whole_and_told_once() -> None:
    calls = []

    def build():
        calls.append(len(calls))
        yield "first"
        if len(calls) < 3:
            raise DbtError("feat_user: Transaction conflict - attempting to delete from table")
        yield "second"

    assert list(retried(build, lambda event: event, pause_s=0)) == ["first", "second"] and len(calls) == 3


@pytest.mark.parametrize(("error", "calls"), [("feat_user: division by zero", 1), ("Transaction conflict", 4)])
def test_another_error_and_a_conflict_without_end_are_raised(error: str, calls: int) -> None:
    made = []

    def build():
        made.append(1)
        raise DbtError(error)
        yield

    with pytest.raises(DbtError, match=error):
        list(retried(build, lambda event: None, attempts=4, pause_s=0))
    assert len(made) == calls
