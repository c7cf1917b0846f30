"""Rows that came in the folder of another day: kept until, and each time that, their own day lands.

A folder's late rows are replaced with the folder, so that landing it again changes nothing. Their own day reads them
beside its files and judges them after its own rows; where their day has landed before, it lands again.
"""

from collections.abc import Collection, Sequence
from datetime import date, timedelta

import duckdb
import polars as pl

from ml.foundation.lake import ALIAS, LANDING, Lake
from ml.foundation.settings import Settings
from ml.landing.contract import DAY, Table
from ml.landing.ledger import LEDGER
from ml.landing.readers import ROW

LATE = f"{LANDING}.late"
LATE_COLUMNS = {
    DAY: "DATE",
    "table_name": "VARCHAR",
    "source_day": "DATE",
    "file": "VARCHAR",
    "row_number": "BIGINT",
    "content": "VARCHAR",
}
CHANGED = "its late rows changed"
"""Stands in the ledger for the hash of a day's files until the day is built with its late rows."""


def elsewhere(settings: Settings, table: Table, day: date) -> pl.Expr:
    """Tell of each row whether its own day is another one that it may go to: within the horizon, and one of the app."""
    assert table.moment is not None
    own, reach = pl.col(table.moment).dt.date(), timedelta(days=settings.late_horizon_days)
    first, last = max(settings.first_day, day - reach), day + reach
    if settings.last_day is not None:
        last = min(last, settings.last_day)
    return ((own != day) & own.is_between(first, last)).fill_null(False)


def packed(rows: pl.DataFrame, table: Table) -> pl.Series:
    """Return typed rows as text, exactly."""
    texts = []
    for name, column in table.columns.items():
        value = pl.col(name)
        if column.kind == "float_vector":
            inside = value.list.eval(pl.element().cast(pl.String).fill_null("null")).list.join(", ")
            texts.append(pl.format("[{}]", inside).alias(name))
        else:
            texts.append(value.cast(pl.String))
    return rows.select(pl.struct(texts).struct.json_encode()).to_series()


def unpacked(late: pl.DataFrame, table: Table) -> pl.DataFrame:
    """Return late rows as columns of text with ``ROW``, as a file would give them."""
    shape = pl.Struct(dict.fromkeys(table.columns, pl.String))
    return late.select(pl.col("content").str.json_decode(shape), pl.col("row_number").alias(ROW)).unnest("content")


def none_arrived(names: Sequence[str]) -> dict[str, pl.DataFrame]:
    """Return what ``arrived`` gives of tables for which nothing came in the folders of other days."""
    kinds = {"source_day": pl.Date, "file": pl.String, "row_number": pl.Int64, "content": pl.String}
    return {name: pl.DataFrame(schema=kinds) for name in names}


def arrived(lake: Lake, day: date, names: Sequence[str]) -> dict[str, pl.DataFrame]:
    """Return the rows of a day that came in the folders of others, by table: those columns of ``LATE``, in order."""
    query = (
        f"select table_name, source_day, file, row_number, content from {ALIAS}.{LATE} "
        f"where {DAY} = ? and list_contains(?::varchar[], table_name) and source_day <> ? order by all"
    )
    rows = pl.DataFrame(lake.sql(query, [day, list(names), day]))
    return {name: rows.filter(pl.col("table_name") == name).drop("table_name") for name in names}


def replace(
    connection: duckdb.DuckDBPyConnection, day: date, names: Sequence[str], rows: pl.DataFrame
) -> set[tuple[date, str]]:
    """Replace what the folder of a day has for others, and mark the landed days that this changes.

    Returns:
        (day, table) of those whose late rows are others now.
    """
    before = _digests(connection, day, names)
    if rows.is_empty() and not before:
        return set()
    chosen = "source_day = ? and list_contains(?::varchar[], table_name)"
    connection.execute(f"delete from {ALIAS}.{LATE} where {chosen}", [day, list(names)])
    if not rows.is_empty():
        connection.register("_late", rows.to_arrow())
        connection.execute(f"insert into {ALIAS}.{LATE} by name select * from _late")
        connection.unregister("_late")
    after = _digests(connection, day, names)
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    for own, name in sorted(changed):
        mark(connection, own, [name])
    return changed


def mark(connection: duckdb.DuckDBPyConnection, day: date, names: Collection[str]) -> None:
    """Let the ledger say that tables of a day have other late rows than the day was built with."""
    query = f"update {ALIAS}.{LEDGER} set input_hash = ? where {DAY} = ? and list_contains(?::varchar[], table_name)"
    connection.execute(query, [CHANGED, day, list(names)])


def _digests(
    connection: duckdb.DuckDBPyConnection, day: date, names: Sequence[str]
) -> dict[tuple[date, str], tuple[int, int]]:
    query = (
        f"select {DAY}, table_name, count(*), sum(hash(file, row_number, content)::hugeint) from {ALIAS}.{LATE} "
        "where source_day = ? and list_contains(?::varchar[], table_name) group by all"
    )
    return {(own, name): (n, total) for own, name, n, total in connection.execute(query, [day, list(names)]).fetchall()}


def late_digests(lake: Lake) -> dict[date, str]:
    """Return {day: hash of the rows that came for it in the folders of others}."""
    if not lake.table_exists(LATE):
        return {}
    query = (
        f"select {DAY}, sum(md5_number_lower(concat_ws(chr(31), table_name, file, row_number, content))::hugeint) "
        f"from {ALIAS}.{LATE} group by {DAY}"
    )
    return {day: f"{int(total) % 2**128:032x}" for day, total in lake.connection.execute(query).fetchall()}


def waiting(lake: Lake) -> dict[date, int]:
    """Return {day: rows} of the late rows whose own day has not landed."""
    if not lake.table_exists(LATE):
        return {}
    query = (
        f"select {DAY}, count(*) from {ALIAS}.{LATE} as late where not exists (select 1 from {ALIAS}.{LEDGER} as known "
        f"where known.{DAY} = late.{DAY} and known.table_name = late.table_name) group by {DAY} order by {DAY}"
    )
    return dict(lake.connection.execute(query).fetchall())
