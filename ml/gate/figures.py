"""Figures of an evaluation, as the rows that the gate judges."""

import math
from typing import Any

from ml.evaluation.evaluate import Difference, Evaluation, Result, choose_candidate
from ml.surfaces.spec import Surface

ABSOLUTE, BASELINE, CHAMPION, REFERENCE, RIVAL = "absolute", "baseline", "champion", "reference", "rival"
"""Comparisons: with a bound, with popularity, with the champion, with the confirmed release, student with control."""


def measure_quality(
    evaluation: Evaluation, surface: Surface, kind: str, *, champion: bool, reference: bool = False
) -> list[dict[str, Any]]:
    """Return the candidate's primary metric of each gated task, and its differences.

    Args:
        evaluation: The evaluation.
        surface: Tasks and thresholds.
        kind: Which model is the candidate, ``student`` or ``control``.
        champion: Whether there is a champion to compare with.
        reference: Whether there is a reference release, other than the champion, to compare with.

    Returns:
        Rows of ``task``, ``comparison``, ``metric``, ``value``, ``lo``, ``hi``, ``n``, ``mde``.

    Raises:
        KeyError: A figure that the gate needs was not computed.
    """
    found = []
    for task in surface.gate.quality:
        own = evaluation.result(kind, task)
        found.append(_row(task, ABSOLUTE, own.metric, own.value, own))
        others = {BASELINE: "baseline"} if surface.tasks[task].baseline else {}
        others |= {CHAMPION: "champion"} if champion else {}
        others |= {REFERENCE: "reference"} if reference else {}
        others |= {RIVAL: "control"} if kind == "student" else {}
        for comparison, model in others.items():
            difference = evaluation.difference(kind, model, task)
            found.append(_row(task, comparison, own.metric, difference.estimate, difference))
    return found


def measure_slices(evaluation: Evaluation, surface: Surface, kind: str, *, champion: bool) -> list[dict[str, Any]]:
    """Return the same for each slice, without baseline and rival; with ``slice``, ``positives`` and ``users``."""
    found = []
    for name in surface.slices:
        for task in surface.gate.quality:
            own = evaluation.result(kind, task, name)
            cells: dict[str, tuple[float, Result | Difference]] = {ABSOLUTE: (own.value, own)}
            if champion:
                difference = evaluation.difference(kind, "champion", task, name)
                cells[CHAMPION] = (difference.estimate, difference)
            for comparison, (value, figure) in cells.items():
                row = _row(task, comparison, own.metric, value, figure)
                found.append({**row, "slice": name, "positives": figure.positives, "users": figure.users})
    return found


def measure_calibration(evaluation: Evaluation, surface: Surface, kind: str) -> list[dict[str, Any]]:
    """Return ``task``, ``ece``, ``predicted_over_observed`` and ``n`` of each binary task.

    Inputs are as logged: what was observed was observed at the logged position, so that predictions for the serving
    position, which every row shares, must differ from it.
    """
    found = []
    for task, spec in surface.tasks.items():
        if spec.kind == "binary":
            ece = evaluation.result(kind, task, metric="ece", inputs="logged")
            ratio = evaluation.result(kind, task, metric="predicted_over_observed", inputs="logged")
            found.append({"task": task, "ece": ece.value, "predicted_over_observed": ratio.value, "n": ece.n})
    return found


def chosen_kind(evaluation: Evaluation, surface: Surface) -> str:
    """Return which ranker the evaluation makes the candidate."""
    return choose_candidate(evaluation, surface)


def _row(task: str, comparison: str, metric: str, value: float, figure: Result | Difference) -> dict[str, Any]:
    lo, hi = (figure.lo, figure.hi) if math.isfinite(figure.lo) and math.isfinite(figure.hi) else (None, None)
    row = {"task": task, "comparison": comparison, "metric": metric, "value": value}
    return {**row, "lo": lo, "hi": hi, "n": figure.n, "mde": figure.mde}
