"""The demo teacher learns from the source's logs alone, until its last day, and freezes to a teacher like any other."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
import yaml

from ml.evaluation.metrics import auc
from ml.foundation.lake import Lake
from ml.foundation.progress import Step
from ml.foundation.settings import EXAMPLES, PROJECT_ROOT, Settings
from ml.lab import demo_teacher
from ml.lab.demo_teacher import TrainingError, load_demo_spec, read_card, train_demo_teacher
from ml.teacher.answers import default_batch
from ml.teacher.contract import ContractError, Teacher, load_contract
from ml.teacher.labels import label_days
from ml.teacher.runtime import open_teacher, validate

pytestmark = pytest.mark.slow

FIRST = date(2026, 1, 1)
THROUGH = date(2026, 1, 3)
LATER = date(2026, 1, 4)
ROWS = 4_000
SPEC = {
    "name": "tiny",
    "version": "7",
    "source": "a test",
    "license": "none",
    "inputs": {
        "source_user_id": {"type": "id", "embedding": 4, "drop": 0.02, "meaning": "Viewer"},
        "source_item_id": {"type": "id", "embedding": 4, "drop": 0.02},
        "page": {"type": "category", "embedding": 2, "source_only": True},
        "clicks_7d": {"type": "number", "transform": "log1p"},
        "position": {"type": "number", "source_only": True},
        "content_embedding": {"type": "vector", "length": 3},
    },
    "network": {
        "id_deviation": 0.15,
        "products": [["source_user_id", "source_item_id"], ["source_user_id", "content_embedding"]],
        "bottom": [16],
        "tower": 8,
    },
    "outputs": {
        "click": {"kind": "logit", "label": "label_click"},
        "watch": {"kind": "value", "label": "label_watch", "weight": 0.3},
        "like": {"kind": "logit", "label": "label_like", "given": "label_click"},
    },
    "training": {
        "learning_rate": 0.01,
        "embedding_learning_rate": 0.03,
        "final_rate": 0.1,
        "batch_size": 256,
        "drop_column": 0.05,
        "drop_source_only": 0.05,
    },
}


def source_rows(day: date) -> pa.Table:
    """Impressions whose click depends on user, item, content and position."""
    world, rng = np.random.default_rng(0), np.random.default_rng(day.toordinal())
    ids = world.integers(1, 2**63 - 1, size=(2, 40), dtype=np.int64)
    fans, quality = world.normal(size=40), world.normal(size=40)
    content = world.normal(size=(40, 3)).astype(np.float32)
    user, item, position = (rng.integers(0, high, ROWS) for high in (40, 40, 10))
    drive = fans[user] + quality[item] + content[item, 0] - 0.2 * position
    click = rng.random(ROWS) < 1 / (1 + np.exp(-drive))
    start = np.datetime64(day, "us")
    return pa.table(
        {
            "day": pa.repeat(pa.scalar(day, pa.date32()), ROWS),
            "impression_id": rng.integers(1, 2**62, ROWS),
            "ts": start + rng.integers(0, 86_400_000_000, ROWS).astype("timedelta64[us]"),
            "source_user_id": ids[0][user],
            "source_item_id": ids[1][item],
            "page": pa.array(rng.integers(1, 4, ROWS), mask=rng.random(ROWS) < 0.1),
            "clicks_7d": np.expm1(quality[item].clip(0) * 3).astype(np.int64),
            "position": pa.array(position, mask=rng.random(ROWS) < 0.1),
            "content_embedding": pa.array(list(content[item])),
            "label_click": click.astype(float),
            "label_watch": pa.array(4 + drive * 0.5 + rng.normal(size=ROWS), mask=~click),
            "label_like": (click & (rng.random(ROWS) < 0.3)).astype(float),
        }
    )


@dataclass(frozen=True)
class Trained:
    settings: Settings
    teacher: Teacher
    steps: list[Step]


def make_settings(home: Path, *, threads: int = 1, **changes: Any) -> Settings:
    home.mkdir(parents=True, exist_ok=True)
    (home / "spec.yaml").write_text(yaml.safe_dump(SPEC, sort_keys=False))
    return Settings(home=home, first_day=FIRST, teacher_spec=home / "spec.yaml", threads=threads, **changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """A teacher trained in a lake that holds nothing but the source's examples, each of its days and no more."""
    settings = make_settings(tmp_path_factory.mktemp("demo") / "home")
    with Lake(settings) as lake:
        for day in settings.days(FIRST, THROUGH):
            lake.replace_days("features.source_examples", source_rows(day), [day])
    steps: list[Step] = []
    teacher = train_demo_teacher(settings, THROUGH, settings.home / "teacher", 1, steps.append)
    yield Trained(settings, teacher, steps)


def test_vectors_of_user_and_item_hold_what_the_products_are_made_of_and_cost_the_scores_nothing(
    trained: Trained, tmp_path: Path
) -> None:
    spec = SPEC | {
        "vectors": {
            "viewer": {"entity": "user_id", "inputs": ["source_user_id"]},
            "video": {"entity": "item_id", "inputs": ["source_item_id", "content_embedding"]},
        }
    }
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    settings = trained.settings.model_copy(update={"teacher_spec": tmp_path / "spec.yaml"})
    train_demo_teacher(settings, THROUGH, tmp_path / "teacher", 1)
    contract = load_contract(tmp_path / "teacher")
    plain = load_contract(trained.settings.home / "teacher")
    assert [(e.name, e.entity) for e in contract.embeddings] == [("viewer", "user_id"), ("video", "item_id")]
    assert not plain.embeddings and "vectors" not in read_card(plain)["spec"]
    model, same = open_teacher(contract), open_teacher(plain)
    rows = pa.concat_tables([source_rows(THROUGH)]).slice(0, 50)
    batch = default_batch(contract, 50) | {
        "source_user_id": rows["source_user_id"].to_numpy(),
        "source_item_id": rows["source_item_id"].to_numpy(),
    }
    vectors = model.embed(batch)
    assert vectors["viewer"].shape == vectors["video"].shape == (50, 4)
    assert len(np.unique(vectors["viewer"], axis=0)) == len(np.unique(batch["source_user_id"]))
    assert np.array_equal(model.score(batch), same.score(batch)), "the same teacher, which says more"


def test_it_learns_and_says_what_it_is(trained: Trained) -> None:
    contract = load_contract(Path(str(trained.settings.teacher)))
    assert contract.reference(trained.teacher.parameters) == trained.teacher
    assert (contract.name, contract.version, contract.trained_through) == ("tiny", "7.20260103", THROUGH)
    assert contract.tasks == ("click", "watch", "like")
    assert [item.name for item in contract.inputs] == list(SPEC["inputs"])
    assert contract.inputs[0].meaning == "Viewer"
    card = read_card(contract)
    assert (card["rows"], card["contract_hash"]) == (3 * ROWS, trained.teacher.contract_hash)
    tasks = card["validation"]["tasks"]
    assert tasks["click"]["metric"] == "auc"
    assert tasks["click"]["n"] == ROWS
    assert tasks["click"]["value"] > 0.75
    assert tasks["watch"]["n"] == tasks["like"]["n"] == tasks["click"]["positives"]
    assert tasks["watch"]["value"] > 0.2
    lines = [step.line for step in trained.steps]
    assert lines[1].startswith("ids known: ")
    assert any(line.startswith("2026-01-02 learnt, loss ") for line in lines)


def test_it_is_a_teacher_like_any_other(trained: Trained) -> None:
    contract = load_contract(Path(str(trained.settings.teacher)))
    assert validate(contract) is not None
    model = onnx.load(str(contract.model_path))
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert str(PROJECT_ROOT).encode() not in contract.model_path.read_bytes()


def test_it_carries_its_signal_to_rows_without_source_only_inputs(trained: Trained) -> None:
    contract = load_contract(Path(str(trained.settings.teacher)))
    rows = source_rows(LATER)
    with Lake(trained.settings) as lake:
        seen = rows.rename_columns([n if n != "impression_id" else "exposure_id" for n in rows.column_names])
        lake.replace_days("features.teacher_inputs_full", seen, [LATER])
        lake.replace_days("features.teacher_inputs_app", seen.drop_columns(["page", "position"]), [LATER])
        full = label_days(lake, trained.settings, "full", contract, [LATER])
        app = label_days(lake, trained.settings, "app", contract, [LATER])
        assert app.absent_inputs == ("page", "position")
        assert app.defaulted_share == pytest.approx(2 / 6)
        assert 0 < full.defaulted_share < 0.1
        scores = {}
        for surface in ("full", "app"):
            table = lake.sql(
                f"select label_click, scores[1] as score from lake.ml.soft_labels_{surface} "
                f"join lake.features.teacher_inputs_{surface} using (exposure_id) order by exposure_id"
            )
            scores[surface] = auc(table["label_click"].to_numpy(), table["score"].to_numpy())
    assert scores["full"] > 0.75
    assert 0.7 < scores["app"] < scores["full"]


def test_same_rows_and_seed_give_the_same_bytes_whatever_threads_and_later_days(
    trained: Trained, tmp_path: Path
) -> None:
    settings = make_settings(tmp_path / "home", threads=2)
    with Lake(settings) as lake:
        for day in settings.days(FIRST, LATER):
            rows = source_rows(day)
            lake.replace_days("features.source_examples", rows.take(np.random.permutation(ROWS)), [day])
        again = train_demo_teacher(settings, THROUGH, settings.home / "teacher", 1)
        assert again == trained.teacher
    pointer = settings.home / "teacher" / "contract.yaml"
    one, two = (load_contract(Path(str(s.teacher))).model_path.read_bytes() for s in (settings, trained.settings))
    assert one == two
    other = train_demo_teacher(settings, LATER, settings.home / "teacher", 1)
    assert load_contract(pointer).contract_hash == other.contract_hash != again.contract_hash
    kept = settings.home / "teacher" / again.contract_hash
    assert load_contract(kept).reference(again.parameters) == again
    assert json.loads((kept / "card.json").read_text())["trained_through"] == THROUGH.isoformat()


def test_a_training_that_fails_leaves_the_frozen_teacher(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = trained.settings.home / "teacher"
    before = sorted(path.name for path in folder.iterdir())

    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(demo_teacher, "_export", broken)
    with pytest.raises(OSError, match="disk full"):
        train_demo_teacher(trained.settings, date(2026, 1, 2), folder, 1)
    assert sorted(path.name for path in folder.iterdir()) == before
    assert load_contract(folder).reference(trained.teacher.parameters) == trained.teacher


def test_what_is_missing_is_named(trained: Trained, tmp_path: Path) -> None:
    settings = trained.settings
    with pytest.raises(TrainingError, match="2025-12-31 lies before first_day 2026-01-01"):
        train_demo_teacher(settings, FIRST - timedelta(days=1), tmp_path, 1)
    with pytest.raises(TrainingError, match=r"source_examples has no rows of 2026-01-04, \.\.\."):
        train_demo_teacher(settings, FIRST + timedelta(days=9), tmp_path, 1)
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(SPEC | {"inputs": SPEC["inputs"] | {"mood": {"type": "number"}}}))
    with pytest.raises(TrainingError, match="source_examples has no column mood"):
        train_demo_teacher(settings.model_copy(update={"teacher_spec": spec}), THROUGH, tmp_path, 1)
    spec.write_text(yaml.safe_dump(SPEC | {"network": SPEC["network"] | {"products": [["position", "page"]]}}))
    with pytest.raises(ContractError, match=r"spec\.yaml: .*products names 'position'"):
        load_demo_spec(spec)
    with pytest.raises(TrainingError, match=r"no table features\.source_examples"):
        train_demo_teacher(make_settings(tmp_path / "empty"), THROUGH, tmp_path, 1)


@pytest.mark.parametrize("app", ["simulator", "kuairand"])
def test_the_shipped_specifications_load(app: str) -> None:
    spec = load_demo_spec(EXAMPLES / app / "teacher" / "demo.yaml")
    assert list(spec.outputs) == ["click", "watch", "continue", "like"]
    assert not any(spec.inputs[name].source_only for pair in spec.network.products for name in pair)
