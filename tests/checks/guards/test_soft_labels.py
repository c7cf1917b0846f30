"""Guard `soft_labels`: healthy labels pass, every kind of fault in the lake fails the check that is about it."""

from collections.abc import Iterator

import pyarrow as pa
import pytest

from checks import gx
from checks.guards import soft_labels
from ml.evaluation.outcome import Outcome
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.releases.verdicts import Check
from ml.surfaces.spec import Surface
from tests.checks.spoilt import Bench


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, toolbox) -> tuple[Settings, Surface]:
    return toolbox.make_home(tmp_path_factory.mktemp("lake") / "home")


@pytest.fixture
def lake(home: tuple[Settings, Surface]) -> Iterator[Lake]:
    with Lake(home[0]) as opened:
        yield opened


def _failed(checks: list[Check]) -> set[str]:
    return {check.name for check in checks if check.outcome is not Outcome.PASS}


def _set(table: pa.Table, column: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.schema.get_field_index(column), column, values)


def _first(table: pa.Table, column: str, value: object) -> pa.Table:
    """Replace the first value of a column."""
    values = table[column].to_pylist()
    return _set(table, column, pa.array([value, *values[1:]], table.schema.field(column).type))


def _labels(lake: Lake, toolbox) -> pa.Table:
    return lake.sql("select * from lake.ml.soft_labels_tiny where day = ?", [toolbox.FIRST])


def _scores(table: pa.Table, first: list[float] | None) -> pa.Table:
    return _first(table, "scores", first)


LABEL_FAULTS = {
    "coverage": lambda t: t.slice(10),
    "duplicates": lambda t: pa.concat_tables([t, t.slice(0, 1)]),
    "strangers": lambda t: _first(t, "exposure_id", 5),
    "non_finite": lambda t: _scores(t, [float("nan")]),
    "wrong_width": lambda t: _scores(t, [0.1, 0.2]),
    "other_teacher": lambda t: _first(t, "teacher_version", "0"),
    "defaulted_share": lambda t: _set(t, "defaulted_inputs", pa.array([2] * t.num_rows, pa.int32())),
    "rescore_difference": lambda t: _set(t, "scores", pa.array([[x[0] + 0.01] for x in t["scores"].to_pylist()])),
}


@pytest.fixture
def labels(home, lake: Lake, toolbox) -> Iterator[pa.Table]:
    table = _labels(lake, toolbox)
    yield table
    lake.replace_days("ml.soft_labels_tiny", table, [toolbox.FIRST])


def test_healthy_soft_labels_pass(home, lake: Lake, toolbox) -> None:
    days = home[0].days(toolbox.FIRST, toolbox.PARTITION)
    assert _failed(soft_labels.judge_days(lake, home[1], days)) == set()


@pytest.mark.parametrize("name", LABEL_FAULTS)
def test_a_fault_of_the_soft_labels_fails_its_check(home, lake: Lake, labels: pa.Table, toolbox, name: str) -> None:
    lake.replace_days("ml.soft_labels_tiny", LABEL_FAULTS[name](labels), [toolbox.FIRST])
    checks = soft_labels.judge_days(lake, home[1], [toolbox.FIRST])
    assert name in _failed(checks)


def test_one_unlinked_user_of_one_is_no_failure_and_a_day_of_them_is(home, lake: Lake, labels, toolbox) -> None:
    """A day of one user whose inputs are all at their default says nothing about the day; a whole day does."""
    bound = home[1].gate.soft_labels
    small = {"day": "d", "examples": 3, "labels": 3, "coverage": 1.0, "defaulted_share": 1.0, "users": 1}
    none = dict.fromkeys(("duplicates", "strangers", "non_finite", "wrong_width", "other_teacher"), 0)
    for users, outcome in ((1, Outcome.WARN), (40, Outcome.FAIL)):
        rows = [{**small, **none, "users": users}]
        (check,) = [c for c in gx.validate(rows, soft_labels.suite(bound, [toolbox.FIRST])) if "defaulted" in c.name]
        assert check.outcome is outcome
    everyone = _set(labels, "defaulted_inputs", pa.array([2] * labels.num_rows, pa.int32()))
    lake.replace_days("ml.soft_labels_tiny", everyone, [toolbox.FIRST])
    (pinned,) = soft_labels.pinned_of(lake, home[1])
    (row,) = soft_labels.measure(lake, home[1], [toolbox.FIRST], pinned)
    assert (row["defaulted_share"], row["users"]) == (1.0, 40)


def test_one_missing_label_of_few_is_no_lost_day(home, toolbox) -> None:
    row = {"day": "d", "labels": 19, "defaulted_share": 0.1, "users": 9, "examples": 20, "coverage": 0.95}
    row |= dict.fromkeys(("duplicates", "strangers", "non_finite", "wrong_width", "other_teacher"), 0)
    checks = gx.validate([row], soft_labels.suite(home[1].gate.soft_labels, [toolbox.FIRST]))
    assert {check.outcome for check in checks if check.name == "coverage"} == {Outcome.WARN}


def test_labels_of_another_teacher_only_are_no_coverage(home, lake: Lake, labels: pa.Table, toolbox) -> None:
    (pinned,) = soft_labels.pinned_of(lake, home[1])
    second = pinned._replace(contract=pinned.contract.model_copy(update={"version": "2"}))
    (row,) = soft_labels.measure(lake, home[1], [toolbox.FIRST], second)
    assert (row["coverage"], row["other_teacher"], row["labels"]) == (0, toolbox.ROWS, 0)


def test_a_candidate_that_learnt_without_a_teacher_has_nothing_to_judge(bench: Bench) -> None:
    result = bench.variant(teacher=None).ask(soft_labels.GUARD)
    assert (result.outcome, result.reason, result.to_do) == (
        Outcome.NOT_EVALUATED,
        "trained without a teacher",
        "",
    )


def test_the_days_of_a_candidate_pass_and_a_teacher_that_is_gone_blocks(bench: Bench, no_teacher: Bench) -> None:
    assert bench.ask(soft_labels.GUARD).outcome is Outcome.PASS
    result = no_teacher.ask(soft_labels.GUARD)
    assert (result.outcome, result.checks) == (Outcome.FAIL, ())
    assert "could not be evaluated" in result.reason and "absent.yaml" in result.reason
    assert result.to_do == soft_labels.GUARD.to_do
