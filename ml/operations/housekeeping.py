"""Housekeeping: what nobody can need any more goes, what a kept release names stays.

Run it while no other process writes to the lake (the pool ``lake_writer``). Each step is one transaction or one removal
of what nothing refers to, so it may be killed at any instant and run again.
"""

import shutil
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from ml.foundation.lake import ALIAS, Lake
from ml.foundation.progress import Progress, Step, silent
from ml.foundation.settings import Settings
from ml.operations.served_retention import remove_served
from ml.releases.store import ReleaseStore
from ml.stages.widening import open_snapshots
from ml.surfaces.spec import load_surfaces

GRACE = timedelta(days=1)
"""A file that nothing refers to may belong to a write under way for so long."""

_STEPS = 6


class Tidied(BaseModel):
    """What one housekeeping did, or would do."""

    model_config = ConfigDict(frozen=True)

    releases_retired: dict[str, tuple[str, ...]] = Field(description="Releases given up, per surface")
    snapshots: int = Field(description="Snapshots of the lake before")
    snapshots_expired: int
    snapshots_of_releases: tuple[int, ...] = Field(
        description="Snapshots that stay because a release or an undecided candidate names them"
    )
    tables_compacted: int = Field(description="Tables whose small files were merged")
    files_removed: int = Field(description="Data files of the lake that no snapshot reads any more")
    served_files_removed: int = Field(description="Files of the served log that were kept long enough, or not finished")
    served_rows_removed: int = Field(description="Rows of them in the lake")
    runs_removed: int = Field(description="Folders of old dbt calls")
    lake_bytes: int = Field(description="Bytes of the newest snapshot's files")
    home_bytes: dict[str, int] = Field(description="Bytes on disk per folder of the home")


def tidy(settings: Settings, *, dry_run: bool = False, grace: timedelta = GRACE, progress: Progress = silent) -> Tidied:
    """Retire old releases, expire old snapshots, merge small files and remove files that nothing reads.

    Args:
        settings: The home, and how much it keeps (``keep_releases``, ``keep_snapshots_days``, ``keep_runs_days``).
        dry_run: Change nothing; merging is left out of what is told.
        grace: Age from which a file that no snapshot reads is removed; shorter than a write takes, it breaks writers.
        progress: Told after each step.

    Raises:
        DamagedError: A stored release cannot be read, so that what it names is not known; nothing was changed.
    """
    store = ReleaseStore.of(settings)
    pinned = store.pinned_snapshots(store.surfaces())
    if settings.surfaces_dir is not None and settings.surfaces_dir.is_dir():
        pinned = pinned.union(*(open_snapshots(settings, surface) for surface in load_surfaces(settings).values()))
    retired = {} if dry_run else {s: tuple(store.retire(s, keep=settings.keep_releases)) for s in store.surfaces()}
    progress(Step("housekeeping", 1, _STEPS, line=f"{sum(map(len, retired.values()))} releases retired"))
    # A release that was retired just now keeps its snapshot until the next time: its folder may still be read.
    with Lake(settings) as lake:
        before, old = _old_snapshots(lake, pinned, settings.keep_snapshots_days)
        served_files, served_rows = remove_served(lake, settings, grace, dry_run=dry_run)
        progress(Step("housekeeping", 2, _STEPS, line=f"{served_files} files of the served log removed"))
        if old and not dry_run:
            lake.connection.execute(f"call ducklake_expire_snapshots('{ALIAS}', versions => ?::ubigint[])", [old])
        progress(Step("housekeeping", 3, _STEPS, line=f"{len(old)} of {before} snapshots expired"))
        compacted = 0 if dry_run else compact(lake)
        progress(Step("housekeeping", 4, _STEPS, line=f"{compacted} tables compacted"))
        removed = clean(lake, grace, dry_run=dry_run)
        progress(Step("housekeeping", 5, _STEPS, line=f"{removed} files removed"))
        lake_bytes = lake.sql(
            f"select coalesce(sum(file_size_bytes), 0)::bigint as n from ducklake_table_info('{ALIAS}')"
        )
    stale = list(_stale_runs(settings))
    for folder in [] if dry_run else stale:
        shutil.rmtree(folder, ignore_errors=True)
    progress(Step("housekeeping", 6, _STEPS, line=f"{len(stale)} folders of dbt calls removed"))
    return Tidied(
        releases_retired={surface: ids for surface, ids in retired.items() if ids},
        snapshots=before,
        snapshots_expired=len(old),
        snapshots_of_releases=tuple(sorted(pinned)),
        tables_compacted=compacted,
        files_removed=removed,
        served_files_removed=served_files,
        served_rows_removed=served_rows,
        runs_removed=len(stale),
        lake_bytes=lake_bytes["n"][0].as_py(),
        home_bytes=disk_use(settings.home),
    )


def compact(lake: Lake) -> int:
    """Merge the small files of each table that has some; a table's commit is its own.

    Returns:
        The tables that were merged.

    Raises:
        DamagedError: A file that would be merged is not as it was written; nothing was merged.
    """
    merged = 0
    lake.files.check(lake.files.mergeable())
    for schema, table in lake.tables():
        call = f"call ducklake_merge_adjacent_files('{ALIAS}', ?, schema => ?)"
        merged += bool(lake.retry(lambda c=call, t=table, s=schema: lake.connection.execute(c, [t, s]).fetchall()))
    lake.retry(lake.files.record)
    return merged


def clean(lake: Lake, grace: timedelta, *, dry_run: bool = False) -> int:
    """Remove data files that no snapshot reads: those given up, and those of writers that were killed.

    Returns:
        The files removed, or that would be.
    """
    until = datetime.now(UTC) - grace
    removed = 0
    for function in ("ducklake_cleanup_old_files", "ducklake_delete_orphaned_files"):
        call = f"call {function}('{ALIAS}', older_than => ?, dry_run => ?)"
        removed += len(lake.connection.execute(call, [until, dry_run]).fetchall())
    if not dry_run:
        lake.retry(lake.files.forget)
    return removed


def disk_use(home: Path) -> dict[str, int]:
    """Return the bytes of each folder of a home, largest first; files that vanish meanwhile count nothing."""
    sizes = {path.name: sum(_sizes(path)) for path in home.iterdir() if path.is_dir()} if home.is_dir() else {}
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def _sizes(folder: Path) -> Iterator[int]:
    for path in folder.rglob("*"):
        try:
            yield path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue


def _old_snapshots(lake: Lake, pinned: Iterable[int], keep_days: float) -> tuple[int, list[int]]:
    """Return (number of snapshots, those that may go): neither newest, nor young, nor named by a release."""
    query = f"""
        select snapshot_id, snapshot_id = max(snapshot_id) over () or snapshot_time > ? as stays
        from {ALIAS}.snapshots()"""
    found = lake.connection.execute(query, [datetime.now(UTC) - timedelta(days=keep_days)]).fetchall()
    kept = set(pinned)
    return len(found), sorted(snapshot for snapshot, stays in found if not stays and snapshot not in kept)


def _stale_runs(settings: Settings) -> Iterator[Path]:
    """Yield the folders of dbt calls that ended long ago."""
    folder = settings.home / "dbt" / "runs"
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.is_dir() and time.time() - path.stat().st_mtime > settings.keep_runs_days * 86_400:
            yield path
