"""Rules of decision: what a value with its interval, or a share, counts as."""

import math
from statistics import NormalDist

import numpy as np
from scipy import stats

from ml.evaluation.bootstrap import CONFIDENCE
from ml.evaluation.looks import PROMOTE_WORSE, critical
from ml.evaluation.outcome import Outcome
from ml.surfaces.window import ONE_LOOK, Looks

IMPOSSIBLE = 0.001
"""Probability below which chance is no explanation."""

_TAIL = (1 - CONFIDENCE) / 2


def judge_interval(
    value: float,
    lo: float,
    hi: float,
    margin: float,
    *,
    looks: Looks = ONE_LOOK,
    comparisons: int = 1,
    short: Outcome = Outcome.INCONCLUSIVE,
) -> tuple[Outcome, str]:
    """Judge ``candidate - champion``: non-inferiority within ``margin``.

    It passes where the whole interval lies above ``-margin``, and fails where the estimate lies beyond the margin and
    the interval below 0. Both intervals are as wide as all looks at one candidate need; the second also as several
    comparisons need (Bonferroni). Passing needs no such correction: a candidate must pass every comparison, so that its
    chance is at most that of the one in which it is worse. All else is undecided, and more days may decide it.

    Args:
        value: Estimate.
        lo: Lower end of its 95 % interval.
        hi: Upper end.
        margin: Loss that would be accepted, in the metric's unit.
        looks: When the candidate is looked at; one look needs no wider interval.
        comparisons: How many are judged at once.
        short: What an interval counts as that reaches below ``-margin`` while the estimate does not, or is undefined.

    Returns:
        The outcome and its reason.
    """
    if not all(math.isfinite(v) for v in (value, lo, hi)):
        return short, f"undefined: {value} ({lo} to {hi})"
    low = value - (value - lo) * _wider(looks, PROMOTE_WORSE)
    high = value + (hi - value) * _wider(looks, _TAIL / comparisons)
    if low > -margin:
        return Outcome.PASS, f"not worse by {margin:g}: over all looks the interval ends at {low:.4f}"
    if value < -margin and high < 0:
        return Outcome.FAIL, f"worse by more than {margin:g}: the interval lies below 0"
    if value <= -margin:
        return Outcome.INCONCLUSIVE, f"worse by {margin:g} or more, not beyond doubt"
    return short, f"it may be worse by {margin:g}: over all looks the interval reaches {low:.4f}"


def days_to_decide(
    value: float, lo: float, hi: float, margin: float, days: int, *, looks: Looks = ONE_LOOK, comparisons: int = 1
) -> int | None:
    """Return how many more evaluation days would decide what ``judge_interval`` left open, if the estimate stays.

    Its interval narrows with the square root of the days.

    Args:
        value: As in ``judge_interval``, like the others.
        lo: Lower end.
        hi: Upper end.
        margin: Loss that would be accepted.
        days: Evaluation days so far.
        looks: When the candidate is looked at.
        comparisons: How many are judged at once.

    Returns:
        Days, at least 1; None where there is no interval, or no number of days would do.
    """
    if not all(math.isfinite(v) for v in (value, lo, hi)) or value == -margin:
        return None
    if value > -margin:
        shrinks = (value - lo) * _wider(looks, PROMOTE_WORSE) / (value + margin)
    else:
        shrinks = (hi - value) * _wider(looks, _TAIL / comparisons) / -value
    return max(1, math.floor(days * shrinks**2) + 1 - days)


def _wider(looks: Looks, tail: float) -> float:
    """Return how much wider than its 95 % interval one side of an interval is, if all looks err with ``tail``."""
    return critical(looks, tail) / NormalDist().inv_cdf(1 - _TAIL)


def judge_improvement(value: float, lo: float) -> tuple[Outcome, str]:
    """Judge a difference that must be above 0: an estimate that is not fails, an interval that reaches 0 warns."""
    if not value > 0:
        return Outcome.FAIL, "not better"
    if lo > 0:
        return Outcome.PASS, ""
    return Outcome.WARN, "better, but the interval reaches 0"


def judge_gain(value: float, lo: float, hi: float) -> tuple[Outcome, str]:
    """Judge the gain of a student over its control: what does not lie above 0 by its interval warns."""
    if lo > 0:
        return Outcome.PASS, ""
    if hi < 0:
        return Outcome.WARN, "the student loses to its control"
    if math.isfinite(lo) and math.isfinite(hi):
        return Outcome.WARN, "not shown: the interval includes 0, and the control may be as good"
    return Outcome.WARN, f"not shown: {value:.4g} has no interval"


def judge_floor(value: float, hi: float, least: float) -> tuple[Outcome, str]:
    """Judge a value that must reach ``least``: an interval wholly below it fails, an estimate below it warns."""
    if value >= least:
        return Outcome.PASS, ""
    if hi >= least:
        return Outcome.WARN, "below, but the interval reaches it"
    return Outcome.FAIL, "the interval lies below" if math.isfinite(hi) else "undefined"


def judge_rates(
    rates: np.ndarray, n: np.ndarray, low: float | np.ndarray, high: float | np.ndarray
) -> tuple[Outcome, int, float]:
    """Judge shares of positives that must lie within bounds.

    One that lies outside fails where chance cannot be the reason: by an exact one-sided binomial test against the
    bound, corrected (Bonferroni) for the number of shares. Otherwise there are too few labels to say, which warns.

    Args:
        rates: Shares [m], finite.
        n: Labels of each [m], above 0.
        low: Lower bound, of all or of each [m].
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
