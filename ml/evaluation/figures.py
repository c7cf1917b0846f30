"""Figures of an evaluation as rows of one table: a model's own, and its differences from others."""

import math
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from ml.evaluation.results import Difference, Result

ABSOLUTE, BASELINE, CHAMPION, REFERENCE, RIVAL = "absolute", "baseline", "champion", "reference", "rival"
INCUMBENT = "incumbent"
"""Comparisons: with a bound, with popularity, with the champion, with the confirmed release, student with control, and
with the app's present ranker."""


class FigureRow(TypedDict):
    """One figure; ``lo`` and ``hi`` are None without an interval, ``effective_users`` where they were not counted."""

    task: str
    comparison: str
    metric: str
    value: float
    lo: float | None
    hi: float | None
    n: int
    effective_users: float | None
    mde: float


def figure_row(task: str, comparison: str, metric: str, value: float, figure: "Result | Difference") -> FigureRow:
    """Return one figure of a task as a row."""
    lo, hi = (figure.lo, figure.hi) if math.isfinite(figure.lo) and math.isfinite(figure.hi) else (None, None)
    return {
        "task": task,
        "comparison": comparison,
        "metric": metric,
        "value": value,
        "lo": lo,
        "hi": hi,
        "n": figure.n,
        "effective_users": figure.effective_users,
        "mde": figure.mde,
    }
