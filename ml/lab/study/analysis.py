"""What the trials of a study say: differences over worlds and seeds, with intervals; four of them are claims.

Seeds of the initialisation are averaged within a world, and the interval is that of the worlds' means, paired with the
control: see ``ml/evaluation/over_worlds.py``. In one world alone, as real logs are, seeds and users are resampled.

The primary claims are one family: student over control on the four tasks. Their p-values are corrected among each other
after Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 6 (1979).
Everything else that a study compares is exploratory: it has an interval of its own and shows nothing.
"""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from statsmodels.stats.multitest import multipletests

from ml.evaluation.bootstrap import CONFIDENCE
from ml.evaluation.over_worlds import Pooled, over_seeds, over_worlds
from ml.evaluation.results import ALL
from ml.evaluation.transfer import Ratio, ratio_over_worlds
from ml.lab.study.design import AS_IT_IS, CEILING, CONTROL, STUDENT, Design

RANKING = ("auc", "r2")
"""What variants are judged by: the order of a binary task, the share of the variance of a regression."""

FEWEST_SEEDS = 5
"""Initialisations that a figure of one world needs: the spread of one is as large as a quarter of the lift."""

PRIMARY_TASKS = (("homepage", "ctr"), ("homepage", "trail"), ("homepage", "discovery"), ("radio", "engagement"))
"""Surface and task of the primary claims, student over control, on all rows of the worlds as they are."""


@dataclass(frozen=True)
class Lift:
    """Difference of a variant to its control, in the metric's unit.

    Attributes:
        condition: What is different from the preset, for control and variant; empty where nothing is.
        surface: Name of the surface.
        task: Name of the task.
        slice: ``all`` or a slice.
        metric: Name of the metric.
        variant: Name of the variant.
        control: Name of the variant that it is compared with.
        placebo: Whether the true lift is 0 by construction.
        base: Mean of the metric of the control.
        lift: Mean difference over worlds and seeds.
        lo: Lower end of the 95 % interval of this row alone; of one world that of its users and seeds.
        hi: Upper end.
        p: Two-sided p-value of no difference, of this row alone; NaN without spread.
        detectable: Smallest true difference that such a study finds with 80 % power.
        worlds: Number of worlds.
        seeds: Initialisations per world.
        above: Worlds in which the difference is above 0.
        corrected: Of a primary claim, what the correction leaves of interval and p-value; None of any other row.
    """

    condition: str
    surface: str
    task: str
    slice: str
    metric: str
    variant: str
    control: str
    placebo: bool
    base: float
    lift: float
    lo: float
    hi: float
    p: float
    detectable: float
    worlds: int
    seeds: int
    above: int
    corrected: "Corrected | None" = None

    @property
    def shown(self) -> bool:
        """Whether it is a primary claim whose corrected interval lies above 0, of one world over enough seeds."""
        enough = self.worlds > 1 or self.seeds >= FEWEST_SEEDS
        return self.corrected is not None and self.corrected.lo > 0 and enough


@dataclass(frozen=True)
class Corrected:
    """A primary claim corrected for the others: the interval excludes 0 where the corrected p-value is below 5 %.

    Attributes:
        lo: Lower end of the interval at the confidence that Holm's step leaves to this claim.
        hi: Upper end.
        p: Two-sided p-value of no difference after Holm's correction.
    """

    lo: float
    hi: float
    p: float


def lifts(
    rows: pa.Table,
    design: Design,
    against: str | None = None,
    seed: int = 0,
    metrics: tuple[str, ...] = RANKING,
) -> list[Lift]:
    """Compare every variant of a study with its control.

    Args:
        rows: Of the lake's table of trials.
        design: Names variants and their order.
        against: A variant that those with the teacher's own labels are compared with, in place of their controls.
        seed: Of the resampling.
        metrics: Which of the metrics; one per task.
    """
    cells = _cells(rows, metrics)
    found: list[Lift] = []
    pools: list[Pooled] = []
    labels = [condition.label for condition in design.conditions]
    places = dict.fromkeys(key[:4] for key in cells)
    for label, surface, task, slice_ in sorted(places, key=lambda place: labels.index(place[0])):
        for variant in design.variants:
            other = against or variant.control
            mine, base = (cells.get((label, surface, task, slice_, name)) for name in (variant.name, other))
            if mine is None or base is None or variant.name == other:
                continue
            if against and (variant.labels != "as_is" or not variant.distils):
                continue
            pairs = sorted(set(mine.values) & set(base.values))
            pooled = _pooled(mine, base, pairs, seed)
            pools.append(pooled)
            found.append(
                Lift(
                    condition=label,
                    surface=surface,
                    task=task,
                    slice=slice_,
                    metric=mine.metric,
                    variant=variant.name,
                    control=other,
                    placebo=variant.placebo,
                    base=float(np.mean([base.values[p] for p in pairs])),
                    lift=pooled.estimate,
                    lo=pooled.lo,
                    hi=pooled.hi,
                    p=pooled.p,
                    detectable=pooled.detectable,
                    worlds=pooled.worlds,
                    seeds=len(pairs) // pooled.worlds,
                    above=pooled.above,
                )
            )
    return _corrected(found, pools)


def _corrected(table: list[Lift], pools: list[Pooled]) -> list[Lift]:
    """Return the table with the primary claims corrected among each other."""
    family = [i for i, lift in enumerate(table) if _is_primary(lift)]
    if not family:
        return table
    ps = [lift.p if np.isfinite(lift.p) else 1.0 for lift in (table[i] for i in family)]
    corrected = np.asarray(multipletests(ps, alpha=1 - CONFIDENCE, method="holm")[1])
    for i, p, p_holm in zip(family, ps, corrected, strict=True):
        share = p / p_holm if p > 0 else 1 / len(family)
        lo, hi = pools[i].at(1 - (1 - CONFIDENCE) * share)
        table[i] = replace(table[i], corrected=Corrected(lo, hi, float(p_holm)))
    return table


def _is_primary(lift: Lift) -> bool:
    as_it_is = lift.slice == ALL and lift.condition == AS_IT_IS.label
    compared = (lift.variant, lift.control) == (STUDENT, CONTROL) and lift.metric in RANKING
    return as_it_is and compared and (lift.surface, lift.task) in PRIMARY_TASKS


@dataclass(frozen=True)
class Kept:
    """What a variant keeps of the gain that reading the teacher's scores would bring.

    Attributes:
        surface: Name of the surface.
        task: Name of the task.
        variant: Name of the variant.
        gain: Its gain over the control, in the worlds and seeds that have a ceiling.
        ceiling: The ceiling's gain over the same control.
        ceiling_lo: Lower end of its 95 % interval.
        ceiling_hi: Upper end.
        ratio: The first over the second, the transfer ratio.
    """

    surface: str
    task: str
    variant: str
    gain: float
    ceiling: float
    ceiling_lo: float
    ceiling_hi: float
    ratio: Ratio


def kept(rows: pa.Table, design: Design, seed: int = 0) -> list[Kept]:
    """Return the transfer ratio of every variant that learns from the teacher's own labels, worlds as they are."""
    cells = _cells(rows, RANKING)
    found: list[Kept] = []
    for surface, task in dict.fromkeys(key[1:3] for key in cells):
        at = {v: cells.get((AS_IT_IS.label, surface, task, ALL, v)) for v in (CONTROL, CEILING)}
        base, top = at[CONTROL], at[CEILING]
        for variant in design.variants:
            mine = cells.get((AS_IT_IS.label, surface, task, ALL, variant.name))
            learns = variant.distils and variant.labels == "as_is" and variant.control == CONTROL
            if mine is None or base is None or top is None or not learns:
                continue
            pairs = sorted(set(mine.values) & set(base.values) & set(top.values))
            if not pairs:
                continue
            (gain, by_world, drawn), (most, most_by_world, most_drawn) = (
                _differences(cell, base, pairs, seed) for cell in (mine, top)
            )
            ratio = ratio_over_worlds(by_world, most_by_world, drawn[0], most_drawn[0])
            found.append(Kept(surface, task, variant.name, gain.estimate, most.estimate, most.lo, most.hi, ratio))
    return found


def _pooled(mine: "_Cell", base: "_Cell", pairs: list[tuple[int, int]], seed: int) -> Pooled:
    """Return the difference of two variants over the worlds and seeds that both have."""
    return _differences(mine, base, pairs, seed)[0]


def _differences(
    mine: "_Cell", base: "_Cell", pairs: list[tuple[int, int]], seed: int
) -> tuple[Pooled, list[float], list[np.ndarray]]:
    """Return the difference of two variants pooled, in each world, and its replicates over the users of each."""
    worlds = sorted({world for world, _ in pairs})
    values = [float(np.mean([mine.values[p] - base.values[p] for p in pairs if p[0] == w])) for w in worlds]
    by_seed = [np.stack([mine.replicates[p] - base.replicates[p] for p in pairs if p[0] == w]) for w in worlds]
    drawn = [over_seeds(x, seed) if len(worlds) == 1 else x.mean(axis=0) for x in by_seed]
    return over_worlds(values, drawn), values, drawn


def levels(
    rows: pa.Table, metrics: tuple[str, ...] = RANKING, condition: str = AS_IT_IS.label
) -> dict[tuple[str, str, str], dict[str, float]]:
    """Return {(surface, task, slice): {variant: mean of the metric over worlds and seeds}}, the teacher's own included.

    Only of trials of one condition; by default those in which the preset is as it is.
    """
    means: dict[tuple[str, str, str], dict[str, float]] = {}
    for (label, surface, task, slice_, variant), cell in _cells(rows, metrics).items():
        if label == condition:
            means.setdefault((surface, task, slice_), {})[variant] = float(np.mean(list(cell.values.values())))
    return means


def differences_by_seed(
    rows: pa.Table, variant: str, slice_: str, metrics: tuple[str, ...] = RANKING
) -> dict[tuple[str, str, str], dict[int, list[float]]]:
    """Return {(surface, task, metric): {world: difference of a variant to the control, a value per initialisation}}."""
    cells = _cells(rows, metrics)
    found: dict[tuple[str, str, str], dict[int, list[float]]] = {}
    for (label, surface, task, part, name), mine in cells.items():
        base = cells.get((label, surface, task, part, CONTROL))
        if (label, part, name) != (AS_IT_IS.label, slice_, variant) or base is None:
            continue
        for world, seed in sorted(set(mine.values) & set(base.values)):
            by_world = found.setdefault((surface, task, mine.metric), {})
            by_world.setdefault(world, []).append(mine.values[world, seed] - base.values[world, seed])
    return found


@dataclass(frozen=True)
class _Cell:
    """One metric of one variant: {(world, seed): value} and {(world, seed): replicates}."""

    metric: str
    values: dict[tuple[int, int], float]
    replicates: dict[tuple[int, int], np.ndarray]


def _cells(rows: pa.Table, metrics: tuple[str, ...]) -> dict[tuple[str, str, str, str, str], _Cell]:
    """Return {(condition, surface, task, slice, variant): its trials}."""
    cells: dict[tuple[str, str, str, str, str], _Cell] = {}
    for row in rows.filter(pc.field("metric").isin(metrics)).to_pylist():
        place = (row["condition"], row["surface"], row["task"], row["slice"], row["arm"])
        cell = cells.setdefault(place, _Cell(row["metric"], {}, {}))
        place = (row["world"], row["seed"])
        cell.values[place] = row["value"]
        cell.replicates[place] = np.array(row["replicates"], dtype=np.float64)
    return cells
