"""Landing: files of the landing zone -> ``landing.*`` tables of the lake, day by day.

A day is read, validated and then replaced in one transaction: its rows, its quarantine and its ledger; small days of a
range share one, and the next ones are read while it is written. Rows in = loaded + quarantined, always. A day with too
many bad rows fails: its quarantine is written for inspection, its tables stay as they were. What is held in memory is
one day, or days of some hundred thousand rows.
"""

import shutil
import sys
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import polars as pl

from ml.foundation.lake import ALIAS, LANDING, Lake
from ml.foundation.progress import Progress, Step, silent
from ml.foundation.settings import Settings
from ml.landing.contract import DAY, Contract, ContractError, LandingError, Table, load_contract
from ml.landing.databases import engines_kept, question_of
from ml.landing.late import LATE, LATE_COLUMNS, arrived, elsewhere, mark, none_arrived, packed, replace, unpacked
from ml.landing.ledger import LEDGER, landed_days
from ml.landing.readers import BROKEN_SCHEMA, MARK, ROW, Parsed, Reading, UnreadableFile, as_json, blamed_on, read_file
from ml.landing.readiness import Place, entries, input_hash, input_hash_of, landed_tables, place_of
from ml.landing.sources import load_sources
from ml.landing.validate import FILE, check_columns, not_ahead, right_types, typed, validate

_DAYS_TOLD = 5

QUARANTINE = f"{LANDING}.quarantine"
QUARANTINE_COLUMNS = {
    DAY: "DATE",
    "table_name": "VARCHAR",
    "file": "VARCHAR",
    "row_number": "BIGINT",
    "reason": "VARCHAR",
    "content": "VARCHAR",
}
LEDGER_COLUMNS = {
    DAY: "DATE",
    "table_name": "VARCHAR",
    "files": "BIGINT",
    "rows_in": "BIGINT",
    "rows_loaded": "BIGINT",
    "rows_quarantined": "BIGINT",
    "rows_routed": "BIGINT",
    "landed_at": "TIMESTAMP",
    "input_hash": "VARCHAR",
}
SMALL_TABLE = 100
"""A table of at most so many rows is judged only together with its day."""
TABLE_FACTOR = 10
"""One table may lose this many times the share that the day may lose."""
_CONTENT_CHARACTERS = 2_000
_TOGETHER = 250_000
"""Rows from which no further day is written with those before it."""
_LOOKS = 5
"""A day whose files change each time that it is read fails after so many."""


@dataclass(frozen=True)
class LandingReport:
    """What happened to one table of one day."""

    day: date
    table: str
    files: tuple[str, ...]
    rows_in: int
    rows_loaded: int
    rows_quarantined: int
    reasons: dict[str, int] = field(default_factory=dict)
    input_hash: str = ""
    """Hash of the day's files of this table, as ``readiness.input_hash`` gives it."""
    rows_routed: int = 0
    """Rows of these files that went to their own days, where they are counted; none of ``rows_in``."""


class DayIncomplete(LandingError):
    """A day that lacks required tables."""


class QuarantineLimitExceeded(LandingError):
    """A day with more bad rows than ``max_quarantine_share`` allows."""

    def __init__(self, day: date, reports: Sequence[LandingReport], message: str) -> None:
        super().__init__(message)
        self.day = day
        self.reports = list(reports)


class DaysFailed(LandingError):
    """Days of a range that did not land; the others did.

    Attributes:
        failures: {day: why}.
        reports: Those of the days that landed.
    """

    def __init__(self, failures: Mapping[date, LandingError], reports: Sequence[LandingReport]) -> None:
        days = len(failures) + len({report.day for report in reports})
        told = "\n".join(f"{day}: {error}" for day, error in list(failures.items())[:_DAYS_TOLD])
        more = f"\nand {len(failures) - _DAYS_TOLD} more" if len(failures) > _DAYS_TOLD else ""
        others = "the others did" if reports else "no day landed"
        super().__init__(f"{len(failures)} of {days} days did not land, {others}:\n{told}{more}")
        self.failures = dict(failures)
        self.reports = list(reports)


@dataclass(frozen=True)
class _Landed:
    report: LandingReport
    good: list[pl.DataFrame | Path]  # files of Parquet, where they are many
    bad: pl.DataFrame  # QUARANTINE_COLUMNS
    late: pl.DataFrame  # LATE_COLUMNS


@dataclass(frozen=True)
class _Judged:
    """A day as it was read, or why it does not land."""

    day: date
    landed: list[_Landed] = field(default_factory=list)
    failure: LandingError | None = None

    @property
    def rows(self) -> int:
        return sum(item.report.rows_in for item in self.landed)


@dataclass(frozen=True)
class _Part:
    """Days that are written together, and the folder in which rows of theirs may wait."""

    days: list[_Judged]
    folder: str

    @property
    def small(self) -> bool:
        return all(judged.rows <= _TOGETHER for judged in self.days)


def init_tables(lake: Lake) -> None:
    """Create every landing table, the quarantine and the ledger, empty; add columns that the contract has gained.

    Raises:
        ContractError: A landed column has another type than the contract now says.
    """
    statements = [statement for change in _changes(lake) for statement in change.statements]
    if not statements:
        return

    def step() -> None:
        with lake.transaction("landing: create tables") as connection:
            for statement in statements:
                connection.execute(statement)

    lake.retry(step)


def lacking(lake: Lake) -> list[str]:
    """Return the tables and columns that ``init_tables`` would add.

    Raises:
        ContractError: A landed column has another type than the contract now says.
    """
    return [change.what for change in _changes(lake)]


@dataclass(frozen=True)
class _Change:
    what: str
    statements: tuple[str, ...]


def _changes(lake: Lake) -> list[_Change]:
    """Return what the landing tables of the lake lack."""
    wanted = {QUARANTINE: QUARANTINE_COLUMNS, LEDGER: LEDGER_COLUMNS, LATE: LATE_COLUMNS}
    for name, table in load_contract(lake.settings).tables.items():
        wanted[f"{LANDING}.{name}"] = {DAY: "DATE"} | {n: c.sql_type for n, c in table.columns.items()}

    present: dict[str, dict[str, str]] = {}
    described = lake.connection.execute(
        "select table_name, column_name, data_type from information_schema.columns "
        "where table_catalog = ? and table_schema = ?",
        [ALIAS, LANDING],
    )
    for name, column, kind in described.fetchall():
        present.setdefault(f"{LANDING}.{name}", {})[column] = kind
    changes = []
    for name, columns in wanted.items():
        landed = present.get(name)
        if landed is None:
            listed = ", ".join(f'"{column}" {kind}' for column, kind in columns.items())
            create = f"create table {ALIAS}.{name} ({listed})"
            changes.append(_Change(name, (create, f"alter table {ALIAS}.{name} set partitioned by ({DAY})")))
            continue
        for column, kind in columns.items():
            if column not in landed:
                add = f'alter table {ALIAS}.{name} add column "{column}" {kind}'
                changes.append(_Change(f"{name}: column {column}", (add,)))
            elif landed[column] != kind:
                raise ContractError(f"{name}.{column} is landed as {landed[column]}, the contract says {kind}")
    return changes


def load_days(
    lake: Lake,
    settings: Settings,
    days: Iterable[date],
    surfaces: set[str],
    tables: Sequence[str] | None = None,
    progress: Progress = silent,
) -> list[LandingReport]:
    """Land days, each as a whole and small ones together; a day that is landed again is replaced.

    Args:
        lake: The lake to write.
        settings: Names the landing zone and the limit of bad rows.
        days: Days to land.
        surfaces: Names of the configured surfaces; other surfaces in ``exposures`` are bad rows.
        tables: Tables to land; all of the contract by default. A table that a day lacks is emptied for that day.
        progress: Told of each day when it is written.

    Returns:
        One report per day and table, in order.

    Raises:
        UnreadableFile: A file is damaged or of an unknown format.
        LandingError: Files are replaced faster than they can be read.
        ContractError: A file lacks a required column or has an unknown one.
        DayIncomplete: A required table has neither file nor ``_SUCCESS``.
        QuarantineLimitExceeded: Too many bad rows.
        DaysFailed: Of several days, some failed for one of these reasons. Every other day landed.
    """
    contract = load_contract(settings)
    names = list(contract.tables) if tables is None else list(tables)
    for name in names:
        contract.table(name)
    init_tables(lake)
    reports: dict[date, list[LandingReport]] = {}
    failures: dict[date, LandingError] = {}
    changed: set[tuple[date, str]] = set()
    days = sorted(set(days))
    with closing(_parts(lake, settings, contract, days, names, surfaces)) as parts:
        for part in parts:
            late = _write_part(lake, part.days, names)
            shutil.rmtree(part.folder)
            changed = {(own, name) for own, name in changed if own not in [judged.day for judged in part.days]} | late
            for judged in part.days:
                if judged.failure is None:
                    reports[judged.day] = [item.report for item in judged.landed]
                    line = _told(judged.day, reports[judged.day])
                elif len(days) == 1:
                    raise judged.failure
                else:
                    failures[judged.day] = judged.failure
                    line = f"{judged.day} did not land: {judged.failure}"
                progress(Step("landing", days.index(judged.day) + 1, len(days), line=line))
    _land_late(lake, settings, contract, surfaces, changed, reports, failures, progress)
    landed = [report for day in days if day not in failures for report in reports[day]]
    if failures:
        raise DaysFailed(failures, landed)
    return landed


def _parts(
    lake: Lake, settings: Settings, contract: Contract, days: Sequence[date], names: Sequence[str], surfaces: set[str]
) -> Generator[_Part]:
    """Yield days as they were read; of small ones several, and the next while the last ones are written.

    Where rows go to other days, a day is read when those before it are written: it may have got rows by that.
    """
    sources = load_sources(settings, contract)
    routed = any(sources.table(name).late == "route" for name in contract.tables) or lake.was_filled(LATE)
    left = iter(days)

    def read() -> _Part | None:
        part, rows = _Part([], folders.enter_context(_folder(settings))), 0
        for day in left:
            late = arrived(lake, day, names) if routed else none_arrived(names)
            folder = Path(part.folder, day.isoformat())
            folder.mkdir()
            part.days.append(_judge_day(settings, contract, late, day, surfaces, folder))
            rows += part.days[-1].rows
            if routed or rows >= _TOGETHER:
                break
        return part if part.days else None

    with ExitStack() as folders:
        if routed:
            yield from iter(read, None)
            return
        with ThreadPoolExecutor(1, thread_name_prefix="landing") as reader:
            part = reader.submit(read).result()
            while part is not None:
                ahead = reader.submit(read) if part.small else None
                yield part
                part = (ahead or reader.submit(read)).result()


def _land_late(
    lake: Lake,
    settings: Settings,
    contract: Contract,
    surfaces: set[str],
    changed: set[tuple[date, str]],
    reports: dict[date, list[LandingReport]],
    failures: dict[date, LandingError],
    progress: Progress,
) -> None:
    """Land days again whose late rows changed, if they have landed before; ``reports`` and ``failures`` follow."""
    for day in sorted({own for own, _ in changed} - failures.keys()):
        tables = [name for own, name in sorted(changed) if own == day and day in landed_days(lake, name)]
        waits = "" if tables else "; they wait for the day to land"
        again: list[LandingReport] = []
        try:
            if tables:
                again, _ = _load_day(lake, settings, contract, day, tables, surfaces, built=day in reports)
        except LandingError as error:
            failures[day] = error
            progress(Step("landing", line=f"late rows of {day} did not land: {error}"))
            continue
        progress(Step("landing", line=f"late rows of {_told(day, again)}{waits}"))
        newer = {report.table: report for report in again}
        if day in reports:
            reports[day] = [newer.get(report.table, report) for report in reports[day]]


def _told(day: date, reports: Sequence[LandingReport]) -> str:
    loaded, lost = sum(r.rows_loaded for r in reports), sum(r.rows_quarantined for r in reports)
    routed = sum(r.rows_routed for r in reports)
    more = f", {routed:,} sent to their own days" if routed else ""
    return f"{day}, {loaded:,} rows landed, {lost:,} quarantined{more}"


def _load_day(
    lake: Lake,
    settings: Settings,
    contract: Contract,
    day: date,
    names: Sequence[str],
    surfaces: set[str],
    *,
    built: bool = True,
) -> tuple[list[LandingReport], set[tuple[date, str]]]:
    """Land one day; return its reports, and (day, table) of what has other late rows by that.

    Args:
        lake: The lake.
        settings: The home.
        contract: The landing contract.
        day: The day.
        names: Its tables.
        surfaces: Names of the configured surfaces.
        built: Whether who asks builds the day's other tables too; if not, the sensor is to see it as changed.
    """
    with _folder(settings) as folder:
        judged = _judge_day(settings, contract, arrived(lake, day, names), day, surfaces, Path(folder))
        changed = _write_part(lake, [judged], names, built=built)
    if judged.failure:
        raise judged.failure
    return [item.report for item in judged.landed], changed


def _folder(settings: Settings) -> "TemporaryDirectory[str]":
    spill = settings.lake_dir / "spill"
    spill.mkdir(parents=True, exist_ok=True)
    return TemporaryDirectory(prefix="landing-", dir=spill)


def _judge_day(
    settings: Settings,
    contract: Contract,
    late: Mapping[str, pl.DataFrame],
    day: date,
    surfaces: set[str],
    folder: Path,
) -> _Judged:
    """Read and judge one day, with the rows that came for its tables in the folders of others."""
    try:
        with engines_kept():
            _require_tables(settings, day, list(late))
            landed = _read_day(settings, contract, late, day, surfaces, folder)
    except LandingError as error:
        return _Judged(day, failure=error)
    except (Exception, pl.exceptions.PanicException) as error:
        # Nothing of a day's files may stop another day; what writing raises concerns them all and passes.
        failure = LandingError(f"{day}: its files could not be judged: {type(error).__name__}: {error}")
        failure.__cause__ = error
        return _Judged(day, failure=failure)
    if message := _too_many(settings, day, landed):
        return _Judged(day, landed, QuarantineLimitExceeded(day, [item.report for item in landed], message))
    return _Judged(day, landed)


def _write_part(
    lake: Lake, days: Sequence[_Judged], names: Sequence[str], *, built: bool = True
) -> set[tuple[date, str]]:
    """Write days in one transaction, and the quarantine of those that have too many bad rows in their own."""
    for judged in days:
        if isinstance(judged.failure, QuarantineLimitExceeded):
            bad = pl.concat([item.bad for item in judged.landed])
            lake.retry(partial(_write_quarantine, lake, judged.day, names, bad))
    good = [judged for judged in days if judged.failure is None]
    return lake.retry(lambda: _write_days(lake, good, names, built=built)) if good else set()


def _require_tables(settings: Settings, day: date, names: Sequence[str]) -> None:
    """Check that a day has its required tables; the rows of queries are counted when they are read."""
    asked = {name for name in names if question_of(settings, name)}
    _, absent = landed_tables(settings, day, asked)
    if lacking := [name for name in absent if name in names and name not in asked]:
        place = place_of(settings, lacking[0])
        marker = place.marker(day)
        named = "marker" if marker is None else str(marker).rpartition("/")[2]
        where = place.folder(day) if isinstance(place, Place) else place.where(day)
        raise DayIncomplete(
            f"{day}: required tables {', '.join(lacking)} have no file and no {named}, such as in {where}"
        )


def _read_day(
    settings: Settings,
    contract: Contract,
    late: Mapping[str, pl.DataFrame],
    day: date,
    surfaces: set[str],
    folder: Path,
) -> list[_Landed]:
    """Read tables of a day as they were at one moment: again, if a file was replaced while they were read."""
    names = [name for name in late if question_of(settings, name) is None]
    for _ in range(_LOOKS):
        before = input_hash(settings, day, names)
        try:
            landed = [_read_table(settings, contract, name, day, surfaces, late[name], folder) for name in names]
        except (LandingError, FileNotFoundError):
            if input_hash(settings, day, names) == before:
                raise
            continue
        if input_hash(settings, day, names) == before:
            break
    else:
        raise LandingError(
            f"{day}: files were replaced while they were read, {_LOOKS} times; land the day when they rest"
        )
    asked = [_ask_table(settings, contract, name, day, surfaces, late[name], folder) for name in late.keys() - {*names}]
    return sorted([*landed, *asked], key=lambda item: list(late).index(item.report.table))


def _read_table(
    settings: Settings,
    contract: Contract,
    name: str,
    day: date,
    surfaces: set[str],
    late: pl.DataFrame,
    folder: Path,
) -> _Landed:
    files = entries(settings, name, day)
    judge = _Judge(settings, contract, name, day, frozenset(surfaces), [file.label for file in files])
    digest = input_hash(settings, day, [name])
    parsed = []
    for file in files:
        with file.opened(folder) as path:
            parsed.append((file.name, judge.parse(path, file.name)))
    judge.add(parsed, late)
    return judge.landed(digest, files=len(files))


def _ask_table(
    settings: Settings,
    contract: Contract,
    name: str,
    day: date,
    surfaces: set[str],
    late: pl.DataFrame,
    folder: Path,
) -> _Landed:
    """Land the rows of a query, part by part; the good ones of many parts wait in files."""
    question = question_of(settings, name)
    assert question is not None
    called = f"query of {name} for {day}"
    judge = _Judge(settings, contract, name, day, frozenset(surfaces), [called])
    check_columns(name, judge.table, judge.named(question.columns()), called, judge.source)
    with TemporaryDirectory(dir=folder) as spool:
        spooled = question.spool(day, Path(spool))
        if not spooled.rows and name not in settings.optional_tables and (why := question.lacks(day)):
            raise DayIncomplete(f"{day}: {name}: {why}")
        parts = pl.Series("part", [0] * late.height, dtype=pl.Int64)
        if late.height and spooled.parts > 1:
            parts = question.part_of(spooled, unpacked(late, judge.table).select(judge.table.key))
        for number, path in question.parts(spooled):
            parsed = [] if path is None else [(called, judge.parse(path, called, bounded=False))]
            judge.add(parsed, late.filter(parts == number), keep=folder if spooled.parts > 1 else None)
    return judge.landed(input_hash_of(name, spooled.digest), files=1)


class _Judge:
    """Judges the rows of one table and day, all of them or part by part; no key may be in two parts.

    Args:
        settings: The home.
        contract: The landing contract.
        name: The table.
        day: The day.
        surfaces: Names of the configured surfaces.
        labels: What the files are called.
    """

    def __init__(
        self, settings: Settings, contract: Contract, name: str, day: date, surfaces: frozenset[str], labels: list[str]
    ) -> None:
        self.table, self.source = contract.table(name), load_sources(settings, contract).table(name)
        self._settings, self._contract, self._name, self._day = settings, contract, name, day
        self._surfaces, self._files = surfaces, labels
        self._reading = Reading(self.source.nulls, self.source.renames)
        self._good: list[pl.DataFrame | Path] = []
        self._bad: list[pl.DataFrame] = []
        self._routed: list[pl.DataFrame] = []
        self._read = self._loaded = 0

    def named(self, columns: Sequence[str]) -> list[str]:
        """Return the contract's names of columns."""
        return self._reading.columns(columns, self.table.columns)

    def parse(self, path: Path, called: Path | str, *, bounded: bool = True) -> Parsed:
        """Read one file, which faults call by another name."""
        limit = self._settings.max_unpacked_mb << 20 if bounded else sys.maxsize
        try:
            parsed = read_file(path, self.table.columns, limit, self._reading)
        except UnreadableFile as error:
            raise UnreadableFile(called, error.reason) from error
        check_columns(self._name, self.table, parsed.columns, called, self.source)
        return parsed

    def add(self, files: Sequence[tuple[Path | str, Parsed]], late: pl.DataFrame, keep: Path | None = None) -> None:
        """Judge what was read of files, and rows of other days' files.

        Args:
            files: What each is called, and holds.
            late: As ``late.arrived`` gives them.
            keep: Folder in which the good rows wait; else they wait in memory.
        """
        labels, table = list(self._files), self.table
        sources, frames = [], []
        broken = [pl.DataFrame(schema={FILE: pl.Int32} | BROKEN_SCHEMA)]
        for index, (called, parsed) in enumerate(files):
            # The parts of a query are numbered through.
            sources.append(parsed.rows.with_columns(pl.col(ROW) + self._read) if keep else parsed.rows)
            with blamed_on(called):
                frames.append(typed(sources[-1], table, index, self.source))
            broken.append(parsed.broken.select(pl.lit(index, pl.Int32).alias(FILE), *BROKEN_SCHEMA))
        if not files:
            sources = [pl.DataFrame(schema={ROW: pl.Int64})] * len(labels)
        unreadable = pl.concat(broken)
        rows = pl.concat(frames) if frames else typed(pl.DataFrame(schema={ROW: pl.Int64}), table, 0)
        self._read += rows.height + unreadable.height
        if self.source.late == "route":
            away = rows.select(elsewhere(self._settings, table, self._day) & right_types() & not_ahead(table))
            self._routed.append(_late_rows(self._name, rows.filter(away.to_series()), labels, table))
            rows = rows.filter(~away.to_series())
        for (_, file), part in late.partition_by("source_day", "file", as_dict=True, maintain_order=True).items():
            sources.append(unpacked(part, table))
            rows = pl.concat([rows, typed(sources[-1], table, len(labels))])
            labels.append(str(file))
        good, invalid = validate(rows, self._contract, self._name, self._day, self._surfaces)
        contents = [_with_content(invalid.filter(pl.col(FILE) == index), rows) for index, rows in enumerate(sources)]
        bad = pl.concat([unreadable, *(c.select(FILE, *BROKEN_SCHEMA) for c in contents)]).sort(FILE, ROW)
        if rows.height + unreadable.height != good.height + bad.height:
            raise AssertionError(f"{self._name} {self._day}: {rows.height} in, {good.height} loaded, {bad.height} bad")
        self._loaded += good.height
        self._bad.append(self._as_quarantine(bad, labels))
        good = good.select(list(table.columns))
        if keep is None:
            self._good.append(good)
        elif good.height:
            path = keep / f"{self._name}-{len(self._good)}.parquet"
            good.write_parquet(path, compression="lz4")
            self._good.append(path)

    def _as_quarantine(self, bad: pl.DataFrame, labels: Sequence[str]) -> pl.DataFrame:
        return bad.select(
            pl.lit(self._day).alias(DAY),
            pl.lit(self._name).alias("table_name"),
            pl.Series("file", [labels[index] for index in bad[FILE]], dtype=pl.String),
            pl.col(ROW).alias("row_number"),
            "reason",
            _readable(pl.col("content")).alias("content"),
        )

    def landed(self, digest: str, files: int) -> _Landed:
        """Return what is to be written, once everything was added."""
        bad = pl.concat(self._bad)
        none = _late_rows(self._name, pl.DataFrame(), [], self.table)
        routed = pl.concat([none, *self._routed])
        report = LandingReport(
            day=self._day,
            table=self._name,
            files=tuple(self._files[:files]),
            rows_in=self._loaded + bad.height,
            rows_loaded=self._loaded,
            rows_quarantined=bad.height,
            reasons=dict(Counter(bad["reason"].to_list()).most_common()),
            input_hash=digest,
            rows_routed=routed.height,
        )
        return _Landed(report, self._good, bad, routed.with_columns(pl.lit(self._day).alias("source_day")))


def _late_rows(name: str, rows: pl.DataFrame, labels: Sequence[str], table: Table) -> pl.DataFrame:
    """Return typed rows of other days as ``LATE`` holds them, but for ``source_day``."""
    if rows.is_empty():
        kinds = {DAY: pl.Date, "table_name": pl.String, "file": pl.String, "row_number": pl.Int64}
        return pl.DataFrame(schema=kinds | {"content": pl.String})
    return rows.select(
        pl.col(table.moment or "").dt.date().alias(DAY),
        pl.lit(name).alias("table_name"),
        pl.Series("file", [labels[index] for index in rows[FILE]], dtype=pl.String),
        pl.col(ROW).alias("row_number"),
        packed(rows, table).alias("content"),
    )


def _with_content(invalid: pl.DataFrame, source: pl.DataFrame) -> pl.DataFrame:
    """Add the rows as they were read, as JSON."""
    if invalid.is_empty():  # and the source may have no column at all, if no line of it could be read
        return invalid.with_columns(content=pl.lit(None, pl.String))
    rows = source.join(invalid, on=ROW, how="semi")
    return invalid.join(as_json(rows), on=ROW)


def _readable(content: pl.Expr) -> pl.Expr:
    return content.str.replace_all(MARK, "\ufffd", literal=True).str.slice(0, _CONTENT_CHARACTERS)


def _too_many(settings: Settings, day: date, landed: Sequence[_Landed]) -> str | None:
    """Return why the day fails, or ``None``."""
    share = settings.max_quarantine_share
    rows = sum(item.report.rows_in for item in landed)
    lost = sum(item.report.rows_quarantined for item in landed)
    over = []
    if lost > share * rows:
        over.append(
            f"{lost:,} of {rows:,} rows ({lost / rows:.2%}) are bad, more than max_quarantine_share {share:.2%}"
        )
    limit = min(1.0, TABLE_FACTOR * share)
    for item in landed:
        report = item.report
        if report.rows_in > SMALL_TABLE and report.rows_quarantined > limit * report.rows_in:
            over.append(
                f"{report.rows_quarantined:,} of {report.rows_in:,} rows of {report.table} are bad, "
                f"more than {limit:.2%} for one table"
            )
    if not over:
        return None
    examples = []
    for item in sorted(landed, key=lambda item: -item.report.rows_quarantined):
        for reason, count in list(item.report.reasons.items())[:3]:
            first = item.bad.filter(pl.col("reason") == reason).row(0, named=True)
            examples.append(
                f"{count:,} x {reason!r} in {item.report.table} ({first['file']}, row {first['row_number']})"
            )
    reasons = "; ".join(examples[:5])
    return f"{day}: {'; '.join(over)}. Top reasons: {reasons}. `crossfade quarantine {day}` shows the rows."


def _write_days(lake: Lake, days: Sequence[_Judged], names: Sequence[str], *, built: bool) -> set[tuple[date, str]]:
    now = datetime.now(UTC).replace(tzinfo=None)
    ledger = [
        (r.day, r.table, len(r.files), r.rows_in, r.rows_loaded, r.rows_quarantined, r.rows_routed, now, r.input_hash)
        for judged in days
        for r in (item.report for item in judged.landed)
    ]
    # A read of a table that never held a row costs as much as a dozen others.
    quarantined, routed = lake.was_filled(QUARANTINE), lake.was_filled(LATE)
    first, last = days[0].day, days[-1].day
    with lake.transaction(f"landing: {first}" + (f" to {last}" if last > first else "")) as connection:
        known = connection.execute(
            f"select {DAY}, table_name, rows_loaded from {ALIAS}.{LEDGER} "
            f"where {DAY} between ? and ? and list_contains(?::varchar[], table_name)",
            [first, last, list(names)],
        ).fetchall()
        written = {judged.day for judged in days}
        for day, name, loaded in known:
            if loaded and day in written:
                connection.execute(f"delete from {ALIAS}.{LANDING}.{name} where {DAY} = ?", [day])
        for number in range(len(days[0].landed)):
            _insert_days(connection, [(judged.day, judged.landed[number]) for judged in days])
        bad = pl.concat([item.bad for judged in days for item in judged.landed])
        for day in sorted(written):
            if quarantined:
                _remove(connection, QUARANTINE, day, names)
            if known:
                _remove(connection, LEDGER, day, names)
        _insert(connection, QUARANTINE, bad)
        _insert(connection, LEDGER, pl.DataFrame(ledger, schema=list(LEDGER_COLUMNS), orient="row"))
        changed = set[tuple[date, str]]()
        for judged in days:
            late = pl.concat([item.late for item in judged.landed])
            if routed or late.height:
                changed |= replace(connection, judged.day, names, late)
            if not built:
                mark(connection, judged.day, names)
        return changed


def _write_quarantine(lake: Lake, day: date, names: Sequence[str], bad: pl.DataFrame) -> None:
    with lake.transaction(f"landing: quarantine of {day}, which failed") as connection:
        _remove(connection, QUARANTINE, day, names)
        _insert(connection, QUARANTINE, bad)


def _remove(connection: duckdb.DuckDBPyConnection, table: str, day: date, names: Sequence[str]) -> None:
    connection.execute(
        f"delete from {ALIAS}.{table} where {DAY} = ? and list_contains(?::varchar[], table_name)", [day, list(names)]
    )


def _insert_days(connection: duckdb.DuckDBPyConnection, days: Sequence[tuple[date, _Landed]]) -> None:
    """Insert the good rows of one table and some days: those in memory at once, those of files one by one."""
    table = f"{LANDING}.{days[0][1].report.table}"
    frames = [
        rows.with_columns(pl.lit(day).alias(DAY))
        for day, item in days
        for rows in item.good
        if isinstance(rows, pl.DataFrame)
    ]
    if frames:
        _insert(connection, table, pl.concat(frames, rechunk=False))
    for day, item in days:
        for path in item.good:
            if isinstance(path, Path):
                query = f"insert into {ALIAS}.{table} by name select *, date '{day}' as {DAY} from read_parquet($1)"
                connection.execute(query, [str(path)])


def _insert(connection: duckdb.DuckDBPyConnection, table: str, rows: pl.DataFrame) -> None:
    if rows.is_empty():
        return
    connection.register("_rows", rows.to_arrow())
    try:
        connection.execute(f"insert into {ALIAS}.{table} by name select * from _rows")
    finally:
        connection.unregister("_rows")
