"""What the gate looks at in a teacher's vectors, where a surface reads some: part of the guard of soft labels."""

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, TypedDict

from pydantic import Field

from checks import gx
from checks.guard import Thresholds
from ml.evaluation.outcome import Outcome
from ml.features.tables import VECTORS_TABLE, FeatureTable
from ml.foundation.lake import ALIAS, FEATURES, Lake
from ml.releases.manifest import vectors_read
from ml.releases.verdicts import Check
from ml.surfaces.spec import Surface
from ml.teacher.contract import Contract
from ml.teacher.teachers import home_contracts

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite
    from great_expectations.expectations.expectation import Expectation

NONE = ("other_teacher", "non_finite", "wrong_length", "not_before", "too_old", "defaulted_unknown")
"""What no vector may be."""


class Vectors(Thresholds):
    """Thresholds: how many examples must have the teacher's vectors, where a surface reads some."""

    min_vector_coverage: float = Field(
        default=0.1, ge=0, le=1, description="Examples of a day whose user or item has a vector; fewer fail"
    )
    max_vector_defaulted_share: float = Field(
        default=0.6, ge=0, le=1, description="Mean share of a vector's inputs that took their default; more fail"
    )


class Held(TypedDict):
    """Vectors of a day in one feature table; see ``measure_vectors``."""

    table: str
    day: date
    examples: int
    entities: int
    coverage: float | None
    defaulted_share: float
    other_teacher: int
    non_finite: int
    wrong_length: int
    not_before: int
    too_old: int
    defaulted_unknown: int


def judge_vectors(lake: Lake, surface: Surface, days: Sequence[date], limits: Vectors) -> list[Check]:
    """Judge the vectors that the examples of some days read, in the lake as it is or at the snapshot that it shows."""
    if not (read := vectors_read(lake.settings, surface)):
        return []
    contracts, checks = home_contracts(lake.settings), list[Check]()
    # The first day of all has no day before it, and no vectors.
    days = [day for day in days if day > lake.settings.first_day]
    for table, length in read.items():
        holders = (one for one in contracts.values() if any(item.name == table.vectors for item in one.embeddings))
        contract = next(holders, None)
        if contract is None:
            names = ", ".join(f"{one.name} {one.version}" for one in contracts.values())
            told = f"the contract of teacher {names} names no embedding {table.vectors!r}"
            checks.append(Check(name=f"vectors_of_{table.name}", outcome=Outcome.FAIL, detail=told))
            continue
        measured = measure_vectors(lake, surface, table, days, contract, length)
        told_rows = [{**row, "day": str(row["day"])} for row in measured if row["examples"]]
        if told_rows:
            checks += gx.validate(told_rows, vectors_suite(table, limits))
    return checks


def measure_vectors(
    lake: Lake, surface: Surface, table: FeatureTable, days: Sequence[date], contract: Contract, length: int
) -> list[Held]:
    """Measure the vectors of one feature table, day by day, against the examples that read them.

    Returns:
        One row per day: ``examples``; ``entities``, distinct users or items of those; ``coverage``, the share of
        examples with a vector, null without examples; ``defaulted_share``, the mean share of the vectors' inputs that
        took their default; and how many rows of the table are of another teacher, version or contract, not finite, of
        another ``length``, of the day itself or later (``not_before``), of a day before the feature window
        (``too_old``), or not among the computed vectors any more (``defaulted_unknown``).
    """
    [entity] = table.entity
    width = next(len(item.inputs) for item in contract.embeddings if item.name == table.vectors)
    query = f"""
        with days as (select unnest(?::date[]) as day),
        e as (
            select day, {entity} as entity from {ALIAS}.{FEATURES}.examples_{surface.name}
            where day in (select unnest(?::date[]))
        ),
        computed as (
            select day, {entity} as entity, max(defaulted_inputs) as defaulted_inputs from {ALIAS}.{VECTORS_TABLE}
            where embedding = ? and teacher = ? and {entity} is not null group by all
        ),
        f as (
            select t.*, t.{entity} as entity, c.defaulted_inputs from {ALIAS}.{FEATURES}.{table.name} as t
            left join computed as c on c.day = t.vector_day and c.entity = t.{entity}
            where t.day in (select unnest(?::date[]))
        ),
        held as (
            select day, avg(defaulted_inputs) / {width} as defaulted_share,
                count(*) filter (
                    where (teacher, teacher_version, contract_hash) is distinct from (?, ?, ?)
                ) as other_teacher,
                count(*) filter (
                    where vector is null or len(list_filter(vector, lambda x: x is null or not isfinite(x))) > 0
                ) as non_finite,
                count(*) filter (where len(vector) is distinct from {length}) as wrong_length,
                count(*) filter (where vector_day is null or vector_day >= day) as not_before,
                count(*) filter (where vector_day < day - {lake.settings.feature_window_days}) as too_old,
                count(*) filter (where defaulted_inputs is null) as defaulted_unknown
            from f group by day
        ),
        matched as (
            select e.day, count(*) as examples, count(distinct e.entity) as entities,
                count(*) filter (where f.entity is not null) as covered
            from e left join f on f.day = e.day and f.entity = e.entity group by e.day
        )
        select '{table.name}' as "table", d.day, coalesce(m.examples, 0) as examples,
            coalesce(m.entities, 0) as entities, m.covered / m.examples as coverage,
            coalesce(h.defaulted_share, 0) as defaulted_share,
            {", ".join(f"coalesce(h.{name}, 0) as {name}" for name in NONE)}
        from days as d left join matched as m on m.day = d.day left join held as h on h.day = d.day order by d.day"""
    wanted = sorted(set(days))
    known = [contract.name, contract.version, contract.contract_hash]
    parameters = [wanted, wanted, table.vectors, contract.name, wanted, *known]
    return lake.sql(query, parameters).to_pylist()


def vectors_suite(table: FeatureTable, limits: Vectors) -> "ExpectationSuite":
    """Return the suite over ``measure_vectors``: what no vector may be, and shares that chance does not explain."""
    from checks.expectations.measured import ExpectMeasureBetween, ExpectRateBetween

    def named(name: str, low: float | None, high: float) -> gx.Named:
        return gx.named(f"vectors_of_{table.name}_{name}", gx.between(low, high))

    def share(column: str, low: float, high: float) -> "Expectation":
        bounds = {"min_value": low, "max_value": high, "label": "day", "count": "entities"}
        return ExpectRateBetween(column=column, **bounds, **named(column, low, high))

    none = [
        ExpectMeasureBetween(column=name, min_value=0, max_value=0, label="day", count="examples", **named(name, 0, 0))
        for name in NONE
    ]
    coverage = share("coverage", limits.min_vector_coverage, 1)
    return gx.suite("vectors", [coverage, *none, share("defaulted_share", 0, limits.max_vector_defaulted_share)])
