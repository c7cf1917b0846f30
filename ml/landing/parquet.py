"""Columns of Parquet files, as Arrow columns of the few types that landing judges.

Values that the judging libraries cannot hold would end the process or change in silence: a time beyond the year 9999, a
struct, text that is no UTF-8. They are made harmless here, in the column that has them: as text or bytes that show the
value, so that each row is refused for itself and its quarantine says what stood there.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types
from pyarrow.compute import call_function as _call

from ml.landing.contract import Column
from ml.landing.unpacking import UnpacksTooFar

_FIRST_ROWS, _MOST_ROWS, _STEP = 256, 8_192, 64 << 20
"""Rows that are unpacked to see how wide they are; rows, and about as many bytes, between two looks at the sum."""
_PER_DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}
_EPOCH = date(1970, 1, 1)
_FIRST, _END = (date(1, 1, 1) - _EPOCH).days, (date(9999, 12, 31) - _EPOCH).days + 1

Decode = Callable[[bytes], str]
Named = Callable[[Sequence[str]], list[str]]


def read_columns(
    path: Path, wanted: Mapping[str, Column], limit: int, named: Named, decode: Decode
) -> tuple[tuple[str, ...], pl.DataFrame]:
    """Read columns of one file.

    Args:
        path: The file.
        wanted: Columns of the contract by name; those that the file lacks are left out.
        limit: Bytes that the columns may take in memory.
        named: Gives the contract's names of the file's columns.
        decode: Makes text of bytes, whatever they are.

    Returns:
        All columns that the file has, and the wanted ones.

    Raises:
        UnpacksTooFar: The columns take more than ``limit``.
        ValueError: The file holds another number of rows than it says, or a wanted column twice.
    """
    with pq.ParquetFile(path) as file:
        footer, texts = file.metadata, _texts(file, limit)
    with pq.ParquetFile(path, metadata=footer, coerce_int96_timestamp_unit="us", read_dictionary=texts) as file:
        actual = file.schema_arrow.names
        names = tuple(named(actual))
        present = {name: actual[names.index(name)] for name in wanted if name in names}
        if not present:
            return names, pl.DataFrame()
        table = _unpacked(file, list(present.values()), limit).rename_columns(list(present))
        schema = file.schema
        old = {schema.column(i).path for i in range(len(schema)) if schema.column(i).physical_type == "INT96"}
    ancient = {name: of for name, of in present.items() if of in old}
    seconds = _seconds(path, ancient, limit) if ancient else {}
    plain = {name: _plain(table[name], wanted[name], seconds.get(name), decode) for name in present}
    for name, column in plain.items():
        if (
            wanted[name].kind != "timestamp"
            and types.is_temporal(table[name].type)
            and types.is_large_string(column.type)
        ):
            plain[name] = column.cast(pa.large_binary())  # the text of a time is no id
    return names, pl.DataFrame(pa.table(plain))


def _texts(file: pq.ParquetFile, limit: int) -> list[str]:
    """Return the paths of columns of text, also within lists; what many rows have is kept once until it is counted.

    Raises:
        UnpacksTooFar: Lists have so many values, of which a few bytes can stand for any number.
    """
    leaves = [file.schema.column(i) for i in range(len(file.schema))]
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    for i, leaf in enumerate(leaves):
        if leaf.max_repetition_level and 4 * sum(group.column(i).num_values for group in groups) > limit:
            raise UnpacksTooFar(limit)
    return [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY" and leaf.logical_type.type != "DECIMAL"]


def _size(array: pa.Array) -> int:
    """Return the bytes of an array, each word of a dictionary as often as it stands there."""
    kind = array.type
    if types.is_dictionary(kind):
        lengths = _call("binary_length", [array.dictionary])
        return array.indices.nbytes + (_call("sum", [lengths.take(array.indices).cast(pa.int64())]).as_py() or 0)
    if types.is_struct(kind):
        return sum(map(_size, array.flatten()))
    if types.is_map(kind):
        return _size(array.keys) + _size(array.items)
    nested = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return 8 * len(array) + _size(array.flatten()) if nested else array.nbytes


def _unpacked(file: pq.ParquetFile, names: list[str], limit: int) -> pa.Table:
    first = next(file.iter_batches(_FIRST_ROWS, columns=names), None)
    width = sum(map(_size, first.columns)) // first.num_rows + 1 if first else 1
    rows = min(max(_STEP // width, 1), _MOST_ROWS)
    batches, size = [], 0
    for batch in file.iter_batches(rows, columns=names):
        size += sum(map(_size, batch.columns))
        if size > limit:
            raise UnpacksTooFar(limit)
        batches.append(batch)
    table = pa.Table.from_batches(batches) if batches else file.schema_arrow.empty_table()
    if table.num_rows != file.metadata.num_rows:
        raise ValueError(f"it says that it has {file.metadata.num_rows:,} rows and holds {table.num_rows:,}")
    return table.select(names)


def _seconds(path: Path, names: Mapping[str, str], limit: int) -> dict[str, pa.ChunkedArray]:
    """Return the seconds of INT96 times, which span millions of years; their microseconds wrap around in 64 bits."""
    with pq.ParquetFile(path, coerce_int96_timestamp_unit="s") as file:
        table = _unpacked(file, list(names.values()), limit)
    return {name: table[of].cast(pa.timestamp("s")) for name, of in names.items()}


def _plain(column: pa.ChunkedArray, wanted: Column, seconds: pa.ChunkedArray | None, decode: Decode) -> pa.ChunkedArray:
    if isinstance(column.type, pa.UuidType):
        return _uuid_text(column)
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.cast(column.type.storage_type)
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if _is_text(kind):
        return _text(column, decode)
    if types.is_timestamp(kind):
        # A time with a zone is stored in UTC; the name of the zone, which may be of a place that nobody knows, goes.
        naive = _within_years(column.cast(pa.timestamp(kind.unit)), seconds)
        return _of_utc(naive) if kind.tz is not None else naive
    if types.is_date32(kind):
        return _within_years(column, None)
    if types.is_float16(kind):
        return column.cast(pa.float32())
    if types.is_decimal(kind):
        return _digits(column, wanted)
    number = types.is_integer(kind) or types.is_floating(kind)
    if number or types.is_null(kind) or types.is_boolean(kind) or _is_vector(kind):
        return column
    return _shown(column)


def _uuid_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return UUIDs as their usual text: small letters, with hyphens."""
    packed = pl.Series(column.cast(pa.binary(16)).cast(pa.large_binary()), dtype=pl.Binary).bin.encode("hex")
    parts = [packed.str.slice(start, length) for start, length in ((0, 8), (8, 4), (12, 4), (16, 4), (20, 12))]
    text = pl.select(pl.concat_str(*map(pl.lit, parts), separator="-")).to_series()
    return pa.chunked_array([text.to_arrow().cast(pa.large_string())])


def _digits(column: pa.ChunkedArray, wanted: Column) -> pa.ChunkedArray:
    """Return decimals, exact as they are: whole ones as numbers of 64 bits where they all fit, else as text."""
    if wanted.kind == "float64":
        return column.cast(pa.float64())
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid:
        text = _call("cast", [column], pc.CastOptions.safe(pa.string()))
        return _call("replace_substring_regex", [text], pc.ReplaceSubstringOptions(r"\.0*$", "")).cast(
            pa.large_string()
        )


def _is_text(kind: pa.DataType) -> bool:
    text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    raw = types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
    return text or raw


def _is_vector(kind: pa.DataType) -> bool:
    if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
        return False
    inner = kind.value_type
    return types.is_integer(inner) or types.is_float32(inner) or types.is_float64(inner) or types.is_null(inner)


def _text(column: pa.ChunkedArray, decode: Decode) -> pa.ChunkedArray:
    """Return text, whether or not the file says that its bytes are some."""
    raw = column.cast(pa.large_binary())
    try:
        return raw.cast(pa.large_string())
    except pa.ArrowInvalid:
        decoded = [None if value is None else decode(value) for value in raw.to_pylist()]
        return pa.chunked_array([pa.array(decoded, pa.large_string())])


def _within_years(column: pa.ChunkedArray, seconds: pa.ChunkedArray | None) -> pa.ChunkedArray:
    """Return times or days as they are, or all as text if one lies outside the years 1 to 9999.

    Args:
        column: Times without a zone, or days.
        seconds: The same in seconds, of INT96, whose microseconds wrap around.
    """
    counted = column if seconds is None else seconds
    day = types.is_date32(counted.type)
    unit = "days" if day else counted.type.unit
    per_day = 1 if day else _PER_DAY[unit]
    number = counted.cast(pa.int32()).cast(pa.int64()) if day else counted.cast(pa.int64())
    # The last numbers that there are stand for no time: DuckDB's infinity, "never" of Java.
    most = 2**31 - 1 if day else 2**63 - 1
    ends = _call("is_in", [number], pc.SetLookupOptions(pa.array([most, -most, -most - 1], pa.int64())))
    inside = _inside(number, _FIRST * per_day, _END * per_day - 1)
    inside = _call("and_not", [inside, ends])
    if _call("all", [inside]).as_py() is not False:
        return column.cast(pa.timestamp("ms")) if column.type == pa.timestamp("s") else column
    readable = _call("if_else", [inside, column, pa.scalar(None, column.type)]).cast(pa.string())
    odd = [number.cast(pa.string()), pa.scalar(f"{unit} since 1970-01-01"), pa.scalar(" ")]
    told = _call("if_else", [ends, pa.scalar("infinity"), _call("binary_join_element_wise", odd)])
    return _call("coalesce", [readable, told]).cast(pa.large_string())


def _of_utc(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Say of times, or of what ``_within_years`` made of them, that they are in UTC."""
    if types.is_timestamp(column.type):
        return column.cast(pa.timestamp(column.type.unit, "UTC"))
    return _call("replace_substring_regex", [column], pc.ReplaceSubstringOptions(r"^(\d{4}-.*:.*)$", r"\1Z"))


def _inside(number: pa.ChunkedArray, first: int, last: int) -> pa.ChunkedArray:
    """Compare with bounds, which for nanoseconds are wider than 64 bits."""
    low, high = pa.scalar(max(first, -(2**63)), pa.int64()), pa.scalar(min(last, 2**63 - 1), pa.int64())
    return _call("and", [_call("greater_equal", [number, low]), _call("less_equal", [number, high])])


def _shown(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return values of a type that no column of the contract takes as bytes that show them; none takes bytes either."""
    try:
        return column.cast(pa.large_string()).cast(pa.large_binary())
    except pa.ArrowException:
        told = [_told(value) for chunk in column.chunks for value in chunk]
        return pa.chunked_array([pa.array(told, pa.large_binary())])


def _told(value: pa.Scalar) -> bytes | None:
    if not value.is_valid:
        return None
    try:
        return str(value.as_py()).encode(errors="backslashreplace")
    except (ValueError, OverflowError, pa.ArrowException):
        return f"a value of type {value.type}".encode()
