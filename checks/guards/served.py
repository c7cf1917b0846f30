"""Guard: what serves is what was measured, as the server's own log of it says."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from pydantic import Field

from checks import gx
from checks.guard import Daily, Found, Guard, Subject, Thresholds
from ml.evaluation.outcome import Outcome
from ml.evaluation.served_kinds import (
    AS_SERVED,
    CALIBRATION,
    EXPOSED,
    MATCHED,
    OLDER,
    REPRODUCED,
    SHIFT,
    UNEQUAL,
    served_skew_table,
)
from ml.foundation.lake import ALIAS, Lake
from ml.releases.verdicts import Check
from ml.surfaces.keys import Bounds
from ml.surfaces.spec import Surface

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite
    from great_expectations.expectations.expectation import Expectation

_OF_THE_CHAMPION = (CALIBRATION, SHIFT)
"""What speaks of the model that served, and not of how any model is served."""


class Served(Thresholds):
    """Thresholds: how far what was served may lie from what was measured."""

    max_unequal: float = Field(
        default=0.01, ge=0, le=1, description="Share of an input's served values that may differ from the training rows"
    )
    max_older_features: float = Field(
        default=0.5, ge=0, le=1, description="Share of what was shown that may be ranked with features of another day"
    )
    max_not_reproduced: float = Field(
        default=0.001, ge=0, le=1, description="Share of the logged scores that the release may not give again"
    )
    predicted_over_observed: Bounds | None = Field(
        default=None, description="Bounds of predicted over observed positives; default `gate: calibration:`"
    )
    max_psi: float = Field(
        default=0.25, gt=0, description="Stability index of a release's outputs against its evaluation"
    )
    min_rows: int = Field(default=500, ge=1, description="Fewer matched exposures of a day only warn")
    within_days: int = Field(default=14, ge=1, description="An older comparison says nothing about a candidate")


def judge(subject: Subject) -> Found:
    """Judge the newest comparison of what the surface served: inputs block, the champion's own figures warn."""
    limits, partition = Served.of(subject.surface, GUARD.name), subject.manifest.partition
    since = partition - timedelta(days=limits.within_days)
    day = newest_compared(subject.present, subject.surface, since)
    if day is None:
        return [], f"nothing that was served since {since} was logged and compared"
    checks = judge_days(subject.present, subject.surface, [day])
    named = {f"{kind}_" for kind in _OF_THE_CHAMPION}
    return [
        check.model_copy(update={"outcome": Outcome.WARN})
        if check.outcome is Outcome.FAIL and any(check.name.startswith(kind) for kind in named)
        else check
        for check in checks
    ], f"what was served on {day}"


def newest_compared(lake: Lake, surface: Surface, since: date) -> date | None:
    """Return the newest day from ``since`` on that has a log and was compared."""
    table = served_skew_table(surface.name)
    if not lake.table_exists(table):
        return None
    return lake.sql(f"select max(day) as day from {ALIAS}.{table} where day >= ?", [since])["day"][0].as_py()


def judge_days(lake: Lake, surface: Surface, days: Sequence[date]) -> list[Check]:
    """Judge the figures of some days, each by itself; a day without a log has none, and no check."""
    limits, found = Served.of(surface, GUARD.name), list[Check]()
    for day in days:
        rows = measure(lake, surface, day)
        if rows:
            found += gx.validate(rows, suite(limits, surface, rows))
    return found


def measure(lake: Lake, surface: Surface, day: date) -> list[dict[str, object]]:
    """Return the figures of a day that count, and how many exposures were matched, also where none was."""
    table = served_skew_table(surface.name)
    if not lake.table_exists(table):
        return []
    kinds = [UNEQUAL, OLDER, REPRODUCED, CALIBRATION, SHIFT]
    query = f'select * from {ALIAS}.{table} where day = ? and list_contains(?, kind) order by kind, name, "of"'
    rows = [row for row in lake.sql(query, [day, kinds]).to_pylist() if row["n"] and row["of"] != AS_SERVED]
    count = "select count(*) as rows, coalesce(sum(n) filter (where (kind, name) = (?, ?)), 0)::bigint as n from "
    found = lake.sql(f"{count}{ALIAS}.{table} where day = ?", [EXPOSED, MATCHED, day]).to_pylist()[0]
    if not found["rows"]:
        return []
    first: dict[str, object] = {"kind": EXPOSED, "name": MATCHED, "of": "", "value": None, "n": found["n"]}
    return [row | {"said": str(day)} for row in (first, *rows)]


def suite(limits: Served, surface: Surface, rows: Sequence[Mapping[str, Any]]) -> "ExpectationSuite":
    """Return the suite over ``measure`` of one day."""
    from checks.expectations.measured import ExpectMeasureBetween

    enough = any(row["kind"] == EXPOSED and row["n"] >= limits.min_rows for row in rows)
    expected: list[Expectation] = [
        ExpectMeasureBetween(
            column="n",
            min_value=limits.min_rows,
            where={"kind": EXPOSED},
            beyond=Outcome.WARN.value,
            label="said",
            **gx.named("matched_exposures", gx.between(limits.min_rows)),
        )
    ]
    for row in rows:
        if row["kind"] != EXPOSED:
            expected += _expectations(limits, surface, row, enough=enough)
    return gx.suite("served", expected)


def _expectations(limits: Served, surface: Surface, row: Mapping[str, Any], *, enough: bool) -> "list[Expectation]":
    from checks.expectations.measured import ExpectMeasureBetween, ExpectNotClearlyAbove, ExpectNotClearlyBelow

    kind, where = row["kind"], {name: row[name] for name in ("kind", "name", "of")}
    name = "_".join(filter(None, (kind, row["name"], row["of"] if kind == SHIFT else "")))
    if kind == CALIBRATION and (row["value"] is None or row["lo"] is None):  # too few positives, or users
        known = gx.named(f"{name}_known", "an interval")
        return [ExpectMeasureBetween(column="lo", where=where, beyond=Outcome.WARN.value, **known)]
    if kind == CALIBRATION:
        low, high = limits.predicted_over_observed or surface.gate.calibration.predicted_over_observed
        return [
            ExpectNotClearlyBelow(min_value=low, where=where, **gx.named(f"{name}_from", gx.between(low))),
            ExpectNotClearlyAbove(max_value=high, where=where, **gx.named(f"{name}_to", gx.between(high=high))),
        ]
    most = {
        UNEQUAL: limits.max_unequal,
        OLDER: limits.max_older_features,
        REPRODUCED: limits.max_not_reproduced,
        SHIFT: limits.max_psi,
    }[kind]
    beyond = (Outcome.FAIL if enough else Outcome.WARN).value
    bounds = {"min_value": 0, "max_value": most, "count": "n", "label": "said", "beyond": beyond}
    return [ExpectMeasureBetween(column="value", where=where, **bounds, **gx.named(name, gx.between(high=most)))]


GUARD = Guard(
    number=12,
    name="served",
    means="What the server looked up, was sent and answered is what training rows, release and labels say.",
    to_do="the reason names the input. A daily one: were features published again after the day began, or does another "
    "server have files of its own? A request one: does the app send what it logs? Older features: land days earlier. "
    "`crossfade dashboard` and `<surface>/served_skew` have all figures.",
    judge=judge,
    daily=Daily(
        asset="served_skew",
        name="what_serves_is_what_was_measured",
        means="served inputs equal the training rows, logged scores are the release's, and predictions of what was "
        "shown agree with what was observed. A day without a served log has nothing to judge.",
        to_do="the message names the input or figure; see guard 12.",
        judge=judge_days,
    ),
    thresholds=Served,
    silent="ever",
)
