"""Guard: good enough, better than popularity, not worse than champion and reference; and the right one of the two.

What serves is the order by the ranking score: its NDCG@10 is compared as the tasks are.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from checks import gx
from checks.guard import FIRST, Found, Guard, Subject
from ml.evaluation.choice import choose_candidate, ranking_tasks
from ml.evaluation.figures import ABSOLUTE, BASELINE, CHAMPION, INCUMBENT, REFERENCE, FigureRow, figure_row
from ml.evaluation.outcome import Outcome
from ml.evaluation.results import RANKING
from ml.releases.verdicts import Check
from ml.surfaces.expression import parse
from ml.surfaces.gate import RANKING_MARGIN, QualityGate
from ml.surfaces.spec import ALL_ROWS, Surface
from ml.surfaces.window import ONE_LOOK, Looks

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite
    from great_expectations.expectations.expectation import Expectation

    from ml.evaluation.results import Evaluation


def judge(subject: Subject) -> Found:
    """Judge the figures of the evaluation, and whether the candidate is the ranker that it chose."""
    kind, gate = subject.manifest.kind, subject.surface.gate.quality
    champion, reference = subject.has_champion(), subject.reference() is not None
    rows = measure(subject.evaluation, subject.surface, kind, champion=champion, reference=reference)
    chosen = choose_candidate(subject.evaluation, subject.surface)
    looks = subject.surface.looks
    checks = gx.validate(rows, suite(gate, rows, looks)) + gx.validate(
        [{"stated": chosen, "found": kind}], choice_suite(chosen)
    )
    checks += trained_enough(subject.stated, subject.surface)
    checks += against_incumbent(subject.evaluation, subject.surface, kind)
    notes = [] if champion else [FIRST]
    if gx.worst(checks) is Outcome.INCONCLUSIVE:
        notes.append(_more_days(rows, gate, len(subject.manifest.eval_days), looks))
    if not reference:
        named = subject.store.reference(subject.surface.name)
        detail = f"the reference {named} is the champion" if named else "nothing was promoted yet"
        checks.append(Check(name="minus_reference", outcome=Outcome.NOT_EVALUATED, detail=detail))
    if (days := subject.store.champions.state(subject.surface.name).reference_age) > subject.settings.reference_days:
        notes.append(
            f"the reference is {days} days older than the champion: look at what serves, then "
            f"`crossfade release confirm {subject.surface.name}`"
        )
    return checks, "; ".join(notes)


def measure(
    evaluation: "Evaluation", surface: Surface, kind: str, *, champion: bool, reference: bool = False
) -> list[FigureRow]:
    """Return the candidate's primary metric of each gated task, its differences, and those of the order that it serves.

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
    before = ({CHAMPION: "champion"} if champion else {}) | ({REFERENCE: "reference"} if reference else {})
    for task in surface.gate.quality:
        own = evaluation.result(kind, task)
        found.append(figure_row(task, ABSOLUTE, own.metric, own.value, own))
        others = {BASELINE: "baseline"} if surface.tasks[task].baseline else {}
        for comparison, model in (others | before).items():
            difference = evaluation.difference(kind, model, task)
            found.append(figure_row(task, comparison, own.metric, difference.estimate, difference))
    for task in ranking_tasks(surface):
        for comparison, model in before.items():
            difference = evaluation.difference(kind, model, task, metric=RANKING)
            found.append(figure_row(task, comparison, RANKING, difference.estimate, difference))
    if surface.incumbent and surface.incumbent.must_not_lose:
        found += _minus_incumbent(evaluation, surface, kind)
    return found


def _minus_incumbent(evaluation: "Evaluation", surface: Surface, kind: str) -> list[FigureRow]:
    """Return the candidate's differences from the app's present ranker, on the rows that it scored."""
    found = []
    for task in surface.gate.quality:
        metrics = [evaluation.primary(task), *([RANKING] if task in ranking_tasks(surface) else [])]
        for metric in metrics:
            if evaluation.computed(INCUMBENT, task, ALL_ROWS, metric, "serving"):
                difference = evaluation.difference(kind, INCUMBENT, task, metric=metric)
                found.append(figure_row(task, INCUMBENT, metric, difference.estimate, difference))
    return found


def against_incumbent(evaluation: "Evaluation", surface: Surface, kind: str) -> list[Check]:
    """Return a check per task of the app's present ranker: the share of rows that it scored, or how it compares.

    Where a candidate must not lose, too small a share fails: the rows that somebody chose to log may be easy ones.
    Elsewhere a loss by its interval is a warning.
    """
    incumbent, checks = surface.incumbent, list[Check]()
    if incumbent is None:
        return checks
    for task in (task for task in incumbent.scores if task in surface.tasks):
        rows, known = evaluation.result(kind, task).n, evaluation.has(INCUMBENT, task)
        scored = evaluation.result(INCUMBENT, task).n if known else 0
        share = scored / rows if rows else 0.0
        name, detail = f"{task}_scored_by_{INCUMBENT}", f"{incumbent.version} scored {scored:,} of {rows:,} rows"
        if incumbent.must_not_lose and task in surface.gate.quality:
            enough = Outcome.PASS if share >= incumbent.min_coverage else Outcome.FAIL
            least = f">= {incumbent.min_coverage:g}"
            checks.append(Check(name=name, outcome=enough, value=share, threshold=least, n=rows, detail=detail))
        elif not known:
            checks.append(Check(name=name, outcome=Outcome.NOT_EVALUATED, value=share, n=rows, detail=detail))
        else:
            gain = evaluation.difference(kind, INCUMBENT, task)
            checks.append(
                Check(
                    name=f"{task}_{evaluation.primary(task)}_minus_{INCUMBENT}",
                    outcome=Outcome.WARN if gain.hi < 0 else Outcome.PASS,
                    value=gain.estimate,
                    threshold="not below 0 by its interval",
                    interval=(gain.lo, gain.hi),
                    n=gain.n,
                    detail=detail,
                )
            )
    return checks


def suite(gate: dict[str, QualityGate], rows: Sequence[FigureRow], looks: Looks = ONE_LOOK) -> "ExpectationSuite":
    """Return the suite over ``measure`` of a candidate that is looked at as ``looks`` says."""
    counts = Counter(row["comparison"] for row in rows)
    expected = [_expectation(gate, row, counts[row["comparison"]], looks) for row in rows]
    return gx.suite("quality", expected)


def trained_enough(evaluation: "Evaluation", surface: Surface) -> list[Check]:
    """Return a check per task that ranks: a control below a linear model of its inputs by its interval is a warning.

    A student's gain over a control that was stopped too early says little.
    """
    ranked = parse(surface.rank_by, surface.tasks).names
    return [
        Check(
            name=f"{gain.task}_{gain.metric}_linear_minus_control",
            outcome=Outcome.WARN if gain.undertrained else Outcome.PASS,
            value=gain.gain,
            threshold="not above 0 by its interval",
            interval=(gain.lo, gain.hi),
            n=gain.n,
            detail=str(gain) if gain.undertrained else "",
        )
        for gain in evaluation.linear
        if gain.task in ranked
    ]


def choice_suite(chosen: str) -> "ExpectationSuite":
    """Return the suite over one row: the candidate's kind ``found``, and ``stated``, what the evaluation chose."""
    from checks.expectations.measured import ExpectStated

    return gx.suite("choice", [ExpectStated(**gx.named("candidate", f"{chosen}, by the evaluation"))])


def _margin(gate: dict[str, QualityGate], row: FigureRow) -> float:
    """Return the loss that is tolerated: against the reference, what all releases since may sum to."""
    if row["metric"] not in ("auc", "r2"):  # the order that is served, also of a task that is not gated by itself
        return gate[row["task"]].ranking_margin if row["task"] in gate else RANKING_MARGIN
    limits = gate[row["task"]]
    return (limits.reference_margin or limits.margin) if row["comparison"] == REFERENCE else limits.margin


def _expectation(gate: dict[str, QualityGate], row: FigureRow, comparisons: int, looks: Looks) -> "Expectation":
    from checks.expectations.measured import ExpectImprovement, ExpectIntervalAbove, ExpectMeasureBetween

    comparison, name = row["comparison"], f"{row['task']}_{row['metric']}"
    where = {"task": row["task"], "comparison": comparison, "metric": row["metric"]}
    if comparison == ABSOLUTE:
        least = gate[row["task"]].min
        bounds = {"min_value": least, "count": "n"}
        return ExpectMeasureBetween(column="value", where=where, **bounds, **gx.named(name, gx.between(least)))
    if comparison == BASELINE:
        return ExpectImprovement(where=where, **gx.named(f"{name}_minus_baseline", "> 0"))
    assert comparison in (CHAMPION, REFERENCE, INCUMBENT), comparison
    margin = _margin(gate, row)
    days = f", over all looks up to {looks.most} days" if looks.most > looks.first else ""
    named = gx.named(f"{name}_minus_{comparison}", f"whole interval > {-margin:g}{days}")
    return ExpectIntervalAbove(
        where=where,
        margin=margin,
        comparisons=comparisons,
        first_days=looks.first,
        most_days=looks.most,
        **named,
    )


def _more_days(rows: Sequence[FigureRow], gate: dict[str, QualityGate], days: int, looks: Looks) -> str:
    """Say how many more evaluation days would decide every comparison that is open, and how many there may be."""
    from ml.evaluation.rules import days_to_decide, judge_interval

    counts, needed = Counter(row["comparison"] for row in rows), list[int | None]()
    for row in rows:
        if row["comparison"] in (CHAMPION, REFERENCE, INCUMBENT):
            lo, hi = (math.nan if end is None else end for end in (row["lo"], row["hi"]))
            figures = row["value"], lo, hi
            margin = _margin(gate, row)
            counted = {"looks": looks, "comparisons": counts[row["comparison"]]}
            if judge_interval(*figures, margin, **counted)[0] is Outcome.INCONCLUSIVE:
                needed.append(days_to_decide(*figures, margin, days, **counted))
    left = max(0, looks.most - days)
    widens = f"the evaluation may widen by {left} to {looks.most}" if left else f"all {looks.most} are used"
    known = [more for more in needed if more is not None]
    if not known or len(known) < len(needed):
        return f"no number of further days can be told that would decide; {widens}"
    return f"about {max(known)} more evaluation days would decide; {widens}"


GUARD = Guard(
    number=3,
    name="quality",
    means="Good enough by itself, better than popularity, not worse than the champion; so is the order that it serves.",
    to_do="a candidate that is worse is rightly refused. If the champion changed since, materialize `evaluation` "
    "again; where it is inconclusive, the evaluation widens by each further day until it is decided. A warning "
    "promotes: see whether the next candidate says the same. Of a loss against the reference that is wanted, a person "
    "says so: `crossfade release override`, then `crossfade release confirm`.",
    judge=judge,
)
