"""Healthy candidates of other seeds before the gate: `make healthy`. A gate that refuses them is too strict.

The home is that of a finished demo (``DEMO``; made if absent). Its champions stay; every seed's candidate is judged
against them on the same rows. What is inconclusive is told with the guard's own reason.
"""

import os
import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from checks.gate import judge
from ml.evaluation.outcome import BLOCKING
from ml.foundation.settings import EXAMPLES, Settings
from ml.stages.artifacts import find
from ml.stages.candidate import export_candidate
from ml.stages.evaluation import evaluate_models, read_evaluation
from ml.stages.training import train_model
from ml.surfaces.spec import load_surfaces

SEEDS = int(os.environ.get("SEEDS", "20"))
DEMO = os.environ.get("DEMO")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, run_command) -> Path:
    """A copy of a home in which the demo ran."""
    home = tmp_path_factory.mktemp("healthy") / "home"
    if DEMO:
        return shutil.copytree(DEMO, home, ignore=shutil.ignore_patterns("landing", "dagster", "training"))
    run_command(home, "demo", timeout=3000, CROSSFADE_SURFACES_DIR=str(EXAMPLES / "simulator" / "surfaces"))
    return home


@pytest.mark.parametrize("name", ["homepage", "radio"])
def test_no_healthy_candidate_fails(demo: Path, name: str):
    settings = Settings(home=demo)
    surface = load_surfaces(settings)[name]
    assert settings.last_day is not None
    day, decisions, reasons = settings.last_day, Counter[str](), Counter[str]()
    differences: dict[str, list[tuple[float, float]]] = {}
    for seed in range(1001, 1001 + SEEDS):
        began = time.monotonic()
        for role in ("control", "student"):
            train_model(settings, surface, day, role, seed=seed)
        evaluate_models(settings, surface, day)
        export_candidate(settings, surface, day)
        candidate = find(settings, surface, "onnx", day)
        verdict = judge(settings, surface, candidate, read_evaluation(settings, surface, day)).verdict
        decisions[verdict.decision] += 1
        told = [g for g in verdict.guards if g.outcome in BLOCKING]
        reasons.update(
            f"guard {g.number} {g.outcome}: {c.name}" for g in told for c in g.checks if c.outcome == g.outcome
        )
        for check in (check for guard in verdict.guards for check in guard.checks):
            if check.name.endswith("_minus_champion") and check.interval and isinstance(check.value, float):
                half = (check.interval[1] - check.interval[0]) / 2
                differences.setdefault(check.name, []).append((check.value, half))
        why = "; ".join(verdict.failures())[:300]
        print(f"{name} seed {seed}: {verdict.decision} in {time.monotonic() - began:.0f} s {why}", flush=True)
    print(f"{name}: {dict(decisions)} of {SEEDS}; {dict(reasons)}", flush=True)
    for check, seen in differences.items():
        (mean, half), spread = np.mean(seen, axis=0), np.std(np.array(seen)[:, 0], ddof=1) if SEEDS > 1 else np.nan
        told = f"mean {mean:+.4f}, half a user interval {half:.4f}, standard deviation over seeds {spread:.4f}"
        print(f"{name} {check}: {told}", flush=True)
    assert decisions["fail"] == 0, reasons
