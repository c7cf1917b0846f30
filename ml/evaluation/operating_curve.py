"""The operating curve of non-inferiority: how often a candidate is promoted, by how much worse it truly is.

Candidates are simulated at the sizes of real evaluations and judged by the gate's own code: users with rows on each
day, the paired bootstrap over users, the rule with its margin, and every look that a widening evaluation takes. To
first order a metric is the mean of each row's influence on it. So it is simulated, with as much noise as was measured,
spread as unevenly over users and rows.

Source of the first-order form: Hajek's projection of a U-statistic; for AUC that of DeLong, DeLong and Clarke-Pearson
(Biometrics, 1988).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np

from ml.evaluation.bootstrap import UserWeights, interval
from ml.evaluation.outcome import Outcome
from ml.evaluation.page import write_pages
from ml.evaluation.plots import SERIES, canvas, finish
from ml.evaluation.rules import judge_interval
from ml.foundation.settings import EXAMPLES
from ml.surfaces.files import load_surface
from ml.surfaces.window import Looks

LOSSES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
"""True losses, in margins."""

_BATCH = 50


@dataclass(frozen=True)
class Size:
    """How much one task's evaluation tells.

    Attributes:
        source: Where it was measured, such as ``demo``.
        surface: Name of the surface.
        task: Name of the task.
        users: Users of the app.
        rows: Rows of a day.
        evenness: Shape of the gamma distribution of the users' activity; more is more even.
        rare: Share of the rows that carry half of the variance, such as positives.
        noise: Standard deviation of a row's influence on the difference of two models, in the metric's unit.
        shared: Variance that the rows of a user share, as a part of ``noise`` squared.
    """

    source: str
    surface: str
    task: str
    users: int
    rows: float
    evenness: float
    rare: float
    noise: float
    shared: float = 0.0


SIZES = (
    Size("simulator", "homepage", "ctr", 766, 6339, 2.2, 0.062, 0.338),
    Size("simulator", "homepage", "trail", 766, 396, 1.0, 0.5, 0.274, 0.067),
    Size("simulator", "homepage", "discovery", 766, 6339, 2.2, 0.022, 0.530),
    Size("simulator", "radio", "engagement", 514, 2553, 3.0, 0.45, 0.137, 0.006),
    Size("kuairand", "homepage", "ctr", 6000, 2108, 2.0, 0.47, 0.168),
    Size("kuairand", "homepage", "trail", 6000, 982, 2.0, 0.5, 0.328),
    Size("kuairand", "homepage", "discovery", 6000, 2108, 2.0, 0.46, 0.177),
    Size("kuairand", "radio", "engagement", 6000, 1699, 2.0, 0.033, 2.43),
)
"""Of the demo, measured between its student and its control on three days; of KuaiRand, from the study's intervals."""


@dataclass(frozen=True)
class Point:
    """What became of the simulated candidates of one true loss.

    Attributes:
        loss: True loss, in margins.
        candidates: How many were simulated.
        promoted: Share that passed at some look.
        at_once: Share that passed at the first look.
        failed: Share that failed at some look.
        days: Mean evaluation days of those that passed; NaN where none did.
    """

    loss: float
    candidates: int
    promoted: float
    at_once: float
    failed: float
    days: float


@dataclass(frozen=True)
class Curve:
    """The points of one size, by rising loss, and what was judged by."""

    size: Size
    margin: float
    looks: Looks
    points: tuple[Point, ...]

    def at(self, loss: float) -> Point:
        """Return the point of a loss."""
        return next(point for point in self.points if point.loss == loss)


def curve_of(size: Size, losses: Sequence[float], *, candidates: int, seed: int) -> Curve:
    """Return the curve of a size, by the margins and looks of its example's surface."""
    surface = load_surface(EXAMPLES / size.source / "surfaces" / f"{size.surface}.yaml")
    gate = surface.gate.quality
    common = {"margin": gate[size.task].margin, "looks": surface.looks, "comparisons": len(gate)}
    points = tuple(operating_point(size, loss, **common, candidates=candidates, seed=seed) for loss in losses)
    return Curve(size, gate[size.task].margin, surface.looks, points)


def operating_point(
    size: Size,
    loss: float,
    *,
    margin: float,
    looks: Looks,
    comparisons: int,
    candidates: int,
    seed: int,
    replicates: int = 500,
) -> Point:
    """Simulate candidates that are truly worse by ``loss`` margins in one task, and judge them.

    Args:
        size: How much the evaluation tells.
        loss: True loss, in margins.
        margin: Of the task, in the metric's unit.
        looks: When a candidate is looked at.
        comparisons: How many the guard judges at once.
        candidates: How many are simulated.
        seed: Of the simulation.
        replicates: Bootstrap samples of an interval.
    """
    rng = np.random.default_rng([seed, round(1000 * loss), *size.source.encode(), *size.task.encode()])
    weights = UserWeights(np.arange(size.users), seed=seed, replicates=replicates)
    ends: list[tuple[Outcome, int]] = []
    for start in range(0, candidates, _BATCH):
        batch = [_candidate(rng, size, loss * margin, looks.most) for _ in range(min(_BATCH, candidates - start))]
        ends += _ends(batch, weights, margin, looks, comparisons)
    passed = np.array([day for outcome, day in ends if outcome is Outcome.PASS])
    return Point(
        loss=loss,
        candidates=candidates,
        promoted=len(passed) / candidates,
        at_once=float((passed == looks.first).sum()) / candidates,
        failed=sum(outcome is Outcome.FAIL for outcome, _ in ends) / candidates,
        days=float(passed.mean()) if len(passed) else float("nan"),
    )


def _candidate(rng: np.random.Generator, size: Size, loss: float, days: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (influence, rows) of each user up to each day, float64 [days, users], of a candidate worse by ``loss``."""
    activity = rng.gamma(size.evenness, size=size.users)
    rows = rng.poisson(size.rows * activity / activity.sum(), (days, size.users))
    rare = rng.binomial(rows, size.rare)
    variance = size.noise**2 * (1 - size.shared) / 2 * (rare / size.rare + (rows - rare) / (1 - size.rare))
    own = rng.normal(scale=size.noise * size.shared**0.5, size=size.users)
    influence = rows * (own - loss) + rng.normal(size=rows.shape) * np.sqrt(variance)
    return influence.cumsum(axis=0), rows.cumsum(axis=0).astype(float)


def _ends(
    batch: Sequence[tuple[np.ndarray, np.ndarray]], weights: UserWeights, margin: float, looks: Looks, comparisons: int
) -> list[tuple[Outcome, int]]:
    """Return what each candidate came to, and on which day; those that are decided are looked at no more."""
    ends = {place: (Outcome.INCONCLUSIVE, looks.most) for place in range(len(batch))}
    waiting = list(ends)
    for day in range(looks.first, looks.most + 1):
        sums = [(batch[place][0][day - 1], batch[place][1][day - 1]) for place in waiting]
        replicates = weights.replicate([weights.sums(influence, rows) for influence, rows in sums])
        for place, (influence, rows), found in zip(list(waiting), sums, replicates, strict=True):
            effective = rows.sum() ** 2 / np.square(rows).sum()
            spread = interval(influence.sum() / rows.sum(), found, effective)
            figures = spread.estimate, spread.lo, spread.hi
            outcome, _ = judge_interval(*figures, margin, looks=looks, comparisons=comparisons)
            if outcome is not Outcome.INCONCLUSIVE:
                ends[place] = outcome, day
                waiting.remove(place)
        if not waiting:
            break
    return list(ends.values())


def write_curves(curves: Sequence[Curve], out: Path) -> list[Path]:
    """Write the curves as Markdown, an HTML page beside it and the plot; return the files."""
    template = Path(__file__).with_name("operating_curve.md.j2")
    return write_pages(
        template, {"curves": curves}, {"curves": _plot(curves)}, out, "Crossfade: the gate's operating curve"
    )


def _plot(curves: Sequence[Curve]) -> bytes:
    """Plot the chance to be promoted by true loss: a colour and marker per task, dashed for a second source."""
    figure, axes = canvas(5.0)
    styles = dict(zip(dict.fromkeys(curve.size.source for curve in curves), ("-", (0, (4, 3))), strict=False))
    tasks = dict.fromkeys((curve.size.surface, curve.size.task) for curve in curves)
    looks = dict(zip(tasks, cycle(SERIES), strict=False))
    for curve in curves:
        size = curve.size
        colour, mark = looks[size.surface, size.task]
        losses, chances = zip(*((point.loss, point.promoted) for point in curve.points), strict=True)
        label = f"{size.source} {size.surface} {size.task}"
        line = {"linestyle": styles[size.source], "color": colour, "marker": mark, "markersize": 4.5, "linewidth": 1.6}
        axes.plot(losses, chances, **line, label=label)
    axes.axhline(0.05, color="#5F6B7A", linewidth=1)
    axes.set_xlabel("true loss, in margins")
    axes.set_ylabel("chance to be promoted")
    axes.legend(frameon=False, fontsize=8.5, handlelength=3.6)
    first = curves[0]
    note = f"{first.points[0].candidates} simulated candidates a point; looks up to {first.looks.most} days; line: 5 %"
    return finish(figure, axes, "How often a candidate is promoted that is truly worse", note)
