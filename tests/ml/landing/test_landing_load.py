"""Landing keeps its promises: four formats, every broken row and file accounted for, days replaced as a whole."""

import gzip
import io
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ml.landing.load
from ml.lake import ALIAS, Lake
from ml.landing.changes import changed_days
from ml.landing.contract import ContractError, LandingError, load_contract
from ml.landing.ledger import LEDGER
from ml.landing.load import DayIncomplete, DaysFailed, QuarantineLimitExceeded, init_tables, load_days
from ml.landing.readers import UnreadableFile
from ml.landing.readiness import input_hash
from ml.progress import Step
from ml.settings import Settings

DAY = date(2026, 1, 2)
NOON = datetime(2026, 1, 2, 12)
SURFACES = {"homepage", "radio"}
ALL_TABLES = (
    "exposures",
    "listens",
    "outcomes",
    "items",
    "users",
    "source_impressions",
    "source_user_profiles",
    "source_item_profiles",
    "teacher_scores",
)


def exposures(prefix: str, n: int = 3) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "exposure_id": [f"{prefix}{i}" for i in range(n)],
            "ts": [NOON + timedelta(seconds=i) for i in range(n)],
            "surface": ["homepage"] * n,
            "user_id": ["u1"] * n,
            "session_id": ["s1"] * n,
            "item_id": [f"i{i}" for i in range(n)],
            "row": list(range(n)),
        }
    )


def listens(prefix: str, n: int = 2) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "listen_id": [f"{prefix}{i}" for i in range(n)],
            "ts": [NOON] * n,
            "user_id": ["u1"] * n,
            "session_id": ["s1"] * n,
            "item_id": ["i1"] * n,
            "played_s": [30.5] * n,
            "outcome": ["completed"] * n,
        }
    )


def items(prefix: str, vectors: list) -> pl.DataFrame:
    n = len(vectors)
    return pl.DataFrame(
        {"item_id": [f"{prefix}{i}" for i in range(n)], "creator_id": ["c"] * n, "content_embedding": vectors},
        schema_overrides={"content_embedding": pl.List(pl.Float64)},
    )


def impressions(prefix: str, clicked: list) -> pl.DataFrame:
    n = len(clicked)
    return pl.DataFrame(
        {
            "impression_id": [f"{prefix}{i}" for i in range(n)],
            "ts": [NOON] * n,
            "source_user_id": ["u"] * n,
            "source_item_id": ["i"] * n,
            "clicked": clicked,
        },
        strict=False,
    )


def to_csv(frame: pl.DataFrame) -> bytes:
    return frame.write_csv().encode()


def to_jsonl(frame: pl.DataFrame) -> bytes:
    if "ts" in frame.columns and frame["ts"].dtype != pl.String:
        frame = frame.with_columns(pl.col("ts").dt.to_string("iso:strict"))
    return frame.write_ndjson().encode()


def to_parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def put(settings: Settings, table: str, name: str, content: bytes, day: date = DAY) -> Path:
    folder = settings.landing_dir / table / f"day={day}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, first_day=DAY, optional_tables=ALL_TABLES, max_quarantine_share=1.0, threads=2)


@pytest.fixture
def lake(settings: Settings) -> Iterator[Lake]:
    with Lake(settings) as opened:
        yield opened


def with_value(frame: pl.DataFrame, column: str, value: object) -> pl.DataFrame:
    """Put ``value`` (as text) into the last row."""
    texts = frame.with_columns(pl.col(column).cast(pl.String))
    last = pl.int_range(pl.len()) == pl.len() - 1
    return texts.with_columns(pl.when(last).then(pl.lit(value, pl.String)).otherwise(column).alias(column))


def not_utf8_parquet(prefix: str) -> bytes:
    """Two listens; the second user id holds the byte FF."""
    table = pa.table(listens(prefix).to_arrow())
    raw = b"u1u\xff"
    offsets = pa.array([0, 2, 4], pa.int32()).buffers()[1]
    users = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(raw)])
    table = table.set_column(table.schema.get_field_index("user_id"), "user_id", users)
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def repeated(frame: pl.DataFrame) -> pl.DataFrame:
    return pl.concat([frame, frame.head(1)])


FAR = datetime.now(UTC).replace(tzinfo=None) + timedelta(days=400)
VECTOR = [0.5] * 8

# kind: (table, file name, content, reasons of the bad rows, number of good rows)
BROKEN_ROWS: dict[str, tuple[str, str, Callable[[str], bytes], list[str], int]] = {
    "word for an integer": (
        "exposures",
        "k01.csv",
        lambda p: to_csv(with_value(exposures(p), "row", "top")),
        ["wrong type: row"],
        2,
    ),
    "fraction for an integer": (
        "exposures",
        "k02.csv",
        lambda p: to_csv(with_value(exposures(p), "row", "1.5")),
        ["wrong type: row"],
        2,
    ),
    "word for a number": (
        "listens",
        "k03.csv",
        lambda p: to_csv(with_value(listens(p), "played_s", "long")),
        ["wrong type: played_s"],
        1,
    ),
    "word for a timestamp": (
        "listens",
        "k04.csv",
        lambda p: to_csv(with_value(listens(p), "ts", "noon")),
        ["wrong type: ts"],
        1,
    ),
    "word for a bool": (
        "source_impressions",
        "k05.csv",
        lambda p: to_csv(impressions(p, ["true", "0", "perhaps"])),
        ["wrong type: clicked"],
        2,
    ),
    "two for a bool": (
        "source_impressions",
        "k06.parquet",
        lambda p: to_parquet(impressions(p, [1, 0, 2])),
        ["wrong type: clicked"],
        2,
    ),
    "object for a string": (
        "listens",
        "k07.jsonl",
        lambda p: to_jsonl(listens(p)) + to_jsonl(listens(p + "x", 1)).replace(b'"u1"', b'{"id": "u1"}'),
        ["wrong type: user_id"],
        2,
    ),
    "bool column for a string": (
        "listens",
        "k08.parquet",
        lambda p: to_parquet(listens(p).with_columns(user_id=True)),
        ["wrong type: user_id"] * 2,
        0,
    ),
    "null key": (
        "exposures",
        "k09.csv",
        lambda p: to_csv(with_value(exposures(p), "exposure_id", None)),
        ["null: exposure_id"],
        2,
    ),
    "null required value": (
        "exposures",
        "k10.jsonl",
        lambda p: to_jsonl(with_value(exposures(p), "item_id", None)),
        ["null: item_id"],
        2,
    ),
    "empty string for an id": (
        "exposures",
        "k11.parquet",
        lambda p: to_parquet(with_value(exposures(p), "user_id", "")),
        ["null: user_id"],
        2,
    ),
    "absent required key of one line": (
        "listens",
        "k12.jsonl",
        lambda p: to_jsonl(listens(p)) + to_jsonl(listens(p + "x", 1).drop("session_id")),
        ["null: session_id"],
        2,
    ),
    "future timestamp": (
        "listens",
        "k13.csv",
        lambda p: to_csv(with_value(listens(p), "ts", str(FAR))),
        ["future timestamp: ts"],
        1,
    ),
    "timestamp of the day before": (
        "listens",
        "k14.csv",
        lambda p: to_csv(with_value(listens(p), "ts", "2026-01-01 23:59:59.999999")),
        ["timestamp of another day: ts"],
        1,
    ),
    "timestamp at the next midnight": (
        "listens",
        "k15.csv",
        lambda p: to_csv(with_value(listens(p), "ts", "2026-01-03T00:00:00Z")),
        ["timestamp of another day: ts"],
        1,
    ),
    "other day through its offset": (
        "listens",
        "k16.csv",
        lambda p: to_csv(with_value(listens(p), "ts", "2026-01-02T01:00:00+08:00")),
        ["timestamp of another day: ts"],
        1,
    ),
    "exact duplicate": ("exposures", "k17.csv", lambda p: to_csv(repeated(exposures(p))), ["duplicate"], 3),
    "conflicting id": (
        "exposures",
        "k18.csv",
        lambda p: to_csv(pl.concat([exposures(p), exposures(p, 1).with_columns(item_id=pl.lit("z"))])),
        ["conflicting id"] * 2,
        2,
    ),
    "conflict of a duplicate": (
        "exposures",
        "k19.csv",
        lambda p: to_csv(pl.concat([repeated(exposures(p)), exposures(p, 1).with_columns(item_id=pl.lit("z"))])),
        ["conflicting id"] * 3,
        2,
    ),
    "negative number": (
        "listens",
        "k20.csv",
        lambda p: to_csv(with_value(listens(p), "played_s", "-0.5")),
        ["negative: played_s"],
        1,
    ),
    "number above its bound": (
        "listens",
        "k21.csv",
        lambda p: to_csv(with_value(listens(p), "played_s", "86401")),
        ["above 86400: played_s"],
        1,
    ),
    "NaN": (
        "listens",
        "k22.csv",
        lambda p: to_csv(with_value(listens(p), "played_s", "nan")),
        ["not finite: played_s"],
        1,
    ),
    "infinite": (
        "listens",
        "k23.parquet",
        lambda p: to_parquet(listens(p).with_columns(played_s=pl.Series([1.0, float("inf")]))),
        ["not finite: played_s"],
        1,
    ),
    "value not allowed": (
        "listens",
        "k24.csv",
        lambda p: to_csv(with_value(listens(p), "outcome", "paused")),
        ["value not allowed: outcome"],
        1,
    ),
    "unknown surface": (
        "exposures",
        "k25.csv",
        lambda p: to_csv(with_value(exposures(p), "surface", "kiosk")),
        ["unknown surface: surface"],
        2,
    ),
    "over-long string": (
        "exposures",
        "k26.csv",
        lambda p: to_csv(with_value(exposures(p), "user_id", "é" * 129)),
        ["longer than 256 bytes: user_id"],
        2,
    ),
    "not UTF-8 in csv": (
        "listens",
        "k27.csv",
        lambda p: to_csv(with_value(listens(p), "user_id", "QQ")).replace(b"QQ", b"\xff\xfe"),
        ["not UTF-8"],
        1,
    ),
    "not UTF-8 in csv.gz": (
        "listens",
        "k28.csv.gz",
        lambda p: gzip.compress(to_csv(with_value(listens(p), "user_id", "QQ")).replace(b"QQ", b"\xc3")),
        ["not UTF-8"],
        1,
    ),
    "not UTF-8 in jsonl": (
        "listens",
        "k29.jsonl",
        lambda p: to_jsonl(with_value(listens(p), "user_id", "QQ")).replace(b"QQ", b"\xff"),
        ["not UTF-8"],
        1,
    ),
    "not UTF-8 in parquet": ("listens", "k30.parquet", not_utf8_parquet, ["not UTF-8"], 1),
    "short row": (
        "listens",
        "k31.csv",
        lambda p: to_csv(listens(p)) + b"x,y\n",
        ["ragged row: 2 columns instead of 7"],
        2,
    ),
    "long row": (
        "listens",
        "k32.csv",
        lambda p: to_csv(listens(p)) + b"1,2,3,4,5,6,7,8\n",
        ["ragged row: 8 columns instead of 7"],
        2,
    ),
    "invalid JSON line": (
        "listens",
        "k33.jsonl",
        lambda p: to_jsonl(listens(p, 1)) + b'{"listen_id": \n' + to_jsonl(listens(p + "x", 1)),
        ["invalid JSON"],
        2,
    ),
    "JSON line that is no object": (
        "listens",
        "k34.jsonl",
        lambda p: to_jsonl(listens(p)) + b"[1, 2]\n",
        ["JSON line is no object"],
        2,
    ),
    "vector of another length": (
        "items",
        "k35.parquet",
        lambda p: to_parquet(items(p, [VECTOR, [0.5] * 7])),
        ["not 8 numbers: content_embedding"],
        1,
    ),
    "vector with a null": (
        "items",
        "k36.jsonl",
        lambda p: to_jsonl(items(p, [VECTOR, [None, *VECTOR[1:]]])),
        ["element missing or no number: content_embedding"],
        1,
    ),
    "vector with NaN": (
        "items",
        "k37.parquet",
        lambda p: to_parquet(items(p, [VECTOR, [float("nan"), *VECTOR[1:]]])),
        ["not finite: content_embedding"],
        1,
    ),
    "text that is no vector": (
        "items",
        "k38.csv",
        lambda p: f'item_id,creator_id,content_embedding\n{p},c,"{VECTOR}"\n{p}x,c,none\n'.encode(),
        ["wrong type: content_embedding"],
        1,
    ),
}


def test_every_kind_of_broken_row_is_quarantined_with_file_and_reason_and_the_rest_loads(
    settings: Settings, lake: Lake
) -> None:
    expected: dict[str, list[str]] = {}
    good: dict[str, int] = {}
    for index, (table, name, content, reasons, n_good) in enumerate(BROKEN_ROWS.values()):
        put(settings, table, name, content(f"k{index}-"))
        expected[f"{table}/day={DAY}/{name}"] = reasons
        good[table] = good.get(table, 0) + n_good

    reports = load_days(lake, settings, [DAY], SURFACES)

    found: dict[str, list[str]] = {}
    rows = lake.sql(
        "select file, reason, row_number, content, table_name from landing.quarantine order by all"
    ).to_pylist()
    for row in rows:
        found.setdefault(row["file"], []).append(row["reason"])
        assert row["row_number"] >= 1
        assert row["content"]
        assert row["file"].startswith(row["table_name"])
    assert found == expected
    assert {r.table: r.rows_loaded for r in reports if r.rows_in} == good
    for report in reports:
        assert report.rows_in == report.rows_loaded + report.rows_quarantined
        (count,) = lake.connection.execute(f"select count(*) from landing.{report.table}").fetchone()
        assert count == report.rows_loaded
        assert sum(report.reasons.values()) == report.rows_quarantined
    ledger = lake.sql(
        "select table_name, rows_in, rows_loaded, rows_quarantined, input_hash from landing.ledger"
    ).to_pylist()
    assert {
        (r["table_name"], r["rows_in"], r["rows_loaded"], r["rows_quarantined"], r["input_hash"]) for r in ledger
    } == {(r.table, r.rows_in, r.rows_loaded, r.rows_quarantined, r.input_hash) for r in reports}


BROKEN_FILES: dict[str, tuple[str, Callable[[], bytes], type[Exception], str]] = {
    "truncated parquet": ("a.parquet", lambda: to_parquet(listens("a"))[:-20], UnreadableFile, "cannot read"),
    "damaged parquet page": (
        "a.parquet",
        lambda: to_parquet(listens("a"))[:4] + b"\xff" * 80 + to_parquet(listens("a"))[84:],
        UnreadableFile,
        "cannot read",
    ),
    "empty parquet": ("a.parquet", lambda: b"", UnreadableFile, "cannot read"),
    "truncated gzip": (
        "a.csv.gz",
        lambda: gzip.compress(to_csv(listens("a", 99)))[:-20],
        UnreadableFile,
        "cannot read",
    ),
    "no gzip": ("a.csv.gz", lambda: to_csv(listens("a")), UnreadableFile, "cannot read"),
    "unknown format": ("a.xlsx", lambda: b"PK", UnreadableFile, "unknown format"),
    "UTF-16": ("a.csv", lambda: to_csv(listens("a")).decode().encode("utf-16"), UnreadableFile, "UTF-16"),
    "open quote": (
        "a.csv",
        lambda: to_csv(listens("a")) + b'"never closed,1\n' + to_csv(listens("b")),
        UnreadableFile,
        "quote",
    ),
    "column twice": ("a.csv", lambda: b"ts,ts\n1,2\n", UnreadableFile, "'ts' stands twice"),
    "no header": ("a.csv", lambda: b"\n1,2\n", UnreadableFile, "first line is empty"),
    "required column missing": (
        "a.csv",
        lambda: to_csv(listens("a").drop("ts")),
        ContractError,
        "required column 'ts'",
    ),
    "required column missing in parquet": (
        "a.parquet",
        lambda: to_parquet(listens("a").drop("outcome")),
        ContractError,
        "required column 'outcome'",
    ),
    "required column missing in jsonl": (
        "a.jsonl",
        lambda: to_jsonl(listens("a").drop("outcome")),
        ContractError,
        "required column 'outcome'",
    ),
    "unknown column": (
        "a.jsonl",
        lambda: to_jsonl(listens("a").with_columns(mood=1)),
        ContractError,
        "column 'mood' is not in",
    ),
    "other separator": (
        "a.csv",
        lambda: to_csv(listens("a")).replace(b",", b";"),
        ContractError,
        "required column 'listen_id'",
    ),
}


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """One lake for the days that must not reach it."""
    with Lake(Settings(home=tmp_path_factory.mktemp("untouched"), threads=2)) as opened:
        yield opened


@pytest.mark.parametrize("kind", BROKEN_FILES)
def test_a_file_that_cannot_be_read_fails_its_day_with_its_name(settings: Settings, untouched: Lake, kind: str) -> None:
    name, content, error, words = BROKEN_FILES[kind]
    path = put(settings, "listens", name, content())
    with pytest.raises(error, match=words) as raised:
        load_days(untouched, settings, [DAY], SURFACES)
    assert str(path) in str(raised.value)
    assert untouched.sql("select * from landing.ledger").num_rows == 0


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


def test_too_many_bad_rows_fail_the_day_but_stay_visible(settings: Settings, lake: Lake) -> None:
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
    path.write_bytes(to_csv(bad.tail(198)))
    (report, *_) = load_days(lake, strict, [DAY], SURFACES)
    assert (report.rows_loaded, report.rows_quarantined) == (197, 1)


def test_a_bad_day_fails_alone_and_the_days_beside_it_land(settings: Settings, lake: Lake) -> None:
    days = [DAY + timedelta(days=number) for number in range(4)]
    for number, day in enumerate(days):
        rows = exposures(f"d{number}", 3).with_columns(pl.col("ts") + timedelta(days=number))
        put(settings, "exposures", "a.csv", to_csv(rows), day)
    put(settings, "exposures", "b.parquet", b"no parquet", days[1])
    put(settings, "exposures", "b.xlsx", b"PK", days[2])
    with pytest.raises(DaysFailed, match="2 of 4 days did not land, the others did") as raised:
        load_days(lake, settings, days, SURFACES)
    assert list(raised.value.failures) == days[1:3]
    assert all(text in str(raised.value) for text in (str(days[1]), "b.parquet", str(days[2]), "unknown format"))
    landed = [days[0], days[3]]
    assert sorted({report.day for report in raised.value.reports}) == landed
    counts = lake.sql("select day, count(*) as n from landing.exposures group by day order by day").to_pylist()
    assert counts == [{"day": day, "n": 3} for day in landed]
    for name, day in (("b.parquet", days[1]), ("b.xlsx", days[2])):
        (settings.landing_dir / "exposures" / f"day={day}" / name).unlink()
    load_days(lake, settings, days[1:3], SURFACES)
    assert lake.sql("select distinct day from landing.exposures").num_rows == len(days)


def test_one_broken_table_fails_a_day_that_is_fine_as_a_whole(settings: Settings, lake: Lake) -> None:
    strict = settings.model_copy(update={"max_quarantine_share": 0.01})
    put(settings, "source_impressions", "a.parquet", to_parquet(impressions("s", [True] * 5_000)))
    half = listens("l", 101).with_columns(played_s=pl.when(pl.int_range(101) < 11).then(-1.0).otherwise("played_s"))
    put(settings, "listens", "a.parquet", to_parquet(half))
    with pytest.raises(
        QuarantineLimitExceeded, match=r"11 of 101 rows of listens are bad, more than 10\.00% for one table"
    ):
        load_days(lake, strict, [DAY], SURFACES)


def test_duplicates_across_files_keep_the_first(settings: Settings, lake: Lake) -> None:
    put(settings, "exposures", "a.csv", to_csv(exposures("a")))
    put(settings, "exposures", "b.jsonl", to_jsonl(exposures("a")))
    (report, *_) = load_days(lake, settings, [DAY], SURFACES)
    assert (report.rows_loaded, report.reasons) == (3, {"duplicate": 3})
    files = lake.sql("select distinct file from landing.quarantine").to_pylist()
    assert files == [{"file": f"exposures/day={DAY}/b.jsonl"}]


def test_a_good_row_stays_when_its_twin_is_bad_for_another_reason(settings: Settings, lake: Lake) -> None:
    twins = with_value(pl.concat([listens("a", 1), listens("a", 1)]), "played_s", "-1")
    put(settings, "listens", "a.csv", to_csv(twins))
    reports = {r.table: r for r in load_days(lake, settings, [DAY], SURFACES)}
    assert (reports["listens"].rows_loaded, reports["listens"].reasons) == (1, {"negative: played_s": 1})


def test_row_numbers_point_at_the_record(settings: Settings, lake: Lake) -> None:
    lines = to_csv(listens("a", 4)).splitlines(keepends=True)
    lines[2] = b"ragged\n"
    lines[4] = lines[4].replace(b"completed", b"paused")
    put(settings, "listens", "a.csv", b"".join(lines))
    load_days(lake, settings, [DAY], SURFACES)
    rows = lake.sql("select row_number, reason, content from landing.quarantine order by row_number").to_pylist()
    assert [(r["row_number"], r["reason"]) for r in rows] == [
        (2, "ragged row: 1 column instead of 7"),
        (4, "value not allowed: outcome"),
    ]
    assert rows[0]["content"] == "ragged"
    assert '"listen_id":"a3"' in rows[1]["content"]


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


def test_progress_tells_each_day(settings: Settings, lake: Lake) -> None:
    put(settings, "exposures", "a.csv", to_csv(exposures("a")) + b"ragged\n")
    steps: list[Step] = []
    load_days(lake, settings, [DAY], SURFACES, progress=steps.append)
    assert steps == [Step("landing", 1, 1, line="2026-01-02, 3 rows landed, 1 quarantined")]


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
