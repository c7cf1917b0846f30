"""A clock that moves: backwards by a day, forwards by a year, within steps and between them."""

import os
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import libfaketime
import pytest

from ml.export.files import MODEL
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.landing.readiness import missing, table_folder
from ml.releases.store import ReleaseStore
from tests.support.commands import home_environment
from tests.support.instance import tables

MOVES = ("-1d", "+365d", "+0d")
PROBE = """
import sys
from pathlib import Path
from ml.inference.probe import measure_serving
print("ready", measure_serving(Path(sys.argv[1]), None, timeout_s=300)["ready_s"])
"""


class Clock:
    """The clock of the processes that get ``environment``; ``move`` puts it elsewhere."""

    def __init__(self, folder: Path) -> None:
        self.file, self.moves = folder / "clock", 0
        self.environment = {
            **libfaketime.get_reload_information()[1],
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",  # dated by this clock, it would be compiled again by all others
        }
        self.move()

    def move(self) -> None:
        scratch = self.file.with_suffix(".new")
        scratch.write_text(f"{MOVES[self.moves % len(MOVES)]}\n")
        scratch.replace(self.file)
        self.moves += 1


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_tables_and_served_bytes_do_not_depend_on_the_clock(tiny_demo: Path, tmp_path: Path) -> None:
    home, clock = tmp_path / "home", Clock(tmp_path)
    command = [sys.executable, "-W", "ignore", "-m", "deploy.cli", "demo", "--preset", "tiny"]
    environment = home_environment(home, **clock.environment)
    with subprocess.Popen(command, env=environment, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout
        for _ in demo.stdout:  # a step ended, or told how far it is
            clock.move()
    assert demo.returncode == 0 and clock.moves > 20
    surfaces_dir = PROJECT_ROOT / "tests" / "surfaces"
    moved, calm = (Settings(home=folder, surfaces_dir=surfaces_dir, threads=1) for folder in (home, tiny_demo))
    assert tables(moved) == tables(calm)
    for surface in ("homepage", "radio"):
        here, there = (ReleaseStore(settings.artifacts_dir).champion(surface) for settings in (moved, calm))
        assert here and there, f"no release of {surface}"
        assert here.release.record.files[MODEL] == there.release.record.files[MODEL], "the same bytes are served"


def test_the_gate_does_not_time_a_candidate_by_a_clock_that_may_be_moved(tiny_demo: Path, tmp_path: Path) -> None:
    [release] = (tiny_demo / "artifacts" / "releases" / "homepage").iterdir()
    clock = Clock(tmp_path)
    command = [sys.executable, "-c", PROBE, str(release)]
    with subprocess.Popen(
        command, env={**os.environ, **clock.environment}, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True
    ) as probe:
        while probe.poll() is None:
            clock.move()
            time.sleep(0.01)
        assert probe.stdout and probe.returncode == 0
        assert 0 < float(probe.stdout.read().split()[-1]) < 300


def test_files_that_are_dated_in_the_future_say_what_they_wait_for(tmp_path: Path) -> None:
    settings, day = Settings(home=tmp_path), date(2026, 1, 1)
    folder = table_folder(settings, "listens", day)
    folder.mkdir(parents=True)
    (folder / "part.csv").touch()
    ahead = time.time() + 90 * 60
    os.utime(folder / "part.csv", (ahead, ahead))
    assert "listens: no _SUCCESS, and the last change is dated 90 minutes in the future" in missing(settings, day)
    (folder / "_SUCCESS").touch()
    assert not [reason for reason in missing(settings, day) if reason.startswith("listens")]
