"""Reading landing files, column by column: Parquet, CSV, tab-separated values, JSON lines or one JSON array.

A file that cannot be read raises ``UnreadableFile``. A row that is broken inside a readable file (a ragged CSV row,
an invalid JSON line, bytes that are not UTF-8) is handed back with its reason; every other row is counted once in
``rows``. Text files give strings; types are the business of ``ml.landing.validate``.
"""

import codecs
import csv
import json
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import duckdb
import polars as pl

from ml.landing.contract import Column, LandingError, wrong_type
from ml.landing.csv_rows import OpenQuote, split_rows
from ml.landing.entries import oddity, shown
from ml.landing.parquet import read_columns
from ml.landing.unpacking import PACKED, UnpacksTooFar, most_bytes, unpacked

ROW = "__row"
"""Column with the 1-based number of the record in its file (of the line, for JSON lines)."""
BROKEN_SCHEMA = {ROW: pl.Int64, "reason": pl.String, "content": pl.String}
_TEXT = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
SUFFIXES = (".parquet", *(text + pack for text in _TEXT for pack in ("", *PACKED)))
NOT_UTF8 = "not UTF-8"
MAX_UNPACKED = 512 << 20
"""Default of ``max_unpacked_mb``, in bytes."""
_NO_STRINGS = ["OBJECT", "ARRAY", "BOOLEAN", "DOUBLE"]

MARK = "\U0010fffe"
"""A noncharacter that stands where bytes could not be decoded."""
_ERRORS = "crossfade-mark"
codecs.register_error(_ERRORS, lambda error: (MARK, error.end))  # type: ignore[attr-defined]
_JSON_LINES = 65_536
_TOLD = 500
"""Characters of a parser's own message; some repeat what they read."""


class UnreadableFile(LandingError):
    """A landing file that cannot be read at all."""

    def __init__(self, path: Path | str, reason: object) -> None:
        super().__init__(f"cannot read {shown(path)}: {reason}")
        self.path, self.reason = path, reason


class Parsed(NamedTuple):
    """Content of one file."""

    rows: pl.DataFrame
    """Readable rows with the columns of the file that were asked for, and ``ROW``."""
    broken: pl.DataFrame
    """Rows that could not be split into columns: ``BROKEN_SCHEMA``."""
    columns: tuple[str, ...]
    """All columns that the file has."""


class Reading(NamedTuple):
    """How the files of a table are read."""

    nulls: tuple[str, ...] = ()
    """Words of text files that stand for nothing; an empty text always does."""
    renames: Mapping[str, str] = {}
    """{name in the files: name in the contract}."""

    def columns(self, found: Sequence[str], wanted: Iterable[str]) -> list[str]:
        """Return the contract's names of a file's columns, in capitals or small letters; others stay as they are."""
        wanted = set(wanted)
        renames = {name.lower(): to for name, to in self.renames.items()}
        names: list[str] = []
        for name in found:
            to = renames.get(name.lower(), name)
            names.append(to.lower() if to not in wanted and to.lower() in wanted else to)
        return names


AS_IS = Reading()


@contextmanager
def blamed_on(path: Path | str) -> Generator[None]:
    """Turn whatever foreign bytes make a parser raise, a panic of Rust included, into ``UnreadableFile``.

    Interrupts pass: a panic is the only ``BaseException`` that is caught.
    """
    try:
        yield
    except (LandingError, FileNotFoundError):
        raise
    except UnpacksTooFar as error:
        raise UnreadableFile(path, error) from error
    except (Exception, pl.exceptions.PanicException) as error:
        told = str(error).strip()[:_TOLD] or type(error).__name__
        raise UnreadableFile(path, f"{told}; write it again, or move it out of the landing zone") from error


def read_file(
    path: Path, wanted: Mapping[str, Column], max_unpacked: int = MAX_UNPACKED, reading: Reading = AS_IS
) -> Parsed:
    """Read the columns ``wanted`` (those that the file has) of one landing file.

    Args:
        path: File of one of ``SUFFIXES``.
        wanted: Columns of the contract by name.
        max_unpacked: Bytes that a compressed file may unpack to, unless it is large itself.
        reading: Null words, and names that the columns have in the file.

    Raises:
        UnreadableFile: It is no file, its format is unknown, it is damaged, or it unpacks to too much.
    """
    if reason := oddity(path):
        raise UnreadableFile(path, reason)
    reader = _reader(path)
    with blamed_on(path):
        return reader(path, wanted, most_bytes(path, max_unpacked), reading)


def ending(path: Path) -> str:
    """Return the ending that says what a file holds: small, and without that of its compression."""
    name = path.name.lower()
    for pack in PACKED:
        name = name.removesuffix(pack)
    return Path(name).suffix


def _reader(path: Path) -> Callable[[Path, Mapping[str, Column], int, Reading], Parsed]:
    if path.name.lower().endswith(".parquet"):
        return _read_parquet
    match ending(path):
        case ".csv" | ".tsv":
            return _read_csv
        case ".jsonl" | ".ndjson" | ".json":
            return _read_json
        case _:
            packs = " or ".join(PACKED)
            raise UnreadableFile(
                path, f"unknown format; use .parquet, {', '.join(_TEXT)}, the last five also with {packs} at the end"
            )


def _read_parquet(path: Path, wanted: Mapping[str, Column], limit: int, reading: Reading) -> Parsed:
    marked: set[bool] = set()

    def decode(raw: bytes) -> str:
        marked.add(True)
        return raw.decode(errors=_ERRORS)

    def named(names: Sequence[str]) -> list[str]:
        columns = reading.columns(names, wanted)
        _unique(path, columns)
        return columns

    columns, found = read_columns(path, wanted, limit, named, decode)
    frame = found.with_row_index(ROW, offset=1).cast({ROW: pl.Int64})
    return _without_marked(frame, columns) if marked else Parsed(frame, _no_broken(), columns)


def _read_csv(path: Path, wanted: Mapping[str, Column], limit: int, reading: Reading) -> Parsed:
    delimiter = "\t" if ending(path) == ".tsv" else ","
    text, marked = _text(path, limit)
    header_end = text.find(b"\n")
    header_line = (text if header_end < 0 else text[:header_end]).decode().rstrip("\r")
    if not header_line:
        if text.strip():
            raise UnreadableFile(path, "the first line is empty; it must name the columns")
        return Parsed(_no_rows(wanted), _no_broken(), tuple(wanted))
    names = next(csv.reader([header_line], delimiter=delimiter))
    columns = tuple(reading.columns(names, wanted))
    _unique(path, columns)
    present = [name for name in wanted if name in columns] or list(columns[:1])
    chosen = [names[columns.index(name)] for name in present]
    try:
        frame, ragged = split_rows(text, delimiter, names, chosen, reading.nulls)
    except OpenQuote as error:
        raise UnreadableFile(path, error) from error
    frame.columns = present
    bad = pl.DataFrame(ragged, schema=BROKEN_SCHEMA, orient="row")
    bad = bad.with_columns(
        reason=pl.when(pl.col("content").str.contains(MARK, literal=True)).then(pl.lit(NOT_UTF8)).otherwise("reason"),
    )
    numbers = pl.int_range(1, frame.height + bad.height + 1, eager=True, dtype=pl.Int64)
    frame = frame.with_columns(numbers.filter(~numbers.is_in(bad[ROW].implode())).alias(ROW))
    return _without_marked(frame, columns, bad) if marked else Parsed(frame, bad, columns)


def _read_json(path: Path, wanted: Mapping[str, Column], limit: int, reading: Reading) -> Parsed:
    text, marked = _text(path, limit)
    rows: list[pl.DataFrame] = []
    broken, columns = [_no_broken()], set[str]()
    with duckdb.connect() as connection:
        lines = _json_values(connection, path, text)
        if lines.is_empty():
            return Parsed(_no_rows(wanted), _no_broken(), tuple(wanted))
        for part in lines.iter_slices(_JSON_LINES):
            part_rows, part_broken, keys = _parse_json(connection, path, part, wanted, reading)
            rows.append(part_rows)
            broken.append(part_broken)
            columns |= keys
    # Rows of a slice that lacks a column get nulls for it; without any good line nothing is known of the columns.
    found = pl.concat(rows, how="diagonal")
    names = tuple(sorted(columns)) if found.height else tuple(wanted)
    return _without_marked(found, names, pl.concat(broken)) if marked else Parsed(found, pl.concat(broken), names)


def json_array(connection: duckdb.DuckDBPyConnection, text: str) -> list[str] | None:
    """Return the elements of a text that is one JSON array, each as its own text; None for any other text."""
    if not text.lstrip().startswith("["):
        return None
    [(kind,)] = connection.execute("select case when json_valid($1) then json_type($1) end", [text]).fetchall()
    if kind != "ARRAY":
        return None
    values = connection.execute("select unnest(from_json($1, '[\"JSON\"]'))", [text]).fetchall()
    return [value if value is not None else "null" for (value,) in values]


def _json_values(connection: duckdb.DuckDBPyConnection, path: Path, text: bytes) -> pl.DataFrame:
    """Return the values of a file, one a line or elements of one array, with their numbers."""
    values = json_array(connection, text.decode()) if text.lstrip().startswith(b"[") else None
    if values is not None:
        lines = pl.DataFrame({"content": values}, schema={"content": pl.String})
    elif text:
        lines = pl.read_lines(text, name="content")
    else:
        lines = pl.DataFrame(schema={"content": pl.String})
    lines = lines.with_row_index(ROW, offset=1).cast({ROW: pl.Int64})
    return lines.filter(pl.col("content").str.strip_chars() != "")


def _parse_json(
    connection: duckdb.DuckDBPyConnection, path: Path, lines: pl.DataFrame, wanted: Mapping[str, Column], how: Reading
) -> tuple[pl.DataFrame, pl.DataFrame, set[str]]:
    """Split lines of JSON into rows of text, broken rows, and the keys that they have, as the contract names them."""
    connection.register("lines", lines)
    parsed = connection.execute(
        f"""
        select
            {ROW}, content,
            case
                when not json_valid(content)
                    then case when contains(content, '{MARK}') then '{NOT_UTF8}' else 'invalid JSON' end
                when json_type(content) <> 'OBJECT' then 'JSON line is no object'
                when len(list_distinct(json_keys(content))) < len(json_keys(content)) then 'a key stands twice in it'
            end as reason
        from lines
        """
    ).pl()
    good = parsed.filter(pl.col("reason").is_null()).select(ROW, "content")
    connection.register("good", good)
    shapes = connection.execute("select distinct json_keys(content) from good").fetchall()
    keys = sorted({key for (shape,) in shapes for key in shape})
    names = how.columns(keys, wanted)
    _unique(path, names)
    actual = {name: key for key, name in zip(keys, names, strict=True) if name in wanted}
    present = [name for name in wanted if name in actual]
    # Text tells a number from a word, but not a string from an object: that only the JSON type knows.
    strings = [name for name in present if wanted[name].kind == "string"]
    shape = json.dumps({actual[name]: "VARCHAR" for name in present}).replace("'", "''")
    values = f"unnest(json_transform(content, '{shape}')), " if present else ""
    paths = [f'$."{actual[name]}"' for name in strings]
    told = connection.execute(
        f"""
        select {values} {ROW}, list_has_any(json_type(content, $paths::varchar[]), {_NO_STRINGS}) as __odd
        from good order by {ROW}
        """,
        {"paths": paths},
    )
    rows = told.pl().rename({actual[name]: name for name in present})
    if how.nulls and present:
        rows = rows.with_columns(pl.when(~pl.col(present).is_in(how.nulls)).then(pl.col(present)).name.keep())
    wrong = rows.filter("__odd").select(ROW).join(good, on=ROW)
    if wrong.height:
        connection.register("wrong", wrong)
        first = " ".join(
            f"when json_type(content, $p{n}) in {tuple(_NO_STRINGS)} then $r{n}" for n in range(len(strings))
        )
        values = {f"p{n}": path for n, path in enumerate(paths)}
        values |= {f"r{n}": wrong_type(name, wanted[name]) for n, name in enumerate(strings)}
        query = f"select {ROW}, case {first} end as reason, content from wrong"
        wrong = connection.execute(query, values).pl()
    else:
        wrong = _no_broken()
    broken = [
        parsed.filter(pl.col("reason").is_not_null()).select(*BROKEN_SCHEMA),
        wrong,
    ]
    return rows.join(wrong, on=ROW, how="anti").drop("__odd"), pl.concat(broken), set(names)


def _text(path: Path, limit: int) -> tuple[bytes, bool]:
    """Return the file's UTF-8 bytes, undecodable ones replaced by the mark, and whether there were any."""
    raw = unpacked(path, limit)
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UnreadableFile(path, "it is UTF-16; UTF-8 is needed")
    raw = raw.removeprefix(codecs.BOM_UTF8)
    try:
        raw.decode()
    except UnicodeDecodeError:
        return raw.decode(errors=_ERRORS).encode(), True
    return raw, False


def _without_marked(frame: pl.DataFrame, columns: tuple[str, ...], broken: pl.DataFrame | None = None) -> Parsed:
    """Move the rows that hold the mark from ``frame`` to ``broken``."""
    strings = [name for name, dtype in frame.schema.items() if dtype == pl.String]
    found = [pl.when(pl.col(name).str.contains(MARK, literal=True)).then(pl.lit(name)) for name in strings]
    marked = frame.select(pl.coalesce(*found, pl.lit(None, pl.String)).alias("column")).to_series()
    bad = as_json(frame.filter(marked.is_not_null()))
    bad = bad.select(ROW, (f"{NOT_UTF8}: " + marked.drop_nulls()).alias("reason"), "content")
    return Parsed(frame.filter(marked.is_null()), pl.concat([_no_broken() if broken is None else broken, bad]), columns)


def as_json(rows: pl.DataFrame) -> pl.DataFrame:
    """Return ``ROW`` and ``content``: the other columns of a row as they were read, as JSON."""
    # Bytes show a value that no type of a column takes (ml.landing.parquet); JSON has none.
    texts = rows.with_columns(pl.col(pl.Binary).cast(pl.String))
    return texts.select(ROW, pl.struct(pl.exclude(ROW)).struct.json_encode().alias("content"))


def _unique(path: Path, columns: Sequence[str]) -> None:
    if twice := next((name for name, times in Counter(columns).items() if times > 1), None):
        raise UnreadableFile(path, f"column {twice!r} stands twice in it")


def _no_rows(columns: Iterable[str]) -> pl.DataFrame:
    return pl.DataFrame(schema={name: pl.String for name in columns} | {ROW: pl.Int64})


def _no_broken() -> pl.DataFrame:
    return pl.DataFrame(schema=BROKEN_SCHEMA)
