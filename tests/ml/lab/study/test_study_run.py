import os
import signal
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from assets.progress import ProgressResource
from assets.study import build_study
from ml.foundation.lake import Lake
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.lab.study.analysis import levels, lifts
from ml.lab.study.design import Design, load_design
from ml.lab.study.report import NoTrials, study_rows, write_report
from ml.lab.study.run import TRIALS_TABLE, Progress, plan, run_study
from ml.lab.study.worlds import worlds_dir

pytestmark = pytest.mark.early

STUDY = """
one:
  description: One small world.
  preset: tiny
  surfaces_dir: tests/surfaces
  seeds: [1]
  surfaces: [homepage]
  parts:
    - {worlds: [7], variants: [student, student shuffled, ceiling]}
    - {worlds: [7], variants: [student], dials: {volume: [0.5], defaulted: [0.9], teacher_days: [2]}}
"""
RUN = """
import sys
from pathlib import Path
from ml.foundation.settings import Settings
from ml.lab.study.design import load_design
from ml.lab.study.run import run_study
if __name__ == "__main__":
    design = load_design("one", Path(sys.argv[2]))
    run_study(Settings(home=Path(sys.argv[1])), design, report=lambda p: print(p.what, flush=True))
"""


def held(settings: Settings) -> dict[str, float]:
    with Lake(settings) as lake:
        rows = lake.sql(f"select trial, task, slice, metric, value from lake.{TRIALS_TABLE}").to_pylist()
    found = {f"{row['trial']} {row['task']} {row['slice']} {row['metric']}": row["value"] for row in rows}
    assert len(found) == len(rows), "a trial is in the lake twice"
    return found


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Design]:
    """A study that was killed after its first training."""
    root = tmp_path_factory.mktemp("study")
    designs, script = root / "designs.yaml", root / "run.py"
    designs.write_text(STUDY)
    script.write_text(RUN)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    process = subprocess.Popen(
        [sys.executable, str(script), str(root / "home"), str(designs)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "control seed 1" in line:
            os.killpg(process.pid, signal.SIGKILL)
            break
    process.wait()
    return Settings(home=root / "home"), load_design("one", designs)


def test_a_killed_study_keeps_its_trials_and_a_rerun_does_what_is_missing(study: tuple[Settings, Design]):
    settings, design = study
    before = held(settings)
    assert before
    world = worlds_dir(settings) / next(iter(design.by_world())).name
    made = (world / "world.json").stat().st_mtime_ns
    planned = plan(settings, design)
    assert (planned.worlds_to_make, planned.teachers_to_make, planned.trials) == (0, 2, 14)
    seen: list[Progress] = []
    trials = run_study(settings, design, workers=1, report=seen.append)
    after = held(settings)
    assert len(trials) == 14 and set(before.items()) < set(after.items())
    assert (world / "world.json").stat().st_mtime_ns == made
    assert (seen[-1].done, seen[-1].total) == (14, 14)
    assert plan(settings, design).teachers_to_make == 0
    assert run_study(settings, design, workers=1) == trials and held(settings) == after


def test_a_finished_study_is_reported_with_its_levels_and_lifts(study: tuple[Settings, Design], tmp_path: Path):
    settings, design = study
    rows = study_rows(settings, design)
    means = levels(rows)
    assert set(means["homepage", "ctr", "all"]) == {"teacher", "control", "student", "student shuffled", "ceiling"}
    table = lifts(rows, design)
    assert {lift.variant for lift in table} == {"student", "student shuffled", "ceiling"}
    assert {lift.condition for lift in table} == {"", "volume 0.5", "defaulted 0.9", "teacher_days 2"}
    teacher = {
        row["condition"]: row["value"]
        for row in rows.to_pylist()
        if row["arm"] == "teacher" and (row["slice"], row["task"], row["metric"]) == ("all", "ctr", "auc")
    }
    assert len(set(teacher.values())) == 3 and teacher[""] == teacher["volume 0.5"]
    markdown, page, *plots = write_report(settings, design, tmp_path / "results.md")
    text, html = markdown.read_text(), page.read_text()
    assert "| homepage | ctr | student shuffled (placebo) |" in text and "crossfade study run one" in text
    assert "## Teacher days" in text
    section = text.split("## How much of what could be had")[1].split("##")[0]
    assert section.count("| homepage | ctr | student | ") == 1 and "shuffled" not in section
    assert all(plot.read_bytes().startswith(b"\x89PNG") and f"results/{plot.name}" in text for plot in plots)
    assert 'src="http' not in html and html.count("<h2>") == text.count("\n## ")
    assert html.count("data:image/png") == len(plots)


def test_the_asset_of_a_finished_study_shows_its_findings_and_trains_nothing(
    study: tuple[Settings, Design], tmp_path: Path
):
    settings, _ = study
    designs = tmp_path / "designs.yaml"
    designs.write_text(STUDY)
    before = held(settings)
    resources = {"settings": settings, "progress": ProgressResource(every_s=0.0)}
    result = dg.materialize([build_study(designs)], partition_key="one", resources=resources)
    [made] = result.asset_materializations_for_node("study")
    assert made.metadata["trials"].value == 14 and held(settings) == before
    assert "The student beats its control on CTR." in str(made.metadata["findings"].value)
    assert str(made.metadata["all"].value).startswith("![all](data:image/png;base64,")


def test_a_study_that_was_not_run_says_how_to_run_it(tmp_path: Path):
    with pytest.raises(NoTrials, match=r"world tiny-2001-\S+ is missing; run `crossfade study run quick`"):
        study_rows(Settings(home=tmp_path / "home"), load_design("quick"))
