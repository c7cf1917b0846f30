"""What an experiment says: relative differences to the baseline variant, with intervals.

A figure is a ratio of sums, such as seconds listened over requests, and a difference is the ratio of two variants'
figures less 1. Users are resampled with all their requests and days (Poisson weights), in both variants of a paired
estimate alike.
Over several worlds the mean of the worlds' differences counts, with the interval of a study: Student's t over worlds
(``ml/evaluation/over_worlds.py``). One world alone, as landed exposures are, has the interval of its users.
"""

from dataclasses import dataclass
from datetime import date
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml.evaluation.bootstrap import Linear, UserWeights
from ml.evaluation.over_worlds import Pooled, over_worlds
from ml.experiments.user_days import METRICS

REPLICATES = 400


@dataclass(frozen=True)
class Effect:
    """Difference of a variant to the baseline in one figure.

    Attributes:
        surface: Name of the surface.
        metric: One of ``METRICS``.
        variant: Name of the variant.
        baseline: Name of the variant that it is compared with.
        estimate: ``split`` or ``paired``.
        level: The baseline's figure per request, mean over worlds.
        lift: Relative difference over worlds; 0.01 is one per cent.
        users: Users of both variants, over all worlds.
        requests: Requests of the baseline and of the variant, over all worlds.
    """

    surface: str
    metric: str
    variant: str
    baseline: str
    estimate: str
    level: float
    lift: Pooled
    users: int
    requests: tuple[int, int]


def effects(rows: pa.Table, baseline: str, seed: int = 0) -> list[Effect]:
    """Compare every variant with the baseline, per surface, estimate and metric.

    Args:
        rows: With the columns ``surface``, ``world``, ``arm``, ``estimate``, ``user_id``, ``requests`` and ``METRICS``;
            days are pooled.
        baseline: Name of the baseline variant.
        seed: Of the resampling.
    """
    found: list[Effect] = []
    for surface, estimate in _distinct(rows, "surface", "estimate"):
        part = where(rows, surface=surface, estimate=estimate)
        variants = [variant for (variant,) in _distinct(part, "arm")]
        if baseline not in variants:
            continue
        base = where(part, arm=baseline)
        for variant in variants:
            if variant != baseline:
                found += _compare(base, where(part, arm=variant), (surface, variant, baseline, estimate), seed)
    return found


def effects_by_day(rows: pa.Table, baseline: str, seed: int = 0) -> dict[date, list[Effect]]:
    """Return the effects of each day alone, oldest first."""
    return {day: effects(where(rows, day=day), baseline, seed) for (day,) in sorted(_distinct(rows, "day"))}


def _compare(base: pa.Table, treated: pa.Table, names: tuple[str, str, str, str], seed: int) -> list[Effect]:
    """Return the effect on each metric; worlds in which one of the variants has no user are left out."""
    surface, variant, baseline, estimate = names
    worlds = sorted({w for (w,) in _distinct(base, "world")} & {w for (w,) in _distinct(treated, "world")})
    by_world = [_ratios(where(base, world=w), where(treated, world=w), seed + k) for k, w in enumerate(worlds)]
    if not by_world:
        return []
    found: list[Effect] = []
    for metric in METRICS:
        cells = [cell for world in by_world if np.isfinite((cell := world[metric]).lift)]
        if not cells:
            continue
        found.append(
            Effect(
                surface=surface,
                metric=metric,
                variant=variant,
                baseline=baseline,
                estimate=estimate,
                level=float(np.mean([cell.level for cell in cells])),
                lift=over_worlds([cell.lift for cell in cells], [cell.replicates for cell in cells]),
                users=sum(cell.users for cell in cells),
                requests=(int(base["requests"].to_numpy().sum()), int(treated["requests"].to_numpy().sum())),
            )
        )
    return found


@dataclass(frozen=True)
class _Cell:
    """One metric of one world: the baseline's figure, the difference, its replicates [REPLICATES], and the users."""

    level: float
    lift: float
    replicates: np.ndarray
    users: int


def _ratios(base: pa.Table, treated: pa.Table, seed: int) -> dict[str, _Cell]:
    users = np.concatenate([base["user_id"].to_numpy(), treated["user_id"].to_numpy()])
    weights = UserWeights(users, seed=seed, replicates=REPLICATES)
    codes = weights.codes[: len(base)], weights.codes[len(base) :]

    def sums(metric: str) -> np.ndarray:
        """Return what each user adds: treated value and requests, the baseline's value and requests [4, users]."""
        columns = [(treated, codes[1], metric), (treated, codes[1], "requests")]
        columns += [(base, codes[0], metric), (base, codes[0], "requests")]
        return np.stack(
            [np.bincount(c, t[name].to_numpy().astype(np.float64), weights.users) for t, c, name in columns]
        )

    terms = {metric: sums(metric) for metric in METRICS}
    replicates = weights.replicate([Linear(term, _relative) for term in terms.values()])
    cells: dict[str, _Cell] = {}
    for (metric, term), drawn in zip(terms.items(), replicates, strict=True):
        total = term.sum(axis=1)
        level = float(total[2] / total[3]) if total[3] else float("nan")
        cells[metric] = _Cell(level, float(_relative(total)), drawn, weights.users)
    return cells


def _relative(sums: np.ndarray) -> np.ndarray:
    """Return (a / b) / (c / d) - 1 of sums [4, ...]; NaN where it is undefined."""
    value, requests, base, base_requests = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((requests > 0) & (base > 0), value * base_requests / (requests * base) - 1, np.nan)


def _distinct(rows: pa.Table, *columns: str) -> list[tuple]:
    """Return the distinct values of columns, in order of appearance."""
    found = rows.group_by(list(columns), use_threads=False).aggregate([])
    return list(zip(*(found[name].to_pylist() for name in columns), strict=True))


def where(rows: pa.Table, **values: object) -> pa.Table:
    """Return the rows with these values."""
    masks = [
        pc.call_function("equal", [rows[name], pa.scalar(value, rows.schema.field(name).type)])
        for name, value in values.items()
    ]
    return rows.filter(reduce(lambda a, b: pc.call_function("and", [a, b]), masks))
