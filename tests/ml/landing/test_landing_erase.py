"""Rows that name somebody go out of a landing file; every other row stays, whatever the format."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml.landing.contract import Column
from ml.landing.erase import erase_rows, matching_rows, word_pattern
from ml.landing.readers import ROW, read_file

COLUMNS = {"user_id": Column(type="string", description="who"), "note": Column(type="string", description="what")}
NAMES = ("rows.parquet", "rows.csv", "rows.csv.gz", "rows.jsonl")
USERS = st.sampled_from(["u1", "u17", "u2", "U1", "u-1", "ü", ""])
NOTES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]) | st.sampled_from('",\n\r;'), max_size=12)


def write(path: Path, rows: list[tuple[str, str]]) -> None:
    if path.name.endswith(".parquet"):
        pl.DataFrame(rows, schema=["user_id", "note"], orient="row").write_parquet(path)
    elif path.name.endswith(".jsonl"):
        lines = [json.dumps({"user_id": user, "note": note}) for user, note in rows]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    else:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows([("user_id", "note"), *rows])
        raw = text.getvalue().encode()
        path.write_bytes(gzip.compress(raw) if path.name.endswith(".gz") else raw)


def content(path: Path) -> list[tuple[str, str]]:
    return read_file(path, COLUMNS).rows.select("user_id", "note").rows()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(USERS, NOTES), min_size=1, max_size=12), user=st.sampled_from(["u1", "ü"]))
def test_the_rows_of_one_user_go_and_all_others_stay(
    name: str, rows: list[tuple[str, str]], user: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    write(path, rows)
    before = content(path)
    found = matching_rows(path, COLUMNS, {"user_id": {user}})
    assert found == {number for number, (who, _) in enumerate(rows, 1) if who == user}
    erase_rows(path, found)
    assert content(path) == [row for row in before if row[0] != user]
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert not matching_rows(path, COLUMNS, {"user_id": {user}})


@pytest.mark.parametrize("packed", [False, True])
def test_broken_rows_and_the_bytes_of_others_stay_as_they_were(packed: bool, tmp_path: Path) -> None:
    path = tmp_path / ("rows.csv.gz" if packed else "rows.csv")
    kept = [b"user_id,note\r\n", b'u2,"two\nlines"\r\n', b"u3\r\n", b"\r\n", b'"u17",\xff\r\n', b"u10,last"]
    gone = [b"u1,first\r\n", b'u1,"of ""u1"""\r\n', b"u1\r\n", b"x,u1,y\r\n"]
    raw = b"".join([kept[0], gone[0], kept[1], gone[1], kept[2], gone[2], kept[3], gone[3], kept[4], kept[5]])
    path.write_bytes(gzip.compress(raw) if packed else raw)
    erase_rows(path, matching_rows(path, COLUMNS, {"user_id": {"u1"}}))
    after = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    assert after == b"".join(kept)


def test_a_broken_json_line_that_names_the_user_goes(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"user_id": "u1"\n{"user_id": "u17"\n\n{"user_id": "u2"}\n[1, "u1"]\n', encoding="utf-8")
    rows = matching_rows(path, COLUMNS, {"user_id": {"u1"}})
    assert rows == {1, 5}
    erase_rows(path, rows)
    assert path.read_text(encoding="utf-8") == '{"user_id": "u17"\n\n{"user_id": "u2"}\n'


def test_row_numbers_of_parquet_hold_across_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    frame = pl.DataFrame({"user_id": [f"u{n % 7}" for n in range(1_000)], "note": [str(n) for n in range(1_000)]})
    frame.write_parquet(path, row_group_size=64)
    erase_rows(path, matching_rows(path, COLUMNS, {"user_id": {"u3"}}))
    after = read_file(path, COLUMNS).rows.drop(ROW)
    assert after.equals(frame.filter(pl.col("user_id") != "u3"))


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["zstd", "snappy", "gzip", "brotli", "lz4", "uncompressed"])
def test_a_parquet_file_keeps_its_codecs_and_its_size(codec: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    names = [f"u{n % 400}" for n in range(20_000)]
    notes = [f"note {n * n}" for n in range(20_000)]
    frame = pl.DataFrame({"user_id": names, "note": notes, "tags": [["a", "b"]] * 20_000})
    frame.write_parquet(path, compression=codec)
    size, before = path.stat().st_size, codecs(path)
    erase_rows(path, matching_rows(path, COLUMNS, {"user_id": {"u7"}}))
    assert codecs(path) == before and path.stat().st_size < 1.05 * size, "another writer, the same packing"
    assert pl.read_parquet(path).equals(frame.filter(pl.col("user_id") != "u7"))


def codecs(path: Path) -> list[str]:
    group = pq.ParquetFile(path).metadata.row_group(0)
    return [group.column(number).compression for number in range(group.num_columns)]


def test_a_word_is_found_alone_and_not_within_another() -> None:
    pattern = word_pattern({"u1", "a.b"})
    assert pattern
    assert pattern.search('{"user": "u1"}') and pattern.search("x,a.b") and not word_pattern(set())
    assert not pattern.search("u17") and not pattern.search("u-u1-x") and not pattern.search("aXb")
