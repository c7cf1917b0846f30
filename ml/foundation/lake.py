"""The one way from Python to the tables: a DuckLake (DuckDB over Parquet with a transactional catalog).

Every commit is a snapshot, so a read can name the snapshot that it wants. Writers compute first and then commit in one
short transaction; a conflict with another writer is retried as a whole.
"""

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import SplitResult, urlsplit

from pydantic import SecretStr

from ml.foundation.lake_files import CATALOG, LakeFiles
from ml.foundation.settings import Settings

if TYPE_CHECKING:  # the definitions load without an engine
    import duckdb
    import pyarrow as pa

ALIAS = "lake"
LANDING, FEATURES, ML = "landing", "features", "ml"
"""Schemas: landed tables, dbt models, tables written by ``ml``."""

_SECRET = "crossfade_catalog"
_CONFLICTS = ("conflict", "database is locked", "could not serialize", "concurrent")
_OTHER_FORMAT = re.compile(r"catalog version is ([\d.]+\S*), but the extension requires version (\d[\d.]*\d)")
T = TypeVar("T")


class OldCatalog(RuntimeError):
    """A catalog in the format of an earlier DuckLake.

    Attributes:
        version: The format that it has.
        wanted: The format that this version's DuckLake reads and writes.
    """

    def __init__(self, version: str, wanted: str) -> None:
        self.version, self.wanted = version, wanted
        super().__init__(
            f"the lake's catalog has format {version} of DuckLake, {wanted} is wanted: run `crossfade upgrade`, which "
            "makes a backup first"
        )


class Lake:
    """A DuckDB connection with the lake attached as catalog ``lake``.

    Args:
        settings: Names the catalog and the data folder.
        snapshot: Read the lake as of this snapshot id (read-only); ``None`` follows the newest commit.
        migrate: Bring the catalog of an earlier DuckLake to the format of this one.

    Raises:
        OldCatalog: The catalog has the format of an earlier DuckLake, and ``migrate`` is not set.
    """

    def __init__(self, settings: Settings, *, snapshot: int | None = None, migrate: bool = False) -> None:
        self.settings = settings
        settings.lake_dir.mkdir(parents=True, exist_ok=True)
        os.environ.update(lake_environment(settings))
        self.connection = connect(extensions(settings))
        for statement in catalog_secret(settings):
            self.connection.execute(statement)
        for name, value in duckdb_settings(settings).items():
            self.connection.execute(f"set {name} = '{escaped(str(value))}'")
        options = attach_options(settings)
        if snapshot is not None:
            options |= {"snapshot_version": str(snapshot)}
        if migrate:
            options |= {"automatic_migration": "1"}
        self._attach(attach_path(settings), options)
        if snapshot is None:
            for schema in {LANDING, FEATURES, ML} - self._schemas():
                self.retry(lambda s=schema: self.connection.execute(f"create schema if not exists {ALIAS}.{s}"))
        self.connection.execute(f"use {ALIAS}")
        self.files = LakeFiles(self.connection, settings)

    def _attach(self, path: str, options: dict[str, str]) -> None:
        import duckdb

        listed = ", ".join(f"{k} '{escaped(v)}'" for k, v in options.items())
        try:
            self.connection.execute(f"attach '{escaped(path)}' as {ALIAS} ({listed})")
        except duckdb.InvalidInputException as error:
            self.connection.close()
            if found := _OTHER_FORMAT.search(str(error)):
                raise OldCatalog(*found.groups()) from error
            raise

    def __enter__(self) -> "Lake":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def _schemas(self) -> set[str]:
        query = "select schema_name from information_schema.schemata where catalog_name = ?"
        return {name for (name,) in self.connection.execute(query, [ALIAS]).fetchall()}

    def table_exists(self, table: str) -> bool:
        """Tell whether ``schema.table`` exists."""
        schema, name = table.split(".")
        query = (
            "select 1 from information_schema.tables where table_catalog = ? and table_schema = ? and table_name = ?"
        )
        return self.connection.execute(query, [ALIAS, schema, name]).fetchone() is not None

    def was_filled(self, table: str) -> bool:
        """Tell whether ``schema.table`` ever held a row.

        A table that never did has no statistics, and DuckLake asks its catalog for them once for each column and query.
        """
        schema, name = table.split(".")
        query = f"""
            select 1 from {CATALOG}.ducklake_table_stats as f
            join {CATALOG}.ducklake_table as t on t.table_id = f.table_id and t.end_snapshot is null
            join {CATALOG}.ducklake_schema as s on s.schema_id = t.schema_id and s.end_snapshot is null
            where s.schema_name = ? and t.table_name = ? limit 1"""
        return self.connection.execute(query, [schema, name]).fetchone() is not None

    def tables(self) -> list[tuple[str, str]]:
        """Return (schema, name) of every table, in order; views are none."""
        query = """
            select table_schema, table_name from information_schema.tables
            where table_catalog = ? and table_type = 'BASE TABLE' order by all"""
        return self.connection.execute(query, [ALIAS]).fetchall()

    def columns(self, table: str) -> dict[str, str]:
        """Return the columns of ``schema.table`` with their DuckDB types, in order."""
        rows = self.connection.execute(f"describe {ALIAS}.{table}").fetchall()
        return {name: kind for name, kind, *_ in rows}

    def sql(self, query: str, parameters: Iterable[object] = ()) -> "pa.Table":
        """Run one query and return all rows as an Arrow table."""
        return self.connection.execute(query, list(parameters)).to_arrow_table()

    def batches(self, query: str, parameters: Iterable[object] = (), rows: int = 65_536) -> "pa.RecordBatchReader":
        """Run one query and stream its rows as Arrow batches of about ``rows`` rows, in order."""
        return self.connection.execute(query, list(parameters)).to_arrow_reader(rows)

    def snapshot(self) -> int:
        """Return the id of the newest committed snapshot."""
        row = self.connection.execute(f"select max(snapshot_id) from {ALIAS}.snapshots()").fetchone()
        return int(row[0]) if row else 0

    def id(self) -> str:
        """Return the id that the lake's catalog was born with; copies and later states of it have the same."""
        query = f"select schema_uuid::varchar from {CATALOG}.ducklake_schema order by schema_id limit 1"
        [(found,)] = self.connection.execute(query).fetchall()
        return found

    @contextmanager
    def transaction(self, message: str) -> "Iterator[duckdb.DuckDBPyConnection]":
        """Open one transaction; commit at the end, roll back on any exception. ``message`` names the commit.

        The files that were written are hashed then (``ml.foundation.lake_files``).
        """
        import duckdb

        self.connection.execute("begin transaction")
        try:
            yield self.connection
            self.connection.execute(f"call {ALIAS}.set_commit_message('crossfade', ?)", [message])
            self.connection.execute("commit")
        except BaseException:
            with suppress(duckdb.Error):  # a failed commit has already closed the transaction
                self.connection.execute("rollback")
            raise
        self.retry(self.files.record)

    def retry(self, step: Callable[[], T], *, attempts: int = 6) -> T:
        """Run ``step`` (a whole transaction), again after a conflict with another writer, with growing pauses."""
        import duckdb

        for attempt in range(attempts):
            try:
                return step()
            except duckdb.Error as error:
                last = attempt == attempts - 1
                if last or not is_conflict(error):
                    raise
                time.sleep(0.1 * 2**attempt)
        raise AssertionError("unreachable")

    def replace_days(
        self,
        table: str,
        rows: "pa.Table",
        days: Iterable[date],
        *,
        day_column: str = "day",
        where: str = "true",
        message: str | None = None,
    ) -> int:
        """Replace the rows of ``days`` (and ``where``) in ``schema.table`` by ``rows`` in one commit; create it if new.

        Args:
            table: ``schema.table``; created with the Arrow schema of ``rows``, partitioned by ``day_column``.
            rows: New rows; columns are matched by name.
            days: Days whose rows are deleted first, so that a rerun gives the same table and an emptied day is empty.
            day_column: Name of the DATE column that the table is partitioned by.
            where: Further SQL condition on the rows to delete, for tables where one day has several owners.
            message: Commit message.

        Returns:
            Snapshot id after the commit.
        """
        days = sorted(set(days))

        def step() -> None:
            with self.transaction(message or f"{table}: {len(days)} day(s)") as c:
                c.register("_incoming", rows)
                try:
                    if not self.table_exists(table):
                        c.execute(f"create table {ALIAS}.{table} as select * from _incoming limit 0")
                        c.execute(f"alter table {ALIAS}.{table} set partitioned by ({day_column})")
                    else:
                        chosen = f"{day_column} in (select unnest(?::date[])) and ({where})"
                        c.execute(f"delete from {ALIAS}.{table} where {chosen}", [days])
                    c.execute(f"insert into {ALIAS}.{table} by name select * from _incoming")
                finally:
                    c.unregister("_incoming")

        self.retry(step)
        return self.snapshot()

    def add_columns(self, table: str, schema: "pa.Schema") -> None:
        """Add the columns of ``schema`` that a table of an earlier version lacks, null in its rows; commit if any.

        Args:
            table: ``schema.table``; nothing happens where it does not exist.
            schema: Columns that rows are about to be written with.
        """
        if not self.table_exists(table) or not set(schema.names) - set(self.columns(table)):
            return

        def step() -> None:
            with self.transaction(f"columns of {table}") as c:
                c.register("_incoming", schema.empty_table())
                try:
                    wanted = c.execute("select column_name, column_type from (describe _incoming)").fetchall()
                finally:
                    c.unregister("_incoming")
                for column, kind in wanted:
                    if column not in self.columns(table):
                        c.execute(f'alter table {ALIAS}.{table} add column "{column}" {kind}')

        self.retry(step)

    def append(self, table: str, rows: "pa.Table", message: str, *, attempts: int = 12) -> None:
        """Add rows to a table in one commit; it is created with the Arrow schema of ``rows``, which may be empty.

        Args:
            table: ``schema.table``.
            rows: New rows; columns are matched by name.
            message: Commit message.
            attempts: Tries when other writers commit at the same time.
        """

        def step() -> None:
            with self.transaction(message) as c:
                c.register("_incoming", rows)
                try:
                    if not self.table_exists(table):
                        c.execute(f"create table {ALIAS}.{table} as select * from _incoming limit 0")
                    c.execute(f"insert into {ALIAS}.{table} by name select * from _incoming")
                finally:
                    c.unregister("_incoming")

        self.retry(step, attempts=attempts)

    def day_versions(
        self, table: str, start: date, end: date, *, day_column: str = "day"
    ) -> dict[date, tuple[int, str]]:
        """Return {day: (rows, content hash)} of the days of [start, end] that have rows.

        The hash is the order-free sum of DuckDB's row hash: fast, and stable for one version of DuckDB. What must hold
        across versions (manifests) uses ``content_hash``.
        """
        query = (
            f"select {day_column}, count(*), sum(hash(t)::hugeint)::varchar from {ALIAS}.{table} as t "
            f"where {day_column} between ? and ? group by 1 order by 1"
        )
        rows = self.connection.execute(query, [start, end]).fetchall()
        return {day: (int(count), f"{int(total) % 2**128:032x}") for day, count, total in rows}

    def day_bytes(self, table: str, start: date, end: date) -> dict[date, int]:
        """Return {day: bytes of its data files} of the days of [start, end] that have files."""
        schema, name = table.split(".")
        query = f"""
            select v.partition_value::date as day, sum(f.file_size_bytes)::bigint
            from {CATALOG}.ducklake_data_file as f
            join {CATALOG}.ducklake_file_partition_value as v using (data_file_id)
            join {CATALOG}.ducklake_table as t on t.table_id = f.table_id and t.end_snapshot is null
            join {CATALOG}.ducklake_schema as s on s.schema_id = t.schema_id and s.end_snapshot is null
            where f.end_snapshot is null and s.schema_name = ? and t.table_name = ? and day between ? and ?
            group by 1"""
        return dict(self.connection.execute(query, [schema, name, start, end]).fetchall())

    def trim_statistics(self) -> int:
        """Remove from the catalog what it knows of columns by which no file is chosen; return the rows removed.

        Each read that has a condition goes through the statistics of every column of every file of the lake (a SQLite
        catalog has no index that DuckDB uses: https://github.com/duckdb/ducklake/issues/859). Those of the columns
        that a table is partitioned by tell one day's files from another's, and stay. A file without statistics of a
        column is read, and its Parquet footer has them still.
        """
        partitions = f"{CATALOG}.ducklake_partition_column"
        query = f"""
            delete from {CATALOG}.ducklake_file_column_stats where table_id in (select table_id from {partitions})
                and (table_id, column_id) not in (select (table_id, column_id) from {partitions})"""
        [(removed,)] = self.retry(lambda: self.connection.execute(query).fetchall())
        return int(removed)

    def content_hash(self, relation: str, parameters: Iterable[object] = ()) -> tuple[int, str]:
        """Return (row count, order-free content hash) of a table name or a parenthesised query.

        The hash is the sum over rows of the low 64 bits of MD5 of each row, with the column names and types mixed in:
        equal for any row order, file layout or thread count, different when a row is repeated.
        """
        names, total = self._summed_rows(relation, parameters)
        query = f"select count(*), {total} from {relation} as t"
        [(count, found)] = self.connection.execute(query, list(parameters)).fetchall()
        return _digest(names, count, found)

    def content_hashes(
        self, relation: str, days: Iterable[date], parameters: Iterable[object] = ()
    ) -> dict[date, tuple[int, str]]:
        """Return {day: ``content_hash`` of the rows of that ``day``} in one pass; a day without rows is there too."""
        names, total = self._summed_rows(relation, parameters)
        chosen = "day in (select unnest(?::date[]))"
        query = f"select day, count(*), {total} from {relation} as t where {chosen} group by day"
        wanted = sorted(set(days))
        found = {
            day: (count, of) for day, count, of in self.connection.execute(query, [*parameters, wanted]).fetchall()
        }
        return {day: _digest(names, *found.get(day, (0, "0"))) for day in wanted}

    def _summed_rows(self, relation: str, parameters: Iterable[object]) -> tuple[list[tuple[str, str]], str]:
        """Return the columns with their types, and the SQL of the sum of the rows' hashes."""
        described = self.connection.execute(f"describe select * from {relation} as t", list(parameters)).fetchall()
        names = [(name, kind) for name, kind, *_ in described]
        row = ", ".join(f"coalesce({quoted(name)}::varchar, '\\N')" for name, _ in names)
        return names, f"coalesce(sum(md5_number_lower(concat_ws(chr(31), {row}))::hugeint), 0)::varchar"


def is_conflict(error: Exception) -> bool:
    """Tell whether an error says that another writer committed first, so that the whole may be tried again."""
    return any(word in str(error).lower() for word in _CONFLICTS)


def _digest(names: list[tuple[str, str]], count: int, total: str) -> tuple[int, str]:
    return int(count), hashlib.sha256(f"{names}|{count}|{total}".encode()).hexdigest()[:32]


def lake_id(settings: Settings) -> str:
    """Return the id of a home's lake.

    Raises:
        FileNotFoundError: The home has no lake, and none is made for the question.
    """
    if not settings.has_lake:
        raise FileNotFoundError(f"{settings.catalog_path} is not there, so it is not known whose releases these are")
    with Lake(settings) as lake:
        return lake.id()


def attach_path(settings: Settings) -> str:
    """Return the DuckLake connection string of the catalog: the home's SQLite file, or a Postgres database."""
    if settings.catalog_url is None:
        return f"ducklake:sqlite:{settings.catalog_path}"
    from psycopg2.extensions import make_dsn

    parts = _catalog_parts(settings.catalog_url)
    return f"ducklake:postgres:{make_dsn(**{name: value for name, value in parts.items() if name != 'password'})}"


def attach_options(settings: Settings) -> dict[str, str]:
    """Return the options of ``attach``; the dbt profile uses the same ones."""
    options = {
        "data_path": settings.lake_url or str(settings.lake_dir / "data"),
        "override_data_path": "1",  # a home may be moved: its catalog names files relative to the folder
        "data_inlining_row_limit": "0",
    }
    if settings.catalog_url is None:
        return options | {"meta_journal_mode": "WAL", "meta_busy_timeout": "30000"}
    return options | {"meta_secret": _SECRET} if catalog_secret(settings) else options


def catalog_secret(settings: Settings) -> list[str]:
    """Return the SQL that gives a connection the catalog's password, before it attaches the lake.

    It lives in the connection's memory: the environment would give it to every other connection and every child, and
    libpq takes ``PGPASSWORD`` for whatever server it is asked for. An address without a password needs none.
    """
    password = _catalog_parts(settings.catalog_url).get("password") if settings.catalog_url else None
    return [f"create secret {_SECRET} (type postgres, password '{escaped(password)}')"] if password else []


def extensions(settings: Settings) -> list[str]:
    """Install the DuckDB extensions that the lake needs and return their names.

    They come as Python packages; nothing is downloaded.
    """
    names = ["ducklake", "postgres_scanner" if settings.catalog_url else "sqlite_scanner"]
    if settings.lake_url:
        names.append("httpfs")
    for name in names:
        install_extension(name)
    return names


_checked: dict[str, tuple[Path, tuple[int, ...]]] = {}
"""Files of the extensions whose signature this process has checked, with what they looked like then."""


def connect(names: Sequence[str]) -> "duckdb.DuckDBPyConnection":
    """Return a connection with extensions loaded.

    DuckDB hashes an extension's 35 MB at each load to check its signature, which is most of what opening a lake costs.
    A file that this process has checked, and that nobody has touched since, is loaded without; the permission to do so
    ends with the loading.
    """
    import duckdb

    known = all(name in _checked and _looks(_checked[name][0]) == _checked[name][1] for name in names)
    connection = duckdb.connect(config={"allow_unsigned_extensions": str(known).lower()})
    for name in names:
        connection.load_extension(name)
    if known:
        connection.execute("set allow_unsigned_extensions = false")
        return connection
    query = "select extension_name, install_path from duckdb_extensions() where list_contains(?, extension_name)"
    for name, path in connection.execute(query, [list(names)]).fetchall():
        _checked[name] = (Path(path), _looks(Path(path)))
    return connection


def _looks(file: Path) -> tuple[int, ...]:
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def duckdb_settings(settings: Settings) -> dict[str, int | str]:
    """Return DuckDB's settings for this home; the dbt profile uses the same ones."""
    found = {
        "threads": settings.threads,
        "memory_limit": settings.memory_limit,
        "temp_directory": str(settings.lake_dir / "spill"),
    }
    # What stands at an address of its own (MinIO, moto) knows buckets by path, not by host name.
    return found | {"s3_url_style": "path"} if settings.lake_url and endpoint() else found


def lake_environment(settings: Settings) -> dict[str, str]:
    """Return the variables by which a process reaches data in an object store; none holds a secret.

    DuckDB's httpfs reads ``AWS_*``, but the endpoint under a name of its own.
    """
    found = {}
    if settings.lake_url and (server := endpoint()):
        found["DUCKDB_S3_ENDPOINT"] = server.netloc + server.path.rstrip("/")
        found["DUCKDB_S3_USE_SSL"] = str(server.scheme == "https").lower()
    if settings.lake_url and (region := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")):
        found["AWS_REGION"] = region
    return found


def _catalog_parts(url: SecretStr) -> dict[str, str]:
    import psycopg2
    from psycopg2.extensions import parse_dsn

    try:
        return parse_dsn(url.get_secret_value())
    except psycopg2.ProgrammingError:  # its message would show the password
        told = "CROSSFADE_CATALOG_URL is no address like postgresql://user:password@host:port/database"
        raise ValueError(told) from None


def endpoint() -> SplitResult | None:
    """Return the address of the object store that the ``AWS_*`` variables name, if it has one of its own."""
    url = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT")
    return urlsplit(url) if url else None


@lru_cache
def install_extension(name: str) -> None:
    """Install an extension of DuckDB from its package; ``ImportError`` where that is not installed."""
    import duckdb_extensions

    duckdb_extensions.import_extension(name)


def escaped(text: str) -> str:
    """Return a text as it stands between the quotes of SQL."""
    return text.replace("'", "''")


def quoted(name: str) -> str:
    """Return a column's name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'
