"""Guards 1 and 2: healthy tables pass, every kind of fault in the lake fails the check that is about it."""

from collections.abc import Iterator
from datetime import timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ml.gate.data import measure_examples
from ml.lake import Lake
from ml.settings import Settings
from ml.store.verdicts import Check, Outcome
from ml.surfaces.spec import Surface


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, toolbox) -> tuple[Settings, Surface]:
    return toolbox.make_home(tmp_path_factory.mktemp("lake") / "home")


@pytest.fixture
def lake(home: tuple[Settings, Surface], toolbox) -> Iterator[Lake]:
    with Lake(home[0]) as opened:
        yield opened
        day = toolbox.FIRST
        opened.replace_days("features.examples_tiny", toolbox.examples(day), [day])


def _failed(checks: list[Check]) -> set[str]:
    return {check.name for check in checks if check.outcome is not Outcome.PASS}


def _set(table: pa.Table, column: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.schema.get_field_index(column), column, values)


def _first(table: pa.Table, column: str, value: object) -> pa.Table:
    """Replace the first value of a column."""
    values = table[column].to_pylist()
    return _set(table, column, pa.array([value, *values[1:]], table.schema.field(column).type))


FAULTS = {
    "rows": lambda t: t.slice(0, 10),
    "duplicate_ids": lambda t: pa.concat_tables([t, t.slice(0, 1)]),
    "null_keys": lambda t: _first(t, "exposure_id", None),
    "foreign_times": lambda t: _first(t, "ts", t["ts"][0].as_py() + timedelta(days=1)),
    "bad_labels": lambda t: _first(t, "label_ctr", 0.5),
    "bad_values": lambda t: _first(t, "item_ctr", float("nan")),
    "null_share": lambda t: _set(t, "item_id", pa.nulls(t.num_rows, pa.int64())),
    "values_unlike_their_features": lambda t: _first(t, "item_age_days", t["item_age_days"][0].as_py() + 1),
    "label_rate_ctr": lambda t: _set(t, "label_ctr", pa.array([0.0] * t.num_rows)),
}


def test_healthy_examples_pass(home, lake: Lake, toolbox) -> None:
    from checks.gate import check_examples

    checks = check_examples(lake, home[1], home[0].days(toolbox.FIRST, toolbox.PARTITION))
    assert _failed(checks) == set()
    assert {"rows", "null_share", "label_rate_ctr", "days_behind"} <= {check.name for check in checks}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_examples_fails_its_check(home, lake: Lake, toolbox, name: str) -> None:
    from checks.gate import check_examples

    day = toolbox.FIRST
    lake.replace_days("features.examples_tiny", FAULTS[name](toolbox.examples(day)), [day])
    days = home[0].days(day, toolbox.PARTITION)
    checks = check_examples(lake, home[1], days)
    assert name in _failed(checks)
    assert next(c for c in checks if c.name == name).detail == str(day)
    assert _failed(checks) <= {name, "bad_labels", "values_unlike_their_features"}


def test_without_feature_tables_the_values_are_not_compared_and_that_is_shown(home, lake: Lake, toolbox) -> None:
    from checks.gate import check_examples

    lake.connection.execute("alter table lake.features.feat_item rename to feat_elsewhere")
    try:
        checks = check_examples(lake, home[1], [toolbox.FIRST])
    finally:
        lake.connection.execute("alter table lake.features.feat_elsewhere rename to feat_item")
    shown = next(check for check in checks if check.name == "values_unlike_their_features")
    assert shown.outcome is Outcome.WARN and "nothing to compare with" in shown.detail


@pytest.mark.parametrize(
    ("column", "value"), [("content", [1.0]), ("content", [1.0, float("inf")]), ("label_trail", float("inf"))]
)
def test_vectors_and_regression_labels_are_looked_into(home, lake: Lake, toolbox, column: str, value: object) -> None:
    day = toolbox.FIRST
    lake.replace_days("features.examples_tiny", _first(toolbox.examples(day), column, value), [day])
    (row,) = measure_examples(lake, home[1], [day])
    assert (row["bad_values"], row["bad_labels"]) == ((1, 0) if column == "content" else (0, 1))


def test_a_day_without_examples_fails_and_a_missing_newest_day_is_not_fresh(home, lake: Lake, toolbox) -> None:
    from checks.gate import check_examples

    beyond = toolbox.PARTITION + timedelta(days=1)
    assert {"rows", "null_share", "label_rate_ctr", "days_behind"} <= _failed(check_examples(lake, home[1], [beyond]))
    assert "days_behind" in _failed(check_examples(lake, home[1], [toolbox.PARTITION, beyond]))


def test_guard_1_reads_the_snapshot_that_it_is_given(home, lake: Lake, toolbox) -> None:
    from checks.gate import check_examples

    day = toolbox.FIRST
    before = lake.snapshot()
    lake.replace_days("features.examples_tiny", toolbox.examples(day).slice(0, 5), [day])
    assert "rows" in _failed(check_examples(lake, home[1], [day]))
    with Lake(home[0], snapshot=before) as past:
        assert _failed(check_examples(past, home[1], [day])) == set()


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
    from checks.gate import check_soft_labels
    from ml.teacher.contract import load_contract

    days = home[0].days(toolbox.FIRST, toolbox.PARTITION)
    assert _failed(check_soft_labels(lake, home[1], days, load_contract(home[0].teacher))) == set()


@pytest.mark.parametrize("name", LABEL_FAULTS)
def test_a_fault_of_the_soft_labels_fails_its_check(home, lake: Lake, labels: pa.Table, toolbox, name: str) -> None:
    from checks.gate import check_soft_labels
    from ml.teacher.contract import load_contract

    contract = load_contract(home[0].teacher)
    lake.replace_days("ml.soft_labels_tiny", LABEL_FAULTS[name](labels), [toolbox.FIRST])
    checks = check_soft_labels(lake, home[1], [toolbox.FIRST], contract)
    assert name in _failed(checks)


def test_labels_of_another_teacher_only_are_no_coverage(home, lake: Lake, labels: pa.Table, toolbox) -> None:
    from ml.gate.data import measure_soft_labels

    (row,) = measure_soft_labels(
        lake, home[1], [toolbox.FIRST], teacher_version="2", contract_hash="x", outputs=1, inputs=2
    )
    assert (row["coverage"], row["other_teacher"], row["labels"]) == (0, toolbox.ROWS, 0)


def test_a_null_share_names_the_input(home, lake: Lake, toolbox) -> None:
    day = toolbox.FIRST
    table = toolbox.examples(day)
    lake.replace_days("features.examples_tiny", FAULTS["null_share"](table), [day])
    (row,) = measure_examples(lake, home[1], [day])
    assert (row["null_share"], row["null_input"]) == (1.0, "item_id")
    assert pc.sum(pc.is_null(table["item_id"])).as_py() == 0


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5_000), st.floats(0, 1)), min_size=1, max_size=8),
    st.floats(0.001, 0.2),
)
def test_a_label_rate_fails_only_beyond_chance_and_is_never_passed_over(days: list[tuple[int, float]], low: float):
    from checks.expectations.measured import ExpectRateBetween

    n = [count for count, _ in days]
    rates = [round(count * rate) / count for count, rate in days]
    frame = pd.DataFrame({"day": [str(d) for d in range(len(n))], "rate": rates, "n": n})
    expected = ExpectRateBetween(column="rate", count="n", label="day", min_value=low, max_value=0.9)
    outcome = Outcome(expected.judged(frame)["result"]["details"]["outcome"])
    pooled = np.average(rates, weights=n)
    inside = all(low <= rate <= 0.9 for rate in [*rates, pooled])
    assert (outcome is Outcome.PASS) == inside
    gone = [count for count, rate in zip(n, rates, strict=True) if rate == 0]
    if sum(gone) == sum(n) and (1 - low) ** sum(n) < 1e-6:
        assert outcome is Outcome.FAIL, "labels that are gone from every day are gone, however few a day has"
    if outcome is Outcome.FAIL:
        tests = [*zip(rates, n, strict=True), (pooled, sum(n))]
        p = min(
            stats.binomtest(round(r * c), c, low, "less").pvalue if r < low else
            stats.binomtest(round(r * c), c, 0.9, "greater").pvalue if r > 0.9 else 1.0
            for r, c in tests
        )  # fmt: skip
        assert p < 0.001
