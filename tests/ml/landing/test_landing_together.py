"""Small days of a range are written together and read ahead; what the lake holds is what day by day gives."""

from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

import ml.landing.load
from ml.foundation.lake import ALIAS, LANDING, Lake
from ml.foundation.settings import Settings
from ml.landing.ledger import LEDGER
from ml.landing.load import LATE, QUARANTINE, DaysFailed, load_days
from tests.ml.landing.rows import DAY, SURFACES, exposures, listens, put, to_csv, to_parquet

DAYS = [DAY + timedelta(days=number) for number in range(5)]
BROKEN = DAYS[2]
TABLES = ("exposures", "listens", "quarantine", "late")


@pytest.fixture
def zone(settings: Settings) -> Settings:
    """Five days, one of which cannot be read, and one that has a ragged row."""
    for number, day in enumerate(DAYS):
        shown = exposures(f"d{number}", 3 + number).with_columns(pl.col("ts") + timedelta(days=number))
        put(settings, "exposures", "a.csv", to_csv(shown) + (b"ragged\n" if number == 1 else b""), day)
        heard = listens(f"d{number}", 2).with_columns(pl.col("ts") + timedelta(days=number))
        put(settings, "listens", "a.parquet", to_parquet(heard), day)
    put(settings, "exposures", "b.parquet", b"no parquet", BROKEN)
    return settings


def state(lake: Lake) -> list[tuple[int, str]]:
    ledger = f"(select * exclude (landed_at) from {ALIAS}.{LEDGER})"
    return [lake.content_hash(f"{LANDING}.{name}") for name in TABLES] + [lake.content_hash(ledger)]


def commits(lake: Lake) -> list[str]:
    told = lake.connection.execute(f"select commit_message from {ALIAS}.snapshots() order by snapshot_id").fetchall()
    return [message for (message,) in told if message and message.startswith("landing: 2")]


def spilled(settings: Settings) -> list[Path]:
    return list((settings.lake_dir / "spill").glob("landing-*"))


@pytest.mark.slow
def test_days_of_a_range_share_a_transaction_and_hold_what_day_by_day_gives(
    zone: Settings, lake: Lake, tmp_path: Path
) -> None:
    with pytest.raises(DaysFailed, match=f"1 of 5 days did not land, the others did:\n{BROKEN}: .*b.parquet"):
        load_days(lake, zone, DAYS, SURFACES)
    assert commits(lake) == [f"landing: {DAYS[0]} to {DAYS[-1]}"] and not spilled(zone)
    files = lake.connection.execute(
        f"select count(*) from ducklake_list_files('{ALIAS}', 'exposures', schema => '{LANDING}')"
    )
    assert files.fetchall() == [(4,)], "a file for each day"
    (tmp_path / "alone").mkdir()
    alone = zone.model_copy(update={"home": tmp_path / "alone", "landing_dir": zone.landing_dir})
    with Lake(alone) as other:
        for day in (day for day in DAYS if day != BROKEN):
            load_days(other, alone, [day], SURFACES)
        assert len(commits(other)) == 4 and state(other) == state(lake)

    before = state(lake)
    with pytest.raises(DaysFailed):
        load_days(lake, zone, DAYS, SURFACES)
    assert state(lake) == before, "landed again, they are replaced"


@pytest.mark.slow
def test_days_that_are_large_together_are_written_in_parts(
    zone: Settings, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ml.landing.load, "_TOGETHER", 10)
    reports = load_days(lake, zone, [day for day in DAYS if day != BROKEN], SURFACES)
    first, last = f"landing: {DAYS[0]} to {DAYS[1]}", f"landing: {DAYS[3]} to {DAYS[4]}"
    assert commits(lake) == [first, last]
    assert sorted({report.day for report in reports}) == [day for day in DAYS if day != BROKEN]


@pytest.mark.slow
def test_what_a_transaction_cannot_write_leaves_days_as_they_were_and_nothing_behind(
    zone: Settings, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ml.landing.load, "_TOGETHER", 10)
    write, written = ml.landing.load._write_days, list[date]()

    def full(*arguments: object, **named: object) -> object:
        if written:
            raise OSError("no space left on device")
        written.append(DAY)
        return write(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(ml.landing.load, "_write_days", full)
    with pytest.raises(OSError, match="no space left"):
        load_days(lake, zone, [day for day in DAYS if day != BROKEN], SURFACES)
    landed = lake.connection.execute(f"select distinct day from {ALIAS}.{LANDING}.exposures order by 1").fetchall()
    assert landed == [(DAYS[0],), (DAYS[1],)] and not spilled(zone)


def test_a_table_that_never_held_a_row_is_known(zone: Settings, lake: Lake) -> None:
    load_days(lake, zone, [DAYS[0]], SURFACES, tables=["exposures"])
    assert lake.was_filled(f"{LANDING}.exposures") and not lake.was_filled(LATE) and not lake.was_filled(QUARANTINE)
    load_days(lake, zone, [DAYS[1]], SURFACES, tables=["exposures"])
    lake.connection.execute(f"delete from {ALIAS}.{QUARANTINE}")
    assert lake.was_filled(QUARANTINE), "what it held once may be in older files"
