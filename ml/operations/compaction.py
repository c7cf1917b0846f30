"""Merging: the small files of a day become one, and the days of months that are over become one file of months.

A table that is partitioned by day has a file per day for ever, and DuckLake merges only within a partition. So the days
of old months are taken out of theirs in the catalog, which changes nothing that is read: each file keeps the bounds of
its days, by which files are chosen. What is merged keeps for each row the snapshot that it came with, so every kept
state of the lake reads as before.

Files that lose rows (a day of such a month that is built again, a partial replacement) are written anew without them.
Each step is one transaction; killed in between, the next call goes on.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date

from ml.foundation.lake import ALIAS, Lake
from ml.foundation.lake_files import CATALOG

MERGED_BYTES = 64 << 20
"""A file of this size is not merged any more: rewriting it costs more than one file less saves."""

_TABLES = f"""
    select s.schema_name, t.table_name from {CATALOG}.ducklake_table as t
    join {CATALOG}.ducklake_schema as s on t.schema_id = s.schema_id
    where t.end_snapshot is null and s.end_snapshot is null and t.table_id in"""


def compact(lake: Lake) -> int:
    """Write files without the rows that they lost, and merge the small files of each table that has some.

    Returns:
        The tables that were merged.

    Raises:
        DamagedError: A file that would be read is not as it was written; nothing was merged.
    """
    rewrite(lake)
    with _packed(lake):
        lake.retry(lambda: _join_months(lake))
        lake.files.check(lake.files.mergeable(MERGED_BYTES))
        call = f"call ducklake_merge_adjacent_files('{ALIAS}', ?, schema => ?, max_file_size => {MERGED_BYTES})"
        merged = sum(
            bool(lake.retry(lambda t=table, s=schema: lake.connection.execute(call, [t, s]).fetchall()))
            for schema, table in lake.tables()
        )
    lake.retry(lake.files.record)
    return merged


def rewrite(lake: Lake) -> int:
    """Write each data file that lost rows without them; a table's commit is its own.

    Returns:
        The tables that had such files.

    Raises:
        DamagedError: A file that would be read is not as it was written; nothing was rewritten.
    """
    lost = f"from {CATALOG}.ducklake_delete_file where end_snapshot is null"
    ids = {
        n for pair in lake.connection.execute(f"select data_file_id, delete_file_id {lost}").fetchall() for n in pair
    }
    if not ids:
        return 0
    tables = lake.connection.execute(f"{_TABLES} (select table_id {lost}) order by all").fetchall()
    lake.files.check([file for file in lake.files.named() if file.id in ids])
    call = f"call ducklake_rewrite_data_files('{ALIAS}', ?, schema => ?, delete_threshold => 0)"
    with _packed(lake):
        for schema, table in tables:
            lake.retry(lambda t=table, s=schema: lake.connection.execute(call, [t, s]).fetchall())
    lake.retry(lake.files.record)
    return len(tables)


def _join_months(lake: Lake) -> None:
    """Take the day files of months that are over out of their days' partitions, so that a merge may join them."""
    days = f"""
        select f.data_file_id, f.table_id, v.partition_value::date as day
        from {CATALOG}.ducklake_data_file as f
        join {CATALOG}.ducklake_file_partition_value as v on f.data_file_id = v.data_file_id
        where f.end_snapshot is null and try_cast(v.partition_value as date) is not null
            and f.file_size_bytes < {MERGED_BYTES}
        qualify last_day(day) + ?::integer < max(day) over (partition by f.table_id)"""
    found: list[tuple[int, int, date]] = lake.connection.execute(days, [lake.settings.merge_after_days]).fetchall()
    if not found:
        return
    ids = [file_id for file_id, *_ in found]
    lake.connection.execute("begin transaction")
    try:
        chosen = "where data_file_id in (select unnest(?::bigint[]))"
        lake.connection.execute(f"update {CATALOG}.ducklake_data_file set partition_id = null {chosen}", [ids])
        lake.connection.execute(f"delete from {CATALOG}.ducklake_file_partition_value {chosen}", [ids])
        lake.connection.execute("commit")
    except BaseException:
        lake.connection.execute("rollback")
        raise


@contextmanager
def _packed(lake: Lake) -> Iterator[None]:
    """Have what is written meanwhile compressed with Zstandard: it is written once and read seldom."""
    set_to = f"call {ALIAS}.set_option('parquet_compression', ?)"
    lake.retry(lambda: lake.connection.execute(set_to, ["zstd"]))
    try:
        yield
    finally:
        lake.retry(lambda: lake.connection.execute(set_to, ["snappy"]))
