"""What is left of a person when their rows are gone: the catalog's pages and bounds, copies, learnt vocabularies.

What nothing needs is removed. What stays is named: where it is, what of the person it has, why, and until when.
"""

import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import closing
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from ml.foundation.ids import id63
from ml.foundation.lake import ALIAS, Lake
from ml.foundation.lake_files import CATALOG
from ml.foundation.settings import Settings
from ml.landing.readiness import folders_of_files
from ml.operations.backup import noted_copies, replaced_catalogs
from ml.operations.development import FOLDER
from ml.operations.ranked_rows import RankedRows
from ml.operations.traces import Traces

_WAIT_S = 60
_TRAININGS = "training"


class Remaining(BaseModel):
    """A place that still has something of a person."""

    model_config = ConfigDict(frozen=True)

    place: str
    holds: tuple[str, ...] = Field(description="What of the person it has, or that it cannot be told")
    why: str
    until: str


def mend_bounds(lake: Lake, columns: AbstractSet[str], ids: AbstractSet[str]) -> int:
    """Write the least and greatest value anew that the catalog has of a column: deleting rows leaves them as they were.

    Args:
        lake: The lake, without the rows.
        columns: Names of columns whose bounds are written anew in any case: a call that was killed may have removed
            the rows without this.
        ids: Other columns' bounds are, where they are one of these or its hash.

    Returns:
        The bounds that were others.
    """
    names = sorted(ids | {str(id63(value)) for value in ids})
    query = f"""
        select b.table_id, b.column_id, s.schema_name || '.' || t.table_name, c.column_name, b.min_value, b.max_value
        from {CATALOG}.ducklake_table_column_stats as b
        join {CATALOG}.ducklake_table as t on b.table_id = t.table_id and t.end_snapshot is null
        join {CATALOG}.ducklake_schema as s on t.schema_id = s.schema_id and s.end_snapshot is null
        join {CATALOG}.ducklake_column as c
            on b.table_id = c.table_id and b.column_id = c.column_id and c.end_snapshot is null
        where list_contains($1, c.column_name) or list_contains($2, b.min_value) or list_contains($2, b.max_value)"""
    changed = 0
    for table_id, column_id, table, column, *told in lake.connection.execute(
        query, [sorted(columns), names]
    ).fetchall():
        bounds = f'select min("{column}")::varchar, max("{column}")::varchar from {ALIAS}.{table}'
        [found] = lake.connection.execute(bounds).fetchall()
        if list(found) != told:
            changed += 1
            mend = f"""
                update {CATALOG}.ducklake_table_column_stats set min_value = ?, max_value = ?
                where table_id = ? and column_id = ?"""
            given = [*found, table_id, column_id]
            lake.retry(lambda m=mend, g=given: lake.connection.execute(m, g).fetchall())
    return changed


def rewrite_catalog(settings: Settings) -> None:
    """Write the catalog's file anew, without the pages of removed rows, and empty its write-ahead log.

    Raises:
        ValueError: Another process keeps it open.
    """
    if settings.catalog_url or not settings.catalog_path.exists():
        return
    try:
        with closing(sqlite3.connect(settings.catalog_path, timeout=_WAIT_S, isolation_level=None)) as catalog:
            catalog.execute("vacuum")
            [(busy, *_)] = catalog.execute("pragma wal_checkpoint(truncate)").fetchall()
    except sqlite3.OperationalError as error:
        raise ValueError(f"{settings.catalog_path}: {error}; stop what reads the lake, and forget again") from error
    if busy:
        raise ValueError(f"{settings.catalog_path} is read by another process; stop it, and forget again")


def removable(settings: Settings, traces: Traces) -> list[Path]:
    """Return copies that nothing needs once the person's rows are gone: files and folders, each as a whole.

    A sample for development is made again; a catalog that a restore replaced names data files that go with the past;
    a finished or interrupted training is of rows that are no more; a spool is of a run that was killed.
    """
    found = [settings.home / FOLDER, *replaced_catalogs(settings)]
    trainings = settings.home / _TRAININGS
    found += sorted({path.parent for path, _ in traces.in_folder(trainings)})
    spool = settings.home / "spool"
    found += sorted(spool.iterdir()) if spool.is_dir() else []
    return [path for path in found if path.exists()]


def remove(paths: list[Path]) -> None:
    """Remove files and folders."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def remaining(
    settings: Settings, traces: Traces, ranked: RankedRows, skip: AbstractSet[Path] = frozenset()
) -> tuple[Remaining, ...]:
    """Look through everything that is here and name each file that still has something of the person, and why.

    Args:
        settings: The home.
        traces: Of the person.
        ranked: Rankings outside of the lake.
        skip: Files and folders that are left out, because what they have of the person is removed.
    """
    copies = noted_copies(settings)
    found = []
    for root in _roots(settings, copies):
        for path, holds in traces.in_folder(root, skip):
            why, until = _of_copy(path, copies) or _of_home(settings, path) or _UNKNOWN
            found.append(Remaining(place=str(path), holds=holds, why=why, until=until))
    return (*found, *_elsewhere(settings, ranked))


def _roots(settings: Settings, copies: list[Path]) -> list[Path]:
    """Return the folders and files to look through, none within another."""
    given = [settings.home, *copies, *folders_of_files(settings)]
    given += [settings.landing_dir] if settings.landing_dir else []
    given += _teacher_folders(settings)
    resolved = sorted({path.resolve() for path in given if path.exists()})
    return [path for path in resolved if not any(path != other and path.is_relative_to(other) for other in resolved)]


def _teacher_folders(settings: Settings) -> list[Path]:
    files = [*([settings.teacher] if settings.teacher else []), *settings.teachers.values()]
    return [path if path.is_dir() else path.parent for path in files]


_UNKNOWN = ("no table of the contract has it as a file of a day", "you delete it, or the person's rows in it")
_OF_HOME: Mapping[str, tuple[str, str]] = {
    "artifacts/releases": (
        "a release never changes; its vocabulary has hashes of users, nothing else of them",
        "a later release serves, and `crossfade tidy` retires this one",
    ),
    "artifacts/models": (
        "made of the rows; nothing serves from it",
        "you delete its folder, or `crossfade tidy` does when it is old; the partition, made again, has another",
    ),
    "cache": ("a local copy of an artifact", "you delete it; it is fetched again"),
    "teacher": (
        "the teacher learnt from the account's rows",
        "another teacher takes its place, and you delete this one",
    ),
    "lake/data": (
        "a column that by its name is no id of a person or an exposure",
        "the model that writes it leaves the person out, and its days are built again",
    ),
    "artifacts/repository": ("a copy of the release that serves", "another release serves"),
    "dagster": ("what Dagster keeps of runs", "their runs are deleted in its UI"),
    "dbt": ("files of dbt calls", "`crossfade tidy` removes them (CROSSFADE_KEEP_RUNS_DAYS)"),
    "logs": ("a log", "you delete it"),
    "reports": ("a report", "you delete it"),
}


def _of_home(settings: Settings, path: Path) -> tuple[str, str] | None:
    home = settings.home.resolve()
    if any(path.is_relative_to(folder.resolve()) for folder in _teacher_folders(settings)):
        return _OF_HOME["teacher"]
    within = [told for name, told in _OF_HOME.items() if path.is_relative_to(home / name)]
    return within[0] if within else None


def _of_copy(path: Path, copies: list[Path]) -> tuple[str, str] | None:
    if any(path.is_relative_to(copy.resolve()) for copy in copies):
        return "a copy for a restore, which is refused now: its data files are gone", "you delete it"
    return None


def _elsewhere(settings: Settings, ranked: RankedRows) -> Iterator[Remaining]:
    """Name what cannot be looked through from here."""
    unknown = ("not looked through",)
    if settings.kuairand_dir:
        yield Remaining(
            place=str(settings.kuairand_dir),
            holds=unknown,
            why="the raw logs that days are made from",
            until="you delete the person's lines; a day that is made again has them otherwise",
        )
    for place in ranked.lost:
        told = "rankings were written there; the app declares it no more"
        yield Remaining(place=place, holds=unknown, why=told, until="you delete the rows there")
    for database, table in ranked.tables:
        told = "its rows were deleted; a database keeps their bytes in free pages"
        yield Remaining(place=f"{database}.{table}", holds=unknown, why=told, until="it is vacuumed")
    if settings.catalog_url:
        told = "the catalog's rows were deleted; Postgres keeps their bytes in free pages"
        yield Remaining(place="CROSSFADE_CATALOG_URL", holds=unknown, why=told, until="VACUUM FULL")
    if settings.lake_url:
        told = "data files were deleted; a bucket with versions keeps the earlier ones"
        yield Remaining(place=settings.lake_url, holds=unknown, why=told, until="its lifecycle rule removes them")
    if settings.artifacts_url:
        yield Remaining(
            place=settings.artifacts_url,
            holds=unknown,
            why=_OF_HOME["artifacts/releases"][0],
            until=_OF_HOME["artifacts/releases"][1],
        )
