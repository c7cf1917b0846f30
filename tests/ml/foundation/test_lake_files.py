"""A flipped bit in a file of the lake is seen before anybody learns from it, whoever wrote the file."""

import logging
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml.foundation.lake import Lake
from ml.foundation.lake_files import HASHES
from ml.foundation.sealed import DamagedError
from ml.foundation.settings import Settings
from ml.operations.backup import back_up, restore
from ml.operations.compaction import compact
from ml.operations.housekeeping import clean
from ml.operations.verify import verify

DAYS = [date(2026, 1, 1) + timedelta(days=number) for number in range(3)]
FLIPS = 30


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", threads=1)


@pytest.fixture
def lake(settings: Settings) -> Iterator[Lake]:
    with Lake(settings) as lake:
        for day in DAYS:
            lake.replace_days("ml.things", rows(day), [day])
        yield lake


def rows(day: date, seed: int = 0) -> pa.Table:
    dice = random.Random(seed)
    return pa.table({"day": [day] * 500, "value": [dice.random() for _ in range(500)]})


def data(settings: Settings) -> list[Path]:
    return sorted((settings.lake_dir / "data").rglob("*.parquet"))


def flip(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << 4
    path.write_bytes(content)


def hashes(lake: Lake) -> int:
    return lake.connection.execute(f"select count(*) from {HASHES}").fetchall()[0][0]


@pytest.mark.slow
def test_every_flip_is_seen_whether_or_not_the_file_can_be_read(lake: Lake, settings: Settings) -> None:
    """Of thirty flips most are read as other data; the hash sees all of them."""
    assert verify(settings).files == 3
    path, dice, silent = data(settings)[1], random.Random(1), 0
    whole, before = path.read_bytes(), pq.read_table(path)
    for _ in range(FLIPS):
        flip(path, dice.random())
        with pytest.raises(DamagedError, match=f"{path.name} of ml.things was changed"):
            lake.files.check(lake.files.named())
        with suppress(OSError, pa.ArrowException):  # a page that does not unpack is seen anyway
            silent += not pq.read_table(path).equals(before)
        path.write_bytes(whole)
    assert silent > FLIPS / 4, "these would have been learnt from"
    assert verify(settings).recorded == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (Path.unlink, "is missing or has not its"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is missing or has not its"),
        (lambda path: path.write_bytes(b""), "is missing or has not its"),
    ],
)
def test_a_lost_or_cut_file_is_named(
    lake: Lake, settings: Settings, damage: Callable[[Path], object], told: str
) -> None:
    damage(data(settings)[0])
    with pytest.raises(DamagedError, match=told):
        verify(settings)


@pytest.mark.slow
def test_only_a_commits_own_files_are_read_to_record_their_hashes(lake: Lake, settings: Settings, monkeypatch) -> None:
    read: list[str] = []
    sha256 = type(lake.files)._sha256
    monkeypatch.setattr(type(lake.files), "_sha256", lambda self, file: read.append(file.path) or sha256(self, file))
    lake.replace_days("ml.things", rows(DAYS[0], 1), DAYS[:1])
    assert len(read) == 1
    lake.append("ml.notes", rows(DAYS[0]), "notes")
    assert len(read) == 2 and hashes(lake) == 5


@pytest.mark.slow
def test_files_of_version_0_1_are_recorded_once_and_that_is_said(lake: Lake, settings: Settings, caplog) -> None:
    lake.connection.execute(f"drop table {HASHES}")
    with caplog.at_level(logging.WARNING), Lake(settings) as fresh:
        assert fresh.files.check(fresh.files.named(), record=False).recorded == 0
        assert not caplog.records
        assert verify(settings).recorded == 3 and "3 files had no recorded hash" in caplog.text
        assert verify(settings).recorded == 0
    flip(data(settings)[0], 0.5)
    with pytest.raises(DamagedError):
        verify(settings)


@pytest.mark.slow
def test_a_merge_refuses_a_damaged_file_and_hands_the_hashes_on(lake: Lake, settings: Settings) -> None:
    for seed in range(2):  # small files of one day, which a merge takes together
        lake.append("ml.things", rows(DAYS[0], seed), "more")
    [_, small, _] = [file for file in lake.files.named(days=(DAYS[0], DAYS[0]))]
    path = settings.lake_dir / "data" / small.path
    whole = path.read_bytes()
    flip(path, 0.4)
    with pytest.raises(DamagedError, match="was changed"):
        compact(lake)
    path.write_bytes(whole)
    before = lake.content_hash("lake.ml.things")
    assert compact(lake) == 1
    assert lake.content_hash("lake.ml.things") == before and verify(settings).recorded == 0
    lake.connection.execute("call ducklake_expire_snapshots('lake', older_than => now() - interval 0 days)")
    clean(lake, timedelta(0))
    assert hashes(lake) == len(lake.files.named(every=True)) == len(data(settings))


@pytest.mark.slow
def test_hashes_are_in_the_copy_of_a_catalog_and_of_the_state_that_it_holds(
    lake: Lake, settings: Settings, tmp_path: Path
) -> None:
    copy = back_up(settings, tmp_path / "copies")
    lake.replace_days("ml.things", rows(DAYS[0], 1), DAYS[:1])
    lake.close()
    restore(settings, copy)
    assert verify(settings).recorded == 0
    with Lake(settings) as again:  # its next file takes the id that the lost state gave to another one
        again.replace_days("ml.things", rows(DAYS[1], 2), [DAYS[1]])
        assert verify(settings).recorded == 0
        assert hashes(again) == 4


@pytest.mark.slow
def test_a_state_of_the_past_and_a_home_that_was_moved_are_read_too(
    lake: Lake, settings: Settings, tmp_path: Path
) -> None:
    past = lake.snapshot()
    lake.replace_days("ml.things", rows(DAYS[0], 1), DAYS[:1])
    lake.close()
    moved = settings.model_copy(update={"home": shutil.copytree(settings.home, tmp_path / "moved")})
    with Lake(moved, snapshot=past) as then:
        files = then.files.named(at=past, tables=["ml.things"], days=(DAYS[0], DAYS[1]))
        assert then.files.check(files, record=False).files == 2
        with Lake(moved) as present:
            assert {f.id for f in files} != {f.id for f in present.files.named(days=(DAYS[0], DAYS[1]))}
        flip(moved.lake_dir / "data" / files[0].path, 0.5)
        with pytest.raises(DamagedError):
            then.files.check(files, record=False)


@pytest.mark.slow
def test_each_file_is_read_in_one_of_the_nights(lake: Lake, settings: Settings) -> None:
    few = settings.model_copy(update={"verify_nights": 2})
    assert sum(verify(few, night=day).files for day in DAYS[:2]) == 3
    flip(data(settings)[2], 0.5)
    seen = 0
    for night in DAYS[:2]:
        try:
            verify(few, night=night)
        except DamagedError:
            seen += 1
    assert seen == 1


@pytest.mark.slow
def test_files_in_a_bucket_are_hashed_and_compared_there(s3: str, tmp_path: Path) -> None:
    import obstore
    from obstore.store import from_url

    settings = Settings(home=tmp_path / "home", lake_url=f"{s3}/hashed", threads=1)
    with Lake(settings) as lake:
        for day in DAYS:
            lake.replace_days("ml.things", rows(day), [day])
    assert verify(settings).files == 3
    store = from_url(f"{s3}/hashed")
    [first, second, _] = [item["path"] for page in obstore.list(store) for item in page]
    content = bytearray(obstore.get(store, first).bytes())
    content[len(content) // 2] ^= 1
    obstore.put(store, first, bytes(content))
    obstore.delete(store, second)
    with pytest.raises(DamagedError, match="2 of 3 files"):
        verify(settings)
