"""Rules of decision: what a value with its interval, or a share, counts as."""

import math
from statistics import NormalDist

import numpy as np
from scipy import stats

from ml.evaluation.bootstrap import CONFIDENCE
from ml.evaluation.outcome import Outcome

IMPOSSIBLE = 0.001
"""Probability below which chance is no explanation."""


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


def judge_improvement(value: float, lo: float) -> tuple[Outcome, str]:
    """Judge a difference that must be above 0: an estimate that is not fails, an interval that reaches 0 warns."""
    if not value > 0:
        return Outcome.FAIL, "not better"
    if lo > 0:
        return Outcome.PASS, ""
    return Outcome.WARN, "better, but the interval reaches 0"


def judge_floor(value: float, hi: float, least: float) -> tuple[Outcome, str]:
    """Judge a value that must reach ``least``: an interval wholly below it fails, an estimate below it warns."""
    if value >= least:
        return Outcome.PASS, ""
    if hi >= least:
        return Outcome.WARN, "below, but the interval reaches it"
    return Outcome.FAIL, "the interval lies below" if math.isfinite(hi) else "undefined"


def judge_rates(rates: np.ndarray, n: np.ndarray, low: float, high: float) -> tuple[Outcome, int, float]:
    """Judge shares of positives that must lie within bounds.

    One that lies outside fails where chance cannot be the reason: by an exact one-sided binomial test against the
    bound, corrected (Bonferroni) for the number of shares. Otherwise there are too few labels to say, which warns.

    Args:
        rates: Shares [m], finite.
        n: Labels of each [m], above 0.
        low: Lower bound.
        high: Upper bound.

    Returns:
        The outcome, the place of the share that is hardest to explain by chance, and its probability (1 within the
        bounds).
    """
    positives = np.rint(rates * n)
    chance = np.minimum(
        np.where(rates < low, stats.binom.cdf(positives, n, low), 1.0),
        np.where(rates > high, stats.binom.sf(positives - 1, n, high), 1.0),
    )
    worst = int(chance.argmin())
    outcome = Outcome.PASS if chance[worst] == 1.0 else Outcome.WARN
    if chance[worst] < IMPOSSIBLE / len(rates):
        outcome = Outcome.FAIL
    return outcome, worst, float(chance[worst])


def days_to_decide(lo: float, hi: float, margin: float, days: int) -> int:
    """Return how many more evaluation days narrow an interval to two margins; its width falls with sqrt(days)."""
    if not (math.isfinite(lo) and math.isfinite(hi)):
        return days
    return max(0, math.ceil(days * ((hi - lo) / (2 * margin)) ** 2) - days)
