"""Copies of the embedded catalog, taken while it is written to, and put back after checking what they name.

The catalog is one SQLite file; the data files that it names are never changed in place, so a copy of the catalog is a
copy of the lake's state as long as housekeeping has not removed what that state names. A Postgres catalog has its own
tools (pg_dump), and so have object stores; releases and artifacts are plain immutable files.
"""

import json
import os
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from ml.foundation.lake import ALIAS, Lake
from ml.foundation.settings import Settings

COPIES = "copies.jsonl"
"""Of the reports: where copies went."""
_REPLACED, _TRIAL = "catalog-replaced-", ".restoring"


class BackupError(RuntimeError):
    """A backup that cannot be made or put back; the message says why, and nothing was changed."""


def back_up(settings: Settings, folder: Path, *, now: datetime | None = None) -> Path:
    """Copy the catalog into ``folder`` as ``catalog-<time>.sqlite`` while other processes go on.

    Returns:
        The copy, which is whole or not there.

    Raises:
        BackupError: The catalog is not there, or is a Postgres database.
    """
    _require_embedded(settings)
    if not settings.catalog_path.exists():
        raise BackupError(f"{settings.catalog_path} is not there")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"catalog-{now or datetime.now(UTC):%Y%m%dT%H%M%SZ}.sqlite"
    scratch = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        copy_database(settings.catalog_path, scratch)
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)
    return target


def note_copy(settings: Settings, copy: Path) -> None:
    """Note where a copy of this home's rows went, so that a person who is forgotten later can be told of there."""
    settings.reports_dir.mkdir(parents=True, exist_ok=True)
    with (settings.reports_dir / COPIES).open("a", encoding="utf-8") as file:
        file.write(
            json.dumps({"at": datetime.now(UTC).isoformat(timespec="seconds"), "path": str(copy.absolute())}) + "\n"
        )


def noted_copies(settings: Settings) -> list[Path]:
    """Return the copies that were noted and are still there."""
    noted = settings.reports_dir / COPIES
    lines = noted.read_text(encoding="utf-8").splitlines() if noted.exists() else []
    return sorted({path for line in lines if (path := Path(json.loads(line)["path"])).exists()})


def replaced_catalogs(settings: Settings) -> list[Path]:
    """Return the catalogs that a restore kept beside the one that it put back, and what a killed restore left."""
    trial = settings.home / _TRIAL
    return [*sorted(settings.lake_dir.glob(f"{_REPLACED}*")), *([trial] if trial.exists() else [])]


def restore(settings: Settings, copy: Path) -> Path:
    """Put a copy in the catalog's place while nothing else runs; the present catalog is kept beside it.

    Returns:
        Where the catalog that was replaced is now.

    Raises:
        BackupError: The copy is damaged, or names data files that are gone; the present catalog stays.
    """
    _require_embedded(settings)
    _require_sound(copy)
    trial = settings.home / _TRIAL
    shutil.rmtree(trial, ignore_errors=True)
    try:
        beside = settings.model_copy(update={"home": trial})
        beside.lake_dir.mkdir(parents=True)
        shutil.copyfile(copy, beside.catalog_path)
        (beside.lake_dir / "data").symlink_to(settings.lake_dir / "data", target_is_directory=True)
        if gone := _missing_files(beside):
            raise BackupError(f"{copy} names {len(gone)} data files that are gone, such as {gone[0]}")
        aside = settings.lake_dir / f"{_REPLACED}{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}.sqlite"
        if settings.catalog_path.exists():
            copy_database(settings.catalog_path, aside)  # with what its write-ahead log holds
        for suffix in ("-wal", "-shm"):
            settings.catalog_path.with_name(settings.catalog_path.name + suffix).unlink(missing_ok=True)
        copy_database(beside.catalog_path, beside.lake_dir / "whole.sqlite")
        (beside.lake_dir / "whole.sqlite").replace(settings.catalog_path)
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    return aside


def copy_database(source: Path, target: Path) -> None:
    """Copy a SQLite database, whole, while others write to it."""
    with closing(sqlite3.connect(source)) as read, closing(sqlite3.connect(target)) as written:
        read.backup(written)


def _require_sound(copy: Path) -> None:
    """Check that a file is a whole SQLite database of a DuckLake."""
    try:
        with closing(sqlite3.connect(f"file:{copy}?mode=ro", uri=True)) as database:
            [(told,)] = database.execute("pragma integrity_check(1)").fetchall()
            snapshots = database.execute("select count(*) from ducklake_snapshot").fetchone()
    except sqlite3.Error as error:
        raise BackupError(f"{copy} is no catalog: {error}") from error
    if told != "ok" or not snapshots[0]:
        raise BackupError(f"{copy} is no whole catalog: {told}, {snapshots[0]} snapshots")


def _missing_files(settings: Settings) -> list[str]:
    """Return the data files of a catalog's newest state that are not there."""
    listed = f"select data_file, delete_file from ducklake_list_files('{ALIAS}', ?, schema => ?)"
    with Lake(settings) as lake:
        rows = [r for schema, name in lake.tables() for r in lake.connection.execute(listed, [name, schema]).fetchall()]
    files = [file for row in rows for file in row if file]
    return [] if settings.lake_url else [file for file in files if not Path(file).exists()]


def _require_embedded(settings: Settings) -> None:
    if settings.catalog_url:
        raise BackupError("the catalog is a Postgres database: back it up with pg_dump, restore it with psql")
