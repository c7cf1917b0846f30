"""Two teachers side by side, from their labels to the gate: each has its labels, bounds, manifest entry and checks."""

import json
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest
import yaml

from assets.names import label_keys
from assets.progress import ProgressResource
from assets.soft_labels import build_soft_labels
from assets.students import build_students
from assets.teacher import build_teacher
from checks.assets import build_checks
from checks.guards import provenance, soft_labels
from deploy.automation.conditions import conditions
from deploy.automation.sensors import unlabelled
from ml.evaluation.outcome import Outcome
from ml.evaluation.predictions import predictions_table
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.operations.trace import as_page, trace
from ml.releases.manifest import Manifest
from ml.releases.release import BOM, CARD
from ml.releases.store import ReleaseStore
from ml.releases.verdicts import Override
from ml.stages.artifacts import find
from ml.stages.candidate import export_candidate
from ml.stages.evaluation import evaluate_models, read_evaluation
from ml.stages.training import train_model
from ml.stages.training_set import make_training_set, read_training_set
from ml.students.dataset import TrainingSet, TrainingSetError, load
from ml.surfaces.files import load_surface
from ml.surfaces.spec import Surface
from ml.teacher.labels import label_days, rescore
from ml.teacher.teachers import home_contracts
from tests.checks.conftest import write_teacher
from tests.checks.spoilt import Bench
from tests.support.two_teachers import spec, write_noise


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, toolbox) -> tuple[Settings, Surface]:
    """A home with examples, inputs and labels of both teachers of 7 days, and a candidate that learnt from both."""
    home = tmp_path_factory.mktemp("two") / "home"
    (home / "surfaces").mkdir(parents=True)
    (home / "surfaces" / "tiny.yaml").write_text(yaml.safe_dump(spec(), sort_keys=False))
    settings = Settings(
        home=home,
        first_day=toolbox.FIRST,
        last_day=toolbox.PARTITION,
        threads=1,
        surfaces_dir=home / "surfaces",
        teachers={"toy": write_teacher(home / "toy"), "noise": write_noise(home / "noise")},
    )
    surface, days = load_surface(home / "surfaces" / "tiny.yaml"), settings.days(toolbox.FIRST, toolbox.PARTITION)
    rows = pa.concat_tables([toolbox.examples(day) for day in days])
    with Lake(settings) as lake:
        lake.replace_days("features.examples_tiny", rows, days)
        lake.replace_days("features.teacher_inputs_tiny", rows.select(["day", "exposure_id", "ts", "item_ctr"]), days)
        for contract in home_contracts(settings).values():
            label_days(lake, settings, "tiny", contract, days)
    make_training_set(settings, surface, toolbox.PARTITION)
    for role in ("control", "student"):
        train_model(settings, surface, toolbox.PARTITION, role, seed=1)
    evaluate_models(settings, surface, toolbox.PARTITION)
    export_candidate(settings, surface, toolbox.PARTITION)
    return settings, surface


@pytest.fixture
def two(home: tuple[Settings, Surface], toolbox, tmp_path: Path) -> Bench:
    settings, surface = home
    candidate = find(settings, surface, "onnx", toolbox.PARTITION)
    evaluation = read_evaluation(settings, surface, toolbox.PARTITION)
    return Bench(settings, surface, candidate, evaluation, ReleaseStore(tmp_path / "artifacts"))


@pytest.fixture
def lake(home: tuple[Settings, Surface]) -> Iterator[Lake]:
    """The home's lake, whose labels are put back."""
    with Lake(home[0]) as opened:
        kept = opened.sql("select * from lake.ml.soft_labels_tiny")
        yield opened
        opened.replace_days("ml.soft_labels_tiny", kept, kept["day"].to_pylist())


def test_the_labels_of_both_are_learnt_under_their_names(home: tuple[Settings, Surface], toolbox) -> None:
    settings, surface = home
    made = read_training_set(settings, surface, toolbox.PARTITION)
    assert [of.teacher for of in made.labels] == ["toy", "noise"]
    assert TrainingSet.from_json(made.to_json()) == made
    data = load(settings, made, surface, made.train_days, soft_labels=True)
    assert list(data.soft_labels) == ["toy/click", "noise/click", "noise/like"]
    rate = data.inputs["item_ctr"].numpy()
    np.testing.assert_allclose(data.soft_labels["toy/click"], 4 * rate + 0.5 - 2, atol=1e-5)
    np.testing.assert_allclose(data.soft_labels["noise/click"], np.sin(np.float32(9e3) * rate), atol=2e-3)
    checkpoint = find(settings, surface, "student", toolbox.PARTITION).json("checkpoint.json")
    assert checkpoint["teacher_outputs"] == ["toy/click", "noise/click", "noise/like"]


def test_the_manifest_names_both_with_the_labels_of_each(two: Bench, toolbox) -> None:
    manifest = two.manifest
    assert [f"{teacher.name} {teacher.version}" for teacher in manifest.teachers] == ["toy 1", "noise 7"]
    assert Manifest.from_bytes(manifest.to_bytes(), "again") == manifest
    contracts = home_contracts(two.settings)
    for name, (teacher, labels, pairs) in manifest.labels.items():
        assert name is not None and teacher.contract_hash == contracts[name].contract_hash
        assert [day.rows for day in labels] == [toolbox.ROWS] * 6 and not pairs
    toy, noise = (labels for _, labels, _ in manifest.labels.values())
    assert {day.content_hash for day in toy}.isdisjoint(day.content_hash for day in noise)


def test_each_teacher_has_checks_of_its_own_and_its_own_bound(two: Bench) -> None:
    found = two.ask(soft_labels.GUARD)
    assert found.outcome is Outcome.PASS
    for measure in ("coverage", "defaulted_share", "other_teacher", "rescore_difference"):
        assert {f"toy/{measure}", f"noise/{measure}"} <= {check.name for check in found.checks}
    # Two of three inputs of the second are at their default, beyond the surface's 0.6, within its own 0.7.
    [share] = {check.value for check in found.checks if check.name == "noise/defaulted_share"}
    assert share == pytest.approx(2 / 3)
    without = Surface.model_validate({**spec(teachers={}), "gate": spec(teachers={})["gate"]})
    refused = two.but(surface=without).ask(soft_labels.GUARD)
    assert {c.name for c in refused.checks if c.outcome is not Outcome.PASS} == {"noise/defaulted_share"}


def test_provenance_derives_both_again_and_warns_of_the_one_that_does_not_say_what_it_saw(two: Bench) -> None:
    found = two.ask(provenance.GUARD)
    assert {c.name: c.outcome for c in found.checks if c.outcome is not Outcome.PASS} == {
        "noise/days_from_teacher_to_evaluation": Outcome.WARN
    }
    assert {"teacher of toy", "teacher contract of noise", "content of soft labels of noise"} <= {
        check.name for check in found.checks
    }
    swapped = two.variant(further_teachers=()).ask(provenance.GUARD)
    assert swapped.outcome is Outcome.FAIL and "teacher of noise" in swapped.reason


def test_a_candidate_that_saw_other_labels_of_the_second_is_refused_by_its_name(two: Bench) -> None:
    told = list(two.manifest.soft_labels)
    place = next(i for i, day in enumerate(told) if day.teacher == "noise")
    told[place] = told[place].model_copy(update={"content_hash": "0" * 32})
    found = two.variant(soft_labels=tuple(told)).ask(provenance.GUARD)
    assert found.outcome is Outcome.FAIL and "soft labels of noise" in found.reason


def test_the_teachers_column_is_that_of_the_one_that_the_task_names(two: Bench, toolbox) -> None:
    with Lake(two.settings) as lake:
        table = f"lake.{predictions_table('tiny')} where model = 'teacher'"
        [row] = lake.sql(f"select model_hash, count(*) as n from {table} group by model_hash").to_pylist()
    assert row["n"] == 2 * 2 * toolbox.ROWS and row["model_hash"].startswith("1:") and "+7:" in row["model_hash"]
    assert two.evaluation.has("teacher", "ctr") and not two.evaluation.has("teacher", "trail")


def test_labels_that_the_second_lacks_stop_the_training_set_by_its_name(
    home: tuple[Settings, Surface], lake: Lake, toolbox
) -> None:
    settings, surface = home
    lake.connection.execute("delete from lake.ml.soft_labels_tiny where teacher = 'noise' and day = ?", [toolbox.FIRST])
    with pytest.raises(TrainingSetError, match=rf"no soft labels of teacher noise 7 \(\w+\) for {toolbox.FIRST}$"):
        make_training_set(settings, surface, toolbox.PARTITION)
    checks = soft_labels.judge_days(lake, surface, [toolbox.FIRST])
    assert {check.name for check in checks if check.outcome is Outcome.FAIL} == {
        "noise/coverage",
        "noise/defaulted_share",
        "noise/rescore_difference",
    }
    healthy = soft_labels.judge_days(lake, surface, [toolbox.FIRST], "toy")
    assert {check.outcome for check in healthy} == {Outcome.PASS}, "the first has its labels, whatever the other lacks"


def test_a_row_that_only_the_other_teacher_labelled_is_missing_and_no_mixture(
    home: tuple[Settings, Surface], lake: Lake, toolbox
) -> None:
    settings, surface = home
    last = toolbox.FIRST
    some = f"teacher = 'noise' and day = '{last}' and exposure_id % 50 = 0"
    lake.connection.execute(f"delete from lake.ml.soft_labels_tiny where {some}")
    made = make_training_set(settings, surface, toolbox.PARTITION)
    assert made.coverage[last] == pytest.approx(0.98)
    measured = {
        pinned.prefix: soft_labels.measure(lake, surface, [last], pinned)[0]
        for pinned in soft_labels.pinned_of(lake, surface)
    }
    assert (measured["noise/"]["coverage"], measured["noise/"]["other_teacher"]) == (pytest.approx(0.98), 0)
    assert measured["toy/"]["coverage"] == 1
    older = "select * replace ('6' as teacher_version) from lake.ml.soft_labels_tiny where teacher = 'noise'"
    lake.connection.execute(f"insert into lake.ml.soft_labels_tiny by name {older}")
    lake.connection.execute(
        f"insert into lake.ml.soft_labels_tiny by name select * replace ('6' as teacher_version, 'noise' as teacher) "
        f"from lake.ml.soft_labels_tiny where teacher = 'toy' and day = '{last}' and exposure_id % 50 = 0"
    )
    with pytest.raises(TrainingSetError, match=rf"soft labels of {last} are mixed, teacher noise 7"):
        make_training_set(settings, surface, toolbox.PARTITION)


def test_scoring_again_finds_an_edited_label_of_its_teacher(
    home: tuple[Settings, Surface], lake: Lake, toolbox
) -> None:
    settings, surface = home
    lake.connection.execute(
        "update lake.ml.soft_labels_tiny set scores = [s + 0.01 for s in scores] where teacher = 'noise'"
    )
    toy, noise = (rescore(lake, settings, "tiny", c, [toolbox.FIRST]) for c in home_contracts(settings).values())
    assert toy == 0 and noise == pytest.approx(0.01)
    failed = [c.name for c in soft_labels.judge_days(lake, surface, [toolbox.FIRST]) if c.outcome is Outcome.FAIL]
    assert failed == ["noise/rescore_difference"]


def test_the_graph_has_assets_and_checks_of_each_and_only_the_stale_one_is_asked_for(
    home: tuple[Settings, Surface], lake: Lake, toolbox
) -> None:
    settings, surface = home
    each = [dg.AssetKey(["tiny", "soft_labels", name]) for name in ("toy", "noise")]
    assert [key for asset in build_teacher(settings) for key in asset.keys] == [
        dg.AssetKey(["teacher", name]) for name in ("toy", "noise")
    ]
    labels = build_soft_labels(settings, surface)
    assert [key for asset in labels for key in asset.keys] == each == label_keys(settings, surface)
    assert dg.AssetKey(["teacher", "noise"]) in labels[1].dependency_keys
    [training_set, *_] = build_students(settings, surface)
    assert set(each) <= set(training_set.dependency_keys)
    assert set(each) <= conditions(settings, {"tiny": surface}).keys()
    daily = [spec for check in build_checks(settings, {"tiny": surface}) for spec in check.check_specs]
    assert [spec.asset_key for spec in daily if spec.name == "soft_labels_are_sound"] == each

    lake.connection.execute("delete from lake.ml.soft_labels_tiny where teacher = 'noise' and day = ?", [toolbox.FIRST])
    stale = list(unlabelled(settings, {"tiny": surface}, toolbox.FIRST, toolbox.PARTITION))
    assert [(contract.name, keys, days) for contract, keys, days in stale] == [("noise", each[1:], [toolbox.FIRST])]
    resources = {"settings": settings, "progress": ProgressResource()}
    done = dg.materialize([labels[1]], resources=resources, partition_key=str(toolbox.FIRST))
    [shown] = done.asset_materializations_for_node(labels[1].op.name)
    assert (shown.metadata["rows"].value, shown.metadata["teacher_version"].value) == (toolbox.ROWS, "7")
    assert not list(unlabelled(settings, {"tiny": surface}, toolbox.FIRST, toolbox.PARTITION))


@pytest.mark.slow
def test_a_release_names_both_on_its_card_in_its_parts_and_in_its_lineage(two: Bench) -> None:
    release = two.promote(Override(by="test", reason="a toy"))
    store = two.store.release("tiny", release)
    card = (store.path / CARD).read_text(encoding="utf-8")
    assert "Soft labels of toy" in card and "Soft labels of noise" in card
    assert "The teacher noise does not say what it was trained through" in card
    parts = {part["bom-ref"] for part in json.loads((store.path / BOM).read_text())["components"]}
    assert {"teacher toy", "teacher noise"} <= parts
    page = as_page(trace(two.settings, store))
    assert "soft labels of noise" in page and "teacher noise 7" in page
