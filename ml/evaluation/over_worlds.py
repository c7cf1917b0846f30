"""The mean of paired differences over worlds, with its interval.

Each world gives one difference, in which its initialisations are averaged, and the interval is the paired Student's t
over these with (worlds - 1) degrees of freedom. Which users a world happened to have is part of what makes worlds
differ, so they are not resampled once more. One world alone, as real logs are, has the percentiles of its users.

Source: Student, "The Probable Error of a Mean", Biometrika 6 (1908).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ml.evaluation.bootstrap import CONFIDENCE, POWER, interval


@dataclass(frozen=True)
class Pooled:
    """A mean difference over worlds.

    Attributes:
        estimate: Mean over worlds.
        lo: Lower end of the 95 % interval; NaN where there is none.
        hi: Upper end.
        p: Two-sided p-value of no difference: 1 less the confidence at which the interval would end at 0; NaN without
            spread.
        detectable: Smallest true difference that is found with 80 % power.
        worlds: Number of worlds.
        above: Worlds in which the difference is above 0.
    """

    estimate: float
    lo: float
    hi: float
    p: float
    detectable: float
    worlds: int
    above: int

    def at(self, confidence: float) -> tuple[float, float]:
        """Return the ends of the interval at another confidence, such as a corrected one."""
        wider = quantile(self.worlds, confidence) / quantile(self.worlds, CONFIDENCE)
        return self.estimate - (self.estimate - self.lo) * wider, self.estimate + (self.hi - self.estimate) * wider


def over_worlds(values: Sequence[float], replicates: Sequence[np.ndarray]) -> Pooled:
    """Pool the differences of worlds.

    Args:
        values: The difference in each world, its initialisations averaged.
        replicates: Of users drawn with replacement, an array [replicates] per world, NaN where undefined; they count
            where there is one world.
    """
    count, estimate = len(values), float(np.mean(values))
    if count == 1:
        alone = interval(estimate, replicates[0])
        lo, hi, error = alone.lo, alone.hi, alone.se
    else:
        error = float(np.std(values, ddof=1) / np.sqrt(count))
        half = quantile(count, CONFIDENCE) * error
        lo, hi = estimate - half, estimate + half
    return Pooled(
        estimate,
        lo=lo,
        hi=hi,
        p=_p(estimate, lo, hi, count),
        detectable=(quantile(count, CONFIDENCE) + quantile(count, 2 * POWER - 1)) * error,
        worlds=count,
        above=int(np.sum(np.asarray(values) > 0)),
    )


def over_seeds(differences: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return, in each replicate of the users, the mean over initialisations drawn with replacement.

    Args:
        differences: Of each initialisation, [seeds, replicates].
        seed: Of the resampling.
    """
    seeds, replicates = differences.shape
    chosen = np.random.default_rng(seed).integers(seeds, size=(seeds, replicates))
    return differences[chosen, np.arange(replicates)].mean(axis=0)


def quantile(worlds: int, confidence: float) -> float:
    """Return half an interval's width in standard errors: of Student's t over worlds, of one world the normal's."""
    tail = (1 + confidence) / 2
    return float(stats.norm.ppf(tail) if worlds == 1 else stats.t.ppf(tail, worlds - 1))


def _p(estimate: float, lo: float, hi: float, worlds: int) -> float:
    """Return 1 less the confidence at which the interval would end at 0."""
    reach = (estimate - lo if estimate > 0 else hi - estimate) / quantile(worlds, CONFIDENCE)
    if not reach > 0:
        return float("nan")
    distance = abs(estimate) / reach
    return float(2 * (stats.norm.sf(distance) if worlds == 1 else stats.t.sf(distance, worlds - 1)))
