"""Figures of an evaluation as rows of one table: a model's own, and its differences from others."""

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ml.evaluation.evaluate import Difference, Result

ABSOLUTE, BASELINE, CHAMPION, REFERENCE, RIVAL = "absolute", "baseline", "champion", "reference", "rival"
"""Comparisons: with a bound, with popularity, with the champion, with the confirmed release, student with control."""


def figure_row(task: str, comparison: str, metric: str, value: float, figure: "Result | Difference") -> dict[str, Any]:
    """Return ``task``, ``comparison``, ``metric``, ``value``, ``lo``, ``hi``, ``n`` and ``mde`` of one figure."""
    lo, hi = (figure.lo, figure.hi) if math.isfinite(figure.lo) and math.isfinite(figure.hi) else (None, None)
    row = {"task": task, "comparison": comparison, "metric": metric, "value": value}
    return {**row, "lo": lo, "hi": hi, "n": figure.n, "mde": figure.mde}
