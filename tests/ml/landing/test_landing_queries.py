"""Rows come from databases and tables of other systems by queries, through the same contract as files."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

import ml.landing.databases
from benchmarks.sources import DAYS, FIRST, Change, Shop, delta, http, iceberg, of_files, parquet, plays
from deploy.cli.doctor import EXAMINATIONS, State
from ml.foundation.lake import ALIAS, Lake
from ml.foundation.settings import Settings
from ml.landing.changes import changed_days
from ml.landing.contract import ContractError, LandingError, load_contract
from ml.landing.load import DayIncomplete, LandingReport, init_tables, load_days
from ml.landing.sources import load_sources
from tests.ml.landing.rows import ALL_TABLES, SURFACES, listens, put, to_csv

pytestmark = pytest.mark.slow

DAY = DAYS[1]
PER_DAY = 40
PLAYS = plays(PER_DAY)


@pytest.fixture
def app(tmp_path: Path, home: Path) -> Callable[[str], Settings]:
    """Settings of a home whose app says something of its sources."""

    def make(sources: str, **given: object) -> Settings:
        (tmp_path / "app").mkdir(exist_ok=True)
        (tmp_path / "app" / "sources.yaml").write_text(sources)
        told = {"optional_tables": ALL_TABLES, "max_quarantine_share": 1.0, "first_day": FIRST, "last_day": DAYS[-1]}
        return Settings(home=home, app=tmp_path / "app", threads=1, **{**told, **given})

    return make


def land(settings: Settings, days: list[date], table: str = "listens") -> list[LandingReport]:
    with Lake(settings) as lake:
        return load_days(lake, settings, days, SURFACES, tables=[table])


def held(settings: Settings, table: str = "listens") -> tuple[int, str]:
    with Lake(settings) as lake:
        return lake.content_hash(f"{ALIAS}.landing.{table}")


def ready(settings: Settings) -> list[date]:
    with Lake(settings) as lake:
        init_tables(lake)
    return list(changed_days(settings).ready)


@pytest.fixture(scope="module", params=["postgres", "sqlite", "duckdb", "ducklake"])
def shop(
    request: pytest.FixtureRequest, postgres: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp(request.param)
    address = postgres("shop") if request.param == "postgres" else str(folder / "shop.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOP_URL", address)
        yield Shop(request.param, address, PER_DAY)


def test_a_database_lands_thirty_days_is_seen_once_and_seen_again_when_a_day_changes(
    app: Callable[..., Settings], shop: Shop
) -> None:
    """All thirty from Postgres, three from the others."""
    days = DAYS if shop.kind == "postgres" else DAYS[:3]
    settings = app(shop.sources(), last_day=days[-1])
    assert ready(settings) == days
    reports = land(settings, days)
    assert [(r.rows_in, r.rows_quarantined) for r in reports] == [(PER_DAY, int(r.day == DAY)) for r in reports]
    assert reports[1].reasons == {"value not allowed: outcome": 1}
    before = held(settings)
    assert ready(settings) == []
    land(settings, DAYS[:3])
    assert held(settings) == before and ready(settings) == []
    shop.run("update shop.plays set outcome = 'skipped' where listen_id = 'l50'")
    assert ready(settings) == [DAY]
    assert [r.rows_loaded for r in land(settings, [DAY])] == [PER_DAY]
    assert ready(settings) == []
    shop.run("update shop.plays set outcome = 'dreamt' where listen_id = 'l50'")


def test_a_query_writes_nothing(app: Callable[..., Settings], shop: Shop) -> None:
    for text, told in {
        "insert into shop.plays select * from shop.plays where started = {day}": "must be one query",
        "select {day}; drop table shop.plays": "must be one query",
        "select * from shop.plays where started = '{day}'": "{day} stands in quotes",
    }.items():
        settings = app(shop.sources(text))
        with pytest.raises(LandingError, match=told):
            land(settings, [DAY])


@pytest.mark.parametrize("kind", [iceberg, delta, parquet, http])
def test_a_table_of_files_lands_is_seen_once_and_seen_again_when_it_changes(
    app: Callable[..., Settings], tmp_path: Path, kind: Callable[..., tuple[str, Change]]
) -> None:
    (tmp_path / "warehouse").mkdir()
    with duckdb.connect() as connection:
        path, change = kind(tmp_path / "warehouse", connection.execute(PLAYS).to_arrow_table())
    settings = app(of_files("parquet" if kind is http else kind.__name__, path), last_day=DAYS[2])
    assert ready(settings) == DAYS[:3]
    assert [r.rows_loaded for r in land(settings, DAYS[:3])] == [PER_DAY, PER_DAY - 1, PER_DAY]
    assert ready(settings) == []
    with duckdb.connect() as connection:
        mended = f"select * replace (replace(outcome, 'dreamt', 'skipped') as outcome) from ({PLAYS})"
        change(connection.execute(mended).to_arrow_table())
    assert ready(settings) == [DAY]


def test_an_absent_table_of_files_is_told(app: Callable[..., Settings], tmp_path: Path) -> None:
    for kind in ("iceberg", "delta", "parquet"):
        sources = {
            "attach": {"plays": {"type": kind, "path": str(tmp_path / "none")}},
            "tables": {"listens": {"query": "select * from plays where started = {day}"}},
        }
        with pytest.raises(LandingError, match=f"attach.plays: {kind} cannot be reached: .*{tmp_path}/none"):
            land(app(json.dumps(sources)), [DAY])


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A database of its own for each test."""
    monkeypatch.setenv("SHOP_URL", str(tmp_path / "shop.db"))
    return Shop("duckdb", str(tmp_path / "shop.db"), PER_DAY)


def test_many_rows_land_in_parts_as_they_would_at_once(
    app: Callable[..., Settings], file: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Repeats, conflicts, late rows and rows that are bad for themselves are found in whichever part they fall."""
    file.run("insert into shop.plays select * from shop.plays where listen_id in ('l41', 'l57')")
    file.run("insert into shop.plays select * replace (1.0 as played_s) from shop.plays where listen_id = 'l60'")
    file.run("insert into shop.plays select * replace ('l45' as listen_id) from shop.plays where listen_id = 'l0'")
    found = []
    for rows in (1_000_000, 7):
        monkeypatch.setattr(ml.landing.databases, "PART_ROWS", rows)
        query = "select * from shop.plays where started::date = {day} or ({day} = '2026-01-01' and listen_id = 'l45')"
        settings = app(file.sources(query, late="route")).model_copy(update={"home": file_home(file, rows)})
        reports = land(settings, DAYS[:2])
        with Lake(settings) as lake:
            bad = lake.sql(f"select reason, content from {ALIAS}.landing.quarantine order by all").to_pylist()
            numbers = lake.sql(f"select file, row_number from {ALIAS}.landing.quarantine").to_pylist()
        assert len({tuple(row.values()) for row in numbers}) == len(numbers)
        found.append((held(settings), bad, [(r.rows_in, r.rows_loaded, r.reasons) for r in reports]))
    assert found[0] == found[1]
    assert found[0][2][1][2] == {
        "duplicate": 3,
        "conflicting id": 2,
        "value not allowed: outcome": 1,
    }


def file_home(file: Shop, rows: int) -> Path:
    return Path(file.address).parent / f"home-{rows}"


def test_readiness_of_a_query(app: Callable[..., Settings], file: Shop) -> None:
    file.run("create table shop.loaded as select date '2026-01-03' as through")
    asked = app(file.sources(ready={"query": "select max(through) >= {day} from shop.loaded"}))
    assert ready(asked) == DAYS[:3]
    assert changed_days(asked).waiting[DAYS[3]] == ["listens: its ready query says False"]
    file.run("delete from shop.plays where started < '2026-01-02'")
    assert ready(asked) == DAYS[:3], "an empty day that is said to be complete"
    assert [report.rows_in for report in land(asked, DAYS[:1])] == [0]
    assert ready(asked) == DAYS[1:3]


def test_a_day_without_rows_waits_unless_its_table_is_optional(app: Callable[..., Settings], file: Shop) -> None:
    file.run("delete from shop.plays where started < '2026-01-02'")
    required = tuple(name for name in ALL_TABLES if name != "listens")
    settings = app(file.sources(), optional_tables=required)
    assert ready(settings) == DAYS[1:]
    with pytest.raises(DayIncomplete, match="listens: its query has no row of the day"):
        land(settings, DAYS[:1])
    assert ready(app(file.sources())) == DAYS[1:]


def test_today_is_complete_after_the_silence_of_its_end(app: Callable[..., Settings], file: Shop) -> None:
    today = datetime.now(UTC).date()
    week_ago = today - timedelta(days=7)
    file.run(f"update shop.plays set started = started + interval {(week_ago - FIRST).days} day")
    settings = app(file.sources(ready={"silence": 3 * 1440.0}), first_day=week_ago, last_day=None)
    days = changed_days(settings).waiting if ready(settings) else {}
    yesterday = today - timedelta(days=1)
    assert days[yesterday] == [f"listens: the day is complete at {today + timedelta(days=3)} 00:00 UTC"]
    assert today not in days


def test_a_version_saves_reading_the_rows_and_the_look_is_not_repeated(
    app: Callable[..., Settings], file: Shop
) -> None:
    file.run(
        "create table shop.versions as select date '2026-01-01' + i::int as day, 1 as number from range(3) as d(i)"
    )
    days = DAYS[:3]
    settings = app(file.sources(version="select number from shop.versions where day = {day}"), last_day=days[-1])
    land(settings, days)
    assert ready(settings) == []
    file.run("delete from shop.plays where listen_id = 'l41'")
    assert ready(settings) == []
    file.run("update shop.versions set number = 2 where day = '2026-01-02'")
    assert ready(settings) == [DAY]
    slow = app(file.sources(look=60), last_day=days[-1])
    assert ready(slow) == days, "the ledger has versions, this source compares rows"
    file.run("delete from shop.plays")
    assert ready(slow) == days


ODD = {
    "hugeint": "170141183460469231731687303715884105727::hugeint",
    "ubigint": "18446744073709551615::ubigint",
    "decimal": "12345678901234567890123::decimal(38, 0)",
    "uuid": "'5f0a1a6e-5a8e-4b0a-9d52-0e3f9f0c6f7b'::uuid",
    "enum": "'u1'::enum('u1', 'u2')",
}


@pytest.mark.parametrize("kind", ODD)
def test_ids_of_every_type_of_a_database_keep_their_digits(app: Callable[..., Settings], file: Shop, kind: str) -> None:
    query = f"select * replace ({ODD[kind]} as uid) from shop.plays where started::date = {{day}}"
    settings = app(file.sources(query))
    land(settings, DAYS[:1])
    with Lake(settings) as lake:
        found = lake.connection.execute(f"select distinct user_id from {ALIAS}.landing.listens").fetchall()
    with duckdb.connect() as connection:
        assert found == connection.execute(f"select ({ODD[kind]})::varchar").fetchall()


WRONG = {
    "no such column": ("select uidd from shop.plays where started = {day}", {}, r"tables.listens.query: .*\"uid\""),
    "no such table": ("select * from shop.playz where {day} > started", {}, r"tables.listens.query: .*plays"),
    "syntax": ("from from from shop.plays where started = {day}", {}, "tables.listens.query: Parser Error"),
    "column": (
        "select * exclude (uid), uid as uidd from shop.plays where started = {day}",
        {},
        "query of listens for 2026-01-02: column 'uid' is missing, .* reads as 'user_id'.*did you mean 'uidd'",
    ),
    "ready": (None, {"ready": {"query": "select nothing where {day} > 1"}}, "tables.listens.ready.query: "),
    "version": (None, {"version": "select nothing where {day} > 1"}, "tables.listens.version: "),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_query_says_where_it_stands_and_what_is_near(
    app: Callable[..., Settings], file: Shop, case: str
) -> None:
    query, more, told = WRONG[case]
    with pytest.raises(LandingError, match=f"(?s){told}"):
        land(app(file.sources(query, **more)), [DAY])


UNREACHABLE = {
    "postgres": "postgresql://me:sesame-1@127.0.0.1:1/shop",
    "postgres, words": "host=127.0.0.1 port=1 user=me password='sesame-1 x' dbname=shop",
    "mysql": "host=127.0.0.1 port=1 user=me password=sesame-1 database=shop",
    "sqlite": "/nowhere/sesame-1.db",
}


@pytest.mark.parametrize("case", UNREACHABLE)
def test_an_unreachable_database_is_told_without_its_address_and_keeps_its_days_waiting(
    app: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    kind = case.split(",")[0]
    settings = app(
        f"attach: {{shop: {{type: {kind}, env: SHOP_URL}}}}\n"
        "tables: {listens: {query: 'select * from shop.plays where started = {day}', ready: {silence: 0}}}"
    )
    monkeypatch.delenv("SHOP_URL", raising=False)
    monkeypatch.setenv("SHOPP_URL", "x")
    with pytest.raises(LandingError, match=r"attach.shop: the variable SHOP_URL is not set.*did you mean 'SHOPP_URL'"):
        land(settings, [DAY])
    monkeypatch.setenv("SHOP_URL", UNREACHABLE[case])
    with pytest.raises(LandingError, match=f"attach.shop: {kind} cannot be reached: .*SHOP_URL holds its address") as e:
        land(settings, [DAY])
    assert "sesame" not in str(e.value) and e.value.__suppress_context__
    assert ready(settings) == []
    [told] = changed_days(settings).waiting[DAY]
    assert "cannot be reached" in told and "sesame" not in told


def test_the_doctor_finds_what_is_wrong_before_a_run_does(app: Callable[..., Settings], file: Shop) -> None:
    look = EXAMINATIONS["sources"]
    assert look(app(file.sources())) == (State.GOOD, "shop answer the queries of listens")
    for query, told in {
        "select uidd from shop.plays where started = {day}": '"uid"',
        "select * exclude (uid) from shop.plays where started = {day}": "column 'uid' is missing",
    }.items():
        state, found, *_ = look(app(file.sources(query)))
        assert state == State.BAD and told in found
    files = "tables: {listens: {ready: {query: 'select 1 from playz where {day} is null'}}}"
    state, found, *_ = look(app(files))
    assert state == State.BAD and "tables.listens.ready.query: " in found


def test_a_query_says_when_files_are_complete(app: Callable[..., Settings], file: Shop) -> None:
    file.run("create table shop.loaded as select date '2026-01-02' as through")
    keys = {"ready": {"query": "select max(through) >= {day} from shop.loaded"}}
    attach = {"shop": {"type": "duckdb", "env": "SHOP_URL"}}
    settings = app(json.dumps({"attach": attach, "tables": {"listens": keys}}))
    for day in DAYS[:3]:
        put(settings, "listens", "a.csv", to_csv(listens("l")), day)
    assert ready(settings) == DAYS[:2]
    assert changed_days(settings).waiting[DAYS[2]] == ["listens: its ready query says False"]


WRONG_SOURCES = {
    "attach:\n  shop:\n    type: postgre\n    env: A": "line 3: attach.shop.type: must be 'postgres', ",
    "attach:\n  shop:\n    type: postgres\n    path: x": "line 2: attach.shop: the address of postgres is a secret",
    "attach:\n  shop:\n    type: sqlite": "line 2: attach.shop: its address is in env or path, one of them",
    "attach:\n  s:\n    type: parquet\n    path: 'https://me:sesame@host/x'": "line 2: attach.s: path holds a password",
    "attach:\n  temp: {type: duckdb, path: x}": "line 1: attach: 'temp' cannot name a database",
    "tables:\n  listens:\n    query: select 1": "line 3: tables.listens.query: it must name the day",
    "tables:\n  listens:\n    query: 'select {dy}'": "line 3: tables.listens.query: unknown {dy}; did you mean 'day'?",
    "tables:\n  listens:\n    query: 'select {day}'\n    files: '{day}/*'": "line 3: tables.listens.query: a table",
    "tables:\n  listens:\n    version: 'select {day}'": "line 3: tables.listens.version: it is of a query",
    "tables:\n  listens:\n    query: 'select {day}'\n    ready: {marker: x}": "line 4: tables.listens.ready.marker: a",
}


@pytest.mark.parametrize("text", WRONG_SOURCES)
def test_a_wrong_database_or_query_is_refused_with_its_line(app: Callable[..., Settings], text: str) -> None:
    settings = app(text)
    with pytest.raises(ContractError) as refused:
        load_sources(settings, load_contract(settings))
    assert f"sources.yaml: {WRONG_SOURCES[text]}" in str(refused.value)
    assert "sesame" not in str(refused.value)
