"""Whatever bytes a file holds, it costs its own day at most, and every row in it is loaded or quarantined."""

import gzip
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml.foundation.lake import ALIAS, Lake
from ml.foundation.settings import Settings
from ml.landing.load import DaysFailed, load_days
from ml.landing.readers import SUFFIXES
from tests.ml.landing.rows import (
    ALL_TABLES,
    DAY,
    SURFACES,
    exposures,
    put,
    to_csv,
    to_json_array,
    to_jsonl,
    to_parquet,
    to_tsv,
)

pytestmark = pytest.mark.slow

NEXT = DAY + timedelta(days=1)
PACK = {
    "": bytes,
    ".gz": lambda content: gzip.compress(content, mtime=0),
    ".zst": lambda c: pa.compress(c, "zstd", True),
}
TEXT = {".csv": to_csv, ".tsv": to_tsv, ".jsonl": to_jsonl, ".ndjson": to_jsonl, ".json": to_json_array}
GOOD = {".parquet": to_parquet(exposures("g"))} | {
    text + pack: packed(write(exposures("g"))) for text, write in TEXT.items() for pack, packed in PACK.items()
}


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, bytes]:
    """Draw random bytes under any ending, or a good file with some bytes replaced, put in or cut off."""
    suffix = draw(st.sampled_from(SUFFIXES))
    if draw(st.integers(0, 3)) == 0:
        return suffix, draw(st.binary(max_size=300))
    content = bytearray(GOOD[suffix])
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(content)))
        content[place : place + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return suffix, bytes(content)


@pytest.fixture(scope="module")
def zone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, Lake]]:
    home = tmp_path_factory.mktemp("any_bytes")
    found = Settings(home=home, first_day=DAY, optional_tables=ALL_TABLES, max_quarantine_share=1.0, threads=1)
    put(found, "exposures", "good.csv", to_csv(exposures("n").with_columns(pl.col("ts") + timedelta(days=1))), NEXT)
    with Lake(found) as lake:
        yield found, lake


def test_a_good_file_of_every_ending_lands_the_same_rows(zone: tuple[Settings, Lake]) -> None:
    assert set(GOOD) == set(SUFFIXES)
    found, lake = zone
    landed = set()
    for suffix, content in GOOD.items():
        path = put(found, "exposures", f"good{suffix.upper() if suffix == '.json' else suffix}", content)
        [report] = load_days(lake, found, [DAY], SURFACES, tables=["exposures"])
        assert (report.rows_loaded, report.rows_quarantined) == (3, 0), suffix
        landed.add(lake.content_hash(f"(select * from {ALIAS}.landing.exposures where day = '{DAY}')"))
        path.unlink()
    assert len(landed) == 1


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(file=damaged())
def test_any_bytes_cost_their_own_day_at_most_and_counts_add_up(
    zone: tuple[Settings, Lake], file: tuple[str, bytes]
) -> None:
    found, lake = zone
    assert found.landing_dir is not None
    shutil.rmtree(Path(found.landing_dir) / "exposures" / f"day={DAY}", ignore_errors=True)
    put(found, "exposures", f"any{file[0]}", file[1])
    try:
        reports = load_days(lake, found, [DAY, NEXT], SURFACES, tables=["exposures"])
    except DaysFailed as error:
        assert list(error.failures) == [DAY] and "any" in str(error)
        reports = error.reports
    assert NEXT in {report.day for report in reports}
    for report in reports:
        assert report.rows_in == report.rows_loaded + report.rows_quarantined == sum(counted(lake, report.day))


def counted(lake: Lake, day: object) -> list[int]:
    """Return the rows that the lake holds of a day, loaded and quarantined."""
    tables = ("landing.exposures", "landing.quarantine")
    return [lake.sql(f"select count(*) as n from {table} where day = ?", [day])["n"][0].as_py() for table in tables]
