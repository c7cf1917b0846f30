"""The lake: what its connection loads is checked; a day is found without a look at the others."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from ml.foundation.lake import Lake
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.operations.compaction import compact

DAYS = [date(2026, 1, 1) + timedelta(days=number) for number in range(6)]
QUERIES = (
    "select count(*), min(n), max(n), min(word), max(word), min(day), max(day), sum(x) from ml.things",
    "select count(*), sum(n) from ml.things where n = 33",
    "select count(*), sum(n) from ml.things where n between 15 and 33 and day > date '2026-01-02'",
    "select count(*), sum(n) from ml.things where x < 0.5",
    "select count(*), sum(n) from ml.things where x is null",
    "select count(*), sum(n) from ml.things where x is not null and isnan(x)",
    "select count(*), sum(n) from ml.things where word in ('w3', 'w55')",
    "select count(*), sum(n) from ml.things where word is null or day = date '2026-01-03'",
    "select count(*), sum(n) from ml.things where day in (select unnest([date '2026-01-02', date '2026-01-05']))",
    "select day, count(*), sum(n) from ml.things group by day order by day",
)

PROGRAM = """
import sys
from pathlib import Path
from ml.foundation.lake import Lake
from ml.foundation.settings import PROJECT_ROOT, Settings

settings = Settings(home=Path(sys.argv[1]), threads=1)
for _ in range(2):
    with Lake(settings) as lake:
        setting = lake.connection.execute("select current_setting('allow_unsigned_extensions')").fetchone()
        assert setting == (False,), setting
[file] = Path(sys.argv[2]).rglob("sqlite_scanner.duckdb_extension")
content = bytearray(file.read_bytes())
content[len(content) // 2] ^= 1
other = file.with_suffix('.other')
other.write_bytes(content)
other.replace(file)
try:
    Lake(settings)
except Exception as error:
    print(type(error).__name__, error)
else:
    print("loaded")
"""


@pytest.mark.slow
def test_an_extension_that_changed_since_its_signature_was_checked_is_not_loaded(tmp_path: Path):
    (tmp_path / "user").mkdir()
    environment = {**os.environ, "HOME": str(tmp_path / "user"), "PYTHONPATH": str(PROJECT_ROOT)}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "home"), str(tmp_path / "user")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert "signature" in run.stdout, run.stdout


def rows_of(number: int) -> pa.Table:
    numbers = range(10 * number, 10 * number + 10)
    columns = {
        "day": pa.array([DAYS[number]] * 10, pa.date32()),
        "n": pa.array(numbers, pa.int64()),
        "x": pa.array([None if n % 7 == 0 else float("nan") if n % 11 == 0 else n / 40 for n in numbers], pa.float64()),
        "word": pa.array([None if n % 5 == 0 else f"w{n}" for n in numbers]),
    }
    return pa.table(columns)


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    """A table of six days, a file each, and one that is not partitioned."""
    with Lake(Settings(home=tmp_path, threads=1)) as lake:
        for number, day in enumerate(DAYS):
            lake.replace_days("ml.things", rows_of(number), [day])
        lake.append("ml.notes", rows_of(0), "notes")
        yield lake


def statistics(lake: Lake) -> dict[str, set[str]]:
    catalog = "__ducklake_metadata_lake"
    query = f"""
        select t.table_name, list(distinct c.column_name) from {catalog}.ducklake_file_column_stats
        join {catalog}.ducklake_table t using (table_id) join {catalog}.ducklake_column c using (table_id, column_id)
        group by 1"""
    return {table: set(columns) for table, columns in lake.connection.execute(query).fetchall()}


def files_read(lake: Lake, query: str, *parameters: object) -> int:
    plan = lake.connection.execute(f"explain analyze {query}", parameters).fetchall()[0][1]
    return int(re.findall(r"Total Files Read:\s*(\d+)", plan)[0])


@pytest.mark.slow
def test_without_statistics_every_query_says_the_same_and_a_day_is_still_one_file(lake: Lake) -> None:
    before = [lake.connection.execute(query).fetchall() for query in QUERIES]
    everything = {"day", "n", "x", "word"}
    assert statistics(lake) == {"things": everything, "notes": everything}
    assert lake.trim_statistics() == len(DAYS) * 3 and lake.trim_statistics() == 0
    assert statistics(lake) == {"things": {"day"}, "notes": everything}
    assert repr([lake.connection.execute(query).fetchall() for query in QUERIES]) == repr(before)  # NaN is not NaN
    assert files_read(lake, "select sum(n) from ml.things where day = ?", DAYS[2]) == 1
    # What comes after is as it was: days are replaced, files merged, an older state read.
    seen = lake.snapshot()
    lake.replace_days("ml.things", rows_of(4), DAYS[4:])
    lake.connection.execute("delete from ml.things where n = 12")
    compact(lake)
    assert lake.connection.execute("select count(*), max(n) from ml.things").fetchall() == [(49, 49)]
    with Lake(lake.settings, snapshot=seen) as older:
        assert repr([older.connection.execute(query).fetchall() for query in QUERIES]) == repr(before)


@pytest.mark.slow
def test_chosen_days_are_read_without_opening_the_files_of_others(lake: Lake) -> None:
    chosen = [DAYS[2], DAYS[3]]
    assert files_read(lake, "select sum(n) from ml.things where day in (select unnest(?::date[]))", chosen) == 2
