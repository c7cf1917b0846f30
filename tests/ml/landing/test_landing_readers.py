"""Four formats are read alike, and a file that cannot be read fails its day with its name."""

import gzip
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
import yaml

from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.landing.changes import changed_days
from ml.landing.contract import ContractError, LandingError
from ml.landing.load import DaysFailed, init_tables, load_days
from ml.landing.patterns import SUCCESS
from ml.landing.readers import UnreadableFile
from tests.ml.landing.rows import (
    ALL_TABLES,
    DAY,
    NOON,
    SURFACES,
    VECTOR,
    exposures,
    items,
    listens,
    put,
    to_csv,
    to_jsonl,
    to_parquet,
)

BROKEN = Path(__file__).parent / "broken" / "files"
EXPECTED: dict[str, dict[str, str]] = yaml.safe_load((BROKEN / "expect.yaml").read_text(encoding="utf-8"))
ERRORS: dict[str, type[LandingError]] = {"UnreadableFile": UnreadableFile, "ContractError": ContractError}


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """One lake for the days that must not reach it."""
    with Lake(Settings(home=tmp_path_factory.mktemp("untouched"), threads=2)) as opened:
        yield opened


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.slow
def test_a_file_that_cannot_be_read_fails_its_day_with_its_name(settings: Settings, untouched: Lake, name: str) -> None:
    path = put(settings, "listens", f"a.{name.split('.', 1)[1]}", (BROKEN / name).read_bytes())
    with pytest.raises(ERRORS[EXPECTED[name]["error"]], match=EXPECTED[name]["says"]) as raised:
        load_days(untouched, settings, [DAY], SURFACES)
    assert str(path) in str(raised.value)
    assert untouched.sql("select * from landing.ledger").num_rows == 0


@pytest.mark.slow
def test_a_range_in_which_every_day_but_one_has_a_broken_file_lands_that_day_and_names_every_file(
    settings: Settings, lake: Lake
) -> None:
    days = {DAY + timedelta(days=n): name for n, name in enumerate(EXPECTED)}
    for day, name in days.items():
        put(settings, "listens", f"a.{name.split('.', 1)[1]}", (BROKEN / name).read_bytes(), day)
    good = DAY + timedelta(days=len(days))
    put(settings, "listens", "a.csv", to_csv(listens("good").with_columns(ts=pl.lit(good).cast(pl.Datetime))), good)
    put(settings, "listens", SUCCESS, b"", good)
    init_tables(lake)
    assert good in changed_days(settings).ready
    with pytest.raises(DaysFailed) as raised:
        load_days(lake, settings, [*days, good], SURFACES, tables=["listens"])
    told = {days[day]: str(error) for day, error in raised.value.failures.items()}
    assert told.keys() == EXPECTED.keys()
    assert not [name for name, reason in told.items() if not re.search(EXPECTED[name]["says"], reason)]
    assert [(report.day, report.rows_loaded) for report in raised.value.reports] == [(good, 2)]


@pytest.mark.slow
def test_all_four_formats_land_the_same_rows(settings: Settings, lake: Lake) -> None:
    frame = exposures("e").with_columns(container_id=pl.Series(["x", None, 'quoted, "y"']))
    vectors = items("i", [VECTOR, None])
    writers = {
        "a.parquet": to_parquet,
        "a.csv": to_csv,
        "a.csv.gz": lambda f: gzip.compress(to_csv(f)),
        "a.jsonl": to_jsonl,
    }
    hashes = set()
    for name, write in writers.items():
        path = put(settings, "exposures", name, write(frame))
        text = vectors
        if ".csv" in name:
            text = vectors.with_columns(pl.Series("content_embedding", [str(VECTOR), None], dtype=pl.String))
        other = put(settings, "items", name, write(text))
        reports = load_days(lake, settings, [DAY], SURFACES)
        assert [r.rows_quarantined for r in reports] == [0] * len(reports)
        hashes.add((lake.content_hash("landing.exposures"), lake.content_hash("landing.items")))
        path.unlink()
        other.unlink()
    assert len(hashes) == 1
    ((rows, _), (item_rows, _)) = hashes.pop()
    assert (rows, item_rows) == (3, 2)


@pytest.mark.slow
def test_columns_declared_by_the_home_are_landed_and_ignored_ones_are_not(tmp_path: Path, lake: Lake) -> None:
    settings = Settings(home=tmp_path, first_day=DAY, optional_tables=ALL_TABLES, max_quarantine_share=1, threads=2)
    put(settings, "exposures", "a.csv", to_csv(exposures("a")))
    load_days(lake, settings, [DAY], SURFACES)
    (tmp_path / "landing_contract.yaml").write_text(
        "tables: {exposures: {columns: {weather: {type: string, nullable: true, description: w},"
        "taste: {type: 'float_vector[2]', nullable: true, description: t}}, ignored: [debug]}}"
    )
    frame = exposures("b").with_columns(weather=pl.lit("rain"), debug=1, taste=pl.Series([[1.0, 2.0], [1.0], None]))
    put(settings, "exposures", "a.csv", b"").unlink()
    put(settings, "exposures", "b.parquet", to_parquet(frame))
    (report, *_) = load_days(lake, settings, [DAY], SURFACES)
    assert report.reasons == {"not 2 numbers: taste": 1}
    assert lake.columns("landing.exposures")["taste"] == "FLOAT[]"
    rows = lake.sql("select weather, taste from landing.exposures order by exposure_id").to_pylist()
    assert rows == [{"weather": "rain", "taste": [1.0, 2.0]}, {"weather": "rain", "taste": None}]


def test_types_of_common_exports_are_understood(settings: Settings, lake: Lake) -> None:
    zone = exposures("a").with_columns(
        pl.col("ts").dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Tokyo").dt.cast_time_unit("ms"),
        user_id=pl.Series([1, 2, 3], dtype=pl.Int32),
        surface=pl.lit("radio").cast(pl.Categorical),
        row=pl.Series([0.0, 1.0, None]),
        day=pl.lit(DAY),
    )
    put(settings, "exposures", "a.parquet", to_parquet(zone))
    put(
        settings,
        "items",
        "a.csv",
        b"\xef\xbb\xbfitem_id,creator_id,released_at\r\n7,c,2025-12-31\r\n8,c,2025-12-31 10:00:00+01:00\r\n",
    )
    load_days(lake, settings, [DAY], SURFACES)
    rows = lake.sql("select user_id, ts, surface, row from landing.exposures order by 1").to_pylist()
    assert rows[0] == {"user_id": "1", "ts": NOON, "surface": "radio", "row": 0}
    assert rows[2]["row"] is None
    released = lake.sql("select released_at from landing.items order by item_id").to_pylist()
    assert [r["released_at"] for r in released] == [datetime(2025, 12, 31), datetime(2025, 12, 31, 9)]
