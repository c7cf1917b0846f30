"""A lake with one evaluated partition: examples with hidden truth, and models of known quality."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ml.evaluation.evaluate import evaluate
from ml.evaluation.predictions import student_predictions, teacher_predictions, write_predictions
from ml.evaluation.results import Evaluation
from ml.foundation.lake import Lake
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.surfaces.files import load_surface
from ml.surfaces.spec import Surface
from ml.teacher.teachers import LabelsOf

PARTITION = date(2026, 2, 1)
OUTPUTS = ["click", "watch", "continue", "like"]
KINDS = {"click": "logit", "watch": "value", "continue": "logit", "like": "logit"}
REPLICATES = 200
SEED = 7


@dataclass(frozen=True, eq=False)
class World:
    """What the tests look at."""

    lake: Lake
    surface: Surface
    evaluation: Evaluation
    partition: date = PARTITION
    kinds: dict[str, str] = field(default_factory=lambda: dict(KINDS))
    replicates: int = REPLICATES
    seed: int = SEED


def build_world(home: Path, *, rows: int = 2400, users: int = 120, seed: int = 0) -> tuple[Lake, Surface]:
    """Fill a lake with examples, soft labels and predictions of control, student, champion and reference."""
    rng = np.random.default_rng(seed)
    lake = Lake(Settings(home=home, threads=1))
    surface = load_surface(PROJECT_ROOT / "examples" / "simulator" / "surfaces" / "homepage.yaml")
    days = [PARTITION - timedelta(days=d) for d in (4, 3, 2, 1, 0)]
    day = np.sort(rng.integers(0, len(days), rows))
    user = rng.integers(0, users, rows)
    taste, item = rng.normal(size=users)[user], rng.normal(size=rows)
    click = rng.random(rows) < 1 / (1 + np.exp(2 - taste - 1.5 * item))
    trail = np.where(click, 4 + 0.8 * item + 0.4 * taste + rng.normal(size=rows), np.nan)
    age = rng.choice([1.0, 30.0, 400.0], rows, p=[0.1, 0.3, 0.6])
    discovery = click & (trail > 4) & (rng.random(rows) < 0.7)
    examples = pa.table(
        {
            "day": pa.array([days[i] for i in day], pa.date32()),
            "exposure_id": pa.array(rng.permutation(rows) + 10**12),
            "user_id": pa.array(user + 1),
            "session_id": pa.array(user * 100 + day * 10 + rng.integers(0, 3, rows)),
            "item_age_days": pa.array(np.where(rng.random(rows) < 0.02, np.nan, age), from_pandas=True),
            "user_tenure_days": pa.array(rng.integers(0, 100, rows).astype(float)),
            "item_impressions": pa.array(rng.integers(0, 200, rows)),
            "item_ctr": pa.array(
                np.where(rng.random(rows) < 0.1, np.nan, np.round(0.1 + 0.02 * item, 2)), from_pandas=True
            ),
            "label_ctr": pa.array(click.astype(float)),
            "label_trail": pa.array(trail, from_pandas=True),
            "label_discovery": pa.array(discovery.astype(float)),
        }
    )
    lake.replace_days("features.examples_homepage", examples, days)
    noise = rng.normal(size=(8, rows))
    scores = {
        "control": -2 + taste + item + 0.9 * noise[0],
        "student": -2 + taste + item + 0.5 * noise[0] + 0.1 * noise[1],
        "champion": -2 + taste + item + noise[2],
        "reference": -2 + taste + item + noise[7],
    }
    ids = examples["exposure_id"].to_numpy()
    inside = np.isin(day, [1, 2, 3])
    for model, base in scores.items():
        tables = []
        for inputs, shift in (("serving", 0.0), ("logged", 0.2)):
            logit = base + shift * noise[3]
            outputs = {"ctr": logit, "trail": 4 + 0.5 * (logit + 2), "discovery": logit - 1.5 + 0.3 * noise[4]}
            outputs["score"] = outputs["ctr"] + outputs["trail"]
            made = student_predictions(
                {task: values[inside].astype(np.float32) for task, values in outputs.items()},
                partition=PARTITION,
                days=examples["day"].filter(pa.array(inside)).combine_chunks(),
                exposure_ids=ids[inside],
                model=model,
                model_hash=f"hash-{model}",
                inputs=inputs,
            )
            tables.append(made)
        write_predictions(lake, "homepage", PARTITION, pa.concat_tables(tables))
    click_logit = 0.8 * taste + 0.3 * item + noise[5]
    watch = 10 + 3 * (0.5 * item + 0.3 * noise[6])
    labelled = rng.random(rows) < 0.97
    soft = pa.table(
        {
            "day": examples["day"],
            "exposure_id": examples["exposure_id"],
            "teacher_version": pa.array(["1"] * rows),
            "contract_hash": pa.array(["c"] * rows),
            "scores": pa.array(np.stack([click_logit, watch, noise[7], noise[7]], axis=1).tolist()),
            "defaulted_inputs": pa.array(np.full(rows, 3)),
        }
    ).filter(pa.array(labelled))
    lake.replace_days("ml.soft_labels_homepage", soft, days)
    teacher = teacher_predictions(
        lake, surface, PARTITION, [LabelsOf(version="1", contract_hash="c", outputs=tuple(OUTPUTS))]
    )
    write_predictions(lake, "homepage", PARTITION, teacher)
    return lake, surface


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """One evaluated partition, shared by the tests that only read."""
    lake, surface = build_world(tmp_path_factory.mktemp("world"))
    evaluation = evaluate(lake, surface, PARTITION, teacher_outputs=KINDS, seed=SEED, replicates=REPLICATES)
    return World(lake, surface, evaluation)


@pytest.fixture
def small_world(tmp_path: Path) -> Callable[..., tuple[Lake, Surface]]:
    """Build a lake of one's own to break."""
    return lambda **sizes: build_world(tmp_path / "home", **{"rows": 400, "users": 30} | sizes)
