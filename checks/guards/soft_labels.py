"""Guard: every example has one finite soft label of each pinned teacher, and scoring again gives the same."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from checks import gx
from checks.days import shown_days
from checks.guard import Daily, Found, Guard, Subject
from checks.vectors import Vectors, judge_vectors
from ml.evaluation.outcome import Outcome
from ml.foundation.lake import ALIAS, FEATURES, Lake
from ml.releases.verdicts import Check
from ml.surfaces.gate import SoftLabelGate
from ml.surfaces.spec import Surface
from ml.teacher.contract import Contract
from ml.teacher.teachers import contracts_of, other_teachers

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite
    from great_expectations.expectations.expectation import Expectation

    from ml.teacher.labels import Rows

RESCORE = "rescore_difference"


class Labelled(TypedDict):
    """Soft labels of a day; see ``measure``."""

    day: date
    examples: int
    labels: int
    coverage: float | None
    duplicates: int
    strangers: int
    non_finite: int
    wrong_width: int
    other_teacher: int
    defaulted_share: float | None
    users: int


def judge(subject: Subject) -> Found:
    """Measure the labels of each teacher again at the manifest's snapshots, whatever earlier checks said."""
    if not subject.manifest.teachers:
        return [], "trained without a teacher"
    checks = [c for lake, days in subject.windows for c in judge_days(lake, subject.surface, days)]
    if subject.manifest.unshown_labels:
        checks += judge_unshown(subject.past, subject.surface, subject.manifest.train_days)
    limits = Vectors.of(subject.surface, GUARD.name)
    checks += [c for lake, days in subject.windows for c in judge_vectors(lake, subject.surface, days, limits)]
    return checks, ""


def judge_days(lake: Lake, surface: Surface, days: Sequence[date], teacher: str | None = None) -> list[Check]:
    """Judge the pinned teachers' labels of some days of the lake, as it is or at the snapshot that it shows.

    Args:
        lake: The lake.
        surface: The surface.
        days: The days.
        teacher: One of several teachers; by default all that label the surface.
    """
    days, empty = shown_days(lake, surface, days)
    if not days:
        return empty
    checks = list(empty)
    for pinned in pinned_of(lake, surface, teacher):
        measured = measure(lake, surface, days, pinned)
        checks += _judge_measured(pinned, measured)
        checks.append(_again(lake, surface, days, pinned, measured))
    return checks


def judge_unshown(lake: Lake, surface: Surface, days: Sequence[date]) -> list[Check]:
    """Judge the pinned teachers' labels of pairs that nobody was shown, and that nobody was shown them."""
    from ml.features.unshown import drawn_by, unshown_table
    from ml.teacher.labels import unshown_rows

    if missing := [
        t for t in (unshown_table(surface.name), unshown_rows(surface.name).labels) if not lake.table_exists(t)
    ]:
        return [Check(name="unshown_labels", outcome=Outcome.FAIL, detail=f"there is no table {missing[0]}")]
    measured = [(one, measure(lake, surface, days, one, unshown=True)) for one in pinned_of(lake, surface)]
    pairs = {row["day"]: row["examples"] for row in measured[0][1]}
    drawn = [
        day for day, rules in drawn_by(lake, surface.name, days).items() if rules == {str(surface.distillation.unshown)}
    ]
    rows = [{"shown": shown_pairs(lake, surface, days), "days": len(drawn), "n": sum(pairs.values())}]
    checks = gx.validate(rows, unshown_suite([day for day in days if pairs[day]]))
    for pinned, found in measured:
        of_pairs = pinned._replace(prefix=f"{pinned.prefix}unshown_")
        checks += _judge_measured(of_pairs, [row for row in found if row["examples"]])
        checks.append(_again(lake, surface, days, of_pairs, found, unshown=True))
    return checks


class Pinned(NamedTuple):
    """A pinned teacher, and what is asked of its labels.

    Attributes:
        contract: Its contract.
        gate: Its bounds.
        beside: Names of the home's other teachers.
        prefix: What the names of its checks begin with: its name where several label the surface, and what is labelled.
    """

    contract: Contract
    gate: SoftLabelGate
    beside: tuple[str, ...] = ()
    prefix: str = ""


def pinned_of(lake: Lake, surface: Surface, teacher: str | None = None) -> list[Pinned]:
    """Return the pinned teachers that label a surface, or one of them."""
    contracts = contracts_of(lake.settings, surface)
    return [
        Pinned(
            contract,
            surface.gate.soft_labels.of(name),
            tuple(other_teachers(lake.settings, name)),
            f"{name}/" if len(contracts) > 1 else "",
        )
        for name, contract in contracts.items()
        if teacher in (None, name)
    ]


def _judge_measured(pinned: Pinned, measured: Sequence[Labelled]) -> list[Check]:
    told = [{**row, "day": str(row["day"])} for row in measured]
    return gx.validate(told, suite(pinned.gate, [row["day"] for row in told], prefix=pinned.prefix)) if told else []


def _again(
    lake: Lake,
    surface: Surface,
    days: Sequence[date],
    pinned: Pinned,
    measured: Sequence[Labelled],
    *,
    unshown: bool = False,
) -> Check:
    """Judge whether scoring a sample of a teacher's labels again gives the same."""
    from ml.teacher.labels import exposure_rows, rescore, unshown_rows

    gate, seed, rows_of = pinned.gate, lake.settings.seed, unshown_rows if unshown else exposure_rows
    try:
        apart = rescore(lake, lake.settings, surface.name, pinned.contract, days, gate.rescore_rows, seed, rows_of)
    except ValueError as error:  # rows that cannot be scored again; the other checks say what is wrong with them
        told = f"could not be scored again: {error}"
        return Check(name=pinned.prefix + RESCORE, outcome=Outcome.FAIL, detail=told)
    n = min(gate.rescore_rows, sum(row["labels"] for row in measured))
    [check] = gx.validate([{"difference": apart, "n": n}], rescore_suite(gate, prefix=pinned.prefix))
    return check


def shown_pairs(lake: Lake, surface: Surface, days: Sequence[date]) -> int:
    """Return how many pairs of some days were shown on their day after all."""
    from ml.features.unshown import unshown_table

    query = f"""
        select count(*) from {ALIAS}.{unshown_table(surface.name)} as p
        semi join {ALIAS}.{FEATURES}.examples_{surface.name} as e
            on e.day = p.day and e.user_id = p.user_id and e.item_id = p.item_id
        where p.day in (select unnest(?::date[]))"""
    [(shown,)] = lake.connection.execute(query, [list(days)]).fetchall()
    return int(shown)


def measure(
    lake: Lake, surface: Surface, days: Sequence[date], pinned: Pinned, *, unshown: bool = False
) -> list[Labelled]:
    """Measure the soft labels of one teacher, day by day, against the examples.

    Args:
        lake: The lake, or a snapshot of it.
        surface: The surface.
        days: Days to measure.
        pinned: The teacher; one of landed scores has no inputs.
        unshown: Measure those of pairs that nobody was shown, against the pairs.

    Returns:
        One row per day: ``day``, ``examples``, ``labels``, ``coverage`` (share of examples with a label, null without
        examples; those whose label went with a link that the user withdrew are none), ``duplicates``, ``strangers``
        (labels without example), ``non_finite`` (rows with a null, NaN or infinite score), ``wrong_width``,
        ``other_teacher`` (examples that only another version, or a teacher that the home no longer has, labelled),
        ``defaulted_share`` (mean share of inputs that
        took the default) and ``users`` (of the labelled examples).
    """
    from ml.features.unshown import unshown_table
    from ml.teacher.labels import exposure_rows, named_labels, unshown_rows
    from ml.teacher.withdrawn import withdrawn_table

    of = (unshown_rows if unshown else exposure_rows)(surface.name)
    examples = unshown_table(surface.name) if unshown else f"{FEATURES}.examples_{surface.name}"
    noted = withdrawn_table(surface.name)
    none = "(select null::date as day, null::bigint as exposure_id limit 0)"
    withdrawn = none if unshown or not lake.table_exists(noted) else f"{ALIAS}.{noted}"  # such pairs went as a whole
    query = _measuring(of, named_labels(lake, of.labels), examples, withdrawn)
    wanted, contract = sorted(set(days)), pinned.contract
    outputs, inputs = len(contract.outputs), len(contract.inputs)
    known = [contract.version, contract.contract_hash, list(pinned.beside)]
    parameters = [wanted, wanted, *known, wanted, outputs, inputs]
    return lake.sql(query, parameters).to_pylist()


def _measuring(of: "Rows", labels: str, examples: str, withdrawn: str) -> str:
    """Return the query of ``measure`` over labels, the examples that they belong to, and those whose link went."""
    return f"""
        with days as (select unnest(?::date[]) as day),
        e as (
            select distinct day, {of.key} as key, user_id from {ALIAS}.{examples}
            where day in (select unnest(?::date[]))
        ),
        every as (
            select *, {of.key} as key, teacher_version = ? and contract_hash = ? as own,
                coalesce(list_contains(?::varchar[], teacher), false) as beside
            from {labels}
            where day in (select unnest(?::date[]))
        ),
        own as (
            select day, count(*) as labels, count(*) - count(distinct key) as duplicates,
                count(*) filter (
                    where scores is null or len(list_filter(scores, lambda x: x is null or not isfinite(x))) > 0
                ) as non_finite,
                count(*) filter (where scores is null or len(scores) <> ?) as wrong_width,
                avg(defaulted_inputs) as defaulted
            from every where own group by day
        ),
        matched as (
            select e.day, count(*) filter (where o.key is not null or w.key is null) as examples,
                count(*) filter (where o.key is not null) as covered,
                count(*) filter (where o.key is null and s.key is not null) as other_teacher,
                count(distinct e.user_id) filter (where o.key is not null) as users
            from e
            left join (select distinct day, key from every where own) as o using (day, key)
            left join (select distinct day, key from every where not own and not beside) as s using (day, key)
            left join (select distinct day, exposure_id as key from {withdrawn}) as w using (day, key)
            group by e.day
        )
        select d.day, coalesce(m.examples, 0) as examples, coalesce(o.labels, 0) as labels,
            m.covered / m.examples as coverage, coalesce(o.duplicates, 0) as duplicates,
            coalesce(o.labels, 0) - coalesce(o.duplicates, 0) - coalesce(m.covered, 0) as strangers,
            coalesce(o.non_finite, 0) as non_finite, coalesce(o.wrong_width, 0) as wrong_width,
            coalesce(m.other_teacher, 0) as other_teacher, o.defaulted / greatest(?, 1) as defaulted_share,
            coalesce(m.users, 0) as users
        from days as d left join matched as m on m.day = d.day left join own as o on o.day = d.day order by d.day"""


def suite(gate: SoftLabelGate, days: Sequence[date] | Sequence[str], *, prefix: str = "") -> "ExpectationSuite":
    """Return the suite over ``measure``; the names of its checks begin with ``prefix``.

    A share out of bounds fails where chance cannot be the reason, and warns where a day is too small to say. Inputs are
    at their default for all rows of a user alike (one who is not linked), so that users are counted there.
    """
    built_in = gx.expectations()
    from checks.expectations.measured import ExpectMeasureBetween, ExpectRateBetween

    def bounded(column: str, low: float, high: float) -> "Expectation":
        bounds = {"min_value": low, "max_value": high, "label": "day", "count": "labels"}
        return ExpectMeasureBetween(column=column, **bounds, **gx.named(prefix + column, gx.between(low, high)))

    def share(column: str, low: float, high: float, count: str) -> "Expectation":
        bounds = {"min_value": low, "max_value": high, "label": "day", "count": count}
        return ExpectRateBetween(column=column, **bounds, **gx.named(prefix + column, gx.between(low, high)))

    none = ("duplicates", "strangers", "non_finite", "wrong_width", "other_teacher")
    return gx.suite(
        "soft_labels",
        [
            built_in.ExpectTableRowCountToEqual(value=len(set(days)), **gx.named(prefix + "days", str(len(set(days))))),
            share("coverage", gate.min_coverage, 1, "examples"),
            *(bounded(name, 0, 0) for name in none),
            share("defaulted_share", 0, gate.max_defaulted_share, "users"),
        ],
    )


def unshown_suite(days: Sequence[date]) -> "ExpectationSuite":
    """Return the suite over one row: pairs that were ``shown``, and ``days`` whose pairs the declared rule drew."""
    from checks.expectations.measured import ExpectMeasureBetween

    def exactly(column: str, name: str, value: int) -> "Expectation":
        bounds = {"min_value": value, "max_value": value, "count": "n"}
        return ExpectMeasureBetween(column=column, **bounds, **gx.named(name, gx.between(value, value)))

    expected = [
        exactly("shown", "unshown_pairs_that_were_shown", 0),
        exactly("days", "unshown_by_rule", len(set(days))),
    ]
    return gx.suite("unshown", expected)


def rescore_suite(gate: SoftLabelGate, *, prefix: str = "") -> "ExpectationSuite":
    """Return the suite over one row: ``difference`` of a re-score of ``n`` rows."""
    from checks.expectations.measured import ExpectMeasureBetween

    bounds = {"min_value": 0, "max_value": gate.rescore_tolerance, "count": "n"}
    named = gx.named(prefix + RESCORE, gx.between(high=gate.rescore_tolerance))
    return gx.suite("rescore", [ExpectMeasureBetween(column="difference", **bounds, **named)])


UNSHOWN = Daily(
    asset="unshown_labels",
    name="unshown_labels_are_sound",
    means="every pair was shown to nobody, was drawn by the declared rule and has one finite label of the pinned "
    "teacher; scoring again gives the same.",
    to_do="materialize `unshown_labels` of the day again; where more inputs are defaulted than of the exposures, the "
    "SQL of `teacher_inputs` finds them by the exposure's id.",
    judge=judge_unshown,
)
"""The check of days of ``unshown_labels``, of surfaces that declare pairs."""

_DAILY = Daily(
    asset="soft_labels",
    name="soft_labels_are_sound",
    means="every example has one finite label of the pinned teacher; scoring again gives the same.",
    to_do="materialize the day again if coverage is low or scores are others; where more inputs are defaulted, a "
    "column of `teacher_inputs` is empty: see `defaulted_inputs` of the asset.",
    judge=judge_days,
)


def daily_of(teacher: str | None) -> Daily:
    """Return the check of days of a teacher's labels; None is the one that needs no name."""

    def judge_own(lake: Lake, surface: Surface, days: Sequence[date]) -> list[Check]:
        return judge_days(lake, surface, days, teacher)

    return replace(_DAILY, judge=judge_own)


GUARD = Guard(
    number=2,
    name="soft_labels",
    means="Coverage, finiteness, teacher and defaulted inputs of the soft labels, measured again at the recorded "
    "snapshot; a sample is scored again. The same of pairs that nobody was shown, where they were learnt; none was "
    "shown. And of the teacher's vectors, where the surface reads some: each is of the pinned teacher, and of a day "
    "before the example's.",
    to_do="labels changed or were lost after training: materialize `soft_labels` of the days named, and "
    "`unshown_labels` where the name of the check begins with `unshown`, then the release job. Where it begins with "
    "`vectors`, run `ranking_tables_job` for the days named and the feature window before them.",
    judge=judge,
    thresholds=Vectors,
    silent="ever",
    daily=_DAILY,
)
