"""Guard: every example has one finite soft label of the one teacher, and scoring again gives the same."""

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, TypedDict

from checks import gx
from checks.days import shown_days
from checks.guard import Daily, Found, Guard, Subject
from checks.vectors import Vectors, judge_vectors
from ml.evaluation.outcome import Outcome
from ml.foundation.lake import ALIAS, FEATURES, Lake
from ml.releases.verdicts import Check
from ml.surfaces.spec import SoftLabelGate, Surface
from ml.teacher.contract import Contract, teacher_contract

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
    """Measure the labels again at the manifest's snapshots, whatever earlier checks said."""
    if subject.manifest.teacher is None:
        return [], "trained without a teacher"
    checks = [c for lake, days in subject.windows for c in judge_days(lake, subject.surface, days)]
    if subject.manifest.unshown_labels:
        checks += judge_unshown(subject.past, subject.surface, subject.manifest.train_days)
    limits = Vectors.of(subject.surface, GUARD.name)
    checks += [c for lake, days in subject.windows for c in judge_vectors(lake, subject.surface, days, limits)]
    return checks, ""


def judge_days(lake: Lake, surface: Surface, days: Sequence[date]) -> list[Check]:
    """Judge the pinned teacher's labels of some days of the lake, as it is or at the snapshot that it shows."""
    from ml.teacher.labels import rescore

    days, empty = shown_days(lake, surface, days)
    if not days:
        return empty
    gate, contract = surface.gate.soft_labels, teacher_contract(lake.settings)
    measured = measure(lake, surface, days, contract)
    checks = empty + gx.validate([{**row, "day": str(row["day"])} for row in measured], suite(gate, days))
    try:
        difference = rescore(lake, lake.settings, surface.name, contract, days, gate.rescore_rows, lake.settings.seed)
    except ValueError as error:  # rows that cannot be scored again; the checks above say what is wrong with them
        return [*checks, Check(name=RESCORE, outcome=Outcome.FAIL, detail=f"could not be scored again: {error}")]
    n = min(gate.rescore_rows, sum(row["labels"] for row in measured))
    return checks + gx.validate([{"difference": difference, "n": n}], rescore_suite(gate))


def judge_unshown(lake: Lake, surface: Surface, days: Sequence[date]) -> list[Check]:
    """Judge the pinned teacher's labels of pairs that nobody was shown, and that nobody was shown them."""
    from ml.features.unshown import drawn_by, unshown_table
    from ml.teacher.labels import rescore, unshown_rows

    gate, contract = surface.gate.soft_labels, teacher_contract(lake.settings)
    if missing := [
        t for t in (unshown_table(surface.name), unshown_rows(surface.name).labels) if not lake.table_exists(t)
    ]:
        return [Check(name="unshown_labels", outcome=Outcome.FAIL, detail=f"there is no table {missing[0]}")]
    measured = measure(lake, surface, days, contract, unshown=True)
    drawn = [
        day for day, rules in drawn_by(lake, surface.name, days).items() if rules == {str(surface.distillation.unshown)}
    ]
    told = [{**row, "day": str(row["day"])} for row in measured if row["examples"]]
    rows = [{"shown": shown_pairs(lake, surface, days), "days": len(drawn), "n": sum(row["examples"] for row in told)}]
    checks = gx.validate(rows, unshown_suite([day for day in days if any(r["day"] == str(day) for r in told)]))
    checks += gx.validate(told, suite(gate, [row["day"] for row in told], prefix="unshown_")) if told else []
    n, seed = gate.rescore_rows, lake.settings.seed
    try:
        apart = rescore(lake, lake.settings, surface.name, contract, days, n, seed, unshown_rows)
    except ValueError as error:
        failed = f"could not be scored again: {error}"
        return [*checks, Check(name=f"unshown_{RESCORE}", outcome=Outcome.FAIL, detail=failed)]
    n = min(n, sum(row["labels"] for row in measured))
    return checks + gx.validate([{"difference": apart, "n": n}], rescore_suite(gate, prefix="unshown_"))


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
    lake: Lake, surface: Surface, days: Sequence[date], contract: Contract, *, unshown: bool = False
) -> list[Labelled]:
    """Measure the soft labels of one teacher, day by day, against the examples.

    Args:
        lake: The lake, or a snapshot of it.
        surface: The surface.
        days: Days to measure.
        contract: The teacher's contract; one of landed scores has no inputs.
        unshown: Measure those of pairs that nobody was shown, against the pairs.

    Returns:
        One row per day: ``day``, ``examples``, ``labels``, ``coverage`` (share of examples with a label, null without
        examples; those whose label went with a link that the user withdrew are none), ``duplicates``, ``strangers``
        (labels without example), ``non_finite`` (rows with a null, NaN or infinite score), ``wrong_width``,
        ``other_teacher`` (examples that only another teacher labelled), ``defaulted_share`` (mean share of inputs that
        took the default) and ``users`` (of the labelled examples).
    """
    from ml.features.unshown import unshown_table
    from ml.teacher.labels import exposure_rows, unshown_rows
    from ml.teacher.withdrawn import withdrawn_table

    of = (unshown_rows if unshown else exposure_rows)(surface.name)
    examples = unshown_table(surface.name) if unshown else f"{FEATURES}.examples_{surface.name}"
    noted = withdrawn_table(surface.name)
    none = "(select null::date as day, null::bigint as exposure_id limit 0)"
    withdrawn = none if unshown or not lake.table_exists(noted) else f"{ALIAS}.{noted}"  # such pairs went as a whole
    query = _measuring(of, examples, withdrawn)
    wanted = sorted(set(days))
    outputs, inputs = len(contract.outputs), len(contract.inputs)
    parameters = [wanted, wanted, contract.version, contract.contract_hash, wanted, outputs, inputs]
    return lake.sql(query, parameters).to_pylist()


def _measuring(of: "Rows", examples: str, withdrawn: str) -> str:
    """Return the query of ``measure`` over labels, the examples that they belong to, and those whose link went."""
    return f"""
        with days as (select unnest(?::date[]) as day),
        e as (
            select distinct day, {of.key} as key, user_id from {ALIAS}.{examples}
            where day in (select unnest(?::date[]))
        ),
        every as (
            select *, {of.key} as key, teacher_version = ? and contract_hash = ? as own from {ALIAS}.{of.labels}
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
            left join (select distinct day, key from every where not own) as s using (day, key)
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
    daily=Daily(
        asset="soft_labels",
        name="soft_labels_are_sound",
        means="every example has one finite label of the pinned teacher; scoring again gives the same.",
        to_do="materialize the day again if coverage is low or scores are others; where more inputs are defaulted, a "
        "column of `teacher_inputs` is empty: see `defaulted_inputs` of the asset.",
        judge=judge_days,
    ),
)
