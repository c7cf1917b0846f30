"""A day is landed, replaced and refused as a whole, and what it was read from is what the ledger has."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

import ml.landing.load
from deploy.cli.main import app
from ml.foundation.lake import ALIAS, Lake
from ml.foundation.progress import Step
from ml.foundation.settings import Settings
from ml.landing.changes import changed_days
from ml.landing.contract import LandingError, load_contract
from ml.landing.ledger import LEDGER
from ml.landing.load import DayIncomplete, DaysFailed, QuarantineLimitExceeded, init_tables, load_days
from ml.landing.quarantine import reasons
from ml.landing.readiness import input_hash
from tests.ml.landing.rows import DAY, SURFACES, exposures, impressions, listens, put, to_csv, to_jsonl, to_parquet
from tests.support.known import the


@pytest.mark.slow
def test_landing_a_day_again_replaces_it_and_only_it(settings: Settings, lake: Lake) -> None:
    other = DAY + timedelta(days=1)
    path = put(settings, "exposures", "a.csv", to_csv(exposures("a", 5)) + b"ragged\n")
    put(settings, "exposures", "a.csv", to_csv(exposures("b", 4).with_columns(pl.col("ts") + timedelta(days=1))), other)
    load_days(lake, settings, [DAY, other], SURFACES)
    before = input_hash(settings, DAY)
    path.write_bytes(to_csv(exposures("c", 2)))
    assert input_hash(settings, DAY) != before
    load_days(lake, settings, [DAY], SURFACES)
    load_days(lake, settings, [DAY], SURFACES)
    counts = lake.sql(
        "select day, count(*) n, min(exposure_id) id from landing.exposures group by day order by day"
    ).to_pylist()
    assert [(r["day"], r["n"], r["id"]) for r in counts] == [(DAY, 2, "c0"), (other, 4, "b0")]
    assert lake.sql("select * from landing.quarantine").num_rows == 0
    assert lake.sql("select * from landing.ledger where table_name = 'exposures'").num_rows == 2
    path.unlink()
    load_days(lake, settings, [DAY], SURFACES)
    assert lake.sql("select * from landing.exposures where day = ?", [DAY]).num_rows == 0


@pytest.mark.slow
def test_too_many_bad_rows_fail_the_day_but_stay_visible(
    settings: Settings, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = settings.model_copy(update={"max_quarantine_share": 0.01})
    path = put(settings, "exposures", "a.csv", to_csv(exposures("a", 200)))
    load_days(lake, strict, [DAY], SURFACES)
    bad = exposures("b", 200).with_columns(
        surface=pl.when(pl.int_range(200) < 3).then(pl.lit("kiosk")).otherwise("surface")
    )
    path.write_bytes(to_csv(bad))
    with pytest.raises(QuarantineLimitExceeded) as raised:
        load_days(lake, strict, [DAY], SURFACES)
    message = str(raised.value)
    for part in (
        str(DAY),
        "3 of 200 rows",
        "1.50%",
        "3 x 'unknown surface: surface'",
        f"exposures/day={DAY}/a.csv, row 1",
    ):
        assert part in message
    assert raised.value.day == DAY
    assert lake.sql("select min(exposure_id) as id, count(*) n from landing.exposures").to_pylist() == [
        {"id": "a0", "n": 200}
    ]
    assert lake.sql("select * from landing.quarantine").num_rows == 3
    assert f"`crossfade quarantine {DAY}` shows the rows" in message
    [why] = reasons(lake, 10)
    assert (why["day"], why["rows"], why["reason"]) == (DAY, 3, "unknown surface: surface")
    monkeypatch.setenv("CROSSFADE_HOME", str(settings.home))
    shown = CliRunner().invoke(app, ["quarantine", str(DAY), "--rows", "2"]).stdout
    assert "unknown surface: surface" in shown and "kiosk" in shown and f"exposures/day={DAY}/a.csv" in shown
    assert '"b1"' in shown and '"b2"' not in shown
    path.write_bytes(to_csv(bad.tail(198)))
    (report, *_) = load_days(lake, strict, [DAY], SURFACES)
    assert (report.rows_loaded, report.rows_quarantined) == (197, 1)


@pytest.mark.slow
def test_a_bad_day_fails_alone_and_the_days_beside_it_land(settings: Settings, lake: Lake) -> None:
    days = [DAY + timedelta(days=number) for number in range(4)]
    for number, day in enumerate(days):
        rows = exposures(f"d{number}", 3).with_columns(pl.col("ts") + timedelta(days=number))
        put(settings, "exposures", "a.csv", to_csv(rows), day)
    put(settings, "exposures", "b.parquet", b"no parquet", days[1])
    put(settings, "exposures", "b.xlsx", b"PK", days[2])
    with pytest.raises(DaysFailed, match="2 of 2 days did not land, no day landed"):
        load_days(lake, settings, days[1:3], SURFACES, tables=["exposures"])
    with pytest.raises(DaysFailed, match="2 of 4 days did not land, the others did") as raised:
        load_days(lake, settings, days, SURFACES)
    assert list(raised.value.failures) == days[1:3]
    assert all(text in str(raised.value) for text in (str(days[1]), "b.parquet", str(days[2]), "unknown format"))
    landed = [days[0], days[3]]
    assert sorted({report.day for report in raised.value.reports}) == landed
    counts = lake.sql("select day, count(*) as n from landing.exposures group by day order by day").to_pylist()
    assert counts == [{"day": day, "n": 3} for day in landed]
    for name, day in (("b.parquet", days[1]), ("b.xlsx", days[2])):
        (the(Path, settings.landing_dir) / "exposures" / f"day={day}" / name).unlink()
    load_days(lake, settings, days[1:3], SURFACES)
    assert lake.sql("select distinct day from landing.exposures").num_rows == len(days)


@pytest.mark.slow
def test_one_broken_table_fails_a_day_that_is_fine_as_a_whole(settings: Settings, lake: Lake) -> None:
    strict = settings.model_copy(update={"max_quarantine_share": 0.01})
    put(settings, "source_impressions", "a.parquet", to_parquet(impressions("s", [True] * 5_000)))
    half = listens("l", 101).with_columns(played_s=pl.when(pl.int_range(101) < 11).then(-1.0).otherwise("played_s"))
    put(settings, "listens", "a.parquet", to_parquet(half))
    with pytest.raises(
        QuarantineLimitExceeded, match=r"11 of 101 rows of listens are bad, more than 10\.00% for one table"
    ):
        load_days(lake, strict, [DAY], SURFACES)


@pytest.mark.slow
def test_a_day_without_a_required_table_fails_and_an_empty_file_is_an_empty_table(tmp_path: Path, lake: Lake) -> None:
    settings = Settings(home=tmp_path, first_day=DAY, threads=2)
    put(settings, "exposures", "a.csv", to_csv(exposures("a")))
    put(settings, "listens", "empty.csv", b"")
    put(settings, "items", "empty.jsonl", b"")
    with pytest.raises(DayIncomplete, match="required tables users have no file"):
        load_days(lake, settings, [DAY], SURFACES)
    put(settings, "users", "_SUCCESS", b"")
    put(settings, "users", ".part.csv", b"half written")
    reports = load_days(lake, settings, [DAY], SURFACES)
    assert {r.table: r.rows_in for r in reports if r.rows_in} == {"exposures": 3}
    put(settings, "listens", "empty.parquet", to_parquet(listens("a", 0)))
    put(settings, "listens", "header.csv", to_csv(listens("a", 0)))
    assert sum(r.rows_in for r in load_days(lake, settings, [DAY], SURFACES)) == 3


@pytest.mark.slow
def test_progress_tells_each_day(settings: Settings, lake: Lake) -> None:
    put(settings, "exposures", "a.csv", to_csv(exposures("a")) + b"ragged\n")
    steps: list[Step] = []
    load_days(lake, settings, [DAY], SURFACES, progress=steps.append)
    assert steps == [Step("landing", 1, 1, line="2026-01-02, 3 rows landed, 1 quarantined")]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "between", "after"])
@pytest.mark.parametrize("write", [to_csv, to_jsonl, to_parquet])
def test_files_that_are_replaced_while_they_are_read_land_as_one_version_whose_hash_the_ledger_has(
    settings: Settings, lake: Lake, monkeypatch: pytest.MonkeyPatch, moment: str, write: Callable[..., bytes]
) -> None:
    suffix = write.__name__.removeprefix("to_")
    put(settings, "listens", "_SUCCESS", b"")
    paths = [put(settings, "listens", f"{part}.{suffix}", write(listens(f"old {part}"))) for part in "ab"]
    pending, read_file = list(paths), ml.landing.load.read_file

    def replace_all() -> None:
        while pending:
            path = pending.pop()
            scratch = path.with_name(f".{path.name}")
            scratch.write_bytes(write(listens(f"corrected {path.name[0]}", 3)))
            scratch.replace(path)

    def read(path: Path, *arguments):
        if moment == "before" or (moment == "between" and path == paths[1]):
            replace_all()
        found = read_file(path, *arguments)
        if moment == "after" and path == paths[1]:
            replace_all()
        return found

    monkeypatch.setattr(ml.landing.load, "read_file", read)
    [report] = load_days(lake, settings, [DAY], SURFACES, tables=["listens"])
    ids = lake.sql(f"select listen_id from {ALIAS}.landing.listens order by all")["listen_id"].to_pylist()
    assert ids == [f"corrected {part}{i}" for part in "ab" for i in range(3)]
    assert report.rows_in == report.rows_loaded == 6
    [(known,)] = lake.connection.execute(f"select input_hash from {ALIAS}.{LEDGER}").fetchall()
    assert known == input_hash(settings, DAY, ["listens"])

    assert not changed_days(settings).ready
    put(settings, "listens", f"a.{suffix}", write(listens("late", 4)))
    assert list(changed_days(settings).ready) == [DAY], "what comes after the day was read is landed next"


@pytest.mark.slow
def test_a_day_whose_files_never_rest_fails_and_stays_as_it_was(
    settings: Settings, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read_file, times = put(settings, "listens", "a.csv", to_csv(listens("old"))), ml.landing.load.read_file, []
    load_days(lake, settings, [DAY], SURFACES, tables=["listens"])

    def read(*arguments):
        times.append(1)
        path.write_bytes(to_csv(listens("restless", 2 + len(times))))
        return read_file(*arguments)

    monkeypatch.setattr(ml.landing.load, "read_file", read)
    with pytest.raises(LandingError, match=r"2026-01-02: files were replaced while they were read"):
        load_days(lake, settings, [DAY], SURFACES, tables=["listens"])
    ids = lake.sql(f"select listen_id from {ALIAS}.landing.listens order by all")["listen_id"].to_pylist()
    assert ids == ["old0", "old1"]


def test_every_table_of_the_contract_exists_after_init_and_is_partitioned_by_day(
    settings: Settings, lake: Lake
) -> None:
    init_tables(lake)
    init_tables(lake)
    contract = load_contract(settings)
    for name, table in contract.tables.items():
        assert lake.columns(f"landing.{name}") == {"day": "DATE"} | {n: c.sql_type for n, c in table.columns.items()}
    for name in ("quarantine", "ledger"):
        assert lake.table_exists(f"landing.{name}")
