"""An id is found in whatever form a file has it, a person of a similar name is not, and what is closed is told of."""

import gzip
import json
import sqlite3
import struct
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml.foundation.ids import id63
from ml.operations.traces import Traces

USER, ACCOUNT, SHOWN = "müller-7", "card77", "e4-480"
NUMBER = id63(USER)


@pytest.fixture(scope="module")
def traces() -> Traces:
    return Traces({"the id": {USER}, "an account": {ACCOUNT}}, {"an exposure": {SHOWN}}, 1 << 20)


def _database(path: Path, value: object) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("create table t (x)")
        database.execute("insert into t values (?)", [value])
        database.commit()


def _parquet(path: Path, values: pa.Array) -> None:
    pq.write_table(pa.table({"x": values, "y": [0.5] * len(values)}), path, compression="zstd")


WRITERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (lambda path: path.write_text(f"no row of {USER}.", encoding="utf-8"), "the id"),
    "escaped": (lambda path: path.write_text(json.dumps({"u": USER}), encoding="utf-8"), "the id"),
    "decimal": (lambda path: path.write_text(f"user {NUMBER}", encoding="utf-8"), "hash of the id"),
    "gzip": (lambda path: path.write_bytes(gzip.compress(f"a,{ACCOUNT}".encode())), "an account"),
    "zstd": (lambda path: path.write_bytes(pa.compress(SHOWN.encode(), "zstd", asbytes=True)), "an exposure"),
    "little": (lambda path: path.write_bytes(b"\0\1\2" + struct.pack("<q", NUMBER) + b"\0"), "hash of the id"),
    "database": (lambda path: _database(path, NUMBER), "hash of the id"),
    "database of text": (lambda path: _database(path, f'{{"x": "{ACCOUNT}"}}'), "an account"),
    "parquet": (lambda path: _parquet(path, pa.array(["a", USER])), "the id in column x"),
    "dictionary": (lambda path: _parquet(path, pa.array(["a", USER]).dictionary_encode()), "the id in column x"),
    "longer text": (lambda path: _parquet(path, pa.array([f'{{"u": "{ACCOUNT}"}}'])), "an account in column x"),
    "numbers": (lambda path: _parquet(path, pa.array([1, id63(SHOWN)])), "hash of an exposure in column x"),
    "lists": (lambda path: _parquet(path, pa.array([[], [1, NUMBER]])), "hash of the id in column x"),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_an_id_is_found_in_every_form(traces: Traces, tmp_path: Path, kind: str) -> None:
    write, wanted = WRITERS[kind]
    write(tmp_path / "file")
    assert traces.in_file(tmp_path / "file") == (wanted,)


def test_others_are_not_taken_for_the_person(traces: Traces, tmp_path: Path) -> None:
    text = tmp_path / "others.txt"
    text.write_text(f"{USER}7 x{USER} {USER}-1 card777 e4-4801 {NUMBER // 10}", encoding="utf-8")
    _parquet(tmp_path / "others.parquet", pa.array([f"{USER}7", "card77-", "e4-4801", None]))
    (tmp_path / "empty").touch()
    assert list(traces.in_folder(tmp_path)) == []


def test_a_short_number_counts_where_it_is_quoted_alone(tmp_path: Path) -> None:
    traces = Traces({"the id": {"17"}}, {}, 1 << 20)
    (tmp_path / "counts.json").write_text('{"rows": 17}', encoding="utf-8")
    (tmp_path / "ids.json").write_text('{"user": "17"}', encoding="utf-8")
    assert [path.name for path, _ in traces.in_folder(tmp_path)] == ["ids.json"]


def test_what_cannot_be_looked_into_is_told_and_what_is_skipped_is_not(traces: Traces, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "old.zip", "w") as archive:
        archive.writestr("rows.csv", USER)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(b"0" * (3 << 20)))
    (tmp_path / f"{ACCOUNT}.txt").write_text("nothing", encoding="utf-8")
    found = {path.name: holds for path, holds in traces.in_folder(tmp_path)}
    assert found.pop(f"{ACCOUNT}.txt") == ("an account in its name",)
    assert found.keys() == {"old.zip", "broken.parquet", "bomb.gz"}
    assert all(hold.startswith("cannot be told: ") for [hold] in found.values())
    assert not list(traces.in_folder(tmp_path, {tmp_path / name for name in (*found, f"{ACCOUNT}.txt")}))
    inner = tmp_path / "aside"
    inner.mkdir()
    (inner / "x").write_text(USER, encoding="utf-8")
    assert inner / "x" in dict(traces.in_folder(tmp_path)) and inner / "x" not in dict(
        traces.in_folder(tmp_path, {inner})
    )
