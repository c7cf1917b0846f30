"""What the trials of a study say: differences over worlds, seeds and users, with intervals and corrected p-values.

Two levels are uncertain: which worlds (populations, logs, teachers) one happened to have, and which users of a world
were there on the evaluation days. Both are resampled: worlds with replacement, and in each of them its users (Poisson
weights, the same for both arms); seeds of the initialisation are averaged within a world. With few worlds the
percentiles of such a bootstrap are too narrow, so the interval is Student's t with (worlds - 1) degrees of freedom on
its standard error. Users count in the spread between worlds too, which makes the interval a little too wide rather than
too narrow. Source: Davison and Hinkley, "Bootstrap Methods and their Application" (1997), section 3.8.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ml.study.design import ARMS, Design

ROUNDS = 4000
LEVEL = 0.05
POWER = 0.8


@dataclass(frozen=True)
class Lift:
    """Difference of an arm to its control, in the metric's unit.

    Attributes:
        surface: Name of the surface.
        task: Name of the task.
        slice: ``all`` or a slice.
        metric: ``auc`` or ``r2``.
        arm: Name of the arm.
        control: Name of the arm that it is compared with.
        null: Whether the true lift is 0 by construction.
        base: Mean of the metric of the control.
        lift: Mean difference over worlds and seeds.
        lo: Lower end of the 95 % interval; NaN for one world.
        hi: Upper end.
        p: Two-sided p-value of no difference; NaN for one world.
        p_holm: Corrected over all rows of the table.
        detectable: Smallest true difference that such a study finds with 80 % power.
        worlds: Number of worlds.
        seeds: Initialisations per world.
        above: Worlds in which the difference is above 0.
    """

    surface: str
    task: str
    slice: str
    metric: str
    arm: str
    control: str
    null: bool
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


def lifts(rows: pa.Table, design: Design, seed: int = 0) -> list[Lift]:
    """Compare every arm of a study with its control.

    Args:
        rows: Of the lake's table of trials.
        design: Names arms and their order.
        seed: Of the resampling.
    """
    from scipy import stats
    from statsmodels.stats.multitest import multipletests

    cells = _cells(rows)
    found: list[Lift] = []
    for surface, task, slice_ in dict.fromkeys((s, t, c) for s, t, c, _ in cells):
        for arm in (ARMS[name] for name in design.arms):
            mine, base = cells.get((surface, task, slice_, arm.name)), cells.get((surface, task, slice_, arm.control))
            if mine is None or base is None:
                continue
            pairs = sorted(set(mine.values) & set(base.values))
            worlds = sorted({world for world, _ in pairs})
            values = {w: float(np.mean([mine.values[p] - base.values[p] for p in pairs if p[0] == w])) for w in worlds}
            drawn = {
                w: np.mean([mine.replicates[p] - base.replicates[p] for p in pairs if p[0] == w], axis=0)
                for w in worlds
            }
            estimate = float(np.mean(list(values.values())))
            count = len(worlds)
            error = _standard_error([drawn[w] for w in worlds], np.random.default_rng(seed)) if count > 1 else np.nan
            quantile = stats.t.ppf(1 - LEVEL / 2, count - 1) if count > 1 else np.nan
            power = stats.t.ppf(POWER, count - 1) if count > 1 else np.nan
            found.append(
                Lift(
                    surface=surface,
                    task=task,
                    slice=slice_,
                    metric=mine.metric,
                    arm=arm.name,
                    control=arm.control,
                    null=arm.null,
                    base=float(np.mean([base.values[p] for p in pairs])),
                    lift=estimate,
                    lo=float(estimate - quantile * error),
                    hi=float(estimate + quantile * error),
                    p=float(2 * stats.t.sf(abs(estimate) / error, count - 1)) if error > 0 else float("nan"),
                    p_holm=float("nan"),
                    detectable=float((quantile + power) * error),
                    worlds=count,
                    seeds=len(pairs) // count,
                    above=sum(value > 0 for value in values.values()),
                )
            )
    tested = [i for i, lift in enumerate(found) if np.isfinite(lift.p)]
    if tested:
        corrected = np.asarray(multipletests([found[i].p for i in tested], alpha=LEVEL, method="holm")[1])
        for i, p in zip(tested, corrected, strict=True):
            found[i] = Lift(**{**vars(found[i]), "p_holm": float(p)})
    return found


def levels(rows: pa.Table) -> dict[tuple[str, str, str], dict[str, float]]:
    """Return {(surface, task, slice): {arm: mean of the metric over worlds and seeds}}, the teacher's own included."""
    means: dict[tuple[str, str, str], dict[str, float]] = {}
    for (surface, task, slice_, arm), cell in _cells(rows).items():
        means.setdefault((surface, task, slice_), {})[arm] = float(np.mean(list(cell.values.values())))
    return means


@dataclass(frozen=True)
class _Cell:
    """One metric of one arm: {(world, seed): value} and {(world, seed): replicates}."""

    metric: str
    values: dict[tuple[int, int], float]
    replicates: dict[tuple[int, int], np.ndarray]


def _cells(rows: pa.Table) -> dict[tuple[str, str, str, str], _Cell]:
    cells: dict[tuple[str, str, str, str], _Cell] = {}
    for row in rows.to_pylist():
        cell = cells.setdefault((row["surface"], row["task"], row["slice"], row["arm"]), _Cell(row["metric"], {}, {}))
        place = (row["world"], row["seed"])
        cell.values[place] = row["value"]
        cell.replicates[place] = np.array(row["replicates"], dtype=np.float64)
    return cells


def _standard_error(worlds: list[np.ndarray], rng: np.random.Generator) -> float:
    """Return the deviation of the mean over resampled worlds and, in each, one replicate of its users.

    A resampled spread of W worlds is too small by (W - 1) / W in variance, which is put right.
    """
    count = len(worlds)
    replicates = np.stack(worlds)
    chosen = rng.integers(count, size=(ROUNDS, count))
    sample = rng.integers(replicates.shape[1], size=(ROUNDS, count))
    means = np.nanmean(replicates[chosen, sample], axis=1)
    return float(np.nanstd(means, ddof=1) * np.sqrt(count / (count - 1)))
