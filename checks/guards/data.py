"""Guard: the examples of every day are there, well formed, within bounds, and as the feature tables say."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, TypedDict

from pydantic import Field

from checks import gx
from checks.days import shown_days
from checks.guard import Daily, Found, Guard, Subject, Thresholds
from ml.evaluation.outcome import Outcome
from ml.features.tables import CREATOR_OF, feature_tables
from ml.foundation.lake import ALIAS, FEATURES, Lake, quoted
from ml.releases.verdicts import Check
from ml.surfaces.columns import Input
from ml.surfaces.gate import DataGate
from ml.surfaces.spec import Surface

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite
    from great_expectations.expectations.expectation import Expectation

    from ml.foundation.artifacts import Artifact

UNLIKE_FEATURES = "values_unlike_their_features"
"""Name of the check that compares examples with feature tables."""

Measured = dict[str, Any]
"""What was measured of a day; some of its columns are named by the surface's tasks."""


class IdTables(Thresholds):
    """Thresholds: how many rows may have ids without an embedding of their own, where ``id_table`` bounds a table."""

    max_hashed_share: float = Field(
        default=0.5, ge=0, le=1, description="Evaluation rows whose id shares an embedding; more warn"
    )
    max_unknown_share: float = Field(
        default=0.5, ge=0, le=1, description="Evaluation rows whose id is unknown to a bounded table; more warn"
    )


class KindRow(TypedDict):
    """How the ids of one input are looked up."""

    input: str
    rows: int
    exact: float
    hashed: float
    unknown: float
    said: str


class Compared(TypedDict):
    """Examples of a day beside their feature tables."""

    day: date
    rows: int
    other_values: int


_FEW_DAYS = 7
_NO_FEATURES = "the lake lacks the feature tables of the surface's daily inputs: nothing to compare with"


def judge(subject: Subject) -> Found:
    """Measure the days again at the manifest's snapshots, whatever earlier checks said."""
    checks = [c for lake, days in subject.windows for c in judge_days(lake, subject.surface, days)]
    if any(spec.id_table for spec in subject.surface.inputs.values()):
        kinds = measure_ids(subject.evaluated, subject.surface, subject.exported, subject.manifest.eval_days)
        checks += gx.validate(kinds, ids_suite(IdTables.of(subject.surface, GUARD.name), kinds))
    return checks, ""


def judge_days(lake: Lake, surface: Surface, days: Sequence[date]) -> list[Check]:
    """Judge some days of the lake, as it is or at the snapshot that it shows."""
    days, empty = shown_days(lake, surface, days)
    if not days:
        return empty
    measured = measure_trailing(lake, surface, measure(lake, surface, days))
    compared = measure_features(lake, surface, days)
    checks = empty + gx.validate(_with_freshness(measured, days), suite(surface.gate.data, days))
    if compared is None:
        return [*checks, Check(name=UNLIKE_FEATURES, outcome=Outcome.WARN, detail=_NO_FEATURES)]
    return checks + gx.validate([{**row, "day": str(row["day"])} for row in compared], features_suite())


def measure(lake: Lake, surface: Surface, days: Sequence[date]) -> list[Measured]:
    """Measure the examples of each day.

    Returns:
        One row per day, also for a day without examples: ``day``, ``rows``; counts of ``duplicate_ids``, ``null_keys``
        (exposure_id or ts), ``foreign_times`` (ts outside of the day), ``bad_labels`` (neither null nor in the task's
        range), ``bad_values`` (non-finite numbers, vectors of another length); ``null_share`` of the worst input that
        is not sparse and its name in ``null_input`` (on ``first_day`` daily inputs, which have no yesterday, are left
        out); ``label_rate_<task>`` of binary tasks (null without labels) and ``labelled_<task>``.
    """
    selected = {
        "rows": "count(*)",
        "duplicate_ids": "count(exposure_id) - count(distinct exposure_id)",
        "null_keys": "count(*) filter (where exposure_id is null or ts is null)",
        "foreign_times": "count(*) filter (where ts::date <> day)",
        "bad_labels": _sum(f"count(*) filter (where {_bad_label(t.kind, t.label)})" for t in surface.tasks.values()),
        "bad_values": _sum(f"count(*) filter (where {_bad_value(n, i)})" for n, i in surface.inputs.items()),
    }
    for task, spec in surface.tasks.items():
        if spec.kind == "binary":
            selected[f"label_rate_{task}"] = f"avg({quoted(spec.label)}::double)"
        selected[f"labelled_{task}"] = f"count({quoted(spec.label)})"
    nulls = {n: f"count(*) filter (where {quoted(n)} is null)" for n, i in surface.inputs.items() if not i.sparse}
    columns = [f"{sql} as {quoted(name)}" for name, sql in selected.items()]
    columns += [f"{sql} as {quoted('nulls of ' + name)}" for name, sql in nulls.items()]
    query = f"""
        with days as (select unnest(?::date[]) as day)
        select d.day, {", ".join(f"e.{quoted(name)}" for name in (*selected, *("nulls of " + n for n in nulls)))}
        from days as d left join (
            select day, {", ".join(columns)} from {ALIAS}.{FEATURES}.examples_{surface.name}
            where day in (select unnest(?::date[])) group by day
        ) as e on e.day = d.day order by d.day"""
    wanted = sorted(set(days))
    found = []
    for row in lake.sql(query, [wanted, wanted]).to_pylist():
        counts = {name: row.pop("nulls of " + name) or 0 for name in nulls}
        row["rows"] = row["rows"] or 0
        if row["day"] <= lake.settings.first_day:  # there is no yesterday yet
            counts = {name: n for name, n in counts.items() if surface.inputs[name].kind != "daily"}
        nulled = max(counts.values(), default=0)
        share = nulled / row["rows"] if row["rows"] else None
        name = next((name for name, n in counts.items() if n == nulled and n), None)
        found.append({**row, "null_share": share, "null_input": name})
    return found


def measure_trailing(lake: Lake, surface: Surface, measured: Sequence[Measured]) -> list[Measured]:
    """Add to each measured day the mean label of the days before it.

    Returns:
        The rows with ``usual_rate_<task>`` of binary tasks: over the ``trailing_days`` before the day, null where fewer
        than 7 of them have labels, or none is positive.
    """
    tasks = {name: task for name, task in surface.tasks.items() if task.kind == "binary"}
    if not tasks or not measured:
        return list(measured)
    sums = "".join(
        f", count({quoted(t.label)}) as {quoted('n ' + name)}, sum({quoted(t.label)}::double) as {quoted('of ' + name)}"
        for name, t in tasks.items()
    )
    usual = ", ".join(
        f"if(count(*) filter (where {quoted('n ' + name)} > 0) >= {_FEW_DAYS} and sum({quoted('of ' + name)}) > 0, "
        f"sum({quoted('of ' + name)}) / sum({quoted('n ' + name)}), null) as {quoted('usual_rate_' + name)}"
        for name in tasks
    )
    days = [row["day"] for row in measured]
    first = min(days) - timedelta(days=surface.gate.data.trailing_days)
    query = f"""
        with daily as (
            select day{sums} from {ALIAS}.{FEATURES}.examples_{surface.name} where day between ? and ? group by day
        ), wanted as (select unnest(?::date[]) as wanted)
        select wanted, {usual} from wanted
        left join daily on day < wanted and day >= wanted - {surface.gate.data.trailing_days:d} group by wanted"""
    found = {row.pop("wanted"): row for row in lake.sql(query, [first, max(days), days]).to_pylist()}
    return [{**row, **found[row["day"]]} for row in measured]


def measure_features(lake: Lake, surface: Surface, days: Sequence[date]) -> list[Compared] | None:
    """Compare the daily inputs of the examples with the feature tables that the surface takes them from.

    Returns:
        One row per day with examples: ``day``, ``rows`` and ``other_values``, the examples of which at least one daily
        input is not what its table says for the day and key (a null counts as the input's default). None where a table
        is not in the lake, or the surface has no daily input.
    """
    declared = feature_tables(lake.settings)
    examples = f"{FEATURES}.examples_{surface.name}"
    daily = {name: spec for name, spec in surface.inputs.items() if spec.source is not None}
    tables = {str(spec.source).split(".")[0] for spec in daily.values()}
    if not daily or any(name not in declared or not lake.table_exists(f"{FEATURES}.{name}") for name in tables):
        return None
    types = lake.columns(examples)
    # The creator is the item's, as when serving.
    joined = sorted(tables | {CREATOR_OF}, key=lambda name: name != CREATOR_OF)
    joins = [_join(name, declared[name].entity) for name in joined]
    defaults = {f"{name}.{column}": value for name in tables for column, value in declared[name].defaults.items()}
    differs = " or ".join(_differs(name, spec, types[name], defaults) for name, spec in daily.items())
    query = f"""
        select e.day, count(*) as rows, count(*) filter (where {differs}) as other_values
        from {ALIAS}.{examples} as e {" ".join(joins)}
        where e.day in (select unnest(?::date[])) group by e.day order by e.day"""
    wanted = sorted(set(days))
    return lake.sql(query, [*[wanted[0], wanted[-1]] * len(joins), wanted]).to_pylist() if wanted else []


def suite(gate: DataGate, days: Sequence[date]) -> "ExpectationSuite":
    """Return the suite over ``measure`` and ``days_behind``."""
    built_in = gx.expectations()
    from checks.expectations.measured import ExpectMeasureBetween, ExpectRateBetween

    def bounded(column: str, low: float | None, high: float | None) -> "Expectation":
        bounds = {"min_value": low, "max_value": high, "label": "day", "count": "rows"}
        return ExpectMeasureBetween(column=column, **bounds, **gx.named(column, gx.between(low, high)))

    expected = [
        built_in.ExpectTableRowCountToEqual(value=len(set(days)), **gx.named("days", str(len(set(days))))),
        built_in.ExpectColumnValuesToBeUnique(column="day", **gx.named("days_repeated", "0")),
        bounded("rows", gate.min_rows, None),
        *(bounded(name, 0, 0) for name in ("duplicate_ids", "null_keys", "foreign_times", "bad_labels", "bad_values")),
        bounded("null_share", 0, gate.max_null_share),
        bounded("days_behind", 0, 0),
    ]
    for task, (low, high) in gate.label_rate.items():
        rate, bounds = f"label_rate_{task}", {"min_value": low, "max_value": high, "label": "day"}
        named = gx.named(rate, gx.between(low, high))
        expected.append(ExpectRateBetween(column=rate, count=f"labelled_{task}", **bounds, **named))
        most = gate.label_rate_change
        around = {"around": f"usual_rate_{task}", "min_value": 1 / most, "max_value": most, "label": "day"}
        named = gx.named(f"{rate}_as_before", f"{gx.between(1 / most, most)} of the {gate.trailing_days} days before")
        expected.append(ExpectRateBetween(column=rate, count=f"labelled_{task}", **around, **named))
    return gx.suite("data", expected)


def measure_ids(lake: Lake, surface: Surface, checkpoint: "Artifact", days: Sequence[date]) -> list[KindRow]:
    """Look up the ids of some days in a checkpoint's bounded tables.

    Args:
        lake: The lake, or a snapshot of it.
        surface: The surface.
        checkpoint: Artifact with the checkpoint.
        days: Days with rows.

    Returns:
        A row per input whose table ``id_table`` bounds: the number of ``rows``, and the shares of them whose id has an
        embedding of its own (``exact``), shares one (``hashed``) or is ``unknown``; all as ``said``.
    """
    import torch

    from ml.stages.training import load_ranker
    from ml.students.columns import to_arrays

    ranker, _ = load_ranker(checkpoint)
    pre = ranker.preprocessing
    inputs = {name: surface.inputs[name] for name in pre.ids}
    query = (
        f"select {', '.join(map(quoted, inputs))} from {ALIAS}.{FEATURES}.examples_{surface.name} "
        "where day in (select unnest(?::date[]))"
    )
    counts, rows = {name: [0, 0, 0] for name in inputs}, 0
    for batch in lake.batches(query, [list(days)]):
        arrays = to_arrays(batch, inputs, "serving")
        kinds = pre.kinds(pre.rows({name: torch.from_numpy(array) for name, array in arrays.items()}))
        rows += batch.num_rows
        for place, name in enumerate(pre.ids):
            counts[name] = [so_far + int((kinds[:, place] == kind).sum()) for kind, so_far in enumerate(counts[name])]
    found: list[KindRow] = []
    for name in inputs:
        if surface.inputs[pre.vocabulary[name]].id_table and rows:
            unknown, exact, hashed = (count / rows for count in counts[name])
            said = f"{name}: {exact:.1%} exact, {hashed:.1%} hashed, {unknown:.1%} unknown"
            found.append(
                {"input": name, "rows": rows, "exact": exact, "hashed": hashed, "unknown": unknown, "said": said}
            )
    return found


def ids_suite(limits: IdTables, rows: Sequence[KindRow]) -> "ExpectationSuite":
    """Return the suite over ``measure_ids``: ids that say little of themselves warn."""
    from great_expectations.expectations.metadata_types import FailureSeverity

    from checks.expectations.measured import ExpectMeasureBetween

    most = {"hashed": limits.max_hashed_share, "unknown": limits.max_unknown_share}
    return gx.suite(
        "ids",
        [
            ExpectMeasureBetween(
                column=kind,
                min_value=0,
                max_value=share,
                where={"input": row["input"]},
                label="said",
                count="rows",
                severity=FailureSeverity.WARNING,
                **gx.named(f"{row['input']}_{kind}_share", gx.between(high=share)),
            )
            for row in rows
            for kind, share in most.items()
        ],
    )


def features_suite() -> "ExpectationSuite":
    """Return the suite over ``measure_features``."""
    from checks.expectations.measured import ExpectMeasureBetween

    bounds = {"min_value": 0, "max_value": 0, "label": "day", "count": "rows"}
    named = gx.named(UNLIKE_FEATURES, gx.between(0, 0))
    return gx.suite("features", [ExpectMeasureBetween(column="other_values", **bounds, **named)])


def _with_freshness(measured: Sequence[Measured], days: Sequence[date]) -> list[Measured]:
    """Add how many days the newest examples lag behind the days asked for."""
    newest = max((row["day"] for row in measured if row["rows"]), default=None)
    behind = (max(days) - newest).days if newest is not None else None
    return [{**row, "day": str(row["day"]), "days_behind": behind} for row in measured]


def _join(table: str, keys: Sequence[str]) -> str:
    """Return the SQL that joins a feature table by its keys; two parameters bound the days whose files are opened."""
    pairs = [f"{table}.{k} = {CREATOR_OF if k == 'creator_id' else 'e'}.{quoted(k)}" for k in keys]
    rows = f"(select * from {ALIAS}.{FEATURES}.{table} where day between ? and ?)"
    return f"left join {rows} as {table} on {' and '.join([f'{table}.day = e.day', *pairs])}"


def _differs(name: str, spec: Input, kind: str, defaults: Mapping[str, float]) -> str:
    """Return the SQL condition that an example's value is not its feature's, cast as the examples hold it."""
    source = str(spec.source)
    table, column = source.split(".")
    feature = f"{table}.{quoted(column)}"
    if source in defaults:
        feature = f"coalesce({feature}, {defaults[source]})"
    values = [f"e.{quoted(name)}", f"{feature}::{kind}"]
    if spec.type == "number":
        values = [f"coalesce({value}::double, {float(spec.default)})" for value in values]
    return f"{values[0]} is distinct from {values[1]}"


def _bad_label(kind: str, label: str) -> str:
    column = f"{quoted(label)}::double"
    return f"{column} not in (0, 1)" if kind == "binary" else f"not isfinite({column})"


def _bad_value(name: str, spec: Input) -> str:
    column = quoted(name)
    match spec.type:
        case "number":
            return f"not isfinite({column}::double)"
        case "vector":
            return (
                f"len({column}) <> {spec.length} or len(list_filter({column}, lambda x: not isfinite(x::double))) > 0"
            )
        case _:
            return "false"


def _sum(terms: Iterable[str]) -> str:
    return " + ".join(terms) or "0"


GUARD = Guard(
    number=1,
    name="data",
    means="Counts, keys, ranges, label rates and freshness of the examples, measured again at the recorded snapshot; "
    "of bounded `id_table`s, how many evaluation rows have an id that shares an embedding or is unknown.",
    to_do="a table changed after training: `examples_are_sound` names the day. Mend it and run the release job again. "
    "Days on which nothing was shown, and too few labels to tell a rate from chance, only warn. So do many hashed or "
    "unknown ids: raise `max_ids` or lower `min_count`.",
    judge=judge,
    thresholds=IdTables,
    daily=Daily(
        asset="examples",
        name="examples_are_sound",
        means="every day has enough rows, unique keys, finite values, plausible label rates.",
        to_do="the reason names day, value and threshold; look at that day in the landing zone and its quarantine, "
        "correct it, and run `base_tables_job` and `ranking_tables_job` for it. Nothing learns from it.",
        judge=judge_days,
    ),
)
