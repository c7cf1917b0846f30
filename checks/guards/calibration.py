"""Guard: probabilities mean what they say."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from checks import gx
from checks.guard import Found, Guard, Subject
from ml.evaluation.figures import ABSOLUTE, CHAMPION, RIVAL, FigureRow, figure_row
from ml.surfaces.gate import CalibrationGate
from ml.surfaces.spec import Surface
from ml.surfaces.window import ONE_LOOK, Looks

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite
    from great_expectations.expectations.expectation import Expectation

    from ml.evaluation.results import Evaluation

RELATIVE_ECE = "relative_ece"
_NAMES = {CHAMPION: "minus_champion", RIVAL: "minus_control"}


def judge(subject: Subject) -> Found:
    """Judge the calibration of the binary tasks."""
    surface, champion = subject.surface, subject.has_champion()
    rows = measure(subject.evaluation, surface, subject.manifest.kind, champion=champion)
    if not rows:
        return [], "the surface has no binary task"
    return gx.validate(rows, suite(surface.gate.calibration, rows, surface.looks)), ""


def measure(evaluation: "Evaluation", surface: Surface, kind: str, *, champion: bool = False) -> list[FigureRow]:
    """Return the calibration of each binary task, and what it gains in log loss.

    Inputs are as logged: what was observed was observed at the logged position, so that predictions for the serving
    position, which every row shares, must differ from it.

    Args:
        evaluation: The evaluation.
        surface: Its tasks.
        kind: Which model is the candidate, ``student`` or ``control``.
        champion: Whether there is a champion to compare with.

    Returns:
        Rows of ``ece``, ``relative_ece`` (over the base rate), ``predicted_over_observed``, and of ``log_loss`` against
        control and champion: the gain as a share of theirs, above 0 where the candidate is better.
    """
    others = ({RIVAL: "control"} if kind == "student" else {}) | ({CHAMPION: "champion"} if champion else {})
    found: list[FigureRow] = []
    for task, spec in surface.tasks.items():
        if spec.kind != "binary":
            continue
        ece = evaluation.result(kind, task, metric="ece", inputs="logged")
        found.append(figure_row(task, ABSOLUTE, "ece", ece.value, ece))
        rate = ece.positives / ece.n if ece.positives else math.nan
        found.append(_scaled(figure_row(task, ABSOLUTE, RELATIVE_ECE, ece.value, ece), 1 / rate))
        ratio = evaluation.result(kind, task, metric="predicted_over_observed", inputs="logged")
        found.append(figure_row(task, ABSOLUTE, "predicted_over_observed", ratio.value, ratio))
        for comparison, model in others.items():
            theirs = evaluation.metric(model, task, metric="log_loss", inputs="logged")
            gain = evaluation.difference(model, kind, task, metric="log_loss", inputs="logged")
            row = figure_row(task, comparison, "log_loss", gain.estimate, gain)
            found.append(_scaled(row, 1 / theirs if theirs > 0 else math.nan))
    return found


def suite(gate: CalibrationGate, rows: Sequence[FigureRow], looks: Looks = ONE_LOOK) -> "ExpectationSuite":
    """Return the suite over ``measure`` of a candidate that is looked at as ``looks`` says."""
    return gx.suite("calibration", [_expectation(gate, row, looks) for row in rows])


def _expectation(gate: CalibrationGate, row: FigureRow, looks: Looks) -> "Expectation":
    from checks.expectations.measured import ExpectIntervalAbove, ExpectMeasureBetween, ExpectNotClearlyAbove

    where = {"task": row["task"], "comparison": row["comparison"], "metric": row["metric"]}
    name = f"{row['task']}_{row['metric']}"
    if row["comparison"] != ABSOLUTE:
        margin = gate.log_loss_margin
        named = gx.named(f"{name}_{_NAMES[row['comparison']]}", f"whole interval of the share gained > {-margin:g}")
        return ExpectIntervalAbove(where=where, margin=margin, first_days=looks.first, most_days=looks.most, **named)
    if row["metric"] == RELATIVE_ECE:
        most = gate.max_relative_ece
        return ExpectNotClearlyAbove(where=where, max_value=most, **gx.named(name, gx.between(high=most)))
    low, high = (0.0, gate.max_ece) if row["metric"] == "ece" else gate.predicted_over_observed
    bounds = {"min_value": low, "max_value": high, "count": "n"}
    return ExpectMeasureBetween(column="value", where=where, **bounds, **gx.named(name, gx.between(low, high)))


def _scaled(row: FigureRow, factor: float) -> FigureRow:
    """Return a figure in another unit."""
    lo, hi = (None if end is None or not math.isfinite(factor) else factor * end for end in (row["lo"], row["hi"]))
    return {**row, "value": factor * row["value"], "lo": lo, "hi": hi, "mde": factor * row["mde"]}


GUARD = Guard(
    number=5,
    name="calibration",
    means="Probabilities agree with observed rates, and their log loss is not above control's and champion's.",
    to_do="the reason names the task. Look for a day whose label rate jumped, in `examples_are_sound`.",
    judge=judge,
    silent="ever",
)
