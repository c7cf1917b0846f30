from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from checks import gx
from ml.evaluation.outcome import Outcome
from tests.support.known import the


def _measured(**more: Any):
    from checks.expectations.measured import ExpectMeasureBetween

    return ExpectMeasureBetween(column="value", min_value=0, max_value=1, **gx.named("value", "0 to 1"), **more)


def _validated(rows, *expected):
    return gx.validate(rows, gx.suite("test", expected))


def _row(value: float | None, lo: float | None = 0.1, hi: float | None = 0.9, **more):
    return {"value": value, "lo": lo, "hi": hi, "n": 10, **more}


def test_a_passing_measure_carries_value_threshold_interval_and_n() -> None:
    (check,) = _validated([_row(0.5)], _measured(count="n"))
    assert (check.outcome, check.value, check.threshold, check.interval, check.n) == (
        Outcome.PASS,
        0.5,
        "0 to 1",
        (0.1, 0.9),
        10,
    )


@pytest.mark.parametrize("value", [1.5, -0.1, None, float("nan"), float("inf"), float("-inf"), "text"])
def test_a_measure_that_is_outside_or_missing_fails(value) -> None:
    (check,) = _validated([_row(0.5), _row(value)], _measured())
    assert check.outcome is Outcome.FAIL


def test_an_empty_table_a_missing_column_and_a_missing_row_fail() -> None:
    from checks.expectations.measured import ExpectIntervalAbove

    assert _validated([], _measured())[0].outcome is Outcome.FAIL
    assert _validated([{"other": 1}], _measured())[0].outcome is Outcome.FAIL
    assert _validated([_row(0.5, task="a")], _measured(where={"task": "b"}))[0].outcome is Outcome.FAIL
    missing = ExpectIntervalAbove(margin=1, where={"task": "b"}, **gx.named("x", ""))
    (check,) = _validated([_row(0.5, task="a")], missing)
    assert check.outcome is Outcome.FAIL
    assert "0 rows" in check.detail


def test_an_expectation_that_raises_fails_with_its_error_and_does_not_hide_the_others() -> None:
    built_in = gx.expectations()
    checks = _validated(
        [{"value": 0.5, "lo": None, "hi": None}],
        built_in.ExpectColumnValuesToBeBetween(column="absent", min_value=0, **gx.named("absent", ">= 0")),
        _measured(),
    )
    assert [check.outcome for check in checks] == [Outcome.FAIL, Outcome.PASS]
    assert "absent" in checks[0].detail


def test_severity_warning_makes_a_warning() -> None:
    (check,) = _validated([_row(2)], _measured(severity="warning"))
    assert check.outcome is Outcome.WARN


def test_the_worst_row_is_named() -> None:
    (check,) = _validated([_row(1.2, day="mon"), _row(-3, day="tue")], _measured(label="day"))
    assert (check.value, check.detail) == (-3, "tue")


@pytest.mark.parametrize(
    ("value", "lo", "hi", "outcome"),
    [
        (0.001, -0.002, 0.004, Outcome.PASS),
        (-0.01, -0.02, -0.001, Outcome.FAIL),
        (-0.01, -0.02, 0.0, Outcome.INCONCLUSIVE),
        (0, -0.02, 0.02, Outcome.INCONCLUSIVE),
        (None, None, None, Outcome.INCONCLUSIVE),
    ],
)
def test_an_interval_is_judged_three_ways(value, lo, hi, outcome: Outcome) -> None:
    from checks.expectations.measured import ExpectIntervalAbove

    (check,) = _validated([_row(value, lo, hi)], ExpectIntervalAbove(margin=0.005, **gx.named("x", "")))
    assert check.outcome is outcome


@pytest.mark.parametrize(("value", "lo", "outcome"), [(0.1, 0.05, "pass"), (0.1, -0.1, "warn"), (0, -1, "fail")])
def test_an_improvement_must_be_above_zero(value: float, lo: float, outcome: str) -> None:
    from checks.expectations.measured import ExpectImprovement

    (check,) = _validated([_row(value, lo, 1.0)], ExpectImprovement(**gx.named("x", "")))
    assert check.outcome == outcome


@pytest.mark.parametrize(("value", "hi", "outcome"), [(0.7, 0.8, "pass"), (0.5, 0.7, "warn"), (0.5, 0.55, "fail")])
def test_a_value_must_not_be_clearly_below(value: float, hi: float, outcome: str) -> None:
    from checks.expectations.measured import ExpectNotClearlyBelow

    (check,) = _validated([_row(value, 0.4, hi)], ExpectNotClearlyBelow(min_value=0.6, **gx.named("x", "")))
    assert check.outcome == outcome


def test_nothing_checked_is_not_a_pass() -> None:
    assert gx.worst([]) is Outcome.NOT_EVALUATED


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
    outcome = Outcome(the(dict, expected.judged(frame)["result"])["details"]["outcome"])
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
