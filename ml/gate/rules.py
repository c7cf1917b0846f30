"""How a paired difference with an interval is judged."""

import math

from ml.store.verdicts import Outcome


def judge_interval(value: float, lo: float, hi: float, margin: float) -> tuple[Outcome, str]:
    """Judge ``candidate - champion``: non-inferiority within ``margin``.

    Worse (fail): the interval lies below 0, or the estimate below ``-margin``. Better (pass): the interval lies above
    0, however wide. Else a wider interval than two margins says too little (inconclusive), and one that reaches below
    ``-margin`` leaves a worse candidate possible (warn).

    Args:
        value: Estimate.
        lo: Lower end of its interval.
        hi: Upper end.
        margin: Loss that would be accepted, in the metric's unit.

    Returns:
        The outcome and its reason.
    """
    if not all(math.isfinite(v) for v in (value, lo, hi)):
        return Outcome.INCONCLUSIVE, f"undefined: {value} ({lo} to {hi})"
    if hi < 0:
        return Outcome.FAIL, "worse: the interval lies below 0"
    if value < -margin:
        return Outcome.FAIL, f"worse by more than {margin:g}"
    if lo >= 0:
        return Outcome.PASS, "not worse: the interval lies above 0"
    if hi - lo > 2 * margin:
        return Outcome.INCONCLUSIVE, f"the interval is {hi - lo:.4f} wide, more than two margins of {margin:g}"
    if lo < -margin:
        return Outcome.WARN, f"the interval reaches below -{margin:g}"
    return Outcome.PASS, f"not worse by more than {margin:g}"


def days_to_decide(lo: float, hi: float, margin: float, days: int) -> int:
    """Return how many more evaluation days narrow an interval to two margins; its width falls with sqrt(days)."""
    if not (math.isfinite(lo) and math.isfinite(hi)):
        return days
    return max(0, math.ceil(days * ((hi - lo) / (2 * margin)) ** 2) - days)
