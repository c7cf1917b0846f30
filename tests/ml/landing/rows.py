"""Rows and files that tests of landing put into the landing zone."""

import io
from datetime import date, datetime, timedelta
from pathlib import Path

import polars as pl

from ml.foundation.settings import Settings
from ml.landing.patterns import SUCCESS
from tests.support.known import the

DAY = date(2026, 1, 2)
NEXT = DAY + timedelta(days=1)
NOON = datetime(2026, 1, 2, 12)
SURFACES = {"homepage", "radio"}
VECTOR = [0.5] * 8
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
    "ranker_scores",
    "served",
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


def to_tsv(frame: pl.DataFrame) -> bytes:
    return frame.write_csv(separator="\t").encode()


def to_json_array(frame: pl.DataFrame) -> bytes:
    return b"[" + b",\n ".join(to_jsonl(frame).splitlines()) + b"]"


def to_jsonl(frame: pl.DataFrame) -> bytes:
    if "ts" in frame.columns and frame["ts"].dtype != pl.String:
        frame = frame.with_columns(pl.col("ts").dt.to_string("iso:strict"))
    return frame.write_ndjson().encode()


def to_parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def put(settings: Settings, table: str, name: str, content: bytes, day: date = DAY) -> Path:
    folder = the(Path, settings.landing_dir) / table / f"day={day}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


def put_two_days(settings: Settings) -> None:
    """Write the exposures of ``DAY`` and ``NEXT``, complete and good."""
    for number, day in enumerate((DAY, NEXT)):
        rows = exposures(f"d{number}").with_columns(pl.col("ts") + timedelta(days=number))
        put(settings, "exposures", "good.csv", to_csv(rows), day)
        put(settings, "exposures", SUCCESS, b"", day)


def with_value(frame: pl.DataFrame, column: str, value: object) -> pl.DataFrame:
    """Put ``value`` (as text) into the last row."""
    texts = frame.with_columns(pl.col(column).cast(pl.String))
    last = pl.int_range(pl.len()) == pl.len() - 1
    return texts.with_columns(pl.when(last).then(pl.lit(value, pl.String)).otherwise(column).alias(column))
