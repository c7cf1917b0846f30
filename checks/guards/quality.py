"""Guard: good enough, better than popularity, not worse than champion and reference; and the right one of the two."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from checks import gx
from checks.guard import FIRST, Found, Guard, Subject
from ml.evaluation.figures import ABSOLUTE, BASELINE, CHAMPION, REFERENCE, RIVAL, FigureRow, figure_row
from ml.evaluation.outcome import Outcome
from ml.releases.verdicts import Check
from ml.surfaces.spec import QualityGate, Surface

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite
    from great_expectations.expectations.expectation import Expectation

    from ml.evaluation.evaluate import Evaluation


def judge(subject: Subject) -> Found:
    """Judge the figures of the evaluation, and whether the candidate is the ranker that it chose."""
    from ml.evaluation.evaluate import choose_candidate

    kind, gate = subject.manifest.kind, subject.surface.gate.quality
    champion, reference = subject.has_champion(), subject.reference() is not None
    rows = measure(subject.evaluation, subject.surface, kind, champion=champion, reference=reference)
    chosen = choose_candidate(subject.evaluation, subject.surface)
    checks = gx.validate(rows, suite(gate, rows)) + gx.validate(
        [{"stated": chosen, "found": kind}], choice_suite(chosen)
    )
    notes = [] if champion else [FIRST]
    if gx.worst(checks) is Outcome.INCONCLUSIVE and (more := _more_days(rows, gate, len(subject.manifest.eval_days))):
        notes.append(f"about {more} more evaluation days would decide")
    if not reference:
        confirmed = subject.store.reference(subject.surface.name)
        detail = f"the reference {confirmed} is the champion" if confirmed else "no release was confirmed as reference"
        checks.append(Check(name="minus_reference", outcome=Outcome.NOT_EVALUATED, detail=detail))
    return checks, "; ".join(notes)


def measure(
    evaluation: "Evaluation", surface: Surface, kind: str, *, champion: bool, reference: bool = False
) -> list[FigureRow]:
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
    found: list[FigureRow] = []
    for task in surface.gate.quality:
        own = evaluation.result(kind, task)
        found.append(figure_row(task, ABSOLUTE, own.metric, own.value, own))
        others = {BASELINE: "baseline"} if surface.tasks[task].baseline else {}
        others |= {CHAMPION: "champion"} if champion else {}
        others |= {REFERENCE: "reference"} if reference else {}
        others |= {RIVAL: "control"} if kind == "student" else {}
        for comparison, model in others.items():
            difference = evaluation.difference(kind, model, task)
            found.append(figure_row(task, comparison, own.metric, difference.estimate, difference))
    return found


def suite(gate: dict[str, QualityGate], rows: Sequence[FigureRow]) -> "ExpectationSuite":
    """Return the suite over ``measure``."""
    counts = Counter(row["comparison"] for row in rows)
    return gx.suite("quality", [_expectation(gate[row["task"]], row, counts[row["comparison"]]) for row in rows])


def choice_suite(chosen: str) -> "ExpectationSuite":
    """Return the suite over one row: the candidate's kind ``found``, and ``stated``, what the evaluation chose."""
    from checks.expectations.measured import ExpectStated

    return gx.suite("choice", [ExpectStated(**gx.named("candidate", f"{chosen}, by the evaluation"))])


def _expectation(limits: QualityGate, row: FigureRow, comparisons: int) -> "Expectation":
    from great_expectations.expectations.metadata_types import FailureSeverity

    from checks.expectations.measured import ExpectImprovement, ExpectIntervalAbove, ExpectMeasureBetween

    comparison, name = row["comparison"], f"{row['task']}_{row['metric']}"
    where = {"task": row["task"], "comparison": comparison}
    if comparison == ABSOLUTE:
        bounds = {"min_value": limits.min, "count": "n"}
        return ExpectMeasureBetween(column="value", where=where, **bounds, **gx.named(name, gx.between(limits.min)))
    if comparison == BASELINE:
        return ExpectImprovement(where=where, **gx.named(f"{name}_minus_baseline", "> 0"))
    if comparison == CHAMPION:
        threshold = f">= {-limits.margin:g}, interval not below 0 nor wider than {2 * limits.margin:g}"
        named = gx.named(f"{name}_minus_champion", threshold)
        return ExpectIntervalAbove(where=where, margin=limits.margin, comparisons=comparisons, **named)
    if comparison == REFERENCE:
        margin = limits.reference_margin or 2 * limits.margin
        named = gx.named(f"{name}_minus_reference", f">= {-margin:g}, interval not below 0")
        wide = Outcome.WARN.value
        return ExpectIntervalAbove(where=where, margin=margin, comparisons=comparisons, wide=wide, **named)
    assert comparison == RIVAL, comparison
    named = gx.named(f"{name}_student_minus_control", "interval not below 0")
    bounds = {"min_value": 0, "count": "n", "shown": "value"}
    return ExpectMeasureBetween(column="hi", where=where, **bounds, severity=FailureSeverity.WARNING, **named)


def _more_days(rows: Sequence[FigureRow], gate: dict[str, QualityGate], days: int) -> int:
    """Return how many more evaluation days would narrow every interval against the champion to two margins."""
    from ml.evaluation.rules import days_to_decide

    compared = [
        days_to_decide(row["lo"], row["hi"], gate[row["task"]].margin, days)
        for row in rows
        if row["comparison"] == CHAMPION and row["lo"] is not None and row["hi"] is not None
    ]
    return max(compared, default=days)


GUARD = Guard(
    number=3,
    name="quality",
    means="Good enough by itself, better than popularity, not worse than the champion.",
    to_do="a candidate that is worse is rightly refused. If the champion changed since, materialize `evaluation` "
    "again; if the interval is too wide, wait for the days that the reason names. A warning promotes: see whether the "
    "next candidate says the same.",
    judge=judge,
)
