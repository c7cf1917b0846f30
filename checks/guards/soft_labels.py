"""Guard: every example has one finite soft label of the one teacher, and scoring again gives the same."""

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, TypedDict

from checks import gx
from checks.days import shown_days
from checks.guard import Daily, Found, Guard, Subject
from ml.evaluation.outcome import Outcome
from ml.foundation.lake import ALIAS, FEATURES, ML, Lake
from ml.releases.verdicts import Check
from ml.surfaces.spec import SoftLabelGate, Surface
from ml.teacher.contract import Contract, teacher_contract

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite
    from great_expectations.expectations.expectation import Expectation

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
    return [c for lake, days in subject.windows for c in judge_days(lake, subject.surface, days)], ""


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


def measure(lake: Lake, surface: Surface, days: Sequence[date], contract: Contract) -> list[Labelled]:
    """Measure the soft labels of one teacher, day by day, against the examples.

    Args:
        lake: The lake, or a snapshot of it.
        surface: The surface.
        days: Days to measure.
        contract: The teacher's contract; one of landed scores has no inputs.

    Returns:
        One row per day: ``day``, ``examples``, ``labels``, ``coverage`` (share of examples with a label, null without
        examples), ``duplicates``, ``strangers`` (labels without example), ``non_finite`` (rows with a null, NaN or
        infinite score), ``wrong_width``, ``other_teacher`` (examples that only another teacher labelled),
        ``defaulted_share`` (mean share of inputs that took the default) and ``users`` (of the labelled examples).
    """
    labels = f"{ALIAS}.{ML}.soft_labels_{surface.name}"
    query = f"""
        with days as (select unnest(?::date[]) as day),
        e as (
            select distinct day, exposure_id, user_id from {ALIAS}.{FEATURES}.examples_{surface.name}
            where day in (select unnest(?::date[]))
        ),
        every as (
            select *, teacher_version = ? and contract_hash = ? as own from {labels}
            where day in (select unnest(?::date[]))
        ),
        own as (
            select day, count(*) as labels, count(*) - count(distinct exposure_id) as duplicates,
                count(*) filter (
                    where scores is null or len(list_filter(scores, lambda x: x is null or not isfinite(x))) > 0
                ) as non_finite,
                count(*) filter (where scores is null or len(scores) <> ?) as wrong_width,
                avg(defaulted_inputs) as defaulted
            from every where own group by day
        ),
        matched as (
            select e.day, count(*) as examples, count(*) filter (where o.exposure_id is not null) as covered,
                count(*) filter (where o.exposure_id is null and s.exposure_id is not null) as other_teacher,
                count(distinct e.user_id) filter (where o.exposure_id is not null) as users
            from e
            left join (select distinct day, exposure_id from every where own) as o using (day, exposure_id)
            left join (select distinct day, exposure_id from every where not own) as s using (day, exposure_id)
            group by e.day
        )
        select d.day, coalesce(m.examples, 0) as examples, coalesce(o.labels, 0) as labels,
            m.covered / m.examples as coverage, coalesce(o.duplicates, 0) as duplicates,
            coalesce(o.labels, 0) - coalesce(o.duplicates, 0) - coalesce(m.covered, 0) as strangers,
            coalesce(o.non_finite, 0) as non_finite, coalesce(o.wrong_width, 0) as wrong_width,
            coalesce(m.other_teacher, 0) as other_teacher, o.defaulted / greatest(?, 1) as defaulted_share,
            coalesce(m.users, 0) as users
        from days as d left join matched as m on m.day = d.day left join own as o on o.day = d.day order by d.day"""
    wanted = sorted(set(days))
    outputs, inputs = len(contract.outputs), len(contract.inputs)
    parameters = [wanted, wanted, contract.version, contract.contract_hash, wanted, outputs, inputs]
    return lake.sql(query, parameters).to_pylist()


def suite(gate: SoftLabelGate, days: Sequence[date]) -> "ExpectationSuite":
    """Return the suite over ``measure``.

    A share out of bounds fails where chance cannot be the reason, and warns where a day is too small to say. Inputs are
    at their default for all rows of a user alike (one who is not linked), so that users are counted there.
    """
    built_in = gx.expectations()
    from checks.expectations.measured import ExpectMeasureBetween, ExpectRateBetween

    def bounded(column: str, low: float, high: float) -> "Expectation":
        bounds = {"min_value": low, "max_value": high, "label": "day", "count": "labels"}
        return ExpectMeasureBetween(column=column, **bounds, **gx.named(column, gx.between(low, high)))

    def share(column: str, low: float, high: float, count: str) -> "Expectation":
        bounds = {"min_value": low, "max_value": high, "label": "day", "count": count}
        return ExpectRateBetween(column=column, **bounds, **gx.named(column, gx.between(low, high)))

    none = ("duplicates", "strangers", "non_finite", "wrong_width", "other_teacher")
    return gx.suite(
        "soft_labels",
        [
            built_in.ExpectTableRowCountToEqual(value=len(set(days)), **gx.named("days", str(len(set(days))))),
            share("coverage", gate.min_coverage, 1, "examples"),
            *(bounded(name, 0, 0) for name in none),
            share("defaulted_share", 0, gate.max_defaulted_share, "users"),
        ],
    )


def rescore_suite(gate: SoftLabelGate) -> "ExpectationSuite":
    """Return the suite over one row: ``difference`` of a re-score of ``n`` rows."""
    from checks.expectations.measured import ExpectMeasureBetween

    bounds = {"min_value": 0, "max_value": gate.rescore_tolerance, "count": "n"}
    named = gx.named(RESCORE, gx.between(high=gate.rescore_tolerance))
    return gx.suite("rescore", [ExpectMeasureBetween(column="difference", **bounds, **named)])


GUARD = Guard(
    number=2,
    name="soft_labels",
    means="Coverage, finiteness, teacher and defaulted inputs of the soft labels, measured again at the recorded "
    "snapshot; a sample is scored again.",
    to_do="labels changed or were lost after training: materialize `soft_labels` of the days named, then the release "
    "job.",
    judge=judge,
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
