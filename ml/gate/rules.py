"""How a paired difference with an interval is judged."""

import math
from statistics import NormalDist

from ml.evaluation.bootstrap import CONFIDENCE
from ml.store.verdicts import Outcome


def judge_interval(
    value: float, lo: float, hi: float, margin: float, *, comparisons: int = 1, wide: Outcome = Outcome.INCONCLUSIVE
) -> tuple[Outcome, str]:
    """Judge ``candidate - champion``: non-inferiority within ``margin``.

    Nothing whose estimate lies below ``-margin``, or whose interval lies below 0, is promoted. It fails where both
    hold, the second by the wider interval (Bonferroni) that several comparisons need; else it is inconclusive: the
    interval holds over users, and two initialisations of one recipe differ as much. Better (pass): the interval lies
    above 0, however wide. Else a wider interval than two margins says too little (``wide``), and one that reaches below
    ``-margin`` leaves a worse candidate possible (warn).

    Args:
        value: Estimate.
        lo: Lower end of its 95 % interval.
        hi: Upper end.
        margin: Loss that would be accepted, in the metric's unit.
        comparisons: How many are judged at once.
        wide: What an interval counts as that is undefined or too wide.

    Returns:
        The outcome and its reason.
    """
    if not all(math.isfinite(v) for v in (value, lo, hi)):
        return wide, f"undefined: {value} ({lo} to {hi})"
    normal, tail = NormalDist(), (1 - CONFIDENCE) / 2
    family = value + (hi - value) * normal.inv_cdf(1 - tail / comparisons) / normal.inv_cdf(1 - tail)
    if value < -margin and family < 0:
        return Outcome.FAIL, f"worse by more than {margin:g}: the interval lies below 0"
    if value < -margin:
        return Outcome.INCONCLUSIVE, f"worse by more than {margin:g}, not beyond doubt"
    if hi < 0:
        return Outcome.INCONCLUSIVE, f"worse by less than {margin:g}: the interval lies below 0"
    if lo >= 0:
        return Outcome.PASS, "not worse: the interval lies above 0"
    if hi - lo > 2 * margin:
        return wide, f"the interval is {hi - lo:.4f} wide, more than two margins of {margin:g}"
    if lo < -margin:
        return Outcome.WARN, f"the interval reaches below -{margin:g}"
    return Outcome.PASS, f"not worse by more than {margin:g}"


def days_to_decide(lo: float, hi: float, margin: float, days: int) -> int:
    """Return how many more evaluation days narrow an interval to two margins; its width falls with sqrt(days)."""
    if not (math.isfinite(lo) and math.isfinite(hi)):
        return days
    return max(0, math.ceil(days * ((hi - lo) / (2 * margin)) ** 2) - days)
