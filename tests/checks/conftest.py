"""A small home in which a surface went through every stage, from the lake to an exported candidate."""

import shutil
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import yaml

from ml.foundation.artifacts import Artifact
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.releases.store import ReleaseStore
from ml.surfaces.files import load_surface
from ml.surfaces.spec import Surface
from tests.checks.spoilt import Bench
from tests.support.known import present

SPEC = {
    "name": "tiny",
    "description": "A small surface.",
    "owner": "team:test",
    "window": {"train_days": 4, "eval_days": 2, "validation_days": 1, "min_train_days": 3},
    "inputs": {
        "user_id": {"kind": "request", "type": "id", "embedding": 4},
        "item_id": {"kind": "request", "type": "id", "embedding": 4, "per_candidate": True},
        "session_outcomes": {"kind": "request", "type": "event_list", "length": 3},
        "position": {"kind": "after_ranking", "type": "number", "serving_value": 0},
        "content": {"kind": "daily", "type": "vector", "length": 2, "from": "feat_item.content"},
        "item_ctr": {"kind": "daily", "type": "number", "from": "feat_item.ctr", "default": 0.2},
        "item_age_days": {"kind": "daily", "type": "number", "from": "feat_item.age_days", "transform": "log1p"},
    },
    "network": {"bottom": [8], "tower": [4], "products": [["user_id", "item_id"]]},
    "tasks": {
        "ctr": {"kind": "binary", "label": "label_ctr", "teacher_output": "click", "baseline": "item_ctr"},
        "trail": {"kind": "regression", "label": "label_trail", "weight": 0.1},
    },
    "distillation": {
        "technique": "auxiliary",
        "heads": [{"task": "ctr", "teacher_output": "click", "weight": 0.1}],
    },
    "training": {"batch_size": 128, "learning_rate": 0.02, "epochs": 3},
    "rank_by": "sigmoid(ctr)",
    "slices": {"new_releases": "item_age_days <= 7", "none_at_all": "item_age_days < 0"},
    "gate": {
        "data": {"min_rows": 100, "label_rate": {"ctr": [0.05, 0.6]}, "max_null_share": 0.5},
        "guards": {"evidence": {"min_users": 20, "min_effective_users": 20}},
        "soft_labels": {
            "min_coverage": 0.99,
            "max_defaulted_share": 0.6,
            "rescore_rows": 50,
            "rescore_tolerance": 1e-4,
        },
        "quality": {
            "ctr": {"margin": 0.05, "min": 0.6, "ranking_margin": 0.1},
            "trail": {"margin": 0.2, "min": -0.5},
        },
        "slices": {"margin_factor": 3, "min_rows": 50, "min_positives": 10},
        "calibration": {"max_ece": 0.2, "predicted_over_observed": [0.5, 2.0], "log_loss_margin": 0.1},
        "onnx": {"tolerance": 1e-3, "max_megabytes": 8, "max_batch": 64},
        "provenance": {"max_plausible_auc": 0.99},
    },
}
FIRST = date(2026, 1, 1)
PARTITION = FIRST + timedelta(days=6)
ROWS = 400
ITEMS = 30


@dataclass
class World:
    """The home after export: everything that the gate looks at."""

    settings: Settings
    surface: Surface
    candidate: Artifact
    partition: date

    @property
    def store(self) -> ReleaseStore:
        return ReleaseStore.of(self.settings)


def features(day: date) -> pa.Table:
    """One day of what is known of each item."""
    rng = np.random.default_rng([day.toordinal(), 1])
    return pa.table(
        {
            "day": pa.array([day] * ITEMS, pa.date32()),
            "item_id": pa.array(1 + np.arange(ITEMS), pa.int64()),
            "content": pa.array(rng.normal(size=(ITEMS, 2)).astype(np.float32).tolist(), pa.list_(pa.float32())),
            "ctr": pa.array(rng.uniform(0.05, 0.6, ITEMS), pa.float32()),
            "age_days": pa.array(rng.integers(0, 30, ITEMS), pa.float32()),
        }
    )


def examples(day: date, rows: int = ROWS) -> pa.Table:
    """One day of exposures whose labels follow from item rate, content and position."""
    rng = np.random.default_rng(day.toordinal())
    n = np.arange(rows)
    item = rng.integers(0, ITEMS, rows)
    known = features(day).take(pa.array(item))
    rate = known["ctr"].to_numpy()
    content = np.array(known["content"].to_pylist())
    position = rng.integers(0, 3, rows)
    logit = 5 * (rate - 0.3) + 1.5 * content[:, 0] - 0.3 * position - 1
    click = rng.random(rows) < 1 / (1 + np.exp(-logit))
    trail = np.where(click, 3 + content[:, 1] + 0.1 * rng.normal(size=rows), np.nan)
    start = np.datetime64(day, "us")
    return pa.table(
        {
            "day": pa.array([day] * rows, pa.date32()),
            "exposure_id": pa.array(day.toordinal() * 100_000 + n, pa.int64()),
            "ts": pa.array(start + (n * 60_000_000).astype("timedelta64[us]"), pa.timestamp("us")),
            "user_id": pa.array(1 + rng.integers(0, 40, rows), pa.int64()),
            "session_id": pa.array(n // 5, pa.int64()),
            "item_id": known["item_id"],
            "session_outcomes": pa.array([[1, 2]] * rows, pa.list_(pa.int64())),
            "position": pa.array(position, pa.float32()),
            "content": known["content"],
            "item_ctr": known["ctr"],
            "item_age_days": known["age_days"],
            "label_ctr": pa.array(click.astype(float), pa.float64()),
            "label_trail": pa.array(trail, pa.float64(), from_pandas=True),
        }
    )


def write_teacher(folder: Path) -> Path:
    """A frozen teacher: click logit = 4 * item_ctr + absent - 2; `absent` takes its default everywhere."""
    import onnx
    from onnx import TensorProto, helper

    folder.mkdir(parents=True, exist_ok=True)
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch"]) for n in ("item_ctr", "absent")]
    output = helper.make_tensor_value_info("click", TensorProto.FLOAT, ["batch"])
    constants = [helper.make_tensor(n, TensorProto.FLOAT, [], [v]) for n, v in (("four", 4.0), ("two", 2.0))]
    nodes = [
        helper.make_node("Mul", ["item_ctr", "four"], ["a"]),
        helper.make_node("Add", ["a", "absent"], ["b"]),
        helper.make_node("Sub", ["b", "two"], ["click"]),
    ]
    graph = helper.make_graph(nodes, "teacher", inputs, [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    contract = {
        "name": "toy",
        "version": "1",
        "trained_through": date(2025, 12, 1),
        "source": "arithmetic",
        "license": "none",
        "model": "model.onnx",
        "inputs": [{"name": "item_ctr", "dtype": "float32"}, {"name": "absent", "dtype": "float32", "default": 0.5}],
        "outputs": [{"task": "click", "kind": "logit"}],
    }
    path = folder / "contract.yaml"
    path.write_text(yaml.safe_dump(contract))
    return path


def make_home(home: Path) -> tuple[Settings, Surface]:
    """A home with examples, teacher inputs and soft labels of 7 days."""
    from ml.teacher.contract import load_contract
    from ml.teacher.labels import label_days

    (home / "surfaces").mkdir(parents=True)
    path = home / "surfaces" / "tiny.yaml"
    path.write_text(yaml.safe_dump(SPEC, sort_keys=False))
    settings = Settings(
        home=home,
        first_day=FIRST,
        last_day=PARTITION,
        threads=1,
        surfaces_dir=home / "surfaces",
        teacher=write_teacher(home / "toy"),
    )
    surface = load_surface(path)
    days = settings.days(FIRST, PARTITION)
    rows = pa.concat_tables([examples(day) for day in days])
    with Lake(settings) as lake:
        lake.replace_days("features.examples_tiny", rows, days)
        lake.replace_days("features.feat_item", pa.concat_tables([features(day) for day in days]), days)
        seen = rows.select(["day", "exposure_id", "ts", "item_ctr"])
        lake.replace_days("features.teacher_inputs_tiny", seen, days)
        label_days(lake, settings, "tiny", load_contract(present(settings.teacher)), days)
    return settings, surface


@pytest.fixture(scope="session")
def toolbox() -> SimpleNamespace:
    """What tests build homes from."""
    return SimpleNamespace(
        FIRST=FIRST, PARTITION=PARTITION, ROWS=ROWS, examples=examples, features=features, make_home=make_home
    )


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    import torch

    from ml.stages.artifacts import find
    from ml.stages.candidate import export_candidate
    from ml.stages.evaluation import evaluate_models
    from ml.stages.training import train_model
    from ml.stages.training_set import make_training_set

    torch.set_num_threads(1)
    settings, surface = make_home(tmp_path_factory.mktemp("gate") / "home")
    make_training_set(settings, surface, PARTITION)
    for role in ("control", "student"):
        train_model(settings, surface, PARTITION, role, seed=1)
    evaluate_models(settings, surface, PARTITION)
    export_candidate(settings, surface, PARTITION)
    return World(settings, surface, find(settings, surface, "onnx", PARTITION), PARTITION)


@pytest.fixture
def bench(world: World, tmp_path: Path) -> Bench:
    """The candidate with a release store of its own for every test: no champion yet."""
    from ml.stages.evaluation import read_evaluation

    evaluation = read_evaluation(world.settings, world.surface, world.partition)
    return Bench(world.settings, world.surface, world.candidate, evaluation, ReleaseStore(tmp_path / "artifacts"))


@pytest.fixture(scope="session")
def promoted(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release store whose champion is the candidate."""
    from ml.stages.evaluation import read_evaluation

    evaluation = read_evaluation(world.settings, world.surface, world.partition)
    root = tmp_path_factory.mktemp("promoted") / "artifacts"
    Bench(world.settings, world.surface, world.candidate, evaluation, ReleaseStore(root)).promote()
    return root


@pytest.fixture
def champion(bench: Bench, promoted: Path, tmp_path: Path) -> Bench:
    """The same model again as another candidate, with itself as champion."""
    root = shutil.copytree(promoted, tmp_path / "with_champion")
    return bench.but(store=ReleaseStore(root)).variant(seed=5)


@pytest.fixture
def no_teacher(bench: Bench) -> Bench:
    """A home whose teacher is gone."""
    return bench.but(settings=bench.settings.model_copy(update={"teacher": bench.settings.home / "absent.yaml"}))
