"""Paired bootstrap over users: the uncertainty of a metric, and of the difference of two models on the same rows.

Rows of one user are not independent, so users are resampled, with all their rows. In each replicate a user counts
Poisson(1) times, an integer weight that every model and metric shares, which pairs the comparison: what makes a sample
of users easy or hard cancels in the difference. Every metric here is a function of sums that are linear in the user
weights (for AUC: of the weights of positives and of the negatives below them), so that all replicates come from a few
matrix products and nothing is sorted twice.

A few users with most of the rows say less than their number: the interval takes the t quantile of the effective users.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapters 8 and 13; Poisson weights as in
Chamandy et al., "Estimating Uncertainty for Massive Data Streams" (Google, 2012); effective clusters as degrees of
freedom after Carter, Schnepel and Steigerwald, "Asymptotic Behavior of a t-Test Robust to Cluster Heterogeneity",
Review of Economics and Statistics 99 (2017).
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import norm, t

from ml.foundation.mapped import arrays

CONFIDENCE = 0.95
POWER = 0.8
DETECTABLE = float(norm.ppf((1 + CONFIDENCE) / 2) + norm.ppf(POWER))
"""Minimal detectable effect in standard errors: 2.80 for a two-sided 5 % test with 80 % power."""

_CHUNK_CELLS = 500_000
_IN_MEMORY = 64_000_000
"""Draws, a byte each, that lie in memory; beyond that in a file."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its uncertainty, in the metric's unit.

    Attributes:
        estimate: Value on all rows, every user counted once.
        lo: Lower end of the 95 % interval.
        hi: Upper end.
        se: Standard deviation of the replicates.
        mde: Smallest true effect that would be found with 80 % power, ``2.80 se``.
    """

    estimate: float
    lo: float
    hi: float
    se: float
    mde: float


@dataclass(frozen=True)
class Linear:
    """A metric that is a function of sums over users.

    Attributes:
        terms: What each user adds to each sum, float64 [k, users].
        combine: Turns the k sums of every replicate [k, replicates] into the metric [replicates].
    """

    terms: np.ndarray
    combine: Callable[[np.ndarray], np.ndarray]


class UserWeights:
    """How often each user counts in each replicate: integers [users, replicates], the same for every model.

    Args:
        users: User of each row [n], any integers; weights depend on the set of users, not on the order of rows.
        seed: Seed of the draw.
        replicates: Number of bootstrap samples.

    Attributes:
        codes: Index of each row's user in the rows of ``counts`` [n].
        counts: Poisson(1) multiplicities, uint8 [users, replicates], one replicate after another in memory.
    """

    def __init__(self, users: np.ndarray, *, seed: int, replicates: int) -> None:
        if replicates < 2:
            raise ValueError(f"{replicates} replicates give no interval; at least 2 are needed")
        unique, self.codes = np.unique(users, return_inverse=True)
        self.users = len(unique)
        self.replicates = replicates
        folder = Path(tempfile.gettempdir()) if self.users * replicates > _IN_MEMORY else None
        drawn = arrays({"counts": ((replicates, self.users), np.uint8)}, folder)["counts"]
        rng, step = np.random.default_rng(seed), max(1, _CHUNK_CELLS // replicates)
        for start in range(0, self.users, step):  # numbers come from the generator in the order of users
            part = slice(start, min(start + step, self.users))
            drawn[:, part] = rng.poisson(1.0, (part.stop - start, replicates)).T
        self.counts = drawn.T

    def auc(self, codes: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Return the tie-aware AUC of each replicate [replicates], NaN where it holds one class only.

        With the K distinct scores of positives in rising order, each negative adds half its weight from the first one
        that is not below it, and half from the first one above it; the running sum is the weight that a positive beats.

        Args:
            codes: User code of each row [n].
            labels: 0 or 1 [n].
            scores: Any monotone score [n].
        """
        positive = labels > 0.5
        levels, level = np.unique(scores[positive], return_inverse=True)
        places = np.concatenate([np.searchsorted(levels, scores[~positive], side) for side in ("left", "right")])
        losers = np.tile(codes[~positive], 2)
        shape = (len(levels) + 1, self.users)
        beaten = csr_array((np.full(len(places), 0.5), (places, losers)), shape=shape)
        winners = csr_array((np.ones(len(level)), (level, codes[positive])), shape=shape)
        result = np.empty(self.replicates)
        for part, weights in self._chunks(len(levels) + 1):
            below = np.cumsum(beaten @ weights, axis=0)
            wins = winners @ weights
            pairs = wins.sum(axis=0) * below[-1]
            result[part] = _divide(np.einsum("kb,kb->b", wins, below), pairs)
        return result

    def mean(self, codes: np.ndarray, values: np.ndarray, mass: np.ndarray | None = None) -> Linear:
        """Return the mean of ``values`` [n], weighted by ``mass`` [n] if given; ``codes`` [n] name the users."""
        mass = np.ones(len(values)) if mass is None else mass
        return Linear(self._by_user(codes, values * mass, mass), lambda sums: _divide(sums[0], sums[1]))

    def ratio(self, codes: np.ndarray, above: np.ndarray, below: np.ndarray) -> Linear:
        """Return the sum of ``above`` [n] over the sum of ``below`` [n]; NaN where that is 0."""
        return Linear(self._by_user(codes, above, below), lambda sums: _divide(sums[0], sums[1]))

    def sums(self, above: np.ndarray, below: np.ndarray) -> Linear:
        """Return the sum of ``above`` over the sum of ``below``, which hold what each user adds [users]."""
        return Linear(np.stack([above, below]), lambda sums: _divide(sums[0], sums[1]))

    def calibration_error(
        self, codes: np.ndarray, bins: np.ndarray, labels: np.ndarray, predictions: np.ndarray
    ) -> Linear:
        """Return ``sum_b |sum of prediction - label| / n`` over bins of rows, ``bins`` [n] their codes from 0."""
        excess = predictions - labels
        terms = [np.where(bins == b, excess, 0.0) for b in range(int(bins.max(initial=-1)) + 1)]
        return Linear(
            self._by_user(codes, *terms, np.ones(len(excess))),
            lambda sums: _divide(np.abs(sums[:-1]).sum(axis=0), sums[-1]),
        )

    def r2(self, codes: np.ndarray, labels: np.ndarray, predictions: np.ndarray) -> Linear:
        """Return R2 of ``predictions`` [n]; the mean label of a replicate is its own."""
        y = labels - labels.mean() if len(labels) else labels
        terms = self._by_user(codes, np.ones(len(y)), y, y * y, np.square(labels - predictions))
        return Linear(terms, lambda s: 1 - _divide(s[3], _variation(s[2], s[1], s[0])))

    def r2_affine(self, codes: np.ndarray, labels: np.ndarray, predictions: np.ndarray) -> Linear:
        """Return the squared Pearson correlation of ``labels`` [n] and ``predictions`` [n]."""
        y, p = (v - v.mean() if len(v) else v for v in (labels, predictions))

        def combine(s: np.ndarray) -> np.ndarray:
            scale = _variation(s[3], s[1], s[0]) * _variation(s[4], s[2], s[0])
            return _divide((s[5] - _divide(s[1] * s[2], s[0])) ** 2, scale)

        return Linear(self._by_user(codes, np.ones(len(y)), y, p, y * y, p * p, y * p), combine)

    def replicate(self, metrics: Sequence[Linear]) -> list[np.ndarray]:
        """Return each metric's replicates [replicates], all from one matrix product."""
        if not metrics:
            return []
        terms = np.concatenate([m.terms for m in metrics])
        sums = np.empty((len(terms), self.replicates))
        for part, weights in self._chunks(self.users):
            sums[:, part] = terms @ weights
        ends = np.cumsum([len(m.terms) for m in metrics])
        return [m.combine(s) for m, s in zip(metrics, np.split(sums, ends[:-1]), strict=True)]

    def _by_user(self, codes: np.ndarray, *values: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(codes, weights=v, minlength=self.users) for v in values])

    def _chunks(self, rows: int) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield (replicates, their weights as float64 [users, b]) with a bound on ``b`` times rows or users."""
        step = max(1, _CHUNK_CELLS // max(rows, self.users, 1))
        for start in range(0, self.replicates, step):
            part = slice(start, min(start + step, self.replicates))
            yield part, self.counts[:, part].astype(np.float64, order="C")


def effective_users(codes: np.ndarray) -> float:
    """Return how many users with equally many rows would say as much: ``(sum n_u)^2 / sum n_u^2``, n_u a user's rows.

    Args:
        codes: User of each row [n], integers from 0.

    Source: Kish, "Survey Sampling" (1965), section 11.7.
    """
    return effective_count(np.bincount(codes)) if len(codes) else 0.0


def effective_count(weights: np.ndarray) -> float:
    """Return how many equal weights would say as much as these, float or integer [n], not all 0; see above."""
    exact = weights.astype(np.float64)
    return float(exact.sum() ** 2 / np.square(exact).sum())


def interval(estimate: float, replicates: np.ndarray, effective: float | None = None) -> Interval:
    """Return the interval of ``estimate``; replicates in which the metric is undefined are left out.

    A difference of two models takes the difference of their replicates from the same ``UserWeights``. NaN bounds where
    fewer than two replicates are defined, or not more than one user counts.

    Args:
        estimate: Value on all rows.
        replicates: Its value in each replicate [replicates].
        effective: Users of the rows, k by ``effective_users``: the interval is ``estimate -+ t se``, t the quantile of
            k - 1 degrees of freedom, and the replicates' deviation, of a plug-in variance, grows by sqrt(k / (k - 1)).
            Without it the ends are percentiles of the replicates.
    """
    valid = replicates[np.isfinite(replicates)]
    if len(valid) < 2 or not np.isfinite(estimate) or (effective is not None and effective <= 1 + 1e-9):
        return Interval(estimate, *[float("nan")] * 4)
    tail = (1 - CONFIDENCE) / 2
    se = float(valid.std(ddof=1))
    if effective is None:
        lo, hi = np.quantile(valid, [tail, 1 - tail])
    else:
        se *= (effective / (effective - 1)) ** 0.5
        reach = float(t.ppf(1 - tail, effective - 1)) * se
        lo, hi = estimate - reach, estimate + reach
    return Interval(estimate, float(lo), float(hi), se, DETECTABLE * se)


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)


def _variation(squares: np.ndarray, total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return the sum of squares about the mean, 0 where it is nothing but rounding."""
    found = squares - _divide(total * total, count)
    return np.where(found > 1e-12 * squares, found, 0.0)
