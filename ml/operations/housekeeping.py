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
from ml.foundation.writers import writing
from ml.operations.compaction import compact
from ml.operations.old_days import OldDays, drop, old_days
from ml.operations.served_retention import remove_served
from ml.operations.spent import Spent, remove, spent
from ml.releases.store import ReleaseStore
from ml.stages.widening import open_snapshots
from ml.surfaces.files import load_surfaces
from ml.surfaces.spec import Surface

GRACE = timedelta(days=1)
"""A file that nothing refers to may belong to a write under way for so long."""

_STEPS = 8


class TidiedLake(BaseModel):
    """What was done, or would be, to the lake."""

    model_config = ConfigDict(frozen=True)

    days: tuple[OldDays, ...] = Field(description="Days of tables that are older than `keep_days`")
    served_files_removed: int = Field(description="Files of the served log that were kept long enough, or not finished")
    served_rows_removed: int = Field(description="Rows of them in the lake")
    snapshots: int = Field(description="Snapshots of the lake before")
    snapshots_expired: int
    tables_compacted: int = Field(description="Tables whose small files were merged")
    files_removed: int = Field(description="Data files of the lake that no snapshot reads any more")
    tables: dict[str, tuple[int, int]] = Field(
        description="Bytes per table of the files that any kept snapshot reads, before and after, where they changed"
    )
    data_bytes: tuple[int, int] = Field(description="Bytes of all files that kept snapshots read, before and after")
    waiting_files: int = Field(description="Files that nothing reads and that go the next time: they are too young")
    lake_bytes: int = Field(description="Bytes of the newest snapshot's files")


class Tidied(TidiedLake):
    """What one housekeeping did, or would do."""

    releases_retired: dict[str, tuple[str, ...]] = Field(description="Releases given up, per surface")
    artifacts: tuple[Spent, ...] = Field(description="Artifacts of partitions that no kept release is of")
    snapshots_of_releases: tuple[int, ...] = Field(
        description="Snapshots that stay because a release or an undecided candidate names them"
    )
    runs_removed: int = Field(description="Folders of old dbt calls")
    home_bytes: dict[str, int] = Field(description="Bytes on disk per folder of the home")


def tidy(settings: Settings, *, dry_run: bool = False, grace: timedelta = GRACE, progress: Progress = silent) -> Tidied:
    """Retire old releases, remove what none is of, expire old snapshots, merge files, remove those that nothing reads.

    Args:
        settings: The home, and how much it keeps (``keep_releases``, ``keep_artifacts_days`` and the like).
        dry_run: Change nothing; merging is left out of what is told.
        grace: Age from which a file that no snapshot reads is removed; shorter than a write takes, it breaks writers.
        progress: Told after each step.

    Raises:
        DamagedError: A stored release cannot be read, so that what it names is not known; nothing was changed.
        KeepRefused: ``keep_days`` would remove what something needs; nothing was changed.
    """
    store = ReleaseStore.of(settings)
    there = settings.surfaces_dir is not None and settings.surfaces_dir.is_dir()
    surfaces = list(load_surfaces(settings).values()) if there else []
    pinned = store.pinned_snapshots(store.surfaces()).union(*(open_snapshots(settings, s) for s in surfaces))
    with Lake(settings) as lake:  # asked before anything goes: where too few days would stay, nothing does
        old_days(lake, settings, surfaces)
    retired = {} if dry_run else {s: tuple(store.retire(s, keep=settings.keep_releases)) for s in store.surfaces()}
    progress(Step("housekeeping", 1, _STEPS, line=f"{sum(map(len, retired.values()))} releases retired"))
    gone = spent(store, settings.keep_artifacts_days)
    for one in [] if dry_run else gone:
        remove(store, one)
    progress(Step("housekeeping", 2, _STEPS, line=f"artifacts of {len(gone)} partitions removed"))
    # A release that was retired just now keeps its snapshot until the next time: its folder may still be read.
    with writing(settings, alone=True), Lake(settings) as lake:
        of_lake = _tidy_lake(lake, surfaces, pinned, dry_run=dry_run, grace=grace, progress=progress)
    stale = _remove_runs(settings, dry_run)
    progress(Step("housekeeping", 8, _STEPS, line=f"{stale} folders of dbt calls removed"))
    return Tidied(
        **dict(of_lake),
        releases_retired={surface: ids for surface, ids in retired.items() if ids},
        artifacts=tuple(gone),
        snapshots_of_releases=tuple(sorted(pinned)),
        runs_removed=stale,
        home_bytes=disk_use(settings.home),
    )


def _tidy_lake(
    lake: Lake,
    surfaces: list[Surface],
    pinned: frozenset[int],
    *,
    dry_run: bool,
    grace: timedelta,
    progress: Progress,
) -> TidiedLake:
    settings, bytes_before = lake.settings, lake.files.bytes()
    days = old_days(lake, settings, surfaces)
    drop(lake, [] if dry_run else days)
    progress(Step("housekeeping", 3, _STEPS, line=f"{sum(len(one.rows) for one in days)} days of tables removed"))
    served_files, served_rows = remove_served(lake, settings, grace, dry_run=dry_run)
    progress(Step("housekeeping", 4, _STEPS, line=f"{served_files} files of the served log removed"))
    before, old = _old_snapshots(lake, pinned, settings.keep_snapshots_days)
    if old and not dry_run:
        lake.connection.execute(f"call ducklake_expire_snapshots('{ALIAS}', versions => ?::ubigint[])", [old])
    progress(Step("housekeeping", 5, _STEPS, line=f"{len(old)} of {before} snapshots expired"))
    compacted = 0 if dry_run else compact(lake)
    progress(Step("housekeeping", 6, _STEPS, line=f"{compacted} tables compacted"))
    removed = clean(lake, grace, dry_run=dry_run)
    waiting = len(_unread(lake, datetime.now(UTC), dry_run=True)) - (removed if dry_run else 0)
    bytes_after = lake.files.bytes()
    progress(Step("housekeeping", 7, _STEPS, line=f"{removed} files removed"))
    return TidiedLake(
        days=tuple(days),
        served_files_removed=served_files,
        served_rows_removed=served_rows,
        snapshots=before,
        snapshots_expired=len(old),
        tables_compacted=compacted,
        files_removed=removed,
        tables=_changed(bytes_before, bytes_after),
        data_bytes=(sum(bytes_before.values()), sum(bytes_after.values())),
        waiting_files=waiting,
        lake_bytes=sum(file.bytes for file in lake.files.named()),
    )


def clean(lake: Lake, grace: timedelta, *, dry_run: bool = False) -> int:
    """Remove data files that no snapshot reads: those given up, and those of writers that were killed.

    Returns:
        The files removed, or that would be.
    """
    removed = len(_unread(lake, datetime.now(UTC) - grace, dry_run=dry_run))
    if not dry_run:
        lake.retry(lake.files.forget)
    return removed


def _unread(lake: Lake, until: datetime, *, dry_run: bool) -> list[str]:
    """Return the files of before ``until`` that no snapshot reads, after removing them unless ``dry_run``."""
    found = list[str]()
    for function in ("ducklake_cleanup_old_files", "ducklake_delete_orphaned_files"):
        call = f"call {function}('{ALIAS}', older_than => ?, dry_run => ?)"
        found += [path for path, *_ in lake.connection.execute(call, [until, dry_run]).fetchall()]
    return found


def _changed(before: dict[str, int], after: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Return {table: (bytes before, after)} of the tables whose bytes changed."""
    found = {table: (before.get(table, 0), after.get(table, 0)) for table in sorted(before.keys() | after.keys())}
    return {table: pair for table, pair in found.items() if pair[0] != pair[1]}


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


def _remove_runs(settings: Settings, dry_run: bool) -> int:
    """Remove the folders of dbt calls that ended long ago; return how many there are."""
    folder = settings.home / "dbt" / "runs"
    horizon = time.time() - settings.keep_runs_days * 86_400
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    stale = [path for path in paths if path.is_dir() and path.stat().st_mtime < horizon]
    for path in [] if dry_run else stale:
        shutil.rmtree(path, ignore_errors=True)
    return len(stale)
