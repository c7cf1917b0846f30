"""One odd thing in one day costs that day, by its name: the days beside it land, and the sensor answers.

Folders, links, pipes, sockets and names that are no UTF-8 cannot be kept as files of a repository: they are made here.
"""

import gzip
import io
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ml.landing.load
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.landing.changes import changed_days
from ml.landing.contract import LandingError
from ml.landing.load import DaysFailed, init_tables, load_days
from ml.landing.readers import UnreadableFile, read_file
from ml.operations.forget import forget
from tests.ml.landing.rows import DAY, NEXT, SURFACES, exposures, put, put_two_days, to_csv, to_parquet


def folder(path: Path) -> None:
    path.mkdir()


def folder_named_like_a_file(path: Path) -> None:
    path.with_name("part-0.csv").mkdir()


def dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere.csv"))


def loop_of_links(path: Path) -> None:
    path.symlink_to(path.name)


def link_to_a_folder(path: Path) -> None:
    path.symlink_to(path.parent.parent)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link_to_a_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("_pipe"))
    path.symlink_to("_pipe")


def link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        os.chdir(path.parent)  # the address of a socket is at most some hundred bytes long
        opened.bind(path.name)


def name_that_is_no_utf8(path: Path) -> None:
    Path(os.fsdecode(os.fsencode(path.parent) + b"/\xff.csv")).write_bytes(to_csv(exposures("odd")))


def day_that_is_a_pipe(path: Path) -> None:
    shutil.rmtree(path.parent)
    os.mkfifo(path.parent)


def day_that_is_a_dangling_link(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.symlink_to("/nowhere")


def day_that_is_a_file(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.write_bytes(b"exposure_id\n")


ODD: dict[Callable[[Path], None], str] = {
    folder: r"odd\.csv: it is a folder",
    folder_named_like_a_file: r"part-0\.csv: it is a folder; .* move its files there",
    dangling_link: r"odd\.csv: its link to \S+nowhere\.csv cannot be followed \(no such file",
    loop_of_links: r"odd\.csv: its link to odd\.csv cannot be followed",
    link_to_a_folder: r"odd\.csv: it is a link to a folder",
    pipe: r"odd\.csv: it is a named pipe",
    link_to_a_pipe: r"odd\.csv: it is a link to a named pipe",
    link_to_a_device: r"odd\.csv: it is a link to a device",
    unix_socket: r"odd\.csv: it is a socket",
    name_that_is_no_utf8: r"\\xff\.csv: its name is not UTF-8; rename it",
    day_that_is_a_pipe: rf"day={DAY}: it is a named pipe",
    day_that_is_a_dangling_link: rf"day={DAY}: its link to /nowhere cannot be followed",
    day_that_is_a_file: rf"day={DAY}: unknown format",
}


@pytest.fixture(autouse=True)
def _same_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home whose lake has its tables; a test lands what it needs, which replaces what another landed."""
    home = tmp_path_factory.mktemp("shared")
    with Lake(Settings(home=home)) as opened:
        init_tables(opened)
    yield home


@pytest.fixture
def zone(settings: Settings, shared: Path, tmp_path: Path) -> Settings:
    """Two days of exposures, of which the first gets something odd."""
    two = settings.model_copy(update={"home": shared, "landing_dir": tmp_path / "landing"})
    put_two_days(two)
    return two


def at(zone: Settings) -> Path:
    assert zone.landing_dir is not None
    return zone.landing_dir / "exposures" / f"day={DAY}" / "odd.csv"


@pytest.mark.slow
@pytest.mark.parametrize("make", ODD, ids=lambda make: make.__name__)
def test_an_odd_entry_costs_its_own_day_by_its_name_and_the_day_beside_it_lands(
    zone: Settings, make: Callable[[Path], None]
) -> None:
    make(at(zone))
    changes = changed_days(zone)
    assert DAY in changes.ready and not changes.waiting, "the day is asked for once, and fails by its name"
    if make is day_that_is_a_file:
        assert not changes.odd, "a file of an unknown format is seen when it is read"
    else:
        [told] = changes.odd[DAY]
        assert re.search(ODD[make], told), "before a run is made"
    with Lake(zone) as lake:
        with pytest.raises(DaysFailed, match="1 of 2 days did not land") as raised:
            load_days(lake, zone, [DAY, NEXT], SURFACES)
        [(day, reason)] = raised.value.failures.items()
        assert day == DAY and {report.day for report in raised.value.reports} == {NEXT}
        assert lake.sql("select count(*) n from landing.exposures where day = ?", [NEXT]).to_pylist() == [{"n": 3}]
    with pytest.raises(LandingError, match=ODD[make]):
        raise reason
    str(raised.value).encode()  # a log or a database takes it
    again = changed_days(zone)
    assert again.ready[DAY] == changes.ready[DAY], "nothing changed: the sensor has no other key to ask with"
    assert NEXT not in again.ready


@pytest.mark.slow
@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_is_no_fault_of_a_file(
    zone: Settings, monkeypatch: pytest.MonkeyPatch, interrupt: type[BaseException]
) -> None:
    def stop(*arguments: object) -> None:
        raise interrupt

    monkeypatch.setattr(ml.landing.load, "check_columns", stop, raising=False)
    monkeypatch.setattr("ml.landing.readers._read_csv", stop)
    with Lake(zone) as lake, pytest.raises(interrupt):
        load_days(lake, zone, [DAY, NEXT], SURFACES)


def test_nobody_is_forgotten_while_an_entry_cannot_be_read(zone: Settings) -> None:
    pipe(at(zone))
    with pytest.raises(UnreadableFile, match="it is a named pipe"):
        forget(zone, "u1", dry_run=True)


def bomb_of_text() -> tuple[str, bytes]:
    line = to_csv(exposures("bomb", 1)).splitlines(keepends=True)
    return "bomb.csv.gz", gzip.compress(line[0] + line[1] * 40_000)


def bomb_of_words() -> tuple[str, bytes]:
    wide = pa.DictionaryArray.from_arrays(pa.array([0] * 4_000, pa.int32()), pa.array(["x" * 1_000]))
    return "bomb.parquet", parquet(exposure_id=wide)


def bomb_of_numbers() -> tuple[str, bytes]:
    return "bomb.parquet", parquet(row=pa.array([0] * 400_000, pa.int64()))


def bomb_of_late_words() -> tuple[str, bytes]:
    rows = pa.array([0] * 300 + [1] * 200, pa.int32())
    return "bomb.parquet", parquet(exposure_id=pa.DictionaryArray.from_arrays(rows, pa.array(["x", "x" * 1_000_000])))


def bomb_of_words_in_lists() -> tuple[str, bytes]:
    rows = pa.array(range(501), pa.int32())
    return "bomb.parquet", parquet(exposure_id=pa.ListArray.from_arrays(rows, pa.array(["x" * 400_000] * 500)))


def bomb_of_nothing() -> tuple[str, bytes]:
    one = pa.ListArray.from_arrays(pa.array([0, 30_000_000], pa.int32()), pa.nulls(30_000_000, pa.int8()))
    return "bomb.parquet", parquet(exposure_id=one)


@pytest.mark.slow
@pytest.mark.parametrize(
    "bomb", [bomb_of_late_words, bomb_of_words_in_lists, bomb_of_nothing], ids=lambda bomb: bomb.__name__
)
def test_what_stands_for_far_more_is_counted_before_it_is_written_out(
    tmp_path: Path, bomb: Callable[[], tuple[str, bytes]]
) -> None:
    name, content = bomb()
    assert len(content) < 50_000
    (tmp_path / name).write_bytes(content)
    columns = ml.landing.load.load_contract(Settings(home=tmp_path)).tables["exposures"].columns
    before = pa.default_memory_pool().max_memory()
    with pytest.raises(UnreadableFile, match="unpacks to more than 1 MB"):
        read_file(tmp_path / name, columns, max_unpacked=1 << 20)
    assert pa.default_memory_pool().max_memory() < before + (20 << 20)


def test_a_header_of_many_columns_takes_no_longer_than_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    path.write_text(",".join(["exposure_id", *(f"c{i}" for i in range(60_000))]) + "\n")
    columns = ml.landing.load.load_contract(Settings(home=tmp_path)).tables["exposures"].columns
    began = time.process_time()
    assert len(read_file(path, columns).columns) == 60_001
    assert time.process_time() - began < 5


def test_a_line_that_says_one_thing_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.jsonl"
    path.write_text('{"exposure_id": "a", "exposure_id": "b"}\n{"exposure_id": "c"}\n')
    columns = ml.landing.load.load_contract(Settings(home=tmp_path)).tables["exposures"].columns
    parsed = read_file(path, columns)
    assert parsed.rows["exposure_id"].to_list() == ["c"]
    assert parsed.broken["reason"].to_list() == ["a key stands twice in it"]


def parquet(**columns: pa.Array) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, store_schema=False)
    return buffer.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("bomb", [bomb_of_text, bomb_of_words, bomb_of_numbers], ids=lambda bomb: bomb.__name__)
def test_a_small_file_that_unpacks_to_far_more_is_refused_by_name_and_setting(
    zone: Settings, bomb: Callable[[], tuple[str, bytes]]
) -> None:
    name, content = bomb()
    assert len(content) < 50_000
    small = zone.model_copy(update={"max_unpacked_mb": 1})
    path = put(small, "exposures", name, content)
    with Lake(small) as lake, pytest.raises(DaysFailed) as raised:
        load_days(lake, small, [DAY, NEXT], SURFACES)
    assert list(raised.value.failures) == [DAY]
    for word in (str(path), "unpacks to more than 1 MB", "split it", "CROSSFADE_MAX_UNPACKED_MB"):
        assert word in str(raised.value)


@pytest.mark.slow
def test_by_default_a_gigabyte_in_a_small_file_is_refused_and_an_ordinary_large_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "bomb.csv.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b"exposure_id\n")
        for _ in range(1024):
            file.write(bytes(1 << 20))
    assert path.stat().st_size < 6 << 20
    with pytest.raises(UnreadableFile, match=r"bomb\.csv\.gz: it unpacks to more than 512 MB"):
        read_file(path, {})
    ordinary = tmp_path / "ordinary.parquet"
    ordinary.write_bytes(to_parquet(exposures("e", 1_000)))
    columns = ml.landing.load.load_contract(Settings(home=tmp_path)).tables["exposures"].columns
    assert read_file(ordinary, columns, max_unpacked=1).rows.height == 1_000, "twenty times its size are always read"
