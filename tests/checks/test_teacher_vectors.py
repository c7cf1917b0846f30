"""A ranker that reads the teacher's vectors: trained, exported, judged and served like one with any other input."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import yaml

from checks.guards import onnx as onnx_guard
from checks.guards import provenance, soft_labels
from ml.evaluation.outcome import Outcome
from ml.foundation.lake import ALIAS, Lake
from ml.foundation.settings import Settings
from ml.inference.model import Model
from ml.releases.manifest import Manifest
from ml.releases.store import ReleaseStore
from ml.stages.artifacts import find
from ml.stages.candidate import export_candidate
from ml.stages.evaluation import evaluate_models, read_evaluation
from ml.stages.training import load_ranker, train_model
from ml.stages.training_set import make_training_set
from ml.students.checkpoint import predict
from ml.students.dataset import load
from ml.surfaces.spec import Surface
from ml.teacher.contract import load_contract
from ml.teacher.labels import label_days
from ml.teacher.vectors import embed_days
from tests.checks.spoilt import Bench, blocked
from tests.support.known import present
from tests.support.toys import GRAPH

YML = """
models:
  - name: feat_teacher_item
    config: {meta: {entity: [item_id], as: teacher_item, vectors: thing, default: {known: 0}}}
    columns: [{name: day}, {name: item_id}, {name: vector}, {name: known}]
"""
INPUTS = {
    "teacher_item_vector": {"kind": "daily", "type": "vector", "length": 2, "from": "feat_teacher_item.vector"},
    "teacher_item_known": {"kind": "daily", "type": "number", "from": "feat_teacher_item.known"},
}


def with_vectors(settings: Settings, surface: Surface) -> tuple[Settings, Surface]:
    """Give a home a teacher with vectors, a feature table that holds them, and examples that read it."""
    app, folder = settings.home / "app", settings.home / "toy"
    (app / "models").mkdir(parents=True)
    (app / "dbt_project.yml").write_text("name: mine\n", encoding="utf-8")
    (app / "models" / "features.yml").write_text(YML, encoding="utf-8")
    (folder / "model.onnx").write_bytes(onnx.parser.parse_model(GRAPH).SerializeToString())
    contract = yaml.safe_load((folder / "contract.yaml").read_text(encoding="utf-8"))
    contract["embeddings"] = [{"name": "thing", "entity": "item_id", "inputs": ["item_ctr"]}]
    (folder / "contract.yaml").write_text(yaml.safe_dump(contract), encoding="utf-8")
    settings = settings.model_copy(update={"app": app})
    content = surface.model_dump(mode="json", by_alias=True)
    content["inputs"] |= INPUTS
    content["network"]["products"].append(["user_id", "teacher_item_vector"])
    assert settings.last_day is not None
    days, pinned = settings.days(settings.first_day, settings.last_day), load_contract(present(settings.teacher))
    with Lake(settings) as lake:
        shown = lake.sql(f"select day, exposure_id, user_id, item_id from {ALIAS}.features.examples_tiny")
        lake.replace_days("features.stg_exposures", shown, days)
        label_days(lake, settings, "tiny", pinned, days)
        embed_days(lake, settings, pinned, ["tiny"], days)
        lake.replace_days("features.feat_teacher_item", lake.sql(READ), days)
        lake.connection.execute(f"create table {ALIAS}.features.joined as {JOINED}")
        lake.connection.execute(f"drop table {ALIAS}.features.examples_tiny")
        lake.replace_days("features.examples_tiny", lake.sql(f"select * from {ALIAS}.features.joined"), days)
        lake.connection.execute(f"drop table {ALIAS}.features.joined")
    return settings, Surface.model_validate(content)


READ = f"""
    select day + 1 as day, item_id, vector, 1 as known, day as vector_day, teacher, teacher_version, contract_hash
    from {ALIAS}.ml.teacher_vectors where embedding = 'thing'"""
"""What the macro ``teacher_vectors`` gives where every item is shown every day."""
JOINED = f"""
    select e.*, f.vector as teacher_item_vector, coalesce(f.known, 0) as teacher_item_known
    from {ALIAS}.features.examples_tiny as e left join {ALIAS}.features.feat_teacher_item as f using (day, item_id)"""


@pytest.fixture(scope="module")
def made(toolbox: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A home whose candidate reads the teacher's vectors."""
    settings, surface = with_vectors(*toolbox.make_home(tmp_path_factory.mktemp("vectors") / "home"))
    day = toolbox.PARTITION
    make_training_set(settings, surface, day)
    for role in ("control", "student"):
        train_model(settings, surface, day, role, seed=1)
    evaluate_models(settings, surface, day)
    export_candidate(settings, surface, day)
    candidate = find(settings, surface, "onnx", day)
    evaluation = read_evaluation(settings, surface, day)
    return Bench(settings, surface, candidate, evaluation, ReleaseStore.of(settings))


def test_the_gate_passes_sound_vectors_and_the_manifest_names_whose_they_are(made: Bench) -> None:
    for guard in (soft_labels.GUARD, provenance.GUARD, onnx_guard.GUARD):
        result = made.ask(guard)
        assert blocked(result) == set(), guard.name
        if guard is soft_labels.GUARD:
            assert any(check.name == "vectors_of_feat_teacher_item_coverage" for check in result.checks)
    [held] = made.manifest.vectors
    contract = load_contract(present(made.settings.teacher))
    assert (held.table, held.teacher, held.teacher_version) == ("feat_teacher_item", "toy", "1")
    assert held.contract_hash == contract.contract_hash
    assert [day.day for day in held.days] == [d for d in made.manifest.train_days + made.manifest.eval_days][1:], (
        "the first day of all has none before it"
    )


def test_the_exported_ranker_answers_as_the_trained_one_on_vectors(made: Bench) -> None:
    surface, partition = made.surface, made.manifest.partition
    from ml.stages.training_set import read_training_set

    rows = read_training_set(made.settings, surface, partition)
    read = load(made.settings, rows, surface, rows.eval_days, soft_labels=False, after_ranking="serving")
    feeds = {name: column.numpy()[:200] for name, column in read.inputs.items()}
    assert feeds["teacher_item_vector"].any() and set(feeds["teacher_item_known"]) == {1.0}
    ranker, _ = load_ranker(find(made.settings, surface, made.manifest.kind, partition))
    trained = predict(ranker, feeds)["ctr"]
    model = Model(made.candidate.read("model.onnx"), made.candidate.read("schema.json"))
    served = model.run(feeds)["ctr"]
    np.testing.assert_allclose(trained, served, atol=1e-4)
    other = model.run(feeds | {"teacher_item_vector": np.zeros_like(feeds["teacher_item_vector"])})["ctr"]
    assert np.abs(other - served).max() > 1e-4, "the vector says something to the ranker"


@pytest.mark.parametrize(
    "story",
    [lambda own: (), lambda own: (own[0].model_copy(update={"teacher_version": "2"}),)],
    ids=["not told", "another version"],
)
def test_a_manifest_that_does_not_say_whose_vectors_were_read_is_refused(
    made: Bench, tmp_path: Path, story: Callable[[tuple[object, ...]], tuple[object, ...]]
) -> None:
    bench = made.but(store=ReleaseStore(tmp_path / "artifacts"))
    result = bench.variant(vectors=story(bench.manifest.vectors)).ask(provenance.GUARD)
    assert any(name.startswith("vectors of feat_teacher_item by toy") for name in blocked(result)), blocked(result)


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ("teacher_version = '0'", "other_teacher"),
        ("vector = [1, 'nan'::float]", "non_finite"),
        ("vector_day = day", "not_before"),
        (None, "coverage"),
    ],
)
def test_vectors_that_are_not_sound_fail_their_check(made: Bench, change: str | None, check: str) -> None:
    from checks.vectors import Vectors, judge_vectors

    with Lake(made.settings) as lake:
        lake.connection.begin()
        some = f"update {ALIAS}.features.feat_teacher_item set {change} where item_id % 10 = 0"
        lake.connection.execute(some if change else f"delete from {ALIAS}.features.feat_teacher_item where item_id > 1")
        found = judge_vectors(lake, made.surface, made.manifest.eval_days, Vectors(min_vector_coverage=0.9))
        lake.connection.rollback()
    failed = {one.name for one in found if one.outcome is Outcome.FAIL}
    assert f"vectors_of_feat_teacher_item_{check}" in failed


def test_a_manifest_without_vectors_has_the_bytes_that_it_always_had(made: Bench) -> None:
    plain = made.manifest.model_copy(update={"vectors": ()}).to_bytes()
    assert b"vectors" not in plain and Manifest.from_bytes(plain, "m").vectors == ()
