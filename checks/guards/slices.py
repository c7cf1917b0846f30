"""Guard: the quality of each slice, with a wider margin. Too few rows to judge is a warning, never a silent pass."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from checks import gx
from checks.guard import Found, Guard, Subject
from ml.evaluation.figures import ABSOLUTE, CHAMPION, FigureRow, figure_row
from ml.evaluation.outcome import Outcome
from ml.surfaces.spec import ONE_LOOK, Looks, QualityGate, SliceGate, Surface

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite
    from great_expectations.expectations.expectation import Expectation

    from ml.evaluation.evaluate import Difference, Evaluation, Result

_COUNTS = {"n": "rows", "positives": "positives"}


class SliceRow(FigureRow):
    """A figure of one slice."""

    slice: str
    positives: int
    users: int


def judge(subject: Subject) -> Found:
    """Judge the figures of the evaluation in each slice that the surface declares."""
    surface = subject.surface
    if not surface.slices:
        return [], "the surface declares no slices"
    rows = measure(subject.evaluation, surface, subject.manifest.kind, champion=subject.has_champion())
    return gx.validate(rows, suite(surface.gate.slices, surface.gate.quality, rows, surface.looks)), ""


def measure(evaluation: "Evaluation", surface: Surface, kind: str, *, champion: bool) -> list[SliceRow]:
    """Return the candidate's primary metric of each gated task in each slice, and its difference from the champion.

    Args:
        evaluation: The evaluation.
        surface: Slices, tasks and thresholds.
        kind: Which model is the candidate, ``student`` or ``control``.
        champion: Whether there is a champion to compare with.

    Returns:
        Rows as of ``ml.evaluation.figures``, with ``slice``, ``positives`` and ``users``.

    Raises:
        KeyError: A figure that the gate needs was not computed.
    """
    found: list[SliceRow] = []
    for name in surface.slices:
        for task in surface.gate.quality:
            own = evaluation.result(kind, task, name)
            cells: dict[str, tuple[float, Result | Difference]] = {ABSOLUTE: (own.value, own)}
            if champion:
                difference = evaluation.difference(kind, "champion", task, name)
                cells[CHAMPION] = (difference.estimate, difference)
            for comparison, (value, figure) in cells.items():
                row = figure_row(task, comparison, own.metric, value, figure)
                found.append({**row, "slice": name, "positives": figure.positives, "users": figure.users})
    return found


def suite(
    gate: SliceGate, quality: dict[str, QualityGate], rows: Sequence[SliceRow], looks: Looks = ONE_LOOK
) -> "ExpectationSuite":
    """Return the suite over ``measure``."""
    from great_expectations.expectations.metadata_types import FailureSeverity

    from checks.expectations.measured import ExpectIntervalAbove, ExpectMeasureBetween, ExpectNotClearlyBelow

    def enough(row: SliceRow) -> bool:
        return row["n"] >= gate.min_rows and row["positives"] >= gate.min_positives

    comparisons = sum(row["comparison"] != ABSOLUTE and enough(row) for row in rows)
    compared = {"short": Outcome.WARN.value, "comparisons": comparisons}
    compared |= {"first_days": looks.first, "most_days": looks.most}
    expected: list[Expectation] = []
    for row in rows:
        where = {"slice": row["slice"], "task": row["task"], "comparison": row["comparison"]}
        limits, name = quality[row["task"]], f"{row['slice']}_{row['task']}_{row['metric']}"
        margin = gate.margin_factor * limits.margin
        if row["comparison"] == ABSOLUTE:
            for column, least in (("n", gate.min_rows), ("positives", gate.min_positives)):
                named = gx.named(f"{row['slice']}_{row['task']}_{_COUNTS[column]}", gx.between(least))
                bounds = {"min_value": least, "where": where, "count": "n", "severity": FailureSeverity.WARNING}
                expected.append(ExpectMeasureBetween(column=column, **bounds, **named))
        if not enough(row):
            continue
        if row["comparison"] == ABSOLUTE:
            least = limits.min - margin
            expected.append(ExpectNotClearlyBelow(min_value=least, where=where, **gx.named(name, gx.between(least))))
        else:
            named = gx.named(f"{name}_minus_champion", f"> {-margin:g}; an interval that reaches below it warns")
            expected.append(ExpectIntervalAbove(margin=margin, where=where, **compared, **named))
    return gx.suite("slices", expected)


GUARD = Guard(
    number=4,
    name="slices",
    means="Quality in each slice, such as new releases or new users, with a wider margin; too few rows is a warning.",
    to_do="the reason names the slice. Compare control and student there in `evaluation`; too few rows only warn.",
    judge=judge,
)
