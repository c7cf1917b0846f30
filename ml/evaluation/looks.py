"""Looks at one candidate: the evaluation may widen day by day, and the chance of an error counts every look.

Whoever looks at a growing sample every day, and stops at the first look that pleases, errs more often than each look
says. The remedy here is one wider interval for all looks: so wide that any of them errs as rarely as one look alone
would have to. It is computed for a mean whose variance falls with the number of days; where users come back, looks are
more alike than that, and the chance is smaller.

Source: Pocock, "Group sequential methods in the design and analysis of clinical trials" (Biometrika, 1977); the
recursion over looks is that of Armitage, McPherson and Rowe (JRSS A, 1969).
"""

import math
from functools import lru_cache
from statistics import NormalDist
from typing import cast

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from ml.surfaces.window import Looks

PROMOTE_WORSE = 0.025
"""Chance, over all looks, that a candidate worse by one whole margin passes; 5 % is promised, and the rest of it is for
intervals that are narrower than they should be: a few rows may carry most of a difference."""

_NODES, _FAR = 64, 8.0


@lru_cache(maxsize=256)
def critical(looks: Looks, tail: float) -> float:
    """Return how many standard errors wide one side of an interval is whose looks together err with ``tail``."""
    alone = NormalDist().inv_cdf(1 - tail)
    if looks.first == looks.most:
        return alone
    every = NormalDist().inv_cdf(1 - tail / (looks.most - looks.first + 1))
    return cast(float, brentq(lambda bound: crossed(bound, looks) - tail, alone, every, xtol=1e-4))


def crossed(bound: float, looks: Looks) -> float:
    """Return the chance that a mean of no effect lies ``bound`` standard errors above 0 at any of the looks.

    The sum over the first ``k`` days is a Brownian motion at time ``k``; its density below the bound is carried from
    look to look on Gauss-Legendre nodes.
    """
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    chance = float(norm.sf(bound))
    lowest, highest = -_FAR * math.sqrt(looks.first), bound * math.sqrt(looks.first)
    at = (highest - lowest) / 2 * nodes + (highest + lowest) / 2
    mass = (highest - lowest) / 2 * weights * norm.pdf(at, scale=math.sqrt(looks.first))
    for days in range(looks.first + 1, looks.most + 1):
        chance += float(mass @ norm.sf(bound * math.sqrt(days) - at))
        lowest, highest = -_FAR * math.sqrt(days), bound * math.sqrt(days)
        later = (highest - lowest) / 2 * nodes + (highest + lowest) / 2
        density = np.exp(-0.5 * np.square(later[:, None] - at)) / math.sqrt(2 * math.pi)
        at, mass = later, (highest - lowest) / 2 * weights * (density @ mass)
    return chance
