"""Taking rows out of landing files, in place: every other row stays as it was."""

import codecs
import csv
import io
import os
import re
import sys
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ml.landing.contract import Column
from ml.landing.readers import AS_IS, MAX_UNPACKED, ROW, Reading, ending, json_array, read_file
from ml.landing.unpacking import packed, unpacked

_CODECS = {"UNCOMPRESSED": "none", "LZ4_RAW": "lz4"}
"""Codecs whose names in a file's footer are not those that a writer takes."""
_ZSTD_LEVEL = 3
"""Which a file does not say; polars and DuckDB write it."""


def matching_rows(
    path: Path,
    columns: Mapping[str, Column],
    ids: Mapping[str, AbstractSet[str]],
    max_unpacked: int = MAX_UNPACKED,
    reading: Reading = AS_IS,
) -> set[int]:
    """Return the numbers (from 1) of the rows that name somebody or something.

    Args:
        path: A landing file.
        columns: The contract's columns of the table.
        ids: {column: values}; a row matches if any column has one of its values. A row that cannot be split into
            columns matches if its text has a value as a word of its own.
        max_unpacked: As of ``read_file``.
        reading: As of ``read_file``.

    Raises:
        UnreadableFile: The file is damaged or of an unknown format.
    """
    parsed = read_file(path, {name: columns[name] for name in ids if name in columns}, max_unpacked, reading)
    found: set[int] = set()
    for name, values in ids.items():
        if name in parsed.rows.columns and values:
            wanted = parsed.rows[name].cast(pl.String).is_in(list(values)).fill_null(False)
            found.update(parsed.rows[ROW].filter(wanted).to_list())
    words = word_pattern(set().union(*ids.values()))
    if words and parsed.broken.height:
        found.update(n for n, text in parsed.broken.select(ROW, "content").iter_rows() if words.search(text))
    return found


def word_pattern(values: AbstractSet[str]) -> "re.Pattern[str] | None":
    """Return a pattern that finds any of some values where it is no part of a longer word; None without values."""
    if not values:
        return None
    return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, sorted(values)))})(?![\w-])")


def erase_rows(path: Path, rows: AbstractSet[int], *, parquet: bool = False) -> None:
    """Replace a landing file by one without some rows; a reader sees the whole of one or of the other.

    Args:
        path: A file that ``matching_rows`` has read.
        rows: Numbers of the rows, from 1.
        parquet: It is Parquet, whatever its name says.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.erasing")
    try:
        if parquet or path.name.lower().endswith(".parquet"):
            _erase_parquet(path, rows, scratch)
        else:
            content = unpacked(path)
            match ending(path):
                case ".csv":
                    kept = _without_records(content, rows, ",")
                case ".tsv":
                    kept = _without_records(content, rows, "\t")
                case _:
                    kept = _without_values(content, rows)
            scratch.write_bytes(packed(kept, path))
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _erase_parquet(path: Path, rows: AbstractSet[int], scratch: Path) -> None:
    at = 0
    with (
        pq.ParquetFile(path) as file,
        pq.ParquetWriter(scratch, file.schema_arrow, **_encoded_as(file.metadata)) as writer,
    ):
        for batch in file.iter_batches():
            numbers = range(at + 1, at + batch.num_rows + 1)
            writer.write_batch(batch.filter(pa.array([n not in rows for n in numbers])))
            at += batch.num_rows


def _encoded_as(of: pq.FileMetaData) -> dict[str, Any]:
    """Return how a writer packs columns as a file has them: otherwise the file may become twice as large."""
    groups = [of.row_group(number) for number in range(min(of.num_row_groups, 1))]
    columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    if not columns:
        return {}
    codecs = {c.path_in_schema: _CODECS.get(c.compression, c.compression.lower()) for c in columns}
    return {
        "compression": codecs,
        "compression_level": {path: _ZSTD_LEVEL for path, codec in codecs.items() if codec == "zstd"} or None,
        "use_dictionary": [c.path_in_schema for c in columns if c.has_dictionary_page] or False,
    }


def _without_values(content: bytes, rows: AbstractSet[int]) -> bytes:
    """Drop values of JSON, each on a line of its own or an element of one array."""
    text = content.removeprefix(codecs.BOM_UTF8)
    if text.lstrip().startswith(b"["):
        with duckdb.connect() as connection:
            values = json_array(connection, text.decode(errors="replace"))
        if values is not None:
            kept = [value for number, value in enumerate(values, 1) if number not in rows]
            return ("[" + ",\n".join(kept) + "]\n").encode()
    lines = content.split(b"\n")
    return b"\n".join(line for number, line in enumerate(lines, 1) if number not in rows)


def _without_records(content: bytes, rows: AbstractSet[int], delimiter: str) -> bytes:
    """Drop CSV records; the bytes of the others stay, line breaks within quotes included."""
    text = io.StringIO(content.decode("utf-8", errors="surrogateescape"), newline="")
    kept: list[str] = []
    taken: list[str] = []

    def tapped() -> Iterator[str]:
        for line in text:
            taken.append(line)
            yield line

    csv.field_size_limit(sys.maxsize)
    number = -1  # of the header is 0
    for record in csv.reader(tapped(), delimiter=delimiter):
        number += bool(record)  # empty lines have no number
        if not record or number == 0 or number not in rows:
            kept += taken
        taken.clear()
    return "".join(kept).encode("utf-8", errors="surrogateescape")
