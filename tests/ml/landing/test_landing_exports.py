"""Ordinary exports land: each kind of time, id, number and null is loaded right, or refused as one row."""

import csv
import io
import json
import shutil
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.foundation.lake import ALIAS, Lake
from ml.foundation.settings import Settings
from ml.landing.contract import Column, ContractError, Table, load_contract
from ml.landing.load import load_days
from ml.landing.readers import ROW
from ml.landing.sources import NULLS, Origin, Source, load_sources
from ml.landing.validate import check_columns, typed
from tests.ml.landing.rows import ALL_TABLES, DAY, SURFACES, put
from tests.support.landing_cases import KEYS

WHY = "__wrong"


@pytest.fixture(scope="module")
def zone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, Lake]]:
    app = tmp_path_factory.mktemp("app")
    found = Settings(
        home=tmp_path_factory.mktemp("exports"),
        app=app,
        first_day=DAY,
        optional_tables=ALL_TABLES,
        max_quarantine_share=1.0,
        threads=1,
    )
    with Lake(found) as lake:
        yield found, lake


def land(zone: tuple[Settings, Lake], table: str, name: str, content: bytes) -> tuple[dict[str, Any], dict[int, str]]:
    """Land one file alone; return {key: row} of what loaded and {number: reason} of what did not."""
    found, lake = zone
    assert found.landing_dir is not None
    shutil.rmtree(found.landing_dir / table, ignore_errors=True)
    put(found, table, name, content)
    [report] = load_days(lake, found, [DAY], SURFACES, tables=[table])
    loaded = lake.sql(f"select * from {ALIAS}.landing.{table}").to_pylist()
    refused = lake.sql(f"select row_number, reason from {ALIAS}.landing.quarantine where table_name = '{table}'")
    reasons = {row["row_number"]: row["reason"] for row in refused.to_pylist()}
    assert report.rows_in == len(loaded) + len(reasons)
    return {row[KEYS[table]]: row for row in loaded}, reasons


def text_file(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def parquet(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def exposure(key: str, **given: Any) -> dict[str, Any]:
    row = {"exposure_id": key, "ts": f"{DAY} 10:00:00", "surface": "homepage", "user_id": "u1"}
    return row | {"session_id": "s1", "item_id": "i1", "row": 0} | given


def read_as(column: Column, values: list[str | None], source: Source) -> tuple[list[Any], list[str | None]]:
    frame = pl.DataFrame({"x": values}, schema={"x": pl.String}).with_row_index(ROW, offset=1).cast({ROW: pl.Int64})
    result = typed(frame, Table(description="t", key=("k",), columns={"k": KEY, "x": column}), 0, source)
    return result["x"].to_list(), result[WHY].to_list()


KEY = Column(type="string", description="key")
TIME = Column(type="timestamp", description="when")
ID = Column(type="string", id=True, description="who")
MOMENTS = st.datetimes(datetime(1678, 1, 1), datetime(2262, 1, 1))
OFFSETS = st.integers(-14 * 4, 14 * 4).map(lambda quarters: 15 * quarters)


@st.composite
def written(draw: st.DrawFn) -> tuple[str, datetime]:
    """Draw a time as some database or language writes it, and what it is in UTC."""
    moment = draw(MOMENTS)
    offset = draw(OFFSETS)
    form = draw(st.sampled_from(["naive", "z", "word", "hours", "minutes", "joined"]))
    if form == "hours":
        offset -= offset % 60
    local = moment + timedelta(minutes=offset) if form in ("hours", "minutes", "joined") else moment
    digits = draw(st.sampled_from([None, 0, 1, 3, 6, 9, 12]))
    clock = "%H:%M" if digits is None else "%H:%M:%S"
    cut = 10 ** (6 - min(digits or 0, 6))
    local = local.replace(second=local.second if digits is not None else 0, microsecond=local.microsecond // cut * cut)
    if not digits:
        local = local.replace(microsecond=0)
    text = local.strftime(f"{local.year:04d}-%m-%d") + draw(st.sampled_from("Tt ")) + local.strftime(clock)
    if digits:
        more = f"{local.microsecond:06d}"
        text += draw(st.sampled_from(".,")) + (more[:digits] if digits <= 6 else more.ljust(digits, "7"))
    sign, (hours, minutes) = "-" if offset < 0 else "+", divmod(abs(offset), 60)
    ends = {
        "naive": "",
        "z": draw(st.sampled_from("Zz")),
        "word": draw(st.sampled_from([" UTC", "UTC", " GMT"])),
        "hours": f"{sign}{hours:02d}",
        "minutes": f"{sign}{hours:02d}:{minutes:02d}",
        "joined": f"{draw(st.sampled_from(['', ' ']))}{sign}{hours:02d}{minutes:02d}",
    }
    moved = timedelta(minutes=offset) if form in ("hours", "minutes", "joined") else timedelta(0)
    return text + ends[form], local - moved


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(drawn=st.lists(written(), min_size=1, max_size=20))
def test_a_time_in_any_usual_form_is_read_to_the_microsecond(drawn: list[tuple[str, datetime]]) -> None:
    values, why = read_as(TIME, [text for text, _ in drawn], Source())
    assert values == [moment for _, moment in drawn]
    assert not any(why)


NONSENSE = ["soon", "2026-13-01 00:00:00", "2026-02-30T00:00:00Z", "2026-03-01", "2026-03-01 25:00:00", "1772359200"]
NONSENSE += ["2026-03-01 10:00:61", "2026-03-01T10:00:00+99", "2026-03-01T10:00:00 CEST", "03/01/2026 10:00", "12:00"]


@pytest.mark.parametrize("text", NONSENSE)
def test_what_is_no_time_stays_refused_beside_good_ones(text: str) -> None:
    values, why = read_as(TIME, ["2026-03-01 10:00:00", text, "2026-03-01T10:00Z"], Source())
    assert values[1] is None and "wrong type: x" in str(why[1]) and "2026-03-01T10:00:00Z" in str(why[1])
    assert values[0] == values[2] == datetime(2026, 3, 1, 10) and why[0] is why[2] is None


def test_naive_times_are_of_the_declared_zone_and_others_of_their_own() -> None:
    source = Source(timezone="Europe/Berlin")
    texts = ["2026-07-01 12:00:00", "2026-01-01T12:00", "2026-07-01 12:00:00Z", "2026-07-01 12:00:00+09"]
    texts += ["2026-03-29 02:30:00", "2026-10-25 02:30:00"]
    values, why = read_as(TIME, list(texts), source)
    hours = [(7, 1, 10), (1, 1, 11), (7, 1, 12), (7, 1, 3)]
    assert values[:4] == [datetime(2026, month, day, hour) for month, day, hour in hours]
    assert values[4] is None and why[4], "the clocks left that hour out"
    assert values[5] == datetime(2026, 10, 25, 0, 30), "the first of the hour that comes twice"


@settings(max_examples=30, deadline=None)
@given(moment=MOMENTS, unit=st.sampled_from(["s", "ms", "us", "ns"]))
def test_whole_numbers_of_a_declared_unit_are_times(moment: datetime, unit: Any) -> None:
    per = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    micros = (moment - datetime(1970, 1, 1)) // timedelta(microseconds=1)
    number = micros * per // 10**6
    source = Source(columns={"x": Origin.model_validate({"from": "x", "unit": unit})})
    values, why = read_as(TIME, [str(number), "word"], source)
    exact = datetime(1970, 1, 1) + timedelta(microseconds=number * 10**6 // per)
    assert values == [exact, None] and why[0] is None and why[1]


def test_times_of_another_form_are_read_where_it_is_declared() -> None:
    source = Source(
        timezone="America/New_York", columns={"x": Origin.model_validate({"from": "x", "format": "%d/%m/%Y %H:%M"})}
    )
    assert read_as(TIME, ["01/03/2026 10:00", "2026-03-01 10:00:00"], source)[0] == [datetime(2026, 3, 1, 15), None]


IDS = st.one_of(
    st.integers(-(10**25), 10**25).map(str),
    st.uuids().map(str),
    st.from_regex(r"[0-9a-f]{4,12}", fullmatch=True),
    st.from_regex(r"[a-z]{1,3}\d{1,6}(\.\d{1,3})?", fullmatch=True),
    st.sampled_from(["00456", "1e5", "12e4", "v1.0", "1.0.0", "user.name@example.org", "1-2", "e+7", "Nullman"]),
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(ids=st.lists(IDS, min_size=1, max_size=20))
def test_an_id_is_loaded_as_it_is(ids: list[str]) -> None:
    assert read_as(ID, list(ids), Source()) == (ids, [None] * len(ids))


@settings(max_examples=60, deadline=None)
@given(number=st.integers(10**3, 10**25), form=st.sampled_from([str, "{:.1f}".format, "{:.16e}".format, "{:E}".format]))
def test_an_id_that_was_a_float_is_refused_and_says_so(number: int, form: Any) -> None:
    text = form(float(number))
    values, why = read_as(ID, [text, "u1"], Source())
    assert values == [None, "u1"], text
    assert "x" in str(why[0]) and "export it as text" in str(why[0]) and why[1] is None
    plain = Column(type="string", description="a version, which is no id")
    assert read_as(plain, [text], Source())[0] == [text]


def test_whole_numbers_may_be_written_as_floats_and_no_others() -> None:
    whole = Column(type="int64", description="n")
    texts = ["5.0", "7", "-3.000", "5.5", "1e3", "12345678901234567890", "9007199254740993.0"]
    assert read_as(whole, list(texts), Source())[0] == [5, 7, -3, None, None, None, None]


@pytest.mark.slow
@pytest.mark.parametrize("word", NULLS)
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_null_words_are_nulls_of_any_type_and_never_an_id(zone: tuple[Settings, Lake], word: str, name: str) -> None:
    rows = [exposure("a", row=word, container_id=word), exposure("b", user_id=word), exposure("c", user_id=f"{word}!")]
    rows = [{"container_id": "", **row} for row in rows]
    if name.endswith("jsonl"):
        content = "\n".join(map(json.dumps, rows)).encode()
    else:
        content = text_file(rows)
        content = content.replace(b",", b"\t") if name.endswith("tsv") else content
    loaded, refused = land(zone, "exposures", name, content)
    assert loaded["a"]["row"] is None and loaded["a"]["container_id"] is None
    assert refused == {2: "null: user_id"}
    assert loaded["c"]["user_id"] == f"{word}!"


def test_the_app_says_which_words_are_nulls(zone: tuple[Settings, Lake], tmp_path: Path) -> None:
    found, lake = zone
    (tmp_path / "sources.yaml").write_text("tables: {exposures: {nulls: ['-']}}")
    own = found.model_copy(update={"app": tmp_path})
    loaded, _ = land((own, lake), "exposures", "a.csv", text_file([exposure("a", user_id="None", row="-")]))
    assert loaded["a"]["user_id"] == "None" and loaded["a"]["row"] is None


USER_KINDS = {
    "decimals": pa.array([Decimal(1), Decimal(10**37)], pa.decimal128(38, 0)),
    "wide decimals": pa.array([Decimal(1), Decimal(10**60)], pa.decimal256(76, 0)),
    "decimals with a scale": pa.array([Decimal("1.00"), Decimal("22.00")], pa.decimal128(20, 2)),
    "integers beyond 2**63": pa.array([1, 2**64 - 1], pa.uint64()),
    "UUIDs": pa.array([uuid.UUID(int=1).bytes, uuid.UUID(int=2**127).bytes], pa.uuid()),
    "words of a dictionary": pa.array(["a", "b"]).dictionary_encode(),
    "bytes that are text": pa.array(["ü".encode(), b"b"], pa.binary()),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", USER_KINDS)
def test_ids_of_any_exact_type_are_text_in_their_usual_form(zone: tuple[Settings, Lake], kind: str) -> None:
    column = USER_KINDS[kind]
    values = [v.decode() if isinstance(v, bytes) else str(v) for v in column.to_pylist()]
    wanted = [value.removesuffix(".00") for value in values]
    rows = (
        pa.Table.from_pylist([exposure("a"), exposure("b")]).drop_columns(["user_id"]).append_column("user_id", column)
    )
    loaded, refused = land(zone, "exposures", "a.parquet", parquet(**{n: rows[n] for n in rows.column_names}))
    assert not refused and [loaded[key]["user_id"] for key in "ab"] == wanted


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32()])
def test_ids_that_are_floats_in_parquet_are_refused(zone: tuple[Settings, Lake], kind: pa.DataType) -> None:
    rows = pa.Table.from_pylist([exposure("a")]).drop_columns(["user_id"])
    rows = rows.append_column("user_id", pa.array([123.0], kind))
    loaded, refused = land(zone, "exposures", "a.parquet", parquet(**{n: rows[n] for n in rows.column_names}))
    assert not loaded and "user_id" in refused[1] and "export it as text" in refused[1]


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns", "int96"])
def test_parquet_times_of_every_unit_keep_their_value_or_cost_their_row(zone: tuple[Settings, Lake], unit: str) -> None:
    """Also those that 64-bit microseconds or nanoseconds cannot hold."""
    of = "us" if unit == "int96" else unit
    years = [datetime(1650, 3, 4), datetime(2262, 5, 1), datetime(2020, 1, 1)]
    far = {"s": 2**40, "ms": 2**63 - 2, "us": 2**62, "ns": 2**63 - 1}[of]
    per = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[of]
    seconds = [int(year.replace(tzinfo=UTC).timestamp()) for year in years]
    held = [n * per for n in seconds if abs(n * per) < 2**63]
    numbers = held if unit == "int96" else [*held, far]
    times = pa.array(numbers, pa.timestamp(of))
    keys = [f"t{n}" for n in range(len(numbers))]
    table = pa.table({"item_id": keys, "creator_id": keys, "released_at": times})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, use_deprecated_int96_timestamps=unit == "int96")
    loaded, refused = land(zone, "items", "a.parquet", buffer.getvalue())
    wanted = [year for year, n in zip(years, seconds, strict=True) if abs(n * per) < 2**63]
    if unit == "int96":  # its writer keeps nanoseconds of a day, and no year but what 64-bit nanoseconds hold is sure
        assert loaded["t2"]["released_at"] == years[2]
        return
    assert [loaded[f"t{n}"]["released_at"] for n in range(len(wanted))] == wanted
    last = keys[-1]
    assert (last in loaded and loaded[last]["released_at"] is None) or "released_at" in refused[len(keys)] or of == "ns"


SENTINELS = ["0001-01-01 00:00:00", "0001-01-01T00:00:00Z", "9999-12-31 23:59:59", "infinity", "-infinity", "Infinity"]


@pytest.mark.slow
@pytest.mark.parametrize("text", [*SENTINELS, "1970-01-01 00:00:00", "1970-01-01"])
def test_dates_that_stand_for_nothing_are_nulls(zone: tuple[Settings, Lake], text: str) -> None:
    rows = [{"user_id": "a", "signed_up_at": text}, {"user_id": "b", "signed_up_at": "2024-02-29 12:00:00"}]
    loaded, refused = land(zone, "users", "a.csv", text_file(rows))
    assert not refused and loaded["a"]["signed_up_at"] is None
    assert loaded["b"]["signed_up_at"] == datetime(2024, 2, 29, 12)


def test_the_app_says_which_dates_stand_for_nothing(zone: tuple[Settings, Lake], tmp_path: Path) -> None:
    found, lake = zone
    (tmp_path / "contract.yaml").write_text("tables: {users: {no_dates: {signed_up_at: [1900-01-01]}}}")
    own = found.model_copy(update={"app": tmp_path})
    rows = [{"user_id": key, "signed_up_at": f"{year}-01-01"} for key, year in (("a", 1900), ("b", 1970))]
    loaded, _ = land((own, lake), "users", "a.csv", text_file(rows))
    assert loaded["a"]["signed_up_at"] is None and loaded["b"]["signed_up_at"] == datetime(1970, 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.jsonl"])
def test_headers_in_capitals_and_renamed_ones_are_the_contracts(
    zone: tuple[Settings, Lake], tmp_path: Path, name: str
) -> None:
    found, lake = zone
    (tmp_path / "sources.yaml").write_text("tables: {exposures: {columns: {user_id: uid}}}")
    own = found.model_copy(update={"app": tmp_path})
    row = {column.upper(): value for column, value in exposure("a", row=3).items()}
    row["Uid"] = row.pop("USER_ID")
    contents = {
        "a.csv": lambda: text_file([row]),
        "a.parquet": lambda: parquet(**{k: [v] for k, v in row.items()}),
        "a.jsonl": lambda: json.dumps(row).encode(),
    }
    loaded, refused = land((own, lake), "exposures", name, contents[name]())
    assert not refused and (loaded["a"]["user_id"], loaded["a"]["row"]) == ("u1", 3)


def test_bools_and_arrays_of_postgres_are_read() -> None:
    flag = Column(type="bool", nullable=True, description="b")
    assert read_as(flag, ["t", "f", "TRUE", "0", "1.0", "yes", "2"], Source())[0] == [
        True,
        False,
        True,
        False,
        True,
        True,
        None,
    ]
    vector = Column(type="float_vector[2]", nullable=True, description="v")
    assert read_as(vector, ["{0.5,1}", "[0.5, 1]", "(1,2)"], Source())[0] == [[0.5, 1.0], [0.5, 1.0], None]


WRONG_SOURCES = {
    "tables: {exposure: {late: route}}": "did you mean 'exposures'",
    "tables: {exposures: {lat: route, nul: []}}": "did you mean 'late'.*did you mean 'nulls'",
    "tables: {exposures: {late: maybe}}": "tables.exposures.late.*'route' or 'refuse', not 'maybe'",
    "tables: {exposures: {timezone: Europe/Berln}}": "no time zone 'Europe/Berln'; did you mean 'Europe/Berlin'",
    "tables: {exposures: {columns: {user: uid}}}": "did you mean 'user_id'",
    "tables: {exposures: {columns: {row: {from: r, unit: ms}}}}": "unit and format are of timestamps",
    "tables: {items: {late: route}}": "no time that says which day",
    "tables: {": "while parsing",
}


@pytest.mark.parametrize("text", WRONG_SOURCES)
def test_a_wrong_sources_file_is_refused_with_all_that_is_wrong(
    zone: tuple[Settings, Lake], tmp_path: Path, text: str
) -> None:
    (tmp_path / "sources.yaml").write_text(text)
    own = zone[0].model_copy(update={"app": tmp_path})
    with pytest.raises(ContractError, match=f"(?s)sources.yaml: .*{WRONG_SOURCES[text]}"):
        load_sources(own, load_contract(own))


def test_unknown_and_missing_columns_are_told_at_once_with_the_name_that_was_meant_and_the_line_to_add(
    settings: Settings,
) -> None:
    table = load_contract(settings).tables["exposures"]
    there = [*(name for name in table.columns if name != "user_id"), "debug", "sessionid"]
    with pytest.raises(ContractError) as refused:
        check_columns("exposures", table, there, "day/part.csv")
    told = str(refused.value)
    assert told.startswith(
        "day/part.csv: required column 'user_id' of exposures is missing; columns 'debug', 'sessionid'"
    )
    assert "'sessionid' (did you mean 'session_id'?)" in told
    assert "`tables: {exposures: {ignored: [debug, sessionid]}}`" in told
    line = yaml.safe_load(told.split("`")[1])
    ignoring = table.model_copy(update={"ignored": tuple(line["tables"]["exposures"]["ignored"])})
    check_columns("exposures", ignoring, ["user_id", *there], "day/part.csv")
