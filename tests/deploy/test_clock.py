"""A clock that moves: backwards by a day, forwards by a year, within steps and between them."""

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import libfaketime
import pytest

from ml.landing.readiness import missing, table_folder
from ml.settings import PROJECT_ROOT, Settings
from ml.store.releases import MODEL, ReleaseStore
from tests.campaigns.instance import tables

MOVES = ("-1d", "+365d", "+0d")
PROBE = """
import sys
from pathlib import Path
from ml.gate.probe import measure_serving
print("ready", measure_serving(Path(sys.argv[1]), None, timeout_s=300)["ready_s"])
"""


@contextmanager
def moving_clock(folder: Path, every_s: float = 5.0) -> Iterator[dict[str, str]]:
    """Yield the environment of processes whose clock somebody moves all the time while the block runs."""
    file, stop, moments = folder / "clock", threading.Event(), random.Random(0)

    def put(offset: str) -> None:
        scratch = file.with_suffix(".new")
        scratch.write_text(f"{offset}\n")
        scratch.replace(file)

    def move() -> None:
        while not stop.wait(moments.uniform(0, every_s)):
            put(moments.choice(MOVES))

    put(MOVES[0])
    mover = threading.Thread(target=move)
    mover.start()
    _, library = libfaketime.get_reload_information()
    try:
        yield {**library, "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1"}
    finally:
        stop.set()
        mover.join()


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_tables_and_served_bytes_do_not_depend_on_the_clock(
    run_command: Callable[..., str], tiny_demo: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    with moving_clock(tmp_path) as environment:
        run_command(home, "demo", "--preset", "tiny", timeout=1500, **environment)
    moved, calm = (
        Settings(home=h, surfaces_dir=PROJECT_ROOT / "tests" / "surfaces", threads=1) for h in (home, tiny_demo)
    )
    assert tables(moved) == tables(calm)
    stores = [ReleaseStore(settings.artifacts_dir) for settings in (moved, calm)]
    for surface in ("homepage", "radio"):
        here, there = (champion.release.record.files for store in stores if (champion := store.champion(surface)))
        assert here[MODEL] == there[MODEL], "the same bytes are served"


def test_the_gate_does_not_time_a_candidate_by_a_clock_that_may_be_moved(tiny_demo: Path, tmp_path: Path) -> None:
    [release] = (tiny_demo / "artifacts" / "releases" / "homepage").iterdir()
    with moving_clock(tmp_path, every_s=0.02) as environment:
        run = [sys.executable, "-c", PROBE, str(release)]
        done = subprocess.run(run, env={**os.environ, **environment}, cwd=PROJECT_ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert 0 < float(done.stdout.split()[-1]) < 300


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
