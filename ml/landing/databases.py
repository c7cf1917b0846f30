"""Queries of ``sources.yaml``: the rows of a table and day, from whatever DuckDB attaches or scans.

An engine of its own, which writes nothing, attaches what a query names. A day's rows are streamed into a file of
Parquet, which landing reads as it reads any other, in parts that fit into memory: rows of one key are in one part.
"""

import hashlib
import math
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import polars as pl

from ml.foundation.lake import connect, endpoint, escaped, install_extension, quoted
from ml.foundation.names import nearest
from ml.foundation.settings import Settings
from ml.landing.contract import LandingError, load_contract
from ml.landing.readers import Reading
from ml.landing.sources import SOURCES_FILE, Database, Source, Sources, load_sources, parameterized
from ml.landing.validate import check_columns

PART_ROWS = 250_000
"""Rows of a query that are judged at once."""
_CONNECT_S = "10"
_FINGERPRINT, _PART = "__fingerprint", "__part"
_EXTENSIONS = {
    "postgres": ("postgres_scanner",),
    "mysql": ("mysql_scanner",),
    "sqlite": ("sqlite_scanner",),
    "duckdb": (),
    "ducklake": ("ducklake", "sqlite_scanner", "postgres_scanner"),
    "iceberg": ("avro", "iceberg"),
    "delta": ("delta",),
    "parquet": (),
}
_SCANS = {"iceberg": "iceberg_scan", "delta": "delta_scan", "parquet": "read_parquet"}
_PACKAGES = {
    "postgres_scanner": "postgres-scanner",
    "mysql_scanner": "mysql-scanner",
    "sqlite_scanner": "sqlite-scanner",
}
_WIDE = ("HUGEINT", "UHUGEINT", "BIGNUM")
"""Types of numbers that Parquet would round."""
_ROUNDED = r"\.0*$"
_NO_DAYS = {"day": date(2000, 1, 1), "next_day": date(2000, 1, 2)}


class DatabaseError(LandingError):
    """A query that cannot be asked, or its database not be reached; never shows an address or a password."""


@dataclass(frozen=True)
class Answer:
    """What a query has for a day, without the rows.

    Attributes:
        rows: How many; None where only the version was asked for.
        digest: Changes with the rows, not with their order.
    """

    rows: int | None
    digest: str


@dataclass(frozen=True)
class Spooled:
    """The rows of a query and day, in files that landing reads.

    Attributes:
        rows: How many.
        digest: As of ``Answer``.
        keys: The query's names of the columns that identify a row.
        folder: Where the files lie.
    """

    rows: int
    digest: str
    keys: tuple[str, ...]
    folder: Path

    @property
    def parts(self) -> int:
        """How many parts the rows are judged in."""
        return max(1, math.ceil(self.rows / PART_ROWS))


class Engine:
    """A DuckDB that has attached what some queries name, and cannot write to it.

    Args:
        settings: Threads, memory and where it spills.
        sources: What there is to attach.
        texts: The queries.
        written: Name of the one database that may be written to; None for none.
    """

    def __init__(
        self, settings: Settings, sources: Sources, texts: Sequence[str], *, written: str | None = None
    ) -> None:
        self._settings, self._written = settings, written
        self._secrets = [v for n, v in os.environ.items() if v and re.search("SECRET|PASSWORD|TOKEN|CONNECTION_STR", n)]
        words = set(re.findall(r"\w+", " ".join(texts)))
        used = {name: database for name, database in sources.attach.items() if name in words}
        addresses = {name: self._address(name, database) for name, database in used.items()}
        text = " ".join([*texts, *addresses.values()])
        wanted = [name for database in used.values() for name in _EXTENSIONS[database.type]]
        wanted += [name for kind in ("iceberg", "delta") if f"{kind}_scan" in text for name in _EXTENSIONS[kind]]
        wanted += ["httpfs"] if re.search(r"\b(https?|s3|s3a|gs|gcs|r2|hf)://", text) else []
        wanted += ["azure"] if re.search(r"\b(az|azure|abfss?)://", text) else []
        self.connection = connect(list(dict.fromkeys(map(self._installed, wanted))))
        try:
            self._configure(text)
            for name, database in used.items():
                self._attach(name, database, addresses[name])
        except BaseException:
            self.connection.close()
            raise

    def _address(self, name: str, database: Database) -> str:
        if database.env is None:
            assert database.path is not None and self._settings.landing_dir is not None
            scheme, _, rest = database.path.rpartition(":")
            if "://" in database.path or rest.startswith("/"):
                return database.path
            path = str(self._settings.landing_dir / rest)
            return f"{scheme}:{path}" if scheme else path
        address = os.environ.get(database.env)
        if not address:
            told = f"the variable {database.env} is not set; it holds the address of {name} ({database.type})"
            raise DatabaseError(f"{SOURCES_FILE}: attach.{name}: {told}{nearest(database.env, _like(database.env))}")
        self._secrets.append(address)
        self._secrets += [found for pair in _PASSWORDS.findall(address) for found in pair if found]
        return address

    def _installed(self, extension: str) -> str:
        try:
            install_extension(extension)
        except ImportError as error:
            package = f"duckdb-extension-{_PACKAGES.get(extension, extension)}=={duckdb.__version__}"
            raise DatabaseError(f"{package} is not installed: make install EXTRAS=sources") from error
        return extension

    def _configure(self, text: str) -> None:
        os.environ.setdefault("PGCONNECT_TIMEOUT", _CONNECT_S)
        spill = self._settings.lake_dir / "spill"
        for name, value in {
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "threads": str(self._settings.threads),
            "memory_limit": self._settings.memory_limit,
            "temp_directory": str(spill),
            "preserve_insertion_order": "false",
            "TimeZone": "UTC",
        }.items():
            self.connection.execute(f"set {name} = '{escaped(value)}'")
        for kind, options in _object_store_secrets(text).items():
            listed = "".join(f", {name} '{escaped(value)}'" for name, value in options.items())
            self.connection.execute(f"create secret {kind}_of_environment (type {kind}{listed})")

    def _attach(self, name: str, database: Database, address: str) -> None:
        try:
            if scan := _SCANS.get(database.type):
                place = _metadata(address) if database.type == "iceberg" else address
                self.connection.execute(f"create view {quoted(name)} as select * from {scan}('{escaped(place)}')")
                return
            prefix = "ducklake:" if database.type == "ducklake" else ""
            kind = "" if prefix else f"type {database.type}, "
            if database.type in ("sqlite", "duckdb") and not Path(address).is_file():
                raise FileNotFoundError(f"there is no file {address}")
            mode = "read_write" if name == self._written else "read_only"
            self.connection.execute(f"attach '{prefix}{escaped(address)}' as {quoted(name)} ({kind}{mode})")
        except (duckdb.Error, OSError) as error:
            told = f"attach.{name}: {database.type} cannot be reached: {self.harmless(error)}"
            where = f"; {database.env} holds its address" if database.env else ""
            raise DatabaseError(f"{SOURCES_FILE}: {told}{where}") from None

    def harmless(self, error: object) -> str:
        """Return what an error says, its addresses and passwords left out."""
        text = " ".join(str(error).split())
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        return _PASSWORDS.sub("***", text)[:1_000]

    def execute(self, query: str, days: Mapping[str, date], what: str) -> duckdb.DuckDBPyConnection:
        """Run a statement with the days that it names.

        Raises:
            DatabaseError: It cannot be run; names ``what``.
        """
        named = {name: value for name, value in days.items() if f"${name}" in query}
        try:
            return self.connection.execute(query, named)
        except duckdb.Error as error:
            raise DatabaseError(f"{SOURCES_FILE}: {what}: {self.harmless(error)}") from None

    def checked(self, query: str, what: str) -> str:
        """Return one query with DuckDB's parameters.

        Raises:
            DatabaseError: It is no single query, or names the day within quotes.
        """
        text = parameterized(query).strip().rstrip(";")
        try:
            statements = self.connection.extract_statements(text)
        except duckdb.Error as error:
            raise DatabaseError(f"{SOURCES_FILE}: {what}: {self.harmless(error)}") from None
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise DatabaseError(f"{SOURCES_FILE}: {what}: it must be one query (select), which changes nothing")
        if lost := set(re.findall(r"\$(day|next_day)\b", text)) - set(statements[0].named_parameters):
            name = sorted(lost)[0]
            raise DatabaseError(f"{SOURCES_FILE}: {what}: {{{name}}} stands in quotes; it is a date, write it without")
        return text

    def columns(self, query: str, what: str) -> dict[str, str]:
        """Return the columns of a checked query, with their types."""
        rows = self.execute(f"describe {query}", _NO_DAYS, what).fetchall()
        return {name: kind for name, kind, *_ in rows}


_PASSWORDS = re.compile(r"(?<=://)[^\s/@:]*:([^\s/@]+)@|(?:password|passwd)\s*=\s*('[^']*'|[^\s'\"]+)", re.IGNORECASE)


def _like(name: str) -> list[str]:
    """Return the variables that are set and share a part with a name; what they hold is not looked at."""
    parts = {part for part in name.split("_") if len(part) > 2}
    return [other for other in os.environ if parts & set(other.split("_"))]


def _metadata(address: str) -> str:
    """Return what DuckDB scans as an Iceberg table: the newest metadata of a local folder without a version hint."""
    if "://" not in address and not Path(address).exists():
        raise FileNotFoundError(f"there is no {address}")
    folder = Path(address) / "metadata"
    if not folder.is_dir() or (folder / "version-hint.text").exists():
        return address
    numbered = [
        (int(found[1]), path) for path in folder.glob("*.metadata.json") if (found := _VERSION.match(path.name))
    ]
    newest = [path for number, path in numbered if number == max(number for number, _ in numbered)]
    if len(newest) != 1:
        told = f"two writers made version {max(numbered)[0]}" if newest else "there is no *.metadata.json"
        raise FileNotFoundError(f"{folder}: {told}; name the file of the version to read as path")
    return str(newest[0])


_VERSION = re.compile(r"v?(\d+)[-.]")


def _object_store_secrets(text: str) -> dict[str, dict[str, str]]:
    """Return DuckDB's secrets of the object stores that a text names, from the variables of their own clients."""
    found: dict[str, dict[str, str]] = {}
    given = os.environ.get
    if re.search(r"\bs3a?://", text):
        server, region = endpoint(), given("AWS_REGION") or given("AWS_DEFAULT_REGION")
        pairs = {
            "key_id": given("AWS_ACCESS_KEY_ID"),
            "secret": given("AWS_SECRET_ACCESS_KEY"),
            "session_token": given("AWS_SESSION_TOKEN"),
            "region": region,
        }
        if server:
            pairs |= {"endpoint": server.netloc + server.path.rstrip("/"), "url_style": "path"}
            pairs |= {"use_ssl": str(server.scheme == "https").lower()}
        found["s3"] = {name: value for name, value in pairs.items() if value}
    if re.search(r"\bgc?s://", text) and given("GCS_ACCESS_KEY_ID"):
        pairs = {"key_id": given("GCS_ACCESS_KEY_ID"), "secret": given("GCS_SECRET_ACCESS_KEY")}
        found["gcs"] = {name: value for name, value in pairs.items() if value}
    if re.search(r"\b(az|azure|abfss?)://", text) and (connection := given("AZURE_STORAGE_CONNECTION_STRING")):
        found["azure"] = {"connection_string": connection}
    return found


_open: ContextVar[dict[str, Engine | DatabaseError] | None] = ContextVar("engines", default=None)


@contextmanager
def engines_kept() -> Iterator[None]:
    """Keep engines open between questions, and what could not be reached closed, until the end of the block."""
    if _open.get() is not None:
        yield
        return
    token = _open.set({})
    try:
        yield
    finally:
        for engine in (_open.get() or {}).values():
            if isinstance(engine, Engine):
                engine.connection.close()
        _open.reset(token)


@dataclass(frozen=True)
class Question:
    """The queries of one table: its rows, whether a day of them is complete, and what changes with them."""

    settings: Settings
    table: str
    source: Source
    sources: Sources

    @property
    def _texts(self) -> list[str]:
        ready = self.source.ready.query if self.source.ready else None
        return [text for text in (self.source.query, ready, self.source.version) if text]

    @contextmanager
    def _engine(self) -> Iterator[Engine]:
        kept = _open.get()
        if kept is None:
            engine = Engine(self.settings, self.sources, self._texts)
            try:
                yield engine
            finally:
                engine.connection.close()
            return
        if self.table not in kept:
            try:
                kept[self.table] = Engine(self.settings, self.sources, self._texts)
            except DatabaseError as error:
                kept[self.table] = error
        found = kept[self.table]
        if isinstance(found, DatabaseError):
            raise found
        yield found

    def _what(self, key: str) -> str:
        return f"tables.{self.table}.{key}"

    def columns(self) -> list[str]:
        """Return the query's names of its columns; every query of the table is looked at.

        Raises:
            DatabaseError: A query is wrong, or something that it names cannot be reached.
        """
        assert self.source.query is not None
        with self._engine() as engine:
            for key, text in (("version", self.source.version), ("ready.query", self._ready_query)):
                if text:
                    engine.columns(engine.checked(text, self._what(key)), self._what(key))
            return list(engine.columns(engine.checked(self.source.query, self._what("query")), self._what("query")))

    def check(self) -> None:
        """Look at every query of the table, and at the columns of its rows.

        Raises:
            LandingError: What is wrong.
        """
        if self.source.query:
            table, columns = load_contract(self.settings).tables[self.table], self.columns()
            named = Reading(renames=self.source.renames).columns(columns, table.columns)
            check_columns(self.table, table, named, Path(f"query of {self.table}"), self.source)
        elif query := self._ready_query:
            with self._engine() as engine:
                engine.columns(engine.checked(query, self._what("ready.query")), self._what("ready.query"))

    @property
    def _ready_query(self) -> str | None:
        return self.source.ready.query if self.source.ready else None

    def days(self) -> list[date]:
        """Return the days that have ended, since the app's first; a query may have rows of any."""
        last = datetime.now(UTC).date() - timedelta(days=1)
        last = min(last, self.settings.last_day) if self.settings.last_day else last
        return self.settings.days(self.settings.first_day, last) if last >= self.settings.first_day else []

    def lacks(self, day: date, now: float | None = None) -> str | None:
        """Say what a day waits for; None if it is complete.

        Raises:
            DatabaseError: The database cannot be asked.
        """
        if query := self._ready_query:
            with self._engine() as engine:
                what = self._what("ready.query")
                row = engine.execute(engine.checked(query, what), _days(day), what).fetchone()
            return None if row and row[0] else f"its ready query says {row[0] if row else 'nothing'}"
        ready = self.source.ready
        wait = ready.silence if ready and ready.silence is not None else self.settings.quiet_minutes
        end = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1, minutes=wait)
        if (time.time() if now is None else now) < end.timestamp():
            return f"the day is complete at {end:%Y-%m-%d %H:%M} UTC"
        if self.answer(day).rows == 0 and self.table not in self.settings.optional_tables:
            return "its query has no row of the day; an empty day needs a ready query that says so"
        return None

    def present(self, day: date) -> bool:
        """Tell whether a day is complete and has rows, or is known to have none."""
        return self.lacks(day) is None and (self._ready_query is not None or self.answer(day).rows != 0)

    def fingerprints(self, day: date) -> Iterator[str]:
        """Yield what tells one version of a day's rows from another."""
        yield f"{self.table}\x1f{self.answer(day).digest}"

    def answer(self, day: date) -> Answer:
        """Return what the database has for a day; asked again after ``look`` minutes.

        Raises:
            DatabaseError: The database cannot be asked.
        """
        key = (str(self.settings.home), self.table, day, *self._texts)
        if key in _answers and time.monotonic() - _answers[key][0] < 60 * self.source.look:
            return _answers[key][1]
        with self._engine() as engine:
            found = self._version(engine, day) or self._fingerprint(engine, day)
        if len(_answers) >= _MOST_ANSWERS:
            _answers.clear()
        _answers[key] = (time.monotonic(), found)
        return found

    def _version(self, engine: Engine, day: date) -> Answer | None:
        if self.source.version is None:
            return None
        what = self._what("version")
        rows = engine.execute(engine.checked(self.source.version, what), _days(day), what).fetchall()
        return Answer(None, _digest("version", str(rows)))

    def _fingerprint(self, engine: Engine, day: date) -> Answer:
        query, columns = self._checked(engine)
        row = _row_fingerprint(columns)
        counted = f"select count(*), sum({row}::hugeint)::varchar from ({query}) as t"
        [(rows, total)] = engine.execute(counted, _days(day), self._what("query")).fetchall()
        return Answer(rows, _digest(columns, rows, total))

    def _checked(self, engine: Engine) -> tuple[str, dict[str, str]]:
        what = self._what("query")
        query = engine.checked(self.source.query or "", what)
        return query, engine.columns(query, what)

    def spool(self, day: date, folder: Path) -> Spooled:
        """Stream the rows of a day into a file; what it takes of memory does not grow with them.

        Args:
            day: The day.
            folder: An empty folder.

        Raises:
            DatabaseError: The database cannot be asked.
        """
        with self._engine() as engine:
            version = self._version(engine, day)
            query, columns = self._checked(engine)
            shown = ", ".join(
                f"{quoted(name)}::varchar as {quoted(name)}" if kind in _WIDE else quoted(name)
                for name, kind in columns.items()
            )
            selected = f"select {shown}, {_row_fingerprint(columns)} as {_FINGERPRINT} from ({query}) as t"
            copy = f"copy ({selected}) to '{escaped(str(folder / 'all.parquet'))}' (format parquet, {_QUICK})"
            engine.execute(copy, _days(day), self._what("query"))
        with _local(self.settings) as connection:
            counted = f"select count(*), sum({_FINGERPRINT}::hugeint)::varchar from read_parquet(?)"
            [(rows, total)] = connection.execute(counted, [str(folder / "all.parquet")]).fetchall()
        digest = version.digest if version else _digest(columns, rows, total)
        return Spooled(rows, digest, self._keys(list(columns)), folder)

    def _keys(self, columns: list[str]) -> tuple[str, ...]:
        table = load_contract(self.settings).tables[self.table]
        named = Reading(renames=self.source.renames).columns(columns, table.columns)
        origins = dict(zip(named, columns, strict=True))
        return tuple(origins[key] for key in table.key if key in origins)

    def parts(self, spooled: Spooled) -> Iterator[tuple[int, Path | None]]:
        """Yield (number, file of Parquet) of the parts, None for one without rows.

        The rows of a file are in one order, whatever order the database gave them in. A file is gone when the next one
        is asked for. All rows of a key are in one part.
        """
        whole = spooled.folder / "all.parquet"
        with _local(self.settings) as connection:
            folders = [whole]
            if spooled.parts > 1:
                number = f"{_bucket(spooled.keys, spooled.parts)} as {_PART}"
                target = spooled.folder / "parts"
                options = f"format parquet, partition_by ({_PART}), {_QUICK}"
                query = f"select *, {number} from read_parquet('{escaped(str(whole))}')"
                connection.execute(f"copy ({query}) to '{escaped(str(target))}' ({options})")
                folders = [target / f"{_PART}={n}" / "*.parquet" for n in range(spooled.parts)]
            for n, path in enumerate(folders):
                if spooled.parts > 1 and not path.parent.is_dir():
                    yield n, None
                    continue
                extra = f"{_FINGERPRINT}, {_PART}" if spooled.parts > 1 else _FINGERPRINT
                read = f"read_parquet('{escaped(str(path))}', hive_partitioning = {str(spooled.parts > 1).lower()})"
                query = f"select * exclude ({extra}) from {read} order by {_FINGERPRINT}"
                part = spooled.folder / f"part-{n}.parquet"
                connection.execute(f"copy ({query}) to '{escaped(str(part))}' (format parquet, {_QUICK})")
                yield n, part
                part.unlink()

    def part_of(self, spooled: Spooled, keys: pl.DataFrame) -> pl.Series:
        """Return the number of the part in which a row of some key is judged.

        Args:
            spooled: The rows.
            keys: The key's columns as text, in the contract's order.
        """
        with _local(self.settings) as connection:
            connection.register("given", keys.with_row_index("n").to_arrow())
            query = f"select {_bucket(keys.columns, spooled.parts)} as part from given order by n"
            return pl.DataFrame(connection.execute(query).to_arrow_table())["part"]


_QUICK = "compression lz4, row_group_size 20480"
_answers: dict[tuple[object, ...], tuple[float, Answer]] = {}
_MOST_ANSWERS = 10_000


@contextmanager
def _local(settings: Settings) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an engine for files of our own."""
    with duckdb.connect(config={"threads": settings.threads, "memory_limit": settings.memory_limit}) as connection:
        connection.execute(f"set temp_directory = '{escaped(str(settings.lake_dir / 'spill'))}'")
        connection.execute("set preserve_insertion_order = false")
        connection.execute("set partitioned_write_flush_threshold = 20480")
        yield connection


WRITABLE = ("postgres", "sqlite", "duckdb")
"""Types of databases that rows may be written to."""


def fault_of_target(sources: Sources, name: str) -> str | None:
    """Say why no rows can be written to a database; None if they can."""
    found = sources.attach.get(name)
    if found is None:
        return f"{SOURCES_FILE} attaches no {name!r}{nearest(name, sources.attach)}"
    if found.type not in WRITABLE:
        return f"attach.{name} is of type {found.type}; rows are written to {', '.join(WRITABLE)}"
    return None


def replace_rows(settings: Settings, database: str, table: str, file: Path, keys: Mapping[str, str]) -> None:
    """Replace the rows of a database's table that have some keys by those of a file, in one transaction.

    Args:
        settings: Names the app's sources.
        database: Name under ``attach``.
        table: ``schema.table`` or ``table``; made with the columns of the file if it is not there.
        file: Rows as Parquet, all of these keys.
        keys: {column: value as text}.

    Raises:
        DatabaseError: The database cannot be written to, or its table lacks a column; no row was changed.
    """
    sources = load_sources(settings, load_contract(settings))
    if fault := fault_of_target(sources, database):
        raise DatabaseError(fault)
    engine = Engine(settings, sources, [database], written=database)
    target = ".".join(map(quoted, [database, *table.split(".")]))
    rows = f"read_parquet('{escaped(str(file))}')"
    same = " and ".join(f"{quoted(name)} = '{escaped(value)}'" for name, value in keys.items())
    try:
        engine.connection.execute("begin")
        engine.connection.execute(f"create table if not exists {target} as select * from {rows} limit 0")
        wanted, there = (
            [name for name, *_ in engine.connection.execute(f"describe {of}").fetchall()]
            for of in (f"select * from {rows}", target)
        )
        if lacking := [name for name in wanted if name not in there]:
            raise DatabaseError(
                f"table {table} of {database} has no column {lacking[0]!r}{nearest(lacking[0], there)}; add it, or "
                "name a table that is not there yet"
            )
        engine.connection.execute(f"delete from {target} where {same}")
        engine.connection.execute(f"insert into {target} by name select * from {rows}")
        engine.connection.execute("commit")
    except duckdb.Error as error:
        raise DatabaseError(f"table {table} of {database}: {engine.harmless(error)}") from None
    finally:
        engine.connection.close()


def delete_rows(
    settings: Settings, database: str, table: str, column: str, values: Iterable[str], *, dry_run: bool = False
) -> int:
    """Delete the rows of a database's table that have one of some values in a column; return how many.

    Args:
        settings: Names the app's sources.
        database: Name under ``attach``.
        table: ``schema.table`` or ``table``; one that is not there has no rows.
        column: Compared as text.
        values: Values.
        dry_run: Count them alone.

    Raises:
        DatabaseError: The database cannot be reached or written to, or the table lacks the column; no row was changed.
    """
    sources = load_sources(settings, load_contract(settings))
    if fault := fault_of_target(sources, database):
        raise DatabaseError(fault)
    engine = Engine(settings, sources, [database], written=None if dry_run else database)
    target = ".".join(map(quoted, [database, *table.split(".")]))
    where = f"list_contains(?::varchar[], {quoted(column)}::varchar)"
    try:
        query = f"select count(*) from {target} where {where}"
        [(rows,)] = engine.connection.execute(query, [list(values)]).fetchall()
        if rows and not dry_run:
            engine.connection.execute(f"delete from {target} where {where}", [list(values)])
        return int(rows)
    except duckdb.CatalogException:
        return 0
    except duckdb.Error as error:
        raise DatabaseError(f"table {table} of {database}: {engine.harmless(error)}") from None
    finally:
        engine.connection.close()


def faults_of_queries(settings: Settings) -> Iterator[str]:
    """Ask every query of ``sources.yaml`` for its columns; say what is wrong with each, changing nothing."""
    contract = load_contract(settings)
    with engines_kept():
        for table in load_sources(settings, contract).tables:
            question = queries_of(settings, table)
            try:
                question.check()
            except LandingError as error:
                yield f"{table}: {error}"


def question_of(settings: Settings, table: str) -> Question | None:
    """Return the queries of a table; None where it has files."""
    found = queries_of(settings, table)
    return found if found.source.query else None


def queries_of(settings: Settings, table: str) -> Question:
    """Return the queries of a table, which may be none, or one that says when its files are complete."""
    sources = load_sources(settings, load_contract(settings))
    return Question(settings, table, sources.table(table), sources)


def _days(day: date) -> dict[str, date]:
    return {"day": day, "next_day": day + timedelta(days=1)}


def _row_fingerprint(columns: Mapping[str, str]) -> str:
    values = ", ".join(f"coalesce({quoted(name)}::varchar, chr(30))" for name in columns)
    return f"md5_number_lower(concat_ws(chr(31), {values}))"


def _bucket(keys: Sequence[str], parts: int) -> str:
    """Return the SQL of a row's part: values that the contract reads as one text are in one part."""
    if not keys:
        return "0"
    text = ", ".join(f"regexp_replace({quoted(name)}::varchar, '{_ROUNDED}', '')" for name in keys)
    return f"(hash(concat_ws(chr(31), {text})) % {parts})::bigint"


def _digest(*parts: object) -> str:
    return hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()[:32]
