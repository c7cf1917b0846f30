"""Measurements of examples and of soft labels, one row per day, straight from the lake."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import pyarrow as pa

from ml.feature_tables import CREATOR_OF, feature_tables
from ml.lake import ALIAS, FEATURES, ML, Lake
from ml.surfaces.spec import Input, Surface


def measure_examples(lake: Lake, surface: Surface, days: Sequence[date]) -> list[dict[str, Any]]:
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
            selected[f"label_rate_{task}"] = f"avg({_quote(spec.label)}::double)"
        selected[f"labelled_{task}"] = f"count({_quote(spec.label)})"
    nulls = {n: f"count(*) filter (where {_quote(n)} is null)" for n, i in surface.inputs.items() if not i.sparse}
    columns = [f"{sql} as {_quote(name)}" for name, sql in selected.items()]
    columns += [f"{sql} as {_quote('nulls of ' + name)}" for name, sql in nulls.items()]
    query = f"""
        with days as (select unnest(?::date[]) as day)
        select d.day, {", ".join(f"e.{_quote(name)}" for name in (*selected, *("nulls of " + n for n in nulls)))}
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


def measure_features(lake: Lake, surface: Surface, days: Sequence[date]) -> list[dict[str, Any]] | None:
    """Compare the daily inputs of the examples with the feature tables that the surface takes them from.

    Returns:
        One row per day with examples: ``day``, ``rows`` and ``other_values``, the examples of which at least one daily
        input is not what its table says for the day and key (a null counts as the input's default). None where a table
        is not in the lake, or the surface has no daily input.
    """
    declared = feature_tables()
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


def measure_soft_labels(
    lake: Lake,
    surface: Surface,
    days: Sequence[date],
    *,
    teacher_version: str,
    contract_hash: str,
    outputs: int,
    inputs: int,
) -> list[dict[str, Any]]:
    """Measure the soft labels of one teacher, day by day, against the examples.

    Args:
        lake: The lake, or a snapshot of it.
        surface: The surface.
        days: Days to measure.
        teacher_version: Version of the teacher.
        contract_hash: Hash of its contract.
        outputs: Length that ``scores`` must have.
        inputs: Number of the contract's inputs; 0 for landed scores.

    Returns:
        One row per day: ``day``, ``examples``, ``labels``, ``coverage`` (share of examples with a label, null without
        examples), ``duplicates``, ``strangers`` (labels without example), ``non_finite`` (rows with a null, NaN or
        infinite score), ``wrong_width``, ``other_teacher`` (examples that only another teacher labelled) and
        ``defaulted_share`` (mean share of inputs that took the default).
    """
    labels = f"{ALIAS}.{ML}.soft_labels_{surface.name}"
    query = f"""
        with days as (select unnest(?::date[]) as day),
        e as (
            select distinct day, exposure_id from {ALIAS}.{FEATURES}.examples_{surface.name}
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
                count(*) filter (where o.exposure_id is null and s.exposure_id is not null) as other_teacher
            from e
            left join (select distinct day, exposure_id from every where own) as o using (day, exposure_id)
            left join (select distinct day, exposure_id from every where not own) as s using (day, exposure_id)
            group by e.day
        )
        select d.day, coalesce(m.examples, 0) as examples, coalesce(o.labels, 0) as labels,
            m.covered / m.examples as coverage, coalesce(o.duplicates, 0) as duplicates,
            coalesce(o.labels, 0) - coalesce(o.duplicates, 0) - coalesce(m.covered, 0) as strangers,
            coalesce(o.non_finite, 0) as non_finite, coalesce(o.wrong_width, 0) as wrong_width,
            coalesce(m.other_teacher, 0) as other_teacher, o.defaulted / greatest(?, 1) as defaulted_share
        from days as d left join matched as m on m.day = d.day left join own as o on o.day = d.day order by d.day"""
    wanted = sorted(set(days))
    parameters = [wanted, wanted, teacher_version, contract_hash, wanted, outputs, inputs]
    return lake.sql(query, parameters).to_pylist()


def example_rows(lake: Lake, surface: Surface, days: Sequence[date], *, order: str, limit: int) -> pa.Table:
    """Return up to ``limit`` examples of some days.

    Args:
        lake: The lake, or a snapshot of it.
        surface: The surface.
        days: Days to take rows from.
        order: SQL order that says which rows come first.
        limit: Most rows.

    Raises:
        ValueError: The days have no rows.
    """
    query = f"select * from {ALIAS}.{FEATURES}.examples_{surface.name} where day in (select unnest(?::date[])) "
    table = lake.sql(f"{query} order by {order} limit ?", [list(days), limit])
    if table.num_rows == 0:
        raise ValueError(f"examples_{surface.name} has no rows on {days[0]} to {days[-1]}")
    return table


def _join(table: str, keys: Sequence[str]) -> str:
    """Return the SQL that joins a feature table by its keys; two parameters bound the days whose files are opened."""
    pairs = [f"{table}.{k} = {CREATOR_OF if k == 'creator_id' else 'e'}.{_quote(k)}" for k in keys]
    rows = f"(select * from {ALIAS}.{FEATURES}.{table} where day between ? and ?)"
    return f"left join {rows} as {table} on {' and '.join([f'{table}.day = e.day', *pairs])}"


def _differs(name: str, spec: Input, kind: str, defaults: Mapping[str, float]) -> str:
    """Return the SQL condition that an example's value is not its feature's, cast as the examples hold it."""
    source = str(spec.source)
    table, column = source.split(".")
    feature = f"{table}.{_quote(column)}"
    if source in defaults:
        feature = f"coalesce({feature}, {defaults[source]})"
    values = [f"e.{_quote(name)}", f"{feature}::{kind}"]
    if spec.type == "number":
        values = [f"coalesce({value}::double, {float(spec.default)})" for value in values]
    return f"{values[0]} is distinct from {values[1]}"


def _bad_label(kind: str, label: str) -> str:
    column = f"{_quote(label)}::double"
    return f"{column} not in (0, 1)" if kind == "binary" else f"not isfinite({column})"


def _bad_value(name: str, spec: Input) -> str:
    column = _quote(name)
    match spec.type:
        case "number":
            return f"not isfinite({column}::double)"
        case "vector":
            return (
                f"len({column}) <> {spec.length} or len(list_filter({column}, lambda x: not isfinite(x::double))) > 0"
            )
        case _:
            return "false"


def _sum(terms: Any) -> str:
    return " + ".join(terms) or "0"


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
