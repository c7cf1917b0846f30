"""The mean of differences over worlds, with an interval over worlds and over the users of each.

Two levels are uncertain: which worlds (populations, logs, teachers) one happened to have, and which users of a world
were there. Both are resampled: worlds with replacement, and in each of them its users. With few worlds the percentiles
of such a bootstrap are too narrow, so the interval is Student's t with (worlds - 1) degrees of freedom on its standard
error. Users count in the spread between worlds too, which makes the interval a little too wide rather than too narrow.
One world alone has the percentile interval of its users.

Source: Davison and Hinkley, "Bootstrap Methods and their Application" (1997), section 3.8.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ml.evaluation.bootstrap import CONFIDENCE, DETECTABLE, POWER, interval

ROUNDS = 4000


@dataclass(frozen=True)
class Pooled:
    """A mean difference over worlds.

    Attributes:
        estimate: Mean over worlds.
        lo: Lower end of the 95 % interval; NaN where there is none.
        hi: Upper end.
        p: Two-sided p-value of no difference, of one world from the normal distribution; NaN without spread.
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


def over_worlds(values: Sequence[float], replicates: Sequence[np.ndarray], seed: int = 0) -> Pooled:
    """Pool the differences of worlds.

    Args:
        values: The difference in each world.
        replicates: Of users drawn with replacement, an array [replicates] per world; NaN where undefined.
        seed: Of the resampling.
    """
    count, estimate = len(values), float(np.mean(values))
    above = int(np.sum(np.asarray(values) > 0))
    if count == 1:
        alone = interval(estimate, replicates[0])
        p = float(2 * stats.norm.sf(abs(estimate) / alone.se)) if alone.se > 0 else float("nan")
        return Pooled(estimate, alone.lo, alone.hi, p, DETECTABLE * alone.se, count, above)
    error = _standard_error(replicates, np.random.default_rng(seed))
    quantile, power = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1), stats.t.ppf(POWER, count - 1)
    return Pooled(
        estimate,
        lo=float(estimate - quantile * error),
        hi=float(estimate + quantile * error),
        p=float(2 * stats.t.sf(abs(estimate) / error, count - 1)) if error > 0 else float("nan"),
        detectable=float((quantile + power) * error),
        worlds=count,
        above=above,
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


def _standard_error(worlds: Sequence[np.ndarray], rng: np.random.Generator) -> float:
    """Return the deviation of the mean over resampled worlds and, in each, one replicate of its users.

    A resampled spread of W worlds is too small by (W - 1) / W in variance, which is put right.
    """
    count = len(worlds)
    replicates = np.stack(worlds)
    chosen = rng.integers(count, size=(ROUNDS, count))
    sample = rng.integers(replicates.shape[1], size=(ROUNDS, count))
    means = np.nanmean(replicates[chosen, sample], axis=1)
    return float(np.nanstd(means, ddof=1) * np.sqrt(count / (count - 1)))
