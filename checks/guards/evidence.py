"""Guard: enough users to judge by, and a gain over the control that they show."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

from pydantic import Field

from checks import gx
from checks.guard import Found, Guard, Subject, Thresholds
from ml.evaluation.figures import RIVAL, FigureRow, figure_row
from ml.evaluation.outcome import Outcome
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


class CountRow(TypedDict):
    """Who a task was judged by."""

    task: str
    n: int
    positives: int
    positive_users: int
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


GUARD = Guard(
    number=11,
    name="evidence",
    means="Enough users to judge by, no few of them with most of the rows, and a gain over the control that they show.",
    to_do="too few users: wait for more days, or lengthen `eval_days`. A gain that is not shown promotes all the same: "
    "the control may serve as well, and costs no teacher. `crossfade diagnose` says if there is anything to learn.",
    judge=judge,
    thresholds=Evidence,
)
