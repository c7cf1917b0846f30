import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.evaluation.looks import PROMOTE_WORSE, critical
from ml.evaluation.outcome import Outcome
from ml.evaluation.rules import days_to_decide, judge_floor, judge_improvement, judge_interval, judge_rates
from ml.surfaces.window import ONE_LOOK, Looks

NAN = float("nan")


WEEKS = Looks(3, 14)


@pytest.mark.parametrize(
    ("value", "lo", "hi", "outcome"),
    [
        (0.001, -0.002, 0.004, Outcome.PASS),
        (-0.001, -0.003, 0.001, Outcome.PASS),
        (0.02, 0.001, 0.04, Outcome.PASS),
        (-0.002, -0.003, -0.001, Outcome.PASS),
        (-0.002, -0.0065, 0.002, Outcome.INCONCLUSIVE),
        (0.001, -0.01, 0.012, Outcome.INCONCLUSIVE),
        (-0.02, -0.05, -0.0001, Outcome.FAIL),
        (-0.006, -0.02, 0.01, Outcome.INCONCLUSIVE),
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


def test_a_candidate_that_is_looked_at_often_needs_more_evidence_to_pass_and_to_fail() -> None:
    passes, fails = (-0.001, -0.0044, 0.0024), (-0.006, -0.0118, -0.0002)
    assert judge_interval(*passes, margin=0.005)[0] is Outcome.PASS
    assert judge_interval(*passes, margin=0.005, looks=WEEKS)[0] is Outcome.INCONCLUSIVE
    assert judge_interval(*fails, margin=0.005)[0] is Outcome.FAIL
    assert judge_interval(*fails, margin=0.005, looks=WEEKS)[0] is Outcome.INCONCLUSIVE


@pytest.mark.slow
@settings(deadline=None)  # the width for each number of comparisons is computed once
@given(
    value=st.floats(-0.1, 0.1),
    below=st.floats(0, 0.1),
    above=st.floats(0, 0.1),
    margin=st.floats(1e-4, 0.05),
    comparisons=st.integers(1, 50),
    looks=st.sampled_from([ONE_LOOK, WEEKS, Looks(1, 30)]),
    short=st.sampled_from([Outcome.INCONCLUSIVE, Outcome.WARN]),
)
def test_what_may_be_worse_by_a_margin_never_passes(
    value: float, below: float, above: float, margin: float, comparisons: int, looks: Looks, short: Outcome
) -> None:
    judged = {"looks": looks, "comparisons": comparisons}
    outcome, reason = judge_interval(value, value - below, value + above, margin, short=short, **judged)
    if value - 0.89 * below <= -margin:
        assert outcome is not Outcome.PASS, reason
    if value <= -margin:
        assert outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE), reason
    if outcome is Outcome.FAIL:
        assert value < -margin and value + 0.99 * above < 0
    if value - 2 * below > -margin:
        assert outcome is Outcome.PASS


@pytest.mark.slow
@pytest.mark.parametrize("looks", [Looks(3, 14), Looks(1, 14), Looks(3, 3), Looks(2, 60)])
def test_all_looks_together_err_no_more_than_they_may(looks: Looks) -> None:
    bound, rng = critical(looks, PROMOTE_WORSE), np.random.default_rng(5)
    days = np.arange(1, looks.most + 1)
    sums = rng.normal(size=(100_000, looks.most), scale=1).cumsum(axis=1)
    erred = (sums / np.sqrt(days) > bound)[:, looks.first - 1 :].any(axis=1).mean()
    assert erred == pytest.approx(PROMOTE_WORSE, abs=0.003)


@pytest.mark.parametrize(("value", "margin"), [(0.001, 0.005), (-0.012, 0.01), (-0.004, 0.005)])
def test_the_days_told_are_those_that_decide(value: float, margin: float) -> None:
    def at(days: int) -> tuple[float, float, float]:
        half = 0.02 / days**0.5
        return value, value - half, value + half

    more = days_to_decide(*at(3), margin, 3, looks=WEEKS, comparisons=2)
    assert more is not None and more > 1
    decided = [judge_interval(*at(3 + k), margin, looks=WEEKS, comparisons=2)[0] for k in (0, more - 1, more)]
    assert decided[:2] == [Outcome.INCONCLUSIVE] * 2
    assert decided[2] is (Outcome.PASS if value > -margin else Outcome.FAIL)


def test_without_an_interval_no_number_of_days_is_told() -> None:
    assert days_to_decide(NAN, NAN, NAN, 0.005, 3) is None
    assert days_to_decide(-0.005, -0.01, 0.0, 0.005, 3) is None


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
