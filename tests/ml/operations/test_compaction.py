"""Old days become files of months: fewer bytes and files, the same rows in every kept state of the lake."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import SecretStr

from ml.foundation.lake import Lake
from ml.foundation.lake_files import CATALOG
from ml.foundation.sealed import DamagedError
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.operations.compaction import compact, rewrite
from ml.operations.housekeeping import clean, tidy
from ml.operations.verify import verify

DAYS = [date(2026, 1, 29) + timedelta(days=number) for number in range(7)]
JANUARY = DAYS[:3]
TABLE = "ml.things"


def fill(lake: Lake) -> None:
    for number, day in enumerate(DAYS):
        lake.replace_days(TABLE, rows(day, number), [day])
    lake.replace_days(TABLE, rows(DAYS[2], 99), [DAYS[2]])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("lake") / "home"
    with Lake(Settings(home=home, threads=1)) as lake:
        fill(lake)
    return home


@pytest.fixture
def lake(built: Path, tmp_path: Path) -> Iterator[Lake]:
    with Lake(Settings(home=shutil.copytree(built, tmp_path / "home"), threads=1, merge_after_days=2)) as lake:
        yield lake


def rows(day: date, seed: int) -> pa.Table:
    dice = random.Random(seed)
    return pa.table({"day": [day] * 200, "user_id": [dice.getrandbits(40) for _ in range(200)]})


def states(lake: Lake, versions: list[int]) -> list[tuple[int, str]]:
    return [lake.content_hash(f"(select * from {TABLE} at (version => {version}))") for version in versions]


def files(lake: Lake, *days: date) -> set[str]:
    return {file.path for file in lake.files.named(tables=[TABLE], days=(days[0], days[-1]))}


@pytest.mark.slow
def test_a_month_that_is_over_is_one_file_and_every_state_reads_as_before(lake: Lake) -> None:
    versions = [lake.snapshot() - back for back in (5, 1, 0)]
    before, size = states(lake, versions), lake.files.bytes()[TABLE]
    assert len(files(lake, *DAYS)) == 7
    assert compact(lake) == 1
    assert states(lake, versions) == before
    assert len(files(lake, *JANUARY)) == 1 and len(files(lake, *DAYS)) == 5, "February is young"
    assert files(lake, DAYS[1]) == files(lake, *JANUARY), "a day is found in the file of its month"
    assert lake.files.bytes()[TABLE] < size
    assert compact(lake) == 0, "what is merged stays as it is"
    assert verify(lake.settings).recorded == 0


def test_a_day_of_a_merged_month_that_is_built_again_is_found_merged_and_frees_what_it_replaced(lake: Lake) -> None:
    compact(lake)
    lake.replace_days(TABLE, rows(DAYS[1], 7), [DAYS[1]])
    kept = states(lake, [lake.snapshot()])
    assert len(files(lake, DAYS[1])) == 3, "its own file, that of its month, and what says which rows that one lost"
    compact(lake)
    [month] = files(lake, *JANUARY)
    path = str(lake.settings.lake_dir / "data" / month)
    packed = lake.connection.execute("select distinct compression from parquet_metadata(?)", [path]).fetchall()
    assert packed == [("ZSTD",)], "what lost rows is written anew before, and leaves the packing of a merge in place"
    assert lake.content_hash(TABLE) == kept[0] and verify(lake.settings).recorded == 0


def test_a_postgres_catalog_is_merged_alike(postgres: Callable[[str], str], tmp_path: Path) -> None:
    url = SecretStr(postgres("compaction"))
    with Lake(Settings(home=tmp_path, threads=1, merge_after_days=2, catalog_url=url)) as lake:
        fill(lake)
        test_a_month_that_is_over_is_one_file_and_every_state_reads_as_before(lake)
        test_a_day_of_a_merged_month_that_is_built_again_is_found_merged_and_frees_what_it_replaced(lake)


def test_a_damaged_day_is_not_carried_into_a_file_with_a_good_hash(lake: Lake) -> None:
    [path] = files(lake, DAYS[0])
    file = lake.settings.lake_dir / "data" / path
    content = bytearray(whole := file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedError, match="was changed"):
        compact(lake)
    assert len(files(lake, *DAYS[1:])) == 6
    file.write_bytes(whole)
    assert compact(lake) == 1


def test_rows_that_were_deleted_leave_their_file(lake: Lake) -> None:
    lake.connection.execute(f"delete from {TABLE} where user_id % 2 = 0")
    size, kept = lake.files.bytes()[TABLE], lake.content_hash(TABLE)
    assert rewrite(lake) == 1 and rewrite(lake) == 0
    lake.connection.execute("call ducklake_expire_snapshots('lake', older_than => now())")
    clean(lake, timedelta(0))
    assert lake.files.bytes()[TABLE] < size and lake.content_hash(TABLE) == kept


def test_tidying_says_what_each_table_had_and_has(lake: Lake) -> None:
    size = lake.files.bytes()[TABLE]
    settings = lake.settings.model_copy(update={"keep_snapshots_days": 0})
    lake.close()
    told = tidy(settings, grace=timedelta(0))
    assert told.tables[TABLE][0] == size > told.tables[TABLE][1]
    on_disk = sum(path.stat().st_size for path in (settings.lake_dir / "data").rglob("*.parquet"))
    assert told.data_bytes[1] == on_disk and told.waiting_files == 0


@pytest.mark.slow
def test_killed_at_any_moment_every_state_reads_as_before_and_the_next_call_goes_on(lake: Lake) -> None:
    settings, versions = lake.settings, [lake.snapshot() - 5, lake.snapshot()]
    before = states(lake, versions)
    code = (
        "import sys; from pathlib import Path; from ml.foundation.lake import Lake\n"
        "from ml.foundation.settings import Settings; from ml.operations.compaction import compact\n"
        "with Lake(Settings(home=Path(sys.argv[1]), threads=1, merge_after_days=2)) as lake:\n"
        "    print('go', flush=True); compact(lake)"
    )
    dice = random.Random(1)
    for _ in range(2):
        command = [sys.executable, "-c", code, str(settings.home)]
        with subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE) as process:
            assert process.stdout and process.stdout.readline() == b"go\n"
            time.sleep(dice.uniform(0, 0.3))
            os.kill(process.pid, signal.SIGKILL)
        assert states(lake, versions) == before
    compact(lake)
    assert states(lake, versions) == before and len(files(lake, *JANUARY)) == 1
    assert verify(settings).recorded == 0
    query = f"select value from {CATALOG}.ducklake_metadata where key = 'parquet_compression'"
    assert lake.connection.execute(query).fetchall() == [("snappy",)], "what is written next is as it always was"
