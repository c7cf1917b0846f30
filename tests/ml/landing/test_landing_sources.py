"""Files lie where ``sources.yaml`` says, are ready when it says, and are read as it says."""

import os
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.foundation.lake import ALIAS, Lake
from ml.foundation.settings import Settings
from ml.landing.changes import changed_days
from ml.landing.contract import ContractError, load_contract
from ml.landing.load import DayIncomplete, init_tables, load_days
from ml.landing.patterns import Pattern, faults_of_pattern, matches
from ml.landing.readiness import days_in_zone, missing, strays
from ml.landing.sources import load_sources
from tests.ml.landing.rows import ALL_TABLES, DAY, SURFACES, exposures, listens, to_csv, to_jsonl, to_parquet

NEXT = DAY + timedelta(days=1)


@pytest.fixture
def app(tmp_path: Path, home: Path) -> Callable[[str], Settings]:
    """Settings of a home whose app says something of its sources."""

    def make(sources: str) -> Settings:
        (tmp_path / "app").mkdir(exist_ok=True)
        (tmp_path / "app" / "sources.yaml").write_text(sources)
        return Settings(
            home=home,
            app=tmp_path / "app",
            first_day=DAY,
            optional_tables=ALL_TABLES,
            max_quarantine_share=1.0,
            threads=1,
            quiet_minutes=30,
        )

    return make


def write(path: Path, content: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def age(path: Path, minutes: float) -> None:
    then = time.time() - 60 * minutes
    for entry in (path, path.parent):
        os.utime(entry, (then, then))


def land(settings: Settings, days: list[date], table: str = "listens") -> list[tuple[date, str]]:
    """Land days of a table; return (day, id) of what it holds."""
    with Lake(settings) as lake:
        load_days(lake, settings, days, SURFACES, tables=[table])
        found = lake.connection.execute(f"select day, {table[:-1]}_id from {ALIAS}.landing.{table} order by all")
        return found.fetchall()


LAYOUTS = {
    "exports/{table}/dt={day}/*.parquet": ("exports/listens/dt=2026-01-02/a.parquet", to_parquet),
    "{table}-{day:%Y%m%d}.csv": ("listens-20260102.csv", to_csv),
    "{day:%Y/%m/%d}/{table}/**/*.jsonl": ("2026/01/02/listens/host-1/app/x.jsonl", to_jsonl),
    "raw/y={day:%Y}/m={day:%m}/d={day:%d}/{table}.csv": ("raw/y=2026/m=01/d=02/listens.csv", to_csv),
    "{table}/*/{day}-part-?.csv": ("listens/eu/2026-01-02-part-3.csv", to_csv),
}


@pytest.mark.parametrize("pattern", LAYOUTS)
@pytest.mark.parametrize("below", ["", "elsewhere/"], ids=["landing zone", "absolute"])
@pytest.mark.slow
def test_files_land_from_where_a_pattern_says(
    app: Callable[[str], Settings], tmp_path: Path, pattern: str, below: str
) -> None:
    root = tmp_path / "elsewhere" if below else tmp_path / "home" / "landing"
    settings = app(
        f"tables: {{listens: {{files: '{root}/{pattern}'}}}}"
        if below
        else f"tables: {{listens: {{files: '{pattern}'}}}}"
    )
    path, form = LAYOUTS[pattern]
    write(root / path, form(listens("own")))
    write(root / path.replace("listens", "exposures"), form(exposures("e")))
    write(root / path.replace("2026", "2025"), form(listens("old")))
    write((root / path).with_suffix(".txt"), b"no data")
    write((root / path).with_name(f".{Path(path).name}"), b"being written")
    assert days_in_zone(settings) == [DAY]
    assert land(settings, [DAY]) == [(DAY, "own0"), (DAY, "own1")]
    with Lake(settings) as lake:
        [(files, rows)] = lake.connection.execute(f"select files, rows_in from {ALIAS}.landing.ledger").fetchall()
    assert (files, rows) == (1, 2)


@pytest.mark.slow
def test_a_day_that_changes_where_a_pattern_says_is_seen_as_changed(app: Callable[[str], Settings]) -> None:
    settings = app("tables: {listens: {files: 'in/{table}-{day}*.csv'}}")
    with Lake(settings) as lake:
        init_tables(lake)
    folder = settings.home / "landing" / "in"
    for day in (DAY, NEXT):
        age(
            write(folder / f"listens-{day}.csv", to_csv(listens(str(day)).with_columns(ts=pl.lit(f"{day}T10:00:00Z")))),
            60,
        )
    assert list(changed_days(settings).ready) == [DAY, NEXT]
    land(settings, [DAY, NEXT])
    assert changed_days(settings).ready == {}
    age(write(folder / f"listens-{NEXT}-late.csv", to_csv(listens("more"))), 60)
    assert list(changed_days(settings).ready) == [NEXT]


READY = {
    "default, marker": ("", "_SUCCESS", 0, ""),
    "default, silence": ("", None, 31, ""),
    "default, neither": ("", None, 10, "no _SUCCESS, and the last change is 10 minutes old; complete after 30"),
    "marker only": ("ready: {marker: done}", "done", 0, ""),
    "marker lacks": ("ready: {marker: done}", None, 999, "no done in "),
    "another's marker": ("ready: {marker: done}", "_SUCCESS", 999, "no done in "),
    "silence": ("ready: {silence: 5}", None, 6, ""),
    "no silence yet": ("ready: {silence: 5}", "_SUCCESS", 4, "the last change is 4 minutes old; complete after 5"),
}


@pytest.mark.parametrize("case", READY)
def test_a_day_is_ready_by_what_the_source_says(app: Callable[[str], Settings], case: str) -> None:
    ready, marker, minutes, reason = READY[case]
    settings = app(f"tables: {{listens: {{files: 'in/{{day}}/*.csv', {ready}}}}}")
    path = write(settings.home / "landing" / "in" / str(DAY) / "a.csv", to_csv(listens("l")))
    age(path, minutes)
    if marker:
        age(write(path.with_name(marker)), minutes)
    told = missing(settings, DAY)
    assert [line.startswith("listens: ") and reason in line for line in told] == [True] * bool(reason)


def test_a_marker_of_a_days_name_serves_a_folder_of_all_days(app: Callable[[str], Settings]) -> None:
    settings = app("tables: {listens: {files: '{table}-{day}*.csv', ready: {marker: '{table}-{day}.csv.done'}}}")
    zone = settings.home / "landing"
    for day in (DAY, NEXT):
        write(zone / f"listens-{day}.csv", to_csv(listens("l")))
    write(zone / f"listens-{DAY}.csv.done")
    assert missing(settings, DAY) == []
    assert missing(settings, NEXT) == [f"listens: no listens-{NEXT}.csv.done in {zone}"]
    write(zone / "listens-2026-01-04.csv.done")
    assert missing(settings, date(2026, 1, 4)) == [] and land(settings, [date(2026, 1, 4)]) == []


def test_a_required_table_names_the_place_where_it_is_looked_for(app: Callable[[str], Settings]) -> None:
    settings = app("tables: {users: {files: 'in/{table}/{day}/*.csv', ready: {marker: ok}}}")
    required = settings.model_copy(update={"optional_tables": tuple(set(ALL_TABLES) - {"users"})})
    [told] = missing(required, DAY)
    assert told == f"users: {settings.home}/landing/in/users/{DAY} does not exist"
    with Lake(required) as lake, pytest.raises(DayIncomplete, match=f"no file and no ok, such as in .*/in/users/{DAY}"):
        load_days(lake, required, [DAY], SURFACES, tables=["users"])


def test_strays_know_the_folders_that_patterns_name(app: Callable[[str], Settings]) -> None:
    settings = app("tables: {listens: {files: 'in/logs/{day}/*.csv'}}")
    zone = settings.home / "landing"
    for name in (f"in/logs/{DAY}", f"listens/day={DAY}", f"exposures/day={DAY}", "exposurs"):
        (zone / name).mkdir(parents=True)
    told = strays(settings)
    assert [line.split(":")[0] for line in told] == [f"{zone}/exposurs", f"{zone}/listens"]
    assert "did you mean 'exposures'?" in told[0]


CASTS = {
    "an id that was a float": ("listens", "session_id: {from: session_id, type: int64}", "session_id", 5.0, "5"),
    "its text": ("listens", "session_id: {from: session_id, type: int64}", "session_id", "5.0", "5"),
    "a float that is none": ("listens", "session_id: {from: session_id, type: int64}", "session_id", 5.5, None),
    "a float without digits": ("listens", "session_id: {from: session_id, type: int64}", "session_id", 2.0**60, None),
    "a truth as a number": ("listens", "played_s: {from: played_s, type: bool}", "played_s", "yes", None),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASTS)
def test_a_column_is_read_as_the_type_that_the_source_says(app: Callable[[str], Settings], case: str) -> None:
    table, rule, column, value, wanted = CASTS[case]
    settings = app(f"tables: {{{table}: {{columns: {{{rule}}}}}}}")
    frame = listens("l", 1).with_columns(pl.lit(value).alias(column))
    write(settings.home / "landing" / table / f"day={DAY}" / "a.parquet", to_parquet(frame))
    with Lake(settings) as lake:
        [report] = load_days(lake, settings, [DAY], SURFACES, tables=[table])
        loaded = lake.connection.execute(f"select {column} from {ALIAS}.landing.{table}").fetchall()
    assert loaded == ([(wanted,)] if wanted else [])
    assert report.rows_quarantined == (wanted is None)


WRONG = {
    "tables:\n  listens:\n    filez: x": "line 3: tables.listens.filez: unknown key; did you mean 'files'?",
    "tables:\n  listens:\n    files: 'a/{dya}/*'": "line 3: tables.listens.files: unknown {dya}; did you mean 'day'?",
    "tables:\n  listens:\n    files: 'a/*.csv'": "line 3: tables.listens.files: it must name the day",
    "tables:\n  listens:\n    files: '{day:%Y/%m}/*'": "line 3: tables.listens.files: it must name the day",
    "tables:\n  listens:\n    files: '{day:%Y-%j}'": "line 3: tables.listens.files: {day:%Y-%j}: unknown %j",
    "tables:\n  listens:\n    files: 'ftp://a/{day}'": "line 3: tables.listens.files: ftp:// cannot be listed",
    "tables:\n  listens:\n    files: '[a]/{day}'": "line 3: tables.listens.files: '[' cannot stand in a pattern",
    "tables:\n  listens:\n    ready: {}": "line 3: tables.listens.ready: a day is ready by",
    "tables:\n  listens:\n    ready:\n      markr: x": (
        "line 4: tables.listens.ready.markr: unknown key; did you mean 'marker'?"
    ),
    "tables:\n  listens:\n    files: '{day}.csv'\n    ready: {marker: ok}": (
        "line 4: tables.listens.ready.marker: all days lie"
    ),
    "tables:\n  users:\n    columns:\n      user: u\n      country: {from: c, unit: ms}": (
        "line 4: tables.users.columns.user: no such column in the contract; did you mean 'user_id'?; "
        "line 5: tables.users.columns.country: unit and format are of timestamps, it is string"
    ),
    "tables:\n  listens:\n    columns:\n      ts: {from: t, type: int64}": (
        "line 4: tables.listens.columns.ts: type is of"
    ),
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_source_is_refused_with_file_line_and_the_nearest_name(
    app: Callable[[str], Settings], text: str
) -> None:
    settings = app(text)
    with pytest.raises(ContractError) as refused:
        load_sources(settings, load_contract(settings))
    assert f"{settings.app}/sources.yaml: {WRONG[text]}" in str(refused.value)


def test_a_renamed_column_that_a_file_lacks_is_refused_with_the_nearest(app: Callable[[str], Settings]) -> None:
    settings = app("tables: {listens: {columns: {user_id: uid, feedback: thumb}}}")
    frame = listens("l").rename({"user_id": "uidd"}).with_columns(thumbs=pl.lit("like"))
    write(settings.home / "landing" / "listens" / f"day={DAY}" / "a.csv", to_csv(frame))
    with Lake(settings) as lake, pytest.raises(ContractError) as refused:
        load_days(lake, settings, [DAY], SURFACES, tables=["listens"])
    for wrong, near in (("uid", "uidd"), ("thumb", "thumbs")):
        assert f"column {wrong!r} is missing, which sources.yaml reads as " in str(refused.value)
        assert f"did you mean {near!r}?" in str(refused.value)


FORMS = st.sampled_from(["{day}", "{day:%Y%m%d}", "{day:%d.%m.%Y}", "{day:%Y/%m/%d}", "y={day:%Y}/{day:%m}-{day:%d}"])
AROUND = st.text("ab-_.=/+*?", max_size=8).filter(lambda text: "**" not in text)


@given(st.dates(date(1000, 1, 1)), FORMS, AROUND, AROUND)
def test_the_day_of_a_path_is_the_day_that_its_pattern_was_filled_with(
    day: date, form: str, before: str, after: str
) -> None:
    text = before + form + after
    assert list(faults_of_pattern(text)) == []
    pattern = Pattern(text.lstrip("/"), "listens")
    path = pattern.of(day).replace("*", "x/y".replace("/", "")).replace("?", "z")
    assert pattern.day_of(path) == day
    assert matches(path, pattern.of(day)) and not matches(path, pattern.of(day + timedelta(days=1)))
