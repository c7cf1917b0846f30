"""The relative difference of two variants from what each user did, and how wide an interval about it may be.

A figure is a ratio of sums, such as seconds over requests. Each user's influence on its logarithm makes the standard
error: users are what is independent, with all their requests and days. What users did before the start explains part
of their influence; taking it out (CUPED) narrows the interval and moves no expectation, since the split knew nothing
of it.

Whoever looks every day and stops at the first interval without 0 needs intervals that hold at all looks at once. Such
is the normal mixture's: with k = (mixture / se)^2,

    reach = se sqrt((1 + 1 / k) ln((1 + k) / alpha^2)).

It holds as long as estimates of two looks vary together as those of a growing sample do: their covariance is the
variance of the later one. Users who come back do not break that: with e their noise of a day and u what is lasting in
them, both are var(u) + var(e) / days of the later look.

Sources: Deng, Xu, Kohavi and Walker, "Improving the Sensitivity of Online Controlled Experiments by Utilizing
Pre-Experiment Data" (WSDM 2013); Deng, Knoblich and Lu, "Applying the Delta Method in Metric Analytics" (KDD 2018);
Johari, Pekelis and Walsh, "Always Valid Inference" (Operations Research 70, 2022); Waudby-Smith, Arbour, Sinha, Kennedy
and Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences" (arXiv 2103.06476), theorem 2.2.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, t

from ml.evaluation.bootstrap import CONFIDENCE, DETECTABLE, POWER, effective_count

EXPECTED_LIFT = 0.1
"""Relative difference about which intervals are narrowest, unless a surface says otherwise; fixed before the start."""

MIN_USERS = 30
"""With fewer users in a variant no normal law may be counted on, and nothing is decided."""

_ALPHA = 1 - CONFIDENCE
_FEWEST_PER_COVARIATE = 20


@dataclass(frozen=True)
class Lift:
    """A relative difference on the logarithm's scale.

    Attributes:
        log: ln(variant's figure / baseline's).
        se: Its standard error, of users.
        freedom: Degrees of freedom of that error.
    """

    log: float
    se: float
    freedom: float

    @property
    def relative(self) -> float:
        """The difference; 0.01 is one per cent."""
        return math.expm1(self.log)

    def at_one_look(self) -> tuple[float, float]:
        """Return the ends of the 95 % interval for who looks once, on a day fixed before."""
        reach = float(t.ppf(1 - _ALPHA / 2, self.freedom)) * self.se
        return math.expm1(self.log - reach), math.expm1(self.log + reach)

    def at_every_look(self, expected: float = EXPECTED_LIFT) -> tuple[float, float]:
        """Return the ends of the 95 % interval that holds at all looks at once.

        Args:
            expected: Relative difference for which it is narrowest, fixed before the start.
        """
        # The same tail of Student's t: of few users the normal's is too light.
        tail = norm.sf(deviations(self.se, expected))
        reach = float(t.isf(tail, self.freedom)) * self.se
        return math.expm1(self.log - reach), math.expm1(self.log + reach)


def deviations(se: float, expected: float = EXPECTED_LIFT) -> float:
    """Return how many standard errors an interval reaches that holds at every look.

    Args:
        se: Standard error of the present look, above 0.
        expected: Standard deviation of the mixture, on the same scale.
    """
    k = (expected / se) ** 2
    return math.sqrt((1 + 1 / k) * math.log((1 + k) / _ALPHA**2))


def detectable(se: float, expected: float | None = None) -> float:
    """Return the smallest relative difference that is found with 80 % power.

    Args:
        se: Standard error on the logarithm's scale.
        expected: As of ``deviations`` where one looks daily: a bound, since earlier looks find some as well. None for
            one look.
    """
    reach = DETECTABLE if expected is None else deviations(se, expected) + float(norm.ppf(POWER))
    return math.expm1(reach * se)


def split_lift(
    treated: np.ndarray, value: np.ndarray, requests: np.ndarray, before: np.ndarray | None = None
) -> Lift | None:
    """Compare users who met one variant each.

    Args:
        treated: Whether the user met the variant, not the baseline, bool [n].
        value: What each user did, such as seconds [n].
        requests: How often each asked [n].
        before: What was known of each user before the start, float64 [n, k]; left out where users are few for it.

    Returns:
        None where a figure is 0 or a variant has fewer than ``MIN_USERS`` users.
    """
    sides = treated, ~treated
    counts = [int(side.sum()) for side in sides]
    if min(counts) < MIN_USERS or min(value[side].sum() for side in sides) <= 0:
        return None
    influence, log = np.empty(len(value)), 0.0
    for side, sign in zip(sides, (1, -1), strict=True):
        influence[side] = _influence(value[side], requests[side])
        log += sign * math.log(value[side].sum() / requests[side].sum())
    used = 0
    if before is not None and min(counts) >= _FEWEST_PER_COVARIATE * before.shape[1]:
        means = [before[side].mean(axis=0) for side in sides]
        centred = before - np.where(treated[:, None], *means)
        slope = np.linalg.lstsq(centred, influence, rcond=None)[0]
        influence = influence - centred @ slope
        log -= float(slope @ (means[0] - means[1]))
        used = before.shape[1]
    variances = [float(influence[side].var(ddof=1)) / n for side, n in zip(sides, counts, strict=True)]
    freedoms = [max(effective_count(requests[side]) - 1, 1.0) for side in sides]
    total = sum(variances) * len(value) / (len(value) - used)
    if not total > 0:
        return None
    freedom = sum(variances) ** 2 / sum(v * v / k for v, k in zip(variances, freedoms, strict=True))
    return Lift(log, math.sqrt(total), freedom)


def paired_lift(treated: np.ndarray, base: np.ndarray, requests: np.ndarray) -> Lift | None:
    """Compare what the two variants gave to the same requests of the same users.

    Args:
        treated: What each user's requests gave the variant [n].
        base: What they gave the baseline [n].
        requests: How often each user asked [n].

    Returns:
        None where a figure is 0, nothing differs, or fewer than ``MIN_USERS`` users asked.
    """
    if len(requests) < MIN_USERS or min(treated.sum(), base.sum()) <= 0:
        return None
    influence = treated / treated.mean() - base / base.mean()
    se = float(influence.std(ddof=1)) / math.sqrt(len(influence))
    if not se > 0:
        return None
    return Lift(math.log(treated.sum() / base.sum()), se, max(effective_count(requests) - 1, 1.0))


def covariates(value: np.ndarray, requests: np.ndarray) -> np.ndarray:
    """Return what is known of users from the days before, float64 [n, 3].

    How much more they did than their requests would have let expect, how often they asked, and whether they were there.

    Args:
        value: Sum of the figure before the start, 0 for who was not there [n].
        requests: Sum of the requests before the start [n].
    """
    asked = requests.sum()
    rate = value.sum() / asked if asked else 0.0
    scale = max(float(rate), 1e-12)
    return np.stack([(value - rate * requests) / scale, requests, requests > 0], axis=1).astype(np.float64)


def even_split_error(value: np.ndarray, requests: np.ndarray, before: np.ndarray | None = None) -> float | None:
    """Return the standard error of ``split_lift`` if these users were split evenly; None where a figure is 0.

    Args:
        value: What each user did [n].
        requests: How often each asked [n].
        before: As of ``split_lift``.
    """
    if len(value) < 2 * MIN_USERS or value.sum() <= 0:
        return None
    influence = _influence(value, requests)
    if before is not None:
        centred = before - before.mean(axis=0)
        influence = influence - centred @ np.linalg.lstsq(centred, influence, rcond=None)[0]
    return 2 * float(influence.std(ddof=1)) / math.sqrt(len(value))


def _influence(value: np.ndarray, requests: np.ndarray) -> np.ndarray:
    """Return what each user adds to the logarithm of sum(value) / sum(requests), times their number [n]."""
    return value / value.mean() - requests / requests.mean()
