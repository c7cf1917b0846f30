"""Kills at random moments, many times: `make kills`. The tests kill the same parts once, at a chosen moment."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from ml.lake import Lake
from ml.settings import PROJECT_ROOT, Settings
from ml.study.analysis import lifts
from ml.study.design import load_design
from ml.study.report import study_rows
from ml.study.run import TRIALS_TABLE

KILLS = int(os.environ.get("KILLS", "5"))
STUDY = """
one:
  description: Two small worlds.
  preset: tiny
  surfaces_dir: tests/surfaces
  seeds: [1]
  parts:
    - {worlds: [7, 8], arms: [student, student shuffled, auxiliary]}
    - {worlds: [7], arms: [student], dials: {teacher_days: [2], shared_taste: [0]}}
"""
RUN = """
import sys
from pathlib import Path
from ml.settings import Settings
from ml.study.design import load_design
from ml.study.run import run_study
if __name__ == "__main__":
    run_study(Settings(home=Path(sys.argv[1])), load_design("one", Path(sys.argv[2])), workers=2)
"""


def test_a_study_killed_at_random_moments_ends_with_the_table_of_an_undisturbed_one(tmp_path: Path):
    designs, script = tmp_path / "designs.yaml", tmp_path / "run.py"
    designs.write_text(STUDY)
    script.write_text(RUN)
    began = time.monotonic()
    assert start(script, tmp_path / "undisturbed", designs).wait() == 0
    whole = time.monotonic() - began

    home, moments, kills = tmp_path / "killed", random.Random(0), 0
    while kills < KILLS:
        process = start(script, home, designs)
        wait = moments.uniform(0.05, 0.6) * whole
        try:
            code = process.wait(timeout=wait)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            print(f"kill {kills} of {KILLS} after {wait:.1f} s: {len(held(home))} figures are kept", flush=True)
            continue
        assert code == 0
        print(f"finished before kill {kills + 1}; the rest starts from nothing", flush=True)
        home = tmp_path / f"killed-{kills}"
    assert start(script, home, designs).wait() == 0

    assert held(home) == held(tmp_path / "undisturbed")
    design = load_design("one", designs)
    tables = [lifts(study_rows(Settings(home=h), design), design) for h in (home, tmp_path / "undisturbed")]
    assert tables[0] == tables[1] and len(tables[0]) > 10


def start(script: Path, home: Path, designs: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, str(script), str(home), str(designs)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    return subprocess.Popen(command, env=environment, start_new_session=True)


def held(home: Path) -> dict[tuple[str, ...], float]:
    """Return every figure of the lake, {(trial, task, slice, metric): value}."""
    with Lake(Settings(home=home)) as lake:
        if not lake.table_exists(TRIALS_TABLE):
            return {}
        rows = lake.sql(f"select trial, task, slice, metric, value from lake.{TRIALS_TABLE}").to_pylist()
    found = {tuple(row[key] for key in ("trial", "task", "slice", "metric")): row["value"] for row in rows}
    assert len(found) == len(rows), "a trial is in the lake twice"
    return found
