"""Guard: the quality of each slice, with a wider margin. Too few rows to judge is a warning, never a silent pass.

A slice that loses by its interval, against the control or of the thirds of users against the champion, is a warning:
the figure of all rows may hide it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from checks import gx
from checks.guard import Found, Guard, Subject
from ml.evaluation.figures import ABSOLUTE, CHAMPION, RIVAL, FigureRow, figure_row
from ml.evaluation.outcome import Outcome
from ml.surfaces.gate import QualityGate, SliceGate
from ml.surfaces.spec import ALL_ROWS, HISTORY_SLICES, Surface
from ml.surfaces.window import ONE_LOOK, Looks

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite
    from great_expectations.expectations.expectation import Expectation

    from ml.evaluation.results import Difference, Evaluation, Result

_COUNTS = {"n": "rows", "positives": "positives"}
_AGAINST = {CHAMPION: "minus_champion", RIVAL: "student_minus_control"}


_NOT_BELOW = "interval not below 0"


class SliceRow(FigureRow):
    """A figure of one slice."""

    slice: str
    positives: int
    users: int
    whole: str


def judge(subject: Subject) -> Found:
    """Judge the figures of the evaluation in each slice: the surface's own, and the thirds of its users."""
    surface = subject.surface
    rows = measure(subject.evaluation, surface, subject.manifest.kind, champion=subject.has_champion())
    if not rows:
        return [], "the surface declares no slices, and every user has as many training rows"
    checks = gx.validate(rows, suite(surface.gate.slices, surface.gate.quality, rows, surface.looks))
    by_interval = [check for check in checks if check.threshold == _NOT_BELOW]
    note = f"of {len(by_interval)} comparisons of slices about {len(by_interval) / 40:.1g} would lose by chance alone"
    return checks, note if any(check.outcome is Outcome.WARN for check in by_interval) else ""


def measure(evaluation: "Evaluation", surface: Surface, kind: str, *, champion: bool) -> list[SliceRow]:
    """Return the candidate's primary metric of each gated task in each slice, and its differences.

    Args:
        evaluation: The evaluation.
        surface: Slices, tasks and thresholds.
        kind: Which model is the candidate, ``student`` or ``control``.
        champion: Whether there is a champion to compare with.

    Returns:
        Rows as of ``ml.evaluation.figures``, with ``slice``, ``positives``, ``users`` and ``whole``, the same figure
        over all rows for people. The thirds of users have no figure of their own, which no surface bounds.

    Raises:
        KeyError: A figure that the gate needs was not computed.
    """
    found: list[SliceRow] = []
    others = ({CHAMPION: "champion"} if champion else {}) | ({RIVAL: "control"} if kind == "student" else {})
    for name in (*surface.slices, *evaluation.history):
        for task in surface.gate.quality:
            own = evaluation.result(kind, task, name)
            cells: dict[str, tuple[float, Result | Difference, str]] = {}
            if name in surface.slices:
                cells[ABSOLUTE] = (own.value, own, "")
            for comparison, model in others.items():
                here, everywhere = (evaluation.difference(kind, model, task, rows) for rows in (name, ALL_ROWS))
                whole = f"all rows: {everywhere.estimate:+.4f} [{everywhere.lo:+.4f}, {everywhere.hi:+.4f}]"
                cells[comparison] = (here.estimate, here, whole)
            for comparison, (value, figure, whole) in cells.items():
                row = figure_row(task, comparison, own.metric, value, figure)
                where: SliceRow = {
                    **row,
                    "slice": name,
                    "positives": figure.positives,
                    "users": figure.users,
                    "whole": whole,
                }
                found.append(where)
    return found


def suite(
    gate: SliceGate, quality: dict[str, QualityGate], rows: Sequence[SliceRow], looks: Looks = ONE_LOOK
) -> "ExpectationSuite":
    """Return the suite over ``measure``."""
    from great_expectations.expectations.metadata_types import FailureSeverity

    from checks.expectations.measured import ExpectIntervalAbove, ExpectMeasureBetween, ExpectNotClearlyBelow

    def enough(row: SliceRow) -> bool:
        return row["n"] >= gate.min_rows and row["positives"] >= gate.min_positives

    def has_margin(row: SliceRow) -> bool:
        return row["comparison"] == CHAMPION and row["slice"] not in HISTORY_SLICES

    comparisons = sum(has_margin(row) and enough(row) for row in rows)
    compared = {"short": Outcome.WARN.value, "comparisons": comparisons}
    compared |= {"first_days": looks.first, "most_days": looks.most}
    expected: list[Expectation] = []
    by_interval: list[Expectation] = []
    for row in rows:
        where = {"slice": row["slice"], "task": row["task"], "comparison": row["comparison"]}
        limits, name = quality[row["task"]], f"{row['slice']}_{row['task']}_{row['metric']}"
        margin = gate.margin_factor * limits.margin
        if row["comparison"] == ABSOLUTE:
            for column, least in (("n", gate.min_rows), ("positives", gate.min_positives)):
                named = gx.named(f"{row['slice']}_{row['task']}_{_COUNTS[column]}", gx.between(least))
                bounds = {"min_value": least, "where": where, "count": "n", "severity": FailureSeverity.WARNING}
                expected.append(ExpectMeasureBetween(column=column, **bounds, **named))
        if row["comparison"] == RIVAL or row["slice"] in HISTORY_SLICES:
            if row["positives"] >= gate.min_positives and row["hi"] is not None:  # its interval says the rest
                by_interval.append(_not_below(row, name, where))
            continue
        if not enough(row):
            continue
        if row["comparison"] == ABSOLUTE:
            least = limits.min - margin
            expected.append(ExpectNotClearlyBelow(min_value=least, where=where, **gx.named(name, gx.between(least))))
        else:
            named = gx.named(f"{name}_minus_champion", f"> {-margin:g}; an interval that reaches below it warns")
            expected.append(ExpectIntervalAbove(margin=margin, where=where, **compared, **named))
    return gx.suite("slices", [*by_interval, *expected])  # a reason names the first few: a loss before a lack of rows


def _not_below(row: SliceRow, name: str, where: dict[str, str]) -> "Expectation":
    """Return the expectation that an interval does not lie below 0; one that does warns."""
    from great_expectations.expectations.metadata_types import FailureSeverity

    from checks.expectations.measured import ExpectMeasureBetween

    named = gx.named(f"{name}_{_AGAINST[row['comparison']]}", _NOT_BELOW)
    shown = {"min_value": 0, "count": "n", "shown": "value", "label": "whole"}
    return ExpectMeasureBetween(column="hi", where=where, **shown, severity=FailureSeverity.WARNING, **named)


GUARD = Guard(
    number=4,
    name="slices",
    means="Quality in each slice, such as new releases, or users with few training rows, with a wider margin; too few "
    "rows, or a loss by the interval against the control that the whole hides, is a warning.",
    to_do="the reason names the slice. Compare control and student there in `evaluation`; too few rows only warn. "
    "Where distilling costs a group of users what it gives others, weigh that.",
    judge=judge,
    silent="ever",
)
