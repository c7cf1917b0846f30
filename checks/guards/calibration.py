"""Guard: probabilities mean what they say."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

from checks import gx
from checks.guard import Found, Guard, Subject
from ml.surfaces.spec import CalibrationGate, Surface

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite

    from ml.evaluation.evaluate import Evaluation


class CalibrationRow(TypedDict):
    """Calibration of one task."""

    task: str
    ece: float
    predicted_over_observed: float
    n: int


def judge(subject: Subject) -> Found:
    """Judge the calibration of the binary tasks."""
    rows = measure(subject.evaluation, subject.surface, subject.manifest.kind)
    if not rows:
        return [], "the surface has no binary task"
    return gx.validate(rows, suite(subject.surface.gate.calibration, rows)), ""


def measure(evaluation: "Evaluation", surface: Surface, kind: str) -> list[CalibrationRow]:
    """Return ``task``, ``ece``, ``predicted_over_observed`` and ``n`` of each binary task.

    Inputs are as logged: what was observed was observed at the logged position, so that predictions for the serving
    position, which every row shares, must differ from it.
    """
    found: list[CalibrationRow] = []
    for task, spec in surface.tasks.items():
        if spec.kind == "binary":
            ece = evaluation.result(kind, task, metric="ece", inputs="logged")
            ratio = evaluation.result(kind, task, metric="predicted_over_observed", inputs="logged")
            found.append({"task": task, "ece": ece.value, "predicted_over_observed": ratio.value, "n": ece.n})
    return found


def suite(gate: CalibrationGate, rows: Sequence[CalibrationRow]) -> "ExpectationSuite":
    """Return the suite over ``measure``."""
    from checks.expectations.measured import ExpectMeasureBetween

    low, high = gate.predicted_over_observed
    expected = []
    for row in rows:
        for column, least, most in (("ece", 0, gate.max_ece), ("predicted_over_observed", low, high)):
            bounds = {"min_value": least, "max_value": most, "where": {"task": row["task"]}, "count": "n"}
            named = gx.named(f"{row['task']}_{column}", gx.between(least, most))
            expected.append(ExpectMeasureBetween(column=column, **bounds, **named))
    return gx.suite("calibration", expected)


GUARD = Guard(
    number=5,
    name="calibration",
    means="Predicted probabilities agree with observed rates.",
    to_do="the reason names the task. Look for a day whose label rate jumped, in `examples_are_sound`.",
    judge=judge,
)
