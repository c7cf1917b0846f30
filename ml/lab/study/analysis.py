"""What the trials of a study say: differences over worlds, seeds and users, with intervals and corrected p-values.

Seeds of the initialisation are averaged within a world; worlds and their users are both resampled, with the same users
for both variants: see ``ml/evaluation/over_worlds.py``. In one world alone, as real logs are, seeds and users are.
"""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from statsmodels.stats.multitest import multipletests

from ml.evaluation.bootstrap import CONFIDENCE
from ml.evaluation.over_worlds import Pooled, over_seeds, over_worlds
from ml.lab.study.design import AS_IT_IS, Design

RANKING = ("auc", "r2")
"""What variants are judged by: the order of a binary task, the share of the variance of a regression."""


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
        lo: Lower end of the 95 % interval; of one world alone that of its users and seeds.
        hi: Upper end.
        p: Two-sided p-value of no difference; NaN without spread.
        p_holm: Corrected over all rows of the table.
        detectable: Smallest true difference that such a study finds with 80 % power.
        worlds: Number of worlds.
        seeds: Initialisations per world.
        above: Worlds in which the difference is above 0.
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
    p_holm: float
    detectable: float
    worlds: int
    seeds: int
    above: int


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
    labels = [condition.label for condition in design.conditions]
    places = dict.fromkeys(key[:4] for key in cells)
    for label, surface, task, slice_ in sorted(places, key=lambda place: labels.index(place[0])):
        for variant in design.variants:
            other = against or variant.control
            mine, base = (cells.get((label, surface, task, slice_, name)) for name in (variant.name, other))
            if mine is None or base is None or variant.name == other or (against and variant.labels != "as_is"):
                continue
            pairs = sorted(set(mine.values) & set(base.values))
            pooled = _pooled(mine, base, pairs, seed)
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
                    p_holm=float("nan"),
                    detectable=pooled.detectable,
                    worlds=pooled.worlds,
                    seeds=len(pairs) // pooled.worlds,
                    above=pooled.above,
                )
            )
    tested = [i for i, lift in enumerate(found) if np.isfinite(lift.p)]
    if tested:
        corrected = np.asarray(multipletests([found[i].p for i in tested], alpha=1 - CONFIDENCE, method="holm")[1])
        for i, p in zip(tested, corrected, strict=True):
            found[i] = replace(found[i], p_holm=float(p))
    return found


def _pooled(mine: "_Cell", base: "_Cell", pairs: list[tuple[int, int]], seed: int) -> Pooled:
    """Return the difference of two variants over the worlds and seeds that both have."""
    worlds = sorted({world for world, _ in pairs})
    values = {w: float(np.mean([mine.values[p] - base.values[p] for p in pairs if p[0] == w])) for w in worlds}
    by_seed = {w: np.stack([mine.replicates[p] - base.replicates[p] for p in pairs if p[0] == w]) for w in worlds}
    drawn = {w: over_seeds(x, seed) if len(worlds) == 1 else x.mean(axis=0) for w, x in by_seed.items()}
    return over_worlds([values[w] for w in worlds], [drawn[w] for w in worlds], seed)


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
