import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.evaluation.outcome import Outcome
from ml.evaluation.rules import days_to_decide, judge_floor, judge_improvement, judge_interval, judge_rates

NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "lo", "hi", "outcome"),
    [
        (0.001, -0.002, 0.004, Outcome.PASS),
        (-0.001, -0.003, 0.001, Outcome.PASS),
        (0.02, 0.001, 0.04, Outcome.PASS),
        (-0.002, -0.003, -0.001, Outcome.INCONCLUSIVE),
        (-0.02, -0.05, -0.0001, Outcome.FAIL),
        (-0.006, -0.02, 0.01, Outcome.INCONCLUSIVE),
        (0.001, -0.01, 0.012, Outcome.INCONCLUSIVE),
        (-0.002, -0.0065, 0.002, Outcome.WARN),
        (NAN, -0.1, 0.1, Outcome.INCONCLUSIVE),
        (0.01, NAN, 0.1, Outcome.INCONCLUSIVE),
        (0.01, 0.0, float("inf"), Outcome.INCONCLUSIVE),
    ],
)
def test_a_difference_is_judged_by_interval_and_margin(value: float, lo: float, hi: float, outcome: Outcome) -> None:
    assert judge_interval(value, lo, hi, margin=0.005)[0] is outcome


def test_one_of_many_comparisons_fails_by_an_interval_as_wide_as_they_need() -> None:
    assert judge_interval(-0.018, -0.035, -0.001, margin=0.015)[0] is Outcome.FAIL
    assert judge_interval(-0.018, -0.035, -0.001, margin=0.015, comparisons=9)[0] is Outcome.INCONCLUSIVE
    assert judge_interval(-0.05, -0.07, -0.03, margin=0.015, comparisons=9)[0] is Outcome.FAIL


@given(
    value=st.floats(-0.1, 0.1),
    below=st.floats(0, 0.1),
    above=st.floats(0, 0.1),
    margin=st.floats(1e-4, 0.05),
    comparisons=st.integers(1, 50),
    wide=st.sampled_from([Outcome.INCONCLUSIVE, Outcome.WARN]),
)
def test_what_is_worse_by_its_interval_or_beyond_the_margin_is_never_promoted(
    value: float, below: float, above: float, margin: float, comparisons: int, wide: Outcome
) -> None:
    lo, hi = value - below, value + above
    outcome, reason = judge_interval(value, lo, hi, margin, comparisons=comparisons, wide=wide)
    if value < -margin or hi < 0:
        assert outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE), reason
    if outcome is Outcome.FAIL:
        assert value < -margin and hi < 0
    if lo >= 0:
        assert outcome is Outcome.PASS


def test_the_days_still_needed_follow_from_the_width() -> None:
    assert days_to_decide(-0.01, 0.01, margin=0.005, days=3) == 9
    assert days_to_decide(-0.001, 0.001, margin=0.005, days=3) == 0
    assert days_to_decide(NAN, NAN, margin=0.005, days=3) == 3


@pytest.mark.parametrize(
    ("value", "lo", "outcome"),
    [(0.1, 0.05, "pass"), (0.1, 0.0, "warn"), (0.1, NAN, "warn"), (0, -1, "fail"), (NAN, 1, "fail")],
)
def test_an_improvement_is_above_0_and_its_interval_too(value: float, lo: float, outcome: str) -> None:
    assert judge_improvement(value, lo)[0] == outcome


@pytest.mark.parametrize(
    ("value", "hi", "outcome"),
    [(0.7, 0.8, "pass"), (0.6, NAN, "pass"), (0.5, 0.6, "warn"), (0.5, 0.55, "fail"), (NAN, NAN, "fail")],
)
def test_a_value_below_its_floor_fails_where_its_interval_is_too(value: float, hi: float, outcome: str) -> None:
    assert judge_floor(value, hi, 0.6)[0] == outcome


@pytest.mark.parametrize(
    ("rates", "n", "outcome", "worst"),
    [
        ([0.2, 0.3], [100, 100], "pass", 0),
        ([0.2, 0.0], [100, 10], "warn", 1),
        ([0.2, 0.0], [100, 1000], "fail", 1),
        ([0.9, 0.2], [1000, 100], "fail", 0),
    ],
)
def test_a_share_beyond_its_bounds_fails_where_chance_is_no_explanation(
    rates: list[float], n: list[int], outcome: str, worst: int
) -> None:
    found, place, chance = judge_rates(np.array(rates), np.array(n), 0.1, 0.5)
    assert (found, place) == (outcome, worst)
    assert (chance == 1.0) == (outcome == "pass")
