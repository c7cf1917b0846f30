"""Validation of landed rows against the contract, column by column, with dataframely.

Each table of the contract becomes a dataframely schema; ``filter`` splits a day of a table into rows that keep every
rule and rows that break one. A broken row carries one reason, the first of: a value of the wrong type, the columns'
own rules in contract order, its key.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import dataframely as dy
import polars as pl

from ml.landing.contract import DAY, Column, Contract, ContractError, Table
from ml.landing.readers import ROW

FILE = "__file"
"""Column with the index of the file that a row comes from."""
DUPLICATE, CONFLICT = "duplicate", "conflicting id"
_WRONG = "__wrong"
_INTERNAL = (FILE, ROW)
_CLOCK_SKEW = timedelta(minutes=5)
_TRUE, _FALSE = ("true", "1"), ("false", "0")


class Validated(NamedTuple):
    """Rows of one table and day."""

    good: pl.DataFrame
    """Rows to load: the contract's columns in order, plus ``FILE`` and ``ROW``."""
    bad: pl.DataFrame
    """Rows to quarantine: ``FILE``, ``ROW`` and ``reason``."""


def check_columns(table_name: str, table: Table, columns: Iterable[str], path: Path) -> None:
    """Compare the columns of a file with the contract.

    Raises:
        ContractError: A required column is missing, or a column is unknown; names file and column.
    """
    columns = set(columns)
    for name in table.required:
        if name not in columns:
            raise ContractError(f"{path}: required column {name!r} of {table_name} is missing")
    known = {*table.columns, *table.ignored, DAY}
    if unknown := sorted(columns - known):
        raise ContractError(
            f"{path}: column {unknown[0]!r} is not in the contract of {table_name}; declare it (or ignore it) in "
            "contract.yaml of the app's folder, or leave it out"
        )


def typed(frame: pl.DataFrame, table: Table, file: int) -> pl.DataFrame:
    """Cast the rows of one file to the contract's types.

    Args:
        frame: Columns as read (absent nullable columns become null) and ``ROW``.
        table: The table's contract.
        file: Index of the file.

    Returns:
        The contract's columns in order, ``FILE``, ``ROW``, and the name of the first column whose value has the wrong
        type (null if none).
    """
    casts: list[pl.Expr] = []
    fallible: list[str] = []
    for name, column in table.columns.items():
        if name not in frame.columns:
            casts.append(pl.lit(None, dtype=_dtype(column)).alias(name))
            continue
        expression, sure = _cast(pl.col(name), frame.schema[name], column)
        casts.append(expression.alias(name))
        if not sure:
            fallible.append(name)
    result = frame.select(*casts, pl.lit(file, pl.Int32).alias(FILE), ROW)
    failures: list[pl.Expr] = []
    for name in fallible:
        given = frame[name].is_not_null()
        if frame.schema[name] == pl.String:
            given &= frame[name] != ""
        failed = given & result[name].is_null()
        if failed.any():
            failures.append(pl.when(failed).then(pl.lit(name)))
    return result.with_columns(pl.coalesce(*failures, pl.lit(None, pl.String)).alias(_WRONG))


def validate(
    frame: pl.DataFrame,
    contract: Contract,
    table_name: str,
    day: date,
    surfaces: Iterable[str],
    now: datetime | None = None,
) -> Validated:
    """Split the typed rows of one table and day into good and bad ones.

    Args:
        frame: Rows of all files of the day, from ``typed``.
        contract: The landing contract.
        table_name: Name of the table.
        day: Day of the folder (UTC); timestamps must lie within it.
        surfaces: Names of the configured surfaces.
        now: Current UTC time, naive; timestamps after it lie in the future.
    """
    if frame.is_empty():
        return Validated(frame.drop(_WRONG), pl.DataFrame(schema=_bad_schema()))
    table = contract.table(table_name)
    now = now or datetime.now(UTC).replace(tzinfo=None)
    schema, reasons = _schema(table_name, table, contract.max_string_bytes, day, frozenset(surfaces), now + _CLOCK_SKEW)
    result, failure = schema.filter(frame)
    good = pl.DataFrame(result)
    if len(failure) == 0:
        return Validated(good.drop(_WRONG), pl.DataFrame(schema=_bad_schema()))
    details = pl.DataFrame(failure.details())
    broken = [pl.when(pl.col(rule) == "invalid").then(r) for rule, r in reasons.items() if rule in details.columns]
    details = details.with_columns(reason=pl.coalesce(broken))
    bad = details.filter(pl.col("reason").is_not_null()).select(*_INTERNAL, "reason")
    # What broke only the key rule is a duplicate or a conflict, or fine if its twins are bad for other reasons.
    twins = details.filter(pl.col("reason").is_null()).select(good.columns).drop(_WRONG)
    if twins.height:
        kept, repeated = _split_twins(twins, table)
        good = pl.concat([good.drop(_WRONG), kept]).sort(_INTERNAL)
        bad = pl.concat([bad, repeated])
    else:
        good = good.drop(_WRONG)
    return Validated(good, bad.sort(_INTERNAL))


def _split_twins(twins: pl.DataFrame, table: Table) -> tuple[pl.DataFrame, pl.DataFrame]:
    content = list(table.columns)
    numbered = twins.sort(_INTERNAL).with_row_index("__order")
    # One number per distinct row: the position of its first copy.
    numbered = numbered.with_columns(pl.col("__order").min().over(content).alias("__first"))
    conflicting = pl.col("__first").n_unique().over(list(table.key)) > 1
    repeat = pl.col("__order") != pl.col("__first")
    numbered = numbered.with_columns(
        reason=pl.when(conflicting).then(pl.lit(CONFLICT)).when(repeat).then(pl.lit(DUPLICATE))
    )
    kept = numbered.filter(pl.col("reason").is_null()).select(twins.columns)
    return kept, numbered.filter(pl.col("reason").is_not_null()).select(*_INTERNAL, "reason")


def _schema(
    name: str, table: Table, max_bytes: int, day: date, surfaces: frozenset[str], latest: datetime
) -> tuple[type[dy.Schema], dict[str, pl.Expr]]:
    """Return the table's dataframely schema and, by rule in order of precedence, the reason of a row that breaks it."""
    columns: dict[str, dy.Column] = {
        _WRONG: dy.String(alias=_WRONG, nullable=True, check={"wrong": lambda e: e.is_null()}),
        FILE: dy.Int32(alias=FILE, nullable=True),
        ROW: dy.Int64(alias=ROW, nullable=True),
    }
    reasons: dict[str, str | pl.Expr] = {f"{_WRONG}|check__wrong": pl.format("wrong type: {}", pl.col(_WRONG))}
    for column_name, column in table.columns.items():
        key = column_name in table.key
        columns[column_name], rules = _column(column_name, column, key, max_bytes, day, surfaces, latest)
        reasons |= {f"{column_name}|{rule}": f"{reason}: {column_name}" for rule, reason in rules.items()}
    # Attribute names are made up, so that no column can hide a method of the schema.
    schema = type(name, (dy.Schema,), {f"column_{i}": column for i, column in enumerate(columns.values())})
    return schema, {rule: pl.lit(r) if isinstance(r, str) else r for rule, r in reasons.items()}


def _column(
    name: str, column: Column, key: bool, max_bytes: int, day: date, surfaces: frozenset[str], latest: datetime
) -> tuple[dy.Column, dict[str, str]]:
    common: dict[str, Any] = {"alias": name, "nullable": column.nullable, "primary_key": key}
    reasons = {"nullability": "null"}
    match column.kind:
        case "string":
            reasons |= {"max_length": f"longer than {max_bytes} bytes"}
            checks: dict[str, Callable[[pl.Expr], pl.Expr]] = {}
            if column.values:
                checks["values"] = lambda e: e.is_in(list(column.values))
                reasons["check__values"] = "value not allowed"
            if column.one_of == "surfaces":
                checks["surfaces"] = lambda e: e.is_in(sorted(surfaces))
                reasons["check__surfaces"] = "unknown surface"
            return dy.String(**common, max_length=max_bytes, check=checks or None), reasons
        case "int64":
            reasons |= {"min": _below(column), "max": _above(column)}
            return dy.Int64(**common, min=_int(column.min), max=_int(column.max)), reasons
        case "float64":
            reasons |= {"nan": "not finite", "inf": "not finite", "min": _below(column), "max": _above(column)}
            return dy.Float64(**common, min=column.min, max=column.max), reasons
        case "bool":
            return dy.Bool(**common), reasons
        case "timestamp":
            start = datetime(day.year, day.month, day.day)
            inside: dict[str, Callable[[pl.Expr], pl.Expr]] = {
                "future": lambda e: e <= latest,
                "day": lambda e: (e >= start) & (e < start + timedelta(days=1)),
            }
            reasons |= {"check__future": "future timestamp", "check__day": "timestamp of another day"}
            check = None if column.any_day else inside
            return dy.Datetime(**common, time_unit="us", check=check), reasons
        case "float_vector":
            n = column.length
            vector = dy.List(
                dy.Float32(nullable=False),
                alias=name,
                nullable=column.nullable,
                check={"length": lambda e: e.list.len() == n},
            )
            reasons |= {"check__length": f"not {n} numbers", "inner_nullability": "element missing or no number"}
            return vector, reasons | {"inner_inf": "not finite", "inner_nan": "not finite"}


def _below(column: Column) -> str:
    return "negative" if column.min == 0 else f"below {column.min:g}" if column.min is not None else ""


def _above(column: Column) -> str:
    return f"above {column.max:g}" if column.max is not None else ""


def _int(bound: float | None) -> int | None:
    return None if bound is None else int(bound)


def _dtype(column: Column) -> pl.DataType:
    match column.kind:
        case "string":
            return pl.String()
        case "int64":
            return pl.Int64()
        case "float64":
            return pl.Float64()
        case "bool":
            return pl.Boolean()
        case "timestamp":
            return pl.Datetime("us")
        case "float_vector":
            return pl.List(pl.Float32())


def _cast(source: pl.Expr, dtype: pl.DataType, column: Column) -> tuple[pl.Expr, bool]:
    """Return the cast of one column, null where the type is wrong, and whether it cannot fail."""
    target = _dtype(column)
    if dtype == pl.Null:
        return source.cast(target), True
    text = dtype == pl.String
    match column.kind:
        case "string":
            if isinstance(dtype, pl.Categorical | pl.Enum):
                source, text = source.cast(pl.String), True
            if text:
                return pl.when(source != "").then(source), True
            return (source.cast(pl.String), True) if dtype.is_integer() else (pl.lit(None, target), False)
        case "int64":
            if dtype.is_integer():
                return source.cast(target, strict=False), dtype != pl.UInt64
            if dtype.is_float():
                return pl.when(source.is_finite() & (source.round() == source)).then(
                    source.cast(target, strict=False)
                ), False
            return (source.cast(target, strict=False) if text else pl.lit(None, target)), False
        case "float64":
            if dtype.is_numeric():
                return source.cast(target), True
            return (source.cast(target, strict=False) if text else pl.lit(None, target)), False
        case "bool":
            if dtype == pl.Boolean:
                return source, True
            if text:
                word = source.str.to_lowercase()
                return pl.when(word.is_in(_TRUE)).then(True).when(word.is_in(_FALSE)).then(False), False
            if dtype.is_integer():
                return pl.when(source.is_in([0, 1])).then(source == 1), False
            return pl.lit(None, target), False
        case "timestamp":
            if isinstance(dtype, pl.Datetime):
                if dtype.time_zone is not None:
                    source = source.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
                return source.cast(target), True
            if dtype == pl.Date:
                return (source.cast(target), True) if column.any_day else (pl.lit(None, target), False)
            return (_timestamp(source, date_only=column.any_day) if text else pl.lit(None, target)), False
        case "float_vector":
            if isinstance(dtype, pl.List | pl.Array) and (dtype.inner.is_numeric() or dtype.inner == pl.Null):
                return source.cast(target, strict=False), True
            if not text:
                return pl.lit(None, target), False
            inner = source.str.strip_chars().str.extract(r"^\[(.*)\]$", 1)
            return inner.str.split(",").list.eval(pl.element().str.strip_chars()).cast(target, strict=False), False


_TIMESTAMP = r"^(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:?\d\d)?$"


def _timestamp(source: pl.Expr, *, date_only: bool) -> pl.Expr:
    """Parse ISO 8601 text, with an offset or in UTC; a bare date only where the time of day does not matter."""
    parts = source.str.extract_groups(_TIMESTAMP)
    offset = parts.struct.field("4").fill_null("+0000").replace("Z", "+0000")
    fraction = parts.struct.field("3").fill_null("0")
    moment = pl.concat_str(
        parts.struct.field("1"), pl.lit("T"), parts.struct.field("2"), pl.lit("."), fraction, offset
    ).str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%z", time_unit="us", time_zone="UTC", strict=False)
    moment = moment.dt.replace_time_zone(None)
    if date_only:
        bare = pl.when(source.str.contains(r"^\d{4}-\d\d-\d\d$")).then(source)
        moment = pl.coalesce(moment, bare.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")))
    # The year 0 and an offset lead out of the years that Python and most files can hold.
    return pl.when(moment.is_between(datetime.min, datetime.max)).then(moment)


def _bad_schema() -> dict[str, Any]:
    return {FILE: pl.Int32, ROW: pl.Int64, "reason": pl.String}
