"""Validation of landed rows against the contract, column by column, with dataframely.

Each table of the contract becomes a dataframely schema; ``filter`` splits a day of a table into rows that keep every
rule and rows that break one. A broken row carries one reason, the first of: a value of the wrong type, the columns'
own rules in contract order, its key.
"""

import difflib
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import dataframely as dy
import polars as pl

from ml.foundation.names import nearest
from ml.landing.contract import DAY, Column, Contract, ContractError, Table, wrong_type
from ml.landing.readers import ROW
from ml.landing.sources import PLAIN, Source, Unit

FILE = "__file"
"""Column with the index of the file that a row comes from."""
DUPLICATE, CONFLICT = "duplicate", "conflicting id"
_WRONG = "__wrong"
_INTERNAL = (FILE, ROW)
_CLOCK_SKEW = timedelta(minutes=5)
_TRUE, _FALSE = ("true", "t", "1", "1.0", "yes", "y"), ("false", "f", "0", "0.0", "no", "n")
_EXACT = 2**53
"""Whole numbers below it are exact as floats; a larger float may stand for another number."""
_FLOAT_ID = r"^[+-]?(?:\d+\.0*|\d\.\d+[eE][+-]?\d+|\d+[eE]\+\d+)$"
"""A number as languages write floats; a hexadecimal id such as 12e5 is none."""


class Validated(NamedTuple):
    """Rows of one table and day."""

    good: pl.DataFrame
    """Rows to load: the contract's columns in order, plus ``FILE`` and ``ROW``."""
    bad: pl.DataFrame
    """Rows to quarantine: ``FILE``, ``ROW`` and ``reason``."""


def check_columns(
    table_name: str, table: Table, columns: Iterable[str], path: Path | str, source: Source = PLAIN
) -> None:
    """Compare the columns of a file with the contract, and with what ``sources.yaml`` takes from it.

    Raises:
        ContractError: A required column is missing, or a column is unknown; names file and column.
    """
    columns = set(columns)
    others = columns - table.columns.keys()
    faults: list[str] = []
    for name in table.columns:
        origin = source.columns.get(name)
        if name in columns or (origin is None and name not in table.required):
            continue
        if origin is None:
            faults.append(f"required column {name!r} of {table_name} is missing")
        else:
            told = f"column {origin.name!r} is missing, which sources.yaml reads as {name!r} of {table_name}"
            faults.append(f"{told}{nearest(origin.name, others)}")
    ignored = {name.lower() for name in (*table.ignored, DAY)}
    unknown = sorted(name for name in columns - table.columns.keys() if name.lower() not in ignored)
    if unknown:
        named = ", ".join(f"{name!r}{_meant(name, table)}" for name in unknown)
        line = f"tables: {{{table_name}: {{ignored: [{', '.join(unknown)}]}}}}"
        faults.append(
            f"column{'s' * (len(unknown) > 1)} {named} not in the contract of {table_name}: declare or ignore it in "
            f"contract.yaml of the app's folder, such as `{line}`, rename it in sources.yaml, or leave it out"
        )
    if faults:
        raise ContractError(f"{path}: {'; '.join(faults)}")


def _meant(name: str, table: Table) -> str:
    near = difflib.get_close_matches(name.lower(), table.columns, n=1, cutoff=0.7)
    return f" (did you mean {near[0]!r}?)" if near else ""


def typed(frame: pl.DataFrame, table: Table, file: int, source: Source = PLAIN) -> pl.DataFrame:
    """Cast the rows of one file to the contract's types.

    Args:
        frame: Columns as read (absent nullable columns become null) and ``ROW``.
        table: The table's contract.
        file: Index of the file.
        source: Time zone of times without an offset, and units or formats of times.

    Returns:
        The contract's columns in order, ``FILE``, ``ROW``, and why the row has a value of the wrong type (null if it
        has none).
    """
    frame = frame.with_columns(
        _without_ends_of_time(frame[name])
        for name, column in table.columns.items()
        if "infinity" in column.no_dates and frame.schema.get(name) == pl.String
    )
    casts: list[pl.Expr] = []
    fallible: list[str] = []
    for name, column in table.columns.items():
        if name not in frame.columns:
            casts.append(pl.lit(None, dtype=_dtype(column)).alias(name))
            continue
        expression, sure = _cast(pl.col(name), frame.schema[name], column, source, name)
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
            failures.append(pl.when(failed).then(pl.lit(wrong_type(name, table.columns[name]))))
    return result.with_columns(
        pl.coalesce(*failures, pl.lit(None, pl.String)).alias(_WRONG),
        *(
            pl.when(~pl.col(name).dt.date().is_in(days)).then(name).alias(name)
            for name, column in table.columns.items()
            if (days := [day for day in column.no_dates if isinstance(day, date)])
        ),
    )


def _without_ends_of_time(texts: pl.Series) -> pl.Series:
    """Return texts of times, null where they name an end of time, as Postgres and DuckDB do."""
    ends = texts.str.to_lowercase().is_in(["infinity", "+infinity", "-infinity"])
    return texts.set(ends.fill_null(False), None) if ends.any() else texts


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


def right_types() -> pl.Expr:
    """Tell of each typed row whether every value has the type of its column."""
    return pl.col(_WRONG).is_null()


def not_ahead(table: Table, now: datetime | None = None) -> pl.Expr:
    """Tell of each typed row whether the time that says its day has passed."""
    latest = (now or datetime.now(UTC).replace(tzinfo=None)) + _CLOCK_SKEW
    return pl.col(table.moment or "") <= latest


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
    reasons: dict[str, str | pl.Expr] = {f"{_WRONG}|check__wrong": pl.col(_WRONG)}
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
            max_bytes = column.max_bytes or max_bytes
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
            reasons |= _out_of_bounds(column)
            above = _int(column.above)
            return dy.Int64(**common, min=_int(column.min), max=_int(column.max), min_exclusive=above), reasons
        case "float64":
            reasons |= {"nan": "not finite", "inf": "not finite", **_out_of_bounds(column)}
            return dy.Float64(**common, min=column.min, max=column.max, min_exclusive=column.above), reasons
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


def _out_of_bounds(column: Column) -> dict[str, str]:
    """Return the reasons of a number that lies out of its bounds, by the name of dataframely's rule."""
    below = "negative" if column.min == 0 else f"below {column.min:g}" if column.min is not None else ""
    above = f"above {column.max:g}" if column.max is not None else ""
    return {"min": below, "max": above, "min_exclusive": f"not above {column.above or 0:g}"}


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


def _cast(source: pl.Expr, dtype: pl.DataType, column: Column, read: Source, name: str) -> tuple[pl.Expr, bool]:
    """Return the cast of one column, null where the type is wrong, and whether it cannot fail."""
    target = _dtype(column)
    origin = read.columns.get(name)
    if origin and origin.type:
        first = Column(type=origin.type, description="What the values are read as")
        source, sure = _cast(source, dtype, first, PLAIN, name)
        cast, surely = _cast(source, _dtype(first), column, PLAIN, name)
        return cast, sure and surely
    if dtype == pl.Null:
        return source.cast(target), True
    if isinstance(dtype, pl.Categorical | pl.Enum):
        source, dtype = source.cast(pl.String), pl.String()
    text, nothing = dtype == pl.String, pl.lit(None, target)
    match column.kind:
        case "string":
            if text and column.id:
                return source.map_batches(_ids, return_dtype=pl.String()), False
            if text:
                return pl.when(source != "").then(source), True
            return (source.cast(pl.String), True) if dtype.is_integer() else (nothing, False)
        case "int64":
            if text:
                return source.map_batches(_whole, return_dtype=pl.Int64()), False
            if dtype.is_integer():
                return source.cast(target, strict=False), dtype != pl.UInt64
            if dtype.is_float():
                whole = (source.round() == source) & (source.abs() < _EXACT)
                return pl.when(whole).then(source.cast(target, strict=False)), False
            return nothing, False
        case "float64":
            if dtype.is_numeric():
                return source.cast(target), True
            return (source.cast(target, strict=False) if text else nothing), False
        case "bool":
            if dtype == pl.Boolean:
                return source, True
            if text:
                word = source.str.to_lowercase()
                return pl.when(word.is_in(_TRUE)).then(True).when(word.is_in(_FALSE)).then(False), False
            if dtype.is_numeric():
                return pl.when(source.is_in([0, 1])).then(source == 1), False
            return nothing, False
        case "timestamp":
            return _moment(source, dtype, column, read, name)
        case "float_vector":
            if isinstance(dtype, pl.List | pl.Array) and (dtype.inner.is_numeric() or dtype.inner == pl.Null):
                return source.cast(target, strict=False), True
            if not text:
                return nothing, False
            inner = source.str.strip_chars().str.extract(r"^(?:\[(.*)\]|\{(.*)\})$", 0).str.slice(1).str.head(-1)
            return inner.str.split(",").list.eval(pl.element().str.strip_chars()).cast(target, strict=False), False


def _ids(texts: pl.Series) -> pl.Series:
    """Return ids, null where one is empty or was written as a float."""
    frame = texts.to_frame("id")
    # Two looks for a letter cost a tenth of the pattern.
    odd = frame.select(pl.col("id").str.contains_any([".", "e+", "E+"]).any()).item()
    given = pl.col("id") != ""
    if odd:
        given &= ~pl.col("id").str.contains(_FLOAT_ID)
    return frame.select(pl.when(given).then("id").alias(texts.name)).to_series()


def _whole(texts: pl.Series) -> pl.Series:
    """Return whole numbers, also those that were written as 5.0; null for any other text."""
    found = texts.cast(pl.Int64, strict=False)
    if found.null_count() == texts.null_count():
        return found
    return found.fill_null(texts.str.extract(r"^([+-]?\d{1,15})\.0*$", 1).cast(pl.Int64, strict=False))


def _moment(source: pl.Expr, dtype: pl.DataType, column: Column, read: Source, name: str) -> tuple[pl.Expr, bool]:
    """Return the cast to a UTC time of a column that holds times, days, text, or numbers of a declared unit."""
    target = pl.Datetime("us")
    nothing = pl.lit(None, target)
    origin = read.columns.get(name)
    if origin and origin.unit:
        number = source if dtype.is_integer() else _cast(source, dtype, _NUMBER, read, name)[0]
        return number.map_batches(_since(origin.unit), return_dtype=target), False
    if isinstance(dtype, pl.Datetime):
        if dtype.time_zone is not None:
            return source.dt.convert_time_zone("UTC").dt.replace_time_zone(None).cast(target), True
        return _in_utc(source.cast(target), read.timezone), read.timezone == "UTC"
    if dtype == pl.Date:
        return (source.cast(target), True) if column.any_day else (nothing, False)
    if dtype != pl.String:
        return nothing, False
    if origin and origin.format:
        return _formatted(source, origin.format, read.timezone), False
    return source.map_batches(_timestamps(read.timezone, date_only=column.any_day), return_dtype=target), False


_NUMBER = Column(type="int64", description="Units since 1970")
_MICROSECONDS = {"s": 1_000_000, "ms": 1_000, "us": 1}


def _since(unit: Unit) -> Callable[[pl.Series], pl.Series]:
    """Return what makes times of whole numbers since 1970; null beyond the years 1 to 9999."""

    def convert(numbers: pl.Series) -> pl.Series:
        number = pl.col("number").cast(pl.Int128)
        micros = number // 1_000 if unit == "ns" else number * _MICROSECONDS[unit]
        moments = numbers.alias("number").to_frame().select(micros.cast(pl.Int64, strict=False).cast(pl.Datetime("us")))
        return _within_years(moments.to_series()).alias(numbers.name)

    return convert


def _within_years(moments: pl.Series) -> pl.Series:
    # The year 0 and an offset lead out of the years that Python and most files can hold.
    return moments.set(~moments.is_between(datetime.min, datetime.max).fill_null(True), None)


def _in_utc(naive: pl.Expr, timezone: str) -> pl.Expr:
    """Return UTC of local times: the first of an hour that comes twice, null for one that the clocks leave out."""
    if timezone == "UTC":
        return naive
    zoned = naive.dt.replace_time_zone(timezone, ambiguous="earliest", non_existent="null")
    return zoned.dt.convert_time_zone("UTC").dt.replace_time_zone(None)


def _formatted(source: pl.Expr, form: str, timezone: str) -> pl.Expr:
    if "%z" in form or "%:z" in form:
        return source.str.to_datetime(form, time_unit="us", time_zone="UTC", strict=False).dt.replace_time_zone(None)
    return _in_utc(source.str.to_datetime(form, time_unit="us", strict=False), timezone)


_TIMESTAMP = (
    r"^(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d)(:\d\d)?(?:[.,](\d{1,6})\d*)?"
    r"(?: ?([Zz]|UTC|GMT|[+-]\d\d(?::?[0-5]\d)?)(?: UTC)?)?$"
)
_PLAIN_TIMESTAMP = r"^\d{4}-\d\d-\d\d[T ][0-2]\d:[0-5]\d:[0-5]\d(?:\.\d{1,9})?$"
_MOST_HOURS = 15
"""No place is further from UTC."""


def _timestamps(timezone: str, *, date_only: bool) -> Callable[[pl.Series], pl.Series]:
    """Return what parses ISO 8601 text and what databases write for it, in the time zone of the source or an offset.

    BigQuery ends its times in `` UTC``, Postgres has offsets of hours alone; seconds may lack, and a fraction is cut to
    microseconds. A bare date is taken only where the time of day does not matter.
    """

    def parse(texts: pl.Series) -> pl.Series:
        # What most files hold is parsed at once; the pattern with groups costs ten times as much, and sees the others.
        plain = texts.filter(texts.str.contains(_PLAIN_TIMESTAMP).fill_null(False))
        form = f"%Y-%m-%d{plain[0][10] if len(plain) else 'T'}%H:%M:%S%.f"
        usual = pl.when(pl.col("text").str.contains(_PLAIN_TIMESTAMP)).then("text")
        frame = texts.alias("text").to_frame()
        naive = frame.select(usual.str.to_datetime(form, time_unit="us", strict=False)).to_series()
        moments = naive.to_frame("at").select(_in_utc(pl.col("at"), timezone)).to_series()
        others = (naive.is_null() & texts.is_not_null()).arg_true()
        if len(others):
            moments = moments.scatter(others, _other_timestamps(texts.gather(others), timezone, date_only=date_only))
        return _within_years(moments).alias(texts.name)

    return parse


def _other_timestamps(texts: pl.Series, timezone: str, *, date_only: bool) -> pl.Series:
    parts = texts.alias("text").to_frame().with_columns(pl.col("text").str.extract_groups(_TIMESTAMP).alias("parts"))
    parts = parts.unnest("parts").rename({"1": "date", "2": "clock", "3": "seconds", "4": "fraction", "5": "offset"})
    offset = pl.col("offset")
    parts = parts.with_columns(
        pl.concat_str("date", pl.lit("T"), "clock", pl.col("seconds").fill_null(":00"))
        .add("." + pl.col("fraction").fill_null("0"))
        .str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False)
        .alias("naive"),
        offset.str.slice(1, 2).cast(pl.Int64, strict=False).alias("hours"),
        offset.str.slice(3).str.strip_prefix(":").cast(pl.Int64, strict=False).fill_null(0).alias("minutes"),
    )
    away = pl.col("hours") * 60 + pl.col("minutes")
    away = pl.when(away <= _MOST_HOURS * 60).then(away) * pl.when(offset.str.starts_with("-")).then(-1).otherwise(1)
    shifted = pl.col("naive").cast(pl.Int64) - away * 60_000_000
    moment = (
        pl.when(offset.is_null())
        .then(_in_utc(pl.col("naive"), timezone))
        .when(offset.is_in(["Z", "z", "UTC", "GMT"]))
        .then("naive")
        .otherwise(shifted.cast(pl.Datetime("us")))
    )
    if date_only:
        bare = pl.when(pl.col("text").str.contains(r"^\d{4}-\d\d-\d\d$")).then("text")
        moment = pl.coalesce(moment, bare.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")))
    return parts.select(moment).to_series()


def _bad_schema() -> dict[str, type[pl.DataType]]:
    return {FILE: pl.Int32, ROW: pl.Int64, "reason": pl.String}
