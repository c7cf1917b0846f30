"""Declarative automation: what follows data without being asked for, and the names of the reasons."""

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import pytest

from assets.names import TEACHER, surface_key
from deploy.automation.conditions import NoOpenCandidate, conditions
from deploy.definitions import build_definitions
from ml.foundation.settings import Settings
from ml.stages import widening
from ml.stages.widening import OpenCandidate
from ml.surfaces.files import load_surfaces
from tests.support.known import present

ROOT = Path(__file__).resolve().parents[2]
CHAIN = ("training_set", "control", "student", "evaluation", "onnx", "release")
SURFACES = ("homepage", "radio")
FIRST, DAYS = date(2026, 1, 1), 11
LAST = FIRST + timedelta(days=DAYS - 1)


@pytest.fixture
def home(prepared_home: Path) -> Settings:
    surfaces = ROOT / "tests" / "surfaces"
    return Settings(home=prepared_home, surfaces_dir=surfaces, first_day=FIRST, last_day=LAST, threads=1)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance that knows the data of every day but the newest that students can see, and no student."""
    with dg.DagsterInstance.ephemeral() as instance:
        report(instance, TEACHER)
        for surface in SURFACES:
            for name in ("examples", "teacher_inputs", "soft_labels"):
                for day in days(DAYS - 2):
                    report(instance, surface_key(surface, name), day)
        yield instance


class Look:
    """Ticks of the conditions."""

    def __init__(self, home: Settings, instance: dg.DagsterInstance) -> None:
        self.graph, self.instance = build_definitions(home), instance
        self.keys = list(conditions(home, load_surfaces(home)))
        self.result: dg.EvaluateAutomationConditionsResult | None = None

    def __call__(self) -> dict[str, set[str | None]]:
        """Return the partitions that are asked for, by asset."""
        self.result = dg.evaluate_automation_conditions(
            self.graph,
            self.instance,
            asset_selection=dg.AssetSelection.assets(*self.keys),
            cursor=self.result and self.result.cursor,
        )
        requested = {key.to_user_string(): set(self.result.get_requested_partitions(key)) for key in self.keys}
        return {name: partitions for name, partitions in requested.items() if partitions}

    def said(self, asset: str) -> dict[str, bool]:
        """Return what each named operand of an asset's condition said at the last tick."""
        [root] = [r for r in present(self.result).results if r.key == dg.AssetKey(asset.split("/"))]
        named = {r.condition.get_label(): not r.true_subset.is_empty for r in root.child_results}
        return {label: said for label, said in named.items() if label}


@pytest.fixture
def look(home: Settings, instance: dg.DagsterInstance) -> Look:
    look = Look(home, instance)
    assert look() == {}, "the first look sees what is there and asks for nothing"
    return look


def days(count: int) -> list[str]:
    return [str(FIRST + timedelta(days=number)) for number in range(count)]


def report(instance: dg.DagsterInstance, key: dg.AssetKey | str, *partitions: str) -> None:
    key = dg.AssetKey(key.split("/")) if isinstance(key, str) else key
    for partition in partitions or (None,):
        instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=partition))


def arrive(instance: dg.DagsterInstance, surface: str, day: str) -> None:
    """One run of the ranking job: what lies between examples and soft labels of a day."""
    report(instance, f"{surface}/examples", day)
    report(instance, f"{surface}/soft_labels", day)


def test_the_day_that_completes_a_window_asks_for_the_whole_chain_once(instance: dg.DagsterInstance, look: Look):
    arrive(instance, "homepage", str(LAST - timedelta(days=1)))
    assert look() == {f"homepage/{name}": {str(LAST)} for name in CHAIN}
    assert look() == {}, "a chain that is asked for, or failed, is not asked for again"


def test_nothing_is_asked_for_while_a_day_of_the_window_has_no_labels(instance: dg.DagsterInstance, look: Look):
    report(instance, "radio/examples", str(LAST - timedelta(days=1)))
    assert look() == {}
    said = look.said("radio/training_set")
    assert said["there is none of that day yet"] and not said["everything that it reads is there"]
    report(instance, "radio/soft_labels", str(LAST - timedelta(days=1)))
    assert look() == {f"radio/{name}": {str(LAST)} for name in CHAIN}


def test_a_changed_day_of_a_finished_window_retrains_nothing(instance: dg.DagsterInstance, look: Look):
    arrive(instance, "homepage", str(LAST - timedelta(days=1)))
    for name in CHAIN:
        report(instance, f"homepage/{name}", str(LAST))
    look()
    arrive(instance, "homepage", str(FIRST))
    assert look() == {}


def test_an_older_student_that_somebody_backfills_sets_nothing_in_motion(instance: dg.DagsterInstance, look: Look):
    for name in ("training_set", "student"):
        report(instance, f"homepage/{name}", str(LAST - timedelta(days=1)))
    assert look() == {}


def test_labels_follow_inputs_of_any_day_but_another_teacher_is_left_to_its_sensor(
    instance: dg.DagsterInstance, look: Look
):
    report(instance, TEACHER)
    assert look() == {}
    report(instance, "radio/teacher_inputs", str(FIRST))
    assert look() == {"radio/soft_labels": {str(FIRST)}}


def test_a_day_whose_answers_nobody_logged_is_not_compared(instance: dg.DagsterInstance, look: Look):
    for name in ("landing/served", "features/stg_exposures", "homepage/examples"):
        report(instance, name, str(FIRST))
    assert look() == {}
    said = look.said("homepage/served_skew")
    assert said["everything that it reads is there"] and not said["a served log of that day has landed"]


def test_a_student_that_was_trained_again_is_evaluated_exported_and_released_through_its_gate(
    instance: dg.DagsterInstance, look: Look
):
    for name in CHAIN:
        report(instance, f"homepage/{name}", str(LAST))
    look()
    report(instance, "homepage/student", str(LAST))
    assert look() == {f"homepage/{name}": {str(LAST)} for name in ("evaluation", "onnx", "release")}


def test_a_candidate_that_its_gate_refused_is_not_released_by_the_next_look(instance: dg.DagsterInstance, look: Look):
    for name in CHAIN[:-1]:
        report(instance, f"homepage/{name}", str(LAST))
    assert "homepage/release" not in look()


def test_no_newer_student_is_asked_for_while_a_candidate_waits_for_days(
    instance: dg.DagsterInstance, look: Look, monkeypatch: pytest.MonkeyPatch
):
    waits: list[OpenCandidate | None] = [OpenCandidate(LAST - timedelta(days=1), LAST, None)]
    monkeypatch.setattr(widening, "open_candidate", lambda settings, surface: waits[0])
    arrive(instance, "homepage", str(LAST - timedelta(days=1)))
    assert look() == {}
    assert not look.said("homepage/training_set")[NoOpenCandidate.label]
    waits[0] = None
    assert look() == {f"homepage/{name}": {str(LAST)} for name in CHAIN}, "once it is decided"


def test_every_operand_has_a_name_that_says_the_reason(home: Settings):
    for key, condition in conditions(home, load_surfaces(home)).items():
        assert condition.get_label(), key
        operands = [operand.get_label() for operand in condition.children]
        assert all(operands), (key, operands)
