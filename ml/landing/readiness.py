"""When a day of the landing zone is complete, and whether it changed since it was landed.

A table of a day is complete when its folder holds ``_SUCCESS``, or when it holds a file and nothing in it changed for
``quiet_minutes``. Names that begin with ``_`` or ``.`` are not data.
"""

import hashlib
import os
import time
from collections.abc import Sequence
from datetime import date
from functools import lru_cache
from pathlib import Path

from ml.foundation.names import nearest
from ml.foundation.settings import Settings
from ml.landing.contract import DAY, load_contract
from ml.landing.entries import oddity, shown

SUCCESS = "_SUCCESS"


def table_folder(settings: Settings, table: str, day: date) -> Path:
    """Return the folder of one table and day."""
    assert settings.landing_dir is not None
    return settings.landing_dir / table / f"{DAY}={day.isoformat()}"


def data_files(settings: Settings, table: str, day: date) -> list[Path]:
    """Return what stands for data of one table and day, by name: odd entries too, so that none is lost in silence."""
    folder = table_folder(settings, table, day)
    if not folder.is_dir():
        return [folder] if os.path.lexists(folder) else []
    return sorted(path for path in folder.iterdir() if not path.name.startswith(("_", ".")))


def odd_entries(settings: Settings, day: date) -> list[str]:
    """Say of every entry of a day that cannot be read what it is and what to do, one sentence each."""
    found = []
    for table in load_contract(settings).tables:
        for path in data_files(settings, table, day):
            if reason := oddity(path):
                found.append(f"{shown(path)}: {reason}")
    return found


def strays(settings: Settings) -> list[str]:
    """Say of every entry of the landing zone that no table and no day is, what it may be meant for."""
    assert settings.landing_dir is not None
    tables, found = load_contract(settings).tables, []
    for folder in _entries(settings.landing_dir):
        if folder.name not in tables:
            found.append(f"{shown(folder)}: no table of the contract{nearest(shown(Path(folder.name)), tables)}")
            continue
        for entry in _entries(folder):
            if _day_of(entry.name) is None:
                found.append(f"{shown(entry)}: no day; a day's folder is named {DAY}=2026-03-01")
    return found


def _entries(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.name.startswith(("_", ".")))


def _day_of(name: str) -> date | None:
    """Return the day that a folder is named for; only the long form counts, which sorts as text."""
    try:
        day = date.fromisoformat(name.removeprefix(f"{DAY}="))
    except ValueError:
        return None
    return day if name == f"{DAY}={day.isoformat()}" else None


def landed_tables(settings: Settings, day: date) -> tuple[list[str], list[str]]:
    """Return the tables that ``day`` has (files or ``_SUCCESS``), and the required ones that it lacks."""
    present, absent = [], []
    for table in load_contract(settings).tables:
        if data_files(settings, table, day) or (table_folder(settings, table, day) / SUCCESS).exists():
            present.append(table)
        elif table not in settings.optional_tables:
            absent.append(table)
    return present, absent


def days_in_zone(settings: Settings) -> list[date]:
    """Return the days that any table of the contract has a folder for, oldest first, within the settings' bounds."""
    assert settings.landing_dir is not None
    days: set[date] = set()
    for table in load_contract(settings).tables:
        for folder in (settings.landing_dir / table).glob(f"{DAY}=*"):
            day = _day_of(folder.name)
            if day and day >= settings.first_day and (settings.last_day is None or day <= settings.last_day):
                days.add(day)
    return sorted(days)


def missing(settings: Settings, day: date, now: float | None = None) -> list[str]:
    """Say what ``day`` still waits for, one sentence per table; empty when the day is ready.

    Required tables must be complete; an optional table must be complete once its folder exists.

    Args:
        settings: Names the landing zone, the optional tables and ``quiet_minutes``.
        day: The day.
        now: Seconds since the epoch.
    """
    now = time.time() if now is None else now
    reasons = []
    for table in load_contract(settings).tables:
        folder = table_folder(settings, table, day)
        if not folder.is_dir():
            # What stands in the folder's place is refused by name when the day is read.
            if table not in settings.optional_tables and not os.path.lexists(folder):
                reasons.append(f"{table}: {folder} does not exist")
            continue
        if (folder / SUCCESS).exists():
            continue
        if not data_files(settings, table, day):
            reasons.append(f"{table}: {folder} holds no file; an empty table needs an empty file or {SUCCESS}")
            continue
        last = max(_changed_at(path) for path in (folder, *folder.iterdir()))
        quiet = (now - last) / 60
        if quiet < -1:
            reasons.append(f"{table}: no {SUCCESS}, and the last change is dated {-quiet:.0f} minutes in the future")
        elif quiet < settings.quiet_minutes:
            reasons.append(
                f"{table}: no {SUCCESS}, and the last change is {max(quiet, 0):.0f} minutes old; "
                f"complete after {settings.quiet_minutes:g}"
            )
    return reasons


def _changed_at(path: Path) -> float:
    """Return when an entry last changed; of a link that leads nowhere when it was made, of a vanished one never."""
    for follow in (True, False):
        try:
            return path.stat(follow_symlinks=follow).st_mtime
        except OSError:
            continue
    return 0.0


def input_hash(settings: Settings, day: date, tables: Sequence[str] | None = None) -> str:
    """Return a hash of the names, sizes and bytes of the day's files, to notice a changed day.

    Args:
        settings: Names the landing zone.
        day: The day.
        tables: Tables to cover; all of the contract by default.
    """
    digest = hashlib.sha256()
    for table in tables if tables is not None else load_contract(settings).tables:
        for path in data_files(settings, table, day):
            digest.update(f"{table}/{shown(Path(path.name))}\x1f{_fingerprint(path)}\x1e".encode())
    return digest.hexdigest()[:32]


def _fingerprint(path: Path) -> str:
    """Return what tells one version of an entry from another; for one that cannot be read, why it cannot."""
    if reason := oddity(path):
        return reason
    try:
        status = path.stat()
        return f"{status.st_size}\x1f{_digest(path, status.st_size, status.st_mtime_ns)}"
    except OSError as error:
        return str(error.strerror)


@lru_cache(maxsize=65_536)
def _digest(path: Path, size: int, mtime_ns: int) -> str:
    """Hash one file; size and mtime are in the key, so that a sensor reads an unchanged file once."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
