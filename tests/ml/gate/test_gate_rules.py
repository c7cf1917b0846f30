import pytest

from ml.gate.rules import days_to_decide, judge_interval
from ml.store.verdicts import Outcome

NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "lo", "hi", "outcome"),
    [
        (0.001, -0.002, 0.004, Outcome.PASS),
        (-0.001, -0.003, 0.001, Outcome.PASS),
        (0.02, 0.001, 0.04, Outcome.PASS),
        (-0.002, -0.003, -0.001, Outcome.FAIL),
        (-0.02, -0.05, -0.0001, Outcome.FAIL),
        (-0.006, -0.02, 0.01, Outcome.FAIL),
        (0.001, -0.01, 0.012, Outcome.INCONCLUSIVE),
        (-0.002, -0.0065, 0.002, Outcome.WARN),
        (NAN, -0.1, 0.1, Outcome.INCONCLUSIVE),
        (0.01, NAN, 0.1, Outcome.INCONCLUSIVE),
        (0.01, 0.0, float("inf"), Outcome.INCONCLUSIVE),
    ],
)
def test_a_difference_is_judged_by_interval_and_margin(value: float, lo: float, hi: float, outcome: Outcome) -> None:
    assert judge_interval(value, lo, hi, margin=0.005)[0] is outcome


def test_the_days_still_needed_follow_from_the_width() -> None:
    assert days_to_decide(-0.01, 0.01, margin=0.005, days=3) == 9
    assert days_to_decide(-0.001, 0.001, margin=0.005, days=3) == 0
    assert days_to_decide(NAN, NAN, margin=0.005, days=3) == 3
