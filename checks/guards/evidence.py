"""Guard: enough users to judge by, a gain over the control that they show, and choices that would earn no less."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

from pydantic import Field

from checks import gx
from checks.guard import Found, Guard, Subject, Thresholds
from ml.evaluation.figures import ABSOLUTE, CHAMPION, RIVAL, FigureRow, figure_row
from ml.evaluation.outcome import Outcome
from ml.evaluation.results import SHOWN, OffPolicy
from ml.releases.verdicts import GAIN, Check
from ml.surfaces.expression import parse
from ml.surfaces.spec import Surface

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite

    from ml.evaluation.results import Evaluation


class Evidence(Thresholds):
    """Thresholds: how many users an evaluation needs before its intervals decide anything."""

    min_users: int = Field(
        default=100, ge=2, description="Users with a positive of each task; of a regression, with a label"
    )
    min_effective_users: int = Field(
        default=50, ge=2, description="Users with equally many rows who would say as much as those that there are"
    )
    min_effective_rows: int = Field(
        default=200,
        ge=2,
        description="Rows with equal weight that would say as much about what a choice would earn; fewer are a warning",
    )
    min_effective_positives: int = Field(
        default=30, ge=2, description="Likewise of the positive rows alone, with few of which intervals are too narrow"
    )


class CountRow(TypedDict):
    """Who a task was judged by."""

    task: str
    n: int
    positives: int
    positive_users: int
    effective_users: float
    said: str


class EarnedRow(TypedDict):
    """What the candidate's first choices would earn, or how much more than another's."""

    task: str
    comparison: str
    value: float
    lo: float
    hi: float
    n: int
    effective_rows: float
    effective_positives: float
    effective_users: float
    said: str


def judge(subject: Subject) -> Found:
    """Judge who was evaluated, and what they show of student and control."""
    surface, evaluation, kind = subject.surface, subject.evaluation, subject.manifest.kind
    counts, gains = measure(evaluation, surface, kind), measure_gains(evaluation, surface)
    limits = Evidence.of(surface, GUARD.name)
    checks = gx.validate(counts, suite(limits, counts)) + gx.validate(gains, gain_suite(gains))
    if kind == "control":
        detail = "what serves learnt nothing from the teacher: the student was not better by the evaluation"
        checks.append(Check(name="candidate", outcome=Outcome.WARN, value="control", detail=detail))
    if known := evaluation.off_policy:
        earned = measure_earned(evaluation, surface, kind)
        checks += [adds_up(known), *(gx.validate(earned, earned_suite(limits, earned)) if earned else [])]
    return checks, ""


def judged_tasks(surface: Surface) -> list[str]:
    """Return the tasks that decide: the gated ones and those of ``rank_by``."""
    ranked = parse(surface.rank_by, surface.tasks).names
    return [task for task in surface.tasks if task in ranked or task in surface.gate.quality]


def measure(evaluation: "Evaluation", surface: Surface, kind: str) -> list[CountRow]:
    """Return rows, positives, users with a positive and effective users of each task that decides, and all as ``said``.

    Raises:
        KeyError: A figure that the gate needs was not computed.
        ValueError: The evaluation was made by a version that did not count users.
    """
    found: list[CountRow] = []
    for task in judged_tasks(surface):
        own = evaluation.result(kind, task)
        if own.positive_users is None or own.effective_users is None:
            raise ValueError("the evaluation does not count users: materialize `evaluation` again")
        days = f"{evaluation.days[0]} to {evaluation.days[-1]}" if evaluation.days else "no day"
        said = f"{own.positives:,} positives in {own.n:,} rows of {own.users:,} users, {days}"
        if own.positives == 0:
            said = f"no positive in {own.n:,} rows, {days}: nothing can be judged"
        found.append(
            {
                "task": task,
                "n": own.n,
                "positives": own.positives,
                "positive_users": own.positive_users,
                "effective_users": own.effective_users,
                "said": said,
            }
        )
    return found


def measure_gains(evaluation: "Evaluation", surface: Surface) -> list[FigureRow]:
    """Return ``student - control`` on the primary metric of each task that decides."""
    rows = []
    for task in judged_tasks(surface):
        gain = evaluation.difference("student", "control", task)
        rows.append(figure_row(task, RIVAL, evaluation.primary(task), gain.estimate, gain))
    return rows


def measure_earned(evaluation: "Evaluation", surface: Surface, kind: str) -> list[EarnedRow]:
    """Return what the candidate's first choices would earn, doubly robust, and how much more than others'.

    Args:
        evaluation: The evaluation.
        surface: Its tasks; those that decide and have a binary label are looked at.
        kind: Which model is the candidate.

    Returns:
        Per task a row of the value itself, and one of its difference to what was shown, to the control (of a student)
        and to the champion, where those are known. No rows of an evaluation without propensities.
    """
    known, found = evaluation.off_policy, list[EarnedRow]()
    others = {ABSOLUTE: None, SHOWN: SHOWN, CHAMPION: "champion"} | ({RIVAL: "control"} if kind == "student" else {})
    for task in judged_tasks(surface) if known else ():
        if surface.tasks[task].kind != "binary":
            continue
        for comparison, other in others.items():
            earned = known.value(kind, task, other) if known else None
            if earned is None and other is not None:
                continue
            nan = float("nan")
            values = (earned.value, earned.lo, earned.hi) if earned else (nan, nan, nan)
            row: EarnedRow = {
                "task": task,
                "comparison": comparison,
                "value": values[0],
                "lo": values[1],
                "hi": values[2],
                "n": earned.n if earned else 0,
                "effective_rows": earned.effective_rows if earned else 0.0,
                "effective_positives": earned.effective_positives if earned else 0.0,
                "effective_users": earned.effective_users if earned else 0.0,
                "said": f"{earned.clipped:.1%} of the weights are clipped" if earned else "no list leaves a choice",
            }
            found.append(row)
    return found


def adds_up(known: OffPolicy) -> Check:
    """Return the check that propensities of a list's candidates add up to 1: else they are of something else."""
    detail = (
        "1 / (items of the list x propensity) has not the mean 1: propensities are not those among the items that the "
        "list showed, or some item could not have stood at some place"
    )
    return Check(
        name="propensities_add_up",
        outcome=Outcome.PASS if known.adds_up else Outcome.WARN,
        value=known.added if known.rows else None,
        threshold="1",
        interval=(known.added_lo, known.added_hi) if known.rows else None,
        n=known.rows,
        detail="" if known.adds_up else detail if known.rows else "no list shows two items whose propensity is known",
    )


def suite(limits: Evidence, rows: Sequence[CountRow]) -> "ExpectationSuite":
    """Return the suite over ``measure``: too few users to decide by leave the candidate undecided."""
    from checks.expectations.measured import ExpectMeasureBetween

    least = {"positive_users": limits.min_users, "effective_users": limits.min_effective_users}
    names = {"positive_users": "users_with_a_positive", "effective_users": "effective_users"}
    expected = [
        ExpectMeasureBetween(
            column=column,
            min_value=least[column],
            where={"task": row["task"]},
            beyond=Outcome.INCONCLUSIVE.value,
            label="said",
            count="n",
            **gx.named(f"{row['task']}_{names[column]}", gx.between(least[column])),
        )
        for row in rows
        for column in names
    ]
    return gx.suite("evidence", expected)


def gain_suite(rows: Sequence[FigureRow]) -> "ExpectationSuite":
    """Return the suite over ``measure_gains``: a gain that is not shown warns."""
    from checks.expectations.measured import ExpectGainShown

    return gx.suite(
        "gains",
        [
            ExpectGainShown(
                where={"task": row["task"]}, **gx.named(f"{row['task']}_{row['metric']}{GAIN}", "interval above 0")
            )
            for row in rows
        ],
    )


def earned_suite(limits: Evidence, rows: Sequence[EarnedRow]) -> "ExpectationSuite":
    """Return the suite over ``measure_earned``: few effective rows or positives, or a loss by the interval, warn."""
    from checks.expectations.measured import ExpectMeasureBetween

    expected = []
    for row in rows:
        where = {"task": row["task"], "comparison": row["comparison"]}
        told = {"where": where, "beyond": Outcome.WARN.value, "label": "said", "count": "n"}
        if row["comparison"] == ABSOLUTE:
            wanted = {"rows": limits.min_effective_rows, "positives": limits.min_effective_positives}
            for what, least in wanted.items():
                name = gx.named(f"{row['task']}_earned_effective_{what}", gx.between(least))
                expected.append(ExpectMeasureBetween(column=f"effective_{what}", min_value=least, **told, **name))
        else:
            other = "control" if row["comparison"] == RIVAL else row["comparison"]
            name = gx.named(f"{row['task']}_earned_minus_{other}", "interval reaches 0")
            expected.append(ExpectMeasureBetween(column="hi", shown="value", min_value=0.0, **told, **name))
    return gx.suite("earned", expected)


GUARD = Guard(
    number=11,
    name="evidence",
    means="Enough users to judge by, no few of them with most of the rows, a gain over the control that they show, and "
    "first choices that would earn no less where exposures carry propensities.",
    to_do="too few users: wait for more days, or lengthen `eval_days`. A gain that is not shown promotes all the same: "
    "the control may serve as well, and costs no teacher. `crossfade diagnose` says if there is anything to learn. "
    "Choices that would earn less: try the candidate as a challenger before it serves all.",
    judge=judge,
    thresholds=Evidence,
)
