"""Healthy candidates of other seeds before the gate: `make healthy`. A gate that refuses them is too strict.

The home is that of a finished demo (``DEMO``; made if absent), and the simulator goes on for as many days as an
evaluation may widen by. The demo's champions stay; every seed's candidate is of the next day, is judged against them on
the same rows, and waits for further days as at night until it is decided. What is inconclusive at last is told with the
guard's own reason.
"""

import os
import shutil
import time
from collections import Counter
from datetime import date, timedelta

import numpy as np
import pytest
from dagster import DagsterInstance

from checks.gate import judge
from deploy.automation.days import range_tags
from deploy.automation.jobs import BASE_JOB, RANKING_JOB
from deploy.definitions import build_definitions
from deploy.home import prepare
from ml.evaluation.outcome import BLOCKING
from ml.foundation.settings import EXAMPLES, Settings
from ml.lab.simulator.write import write_landing
from ml.releases.verdicts import Verdict
from ml.stages import widening
from ml.stages.artifacts import find
from ml.stages.candidate import export_candidate
from ml.stages.evaluation import evaluate_models, read_evaluation
from ml.stages.training import train_model
from ml.stages.training_set import make_training_set
from ml.surfaces.files import load_surfaces
from ml.surfaces.spec import Surface
from tests.support.known import present

SEEDS = int(os.environ.get("SEEDS", "20"))
SURFACES = os.environ.get("SURFACES", "homepage radio").split()
DEMO = os.environ.get("DEMO")
HEALTHY = 0.9
"""Share of the candidates that must be promoted within their days."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, run_command) -> Settings:
    """A copy of a home in which the demo ran, with the days after it."""
    home = tmp_path_factory.mktemp("healthy") / "home"
    if DEMO:
        shutil.copytree(DEMO, home, ignore=shutil.ignore_patterns("training", "reports"))
    else:
        surfaces = str(EXAMPLES / "simulator" / "surfaces")
        run_command(home, "demo", timeout=3000, CROSSFADE_SURFACES_DIR=surfaces)
    ended = Settings(home=home).last_day
    assert ended is not None
    looks = [surface.looks for surface in load_surfaces(Settings(home=home)).values()]
    settings = Settings(home=home, last_day=ended + timedelta(days=max(look.most - look.first for look in looks) + 1))
    prepare(settings)
    write_landing(settings)
    graph, tags = build_definitions(settings), range_tags(ended, present(settings.last_day))
    with DagsterInstance.from_config(str(settings.dagster_home)) as instance:
        for job in (BASE_JOB, RANKING_JOB):
            assert graph.resolve_job_def(job).execute_in_process(instance=instance, tags=tags).success
    return settings.model_copy(update={"last_day": ended})


def decided(settings: Settings, surface: Surface, day: date, monkeypatch: pytest.MonkeyPatch) -> tuple[Verdict, int]:
    """Return the last verdict about the candidate of a day, and on how many evaluation days, looked at every night."""
    most = surface.looks.most - surface.looks.first
    for further in range(most + 1):
        newest = day + timedelta(days=further - 1)
        monkeypatch.setattr(widening, "newest_day", lambda lake, surface, newest=newest: newest)
        evaluate_models(settings, surface, day)
        export_candidate(settings, surface, day)
        candidate = find(settings, surface, "onnx", day)
        verdict = judge(settings, surface, candidate, read_evaluation(settings, surface, day)).verdict
        if verdict.decision != "inconclusive" or further == most:
            return verdict, len(verdict.key.eval_days)
    raise AssertionError(f"{surface.name} has no look")


@pytest.mark.parametrize("name", SURFACES)
def test_healthy_candidates_are_promoted_within_their_days(
    demo: Settings, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    surface = load_surfaces(demo)[name]
    assert demo.last_day is not None
    day, decisions, reasons, days = demo.last_day + timedelta(days=1), Counter[str](), Counter[str](), list[int]()
    settings = demo.model_copy(update={"last_day": day})
    make_training_set(settings, surface, day)
    differences: dict[str, list[tuple[float, float]]] = {}
    for seed in range(1001, 1001 + SEEDS):
        began = time.monotonic()
        for role in ("control", "student"):
            train_model(settings, surface, day, role, seed=seed)
        verdict, used = decided(settings, surface, day, monkeypatch)
        decisions[verdict.decision] += 1
        if verdict.decision == "pass":
            days.append(used)
        told = [g for g in verdict.guards if g.outcome in BLOCKING]
        reasons.update(
            f"guard {g.number} {g.outcome}: {c.name}" for g in told for c in g.checks if c.outcome == g.outcome
        )
        for check in (check for guard in verdict.guards for check in guard.checks):
            if check.name.endswith("_minus_champion") and check.interval and isinstance(check.value, float):
                half = (check.interval[1] - check.interval[0]) / 2
                differences.setdefault(check.name, []).append((check.value, half))
        why = "; ".join(verdict.failures())[:300]
        took = time.monotonic() - began
        print(f"{name} seed {seed}: {verdict.decision} on {used} days in {took:.0f} s {why}", flush=True)
    print(f"{name}: {dict(decisions)} of {SEEDS}, promoted on {sorted(days)} days; {dict(reasons)}", flush=True)
    for check, seen in differences.items():
        (mean, half), spread = np.mean(seen, axis=0), np.std(np.array(seen)[:, 0], ddof=1) if SEEDS > 1 else np.nan
        told = f"mean {mean:+.4f}, half a user interval {half:.4f}, standard deviation over seeds {spread:.4f}"
        print(f"{name} {check}: {told}", flush=True)
    assert decisions["pass"] >= HEALTHY * SEEDS, reasons
