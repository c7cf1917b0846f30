"""When a day of the landing zone is complete, and whether it changed since it was landed.

A table of a day is complete when its folder holds ``_SUCCESS``, or when it holds a file and nothing in it changed for
``quiet_minutes``, unless ``sources.yaml`` says what else to look for, and where. Names that begin with ``_`` or ``.``
are not data.
"""

import fnmatch
import hashlib
import os
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path

from ml.foundation.names import nearest
from ml.foundation.settings import Settings
from ml.landing.buckets import Bucket, bucket_of
from ml.landing.contract import DAY, LandingError, load_contract
from ml.landing.databases import Question, faults_of_queries, queries_of, question_of
from ml.landing.entries import Entry, oddity, shown
from ml.landing.patterns import DEFAULT, STORES, SUCCESS, Pattern, has_wildcard, marker_name
from ml.landing.sources import Ready, load_sources


def table_folder(settings: Settings, table: str, day: date) -> Path:
    """Return the folder of one table and day in the landing zone's own layout."""
    assert settings.landing_dir is not None
    return settings.landing_dir / table / f"{DAY}={day.isoformat()}"


@dataclass(frozen=True)
class Place:
    """Where the files of one table lie, and what says that a day of them is complete."""

    table: str
    pattern: Pattern
    root: Path
    """Folder that the pattern starts from."""
    ready: Ready | None
    landing: Path
    """The landing zone, from whose top ledger and quarantine name what lies in it."""

    def folder(self, day: date) -> Path:
        """Return the folder of a day's files; where folders have wildcards too, the one above the first of those."""
        return self.root / self.pattern.folder(day)

    def where(self, day: date) -> str:
        """Return the paths of a day's files."""
        return str(self.root / self.pattern.of(day))

    def marker(self, day: date) -> Path | None:
        """Return the file that says that a day is complete, if there may be one."""
        name = marker_name(self.pattern, self.ready.marker if self.ready else None, self.table, day)
        return None if name is None else self.folder(day) / name

    def marked(self, day: date) -> bool:
        """Tell whether that file is there."""
        marker = self.marker(day)
        return marker is not None and marker.exists()

    def files(self, day: date) -> list[Path]:
        """Return what stands for data of a day, by name: odd entries too, so that none is lost in silence."""
        above, _, name = self.pattern.of(day).rpartition("/")
        folders = sorted(self.root.glob(above)) if has_wildcard(above) else [self.root / above]
        found: list[Path] = []
        for folder in folders:
            if not folder.is_dir():
                found += [folder] if os.path.lexists(folder) and not has_wildcard(above) else []
                continue
            listed = (path for path in folder.iterdir() if not path.name.startswith(("_", ".")))
            found += sorted(path for path in listed if fnmatch.fnmatchcase(path.name, name))
        marker = self.marker(day)
        return [path for path in found if path != marker]

    def entries(self, day: date) -> list[Entry]:
        """Return the files of a day, with what ledger and quarantine call each."""
        return [Entry(path, self.label(path)) for path in self.files(day)]

    def label(self, path: Path) -> str:
        """Return a file's path below the landing zone, or the whole of another's."""
        return str(path.relative_to(self.landing) if path.is_relative_to(self.landing) else path)

    def fingerprints(self, day: date) -> Iterator[str]:
        """Yield what tells one version of each of a day's files from another."""
        for path in self.files(day):
            yield f"{self.table}/{shown(Path(path.name))}\x1f{_fingerprint(path)}"

    def days(self) -> Iterator[date]:
        """Yield the days that have a folder, or a file where all of them lie in one; some come more than once."""
        for path in self.root.glob(self.pattern.day_glob):
            if day := self.pattern.day_of(str(path.relative_to(self.root))):
                yield day

    def touched(self, day: date) -> float:
        """Return when anything of a day last changed, files included that are not data (yet)."""
        folder, files = self.folder(day), self.files(day)
        beside = (folder, *folder.iterdir()) if self.pattern.day_in_folder and folder.is_dir() else ()
        return max(_changed_at(path) for path in (*beside, *files))

    def lacks(self, day: date, now: float, quiet_minutes: float, *, optional: bool) -> str | None:
        """Say what a day waits for; None if it is complete, or has nothing and need not."""
        ready, folder, files = self.ready or Ready(silence=quiet_minutes), self.folder(day), self.files(day)
        there = folder.is_dir() if self.pattern.day_in_folder else bool(files) or self.marked(day)
        if not there:
            # What stands in the folder's place is refused by name when the day is read.
            if optional or (self.pattern.day_in_folder and os.path.lexists(folder)):
                return None
            return f"{folder} does not exist" if not folder.is_dir() else f"no file {self.where(day)}"
        if (self.ready is None or ready.marker) and self.marked(day):
            return None
        marker = self.marker(day)
        lacking = f"no {marker.name}" if marker else "no marker"
        if ready.silence is None:
            return f"{lacking} in {folder}"
        if not files and not self.marked(day):
            return f"{folder} holds no file; an empty table needs an empty file or {marker.name if marker else SUCCESS}"
        quiet = (now - self.touched(day)) / 60
        if quiet < -1:
            return f"{lacking}, and the last change is dated {-quiet:.0f} minutes in the future"
        if quiet < ready.silence:
            return (
                f"{lacking}, and the last change is {max(quiet, 0):.0f} minutes old; complete after {ready.silence:g}"
            )
        return None


@dataclass(frozen=True)
class Files:
    """The rows of one table where files hold them; a query may say when those are complete."""

    settings: Settings
    place: Place | Bucket

    def days(self) -> Iterator[date]:
        """Yield the days that have something; some come more than once."""
        return self.place.days()

    def entries(self, day: date) -> list[Entry]:
        """Return the files of a day."""
        return self.place.entries(day)

    def present(self, day: date) -> bool:
        """Tell whether a day has files, or is marked to have none."""
        return bool(self.entries(day)) or self.place.marked(day)

    def lacks(self, day: date, now: float) -> str | None:
        """Say what a day waits for; None if it is complete, or an optional table has nothing of it."""
        place = self.place
        optional = place.table in self.settings.optional_tables
        if place.ready and place.ready.query:
            why = queries_of(self.settings, place.table).lacks(day)
            return why if why or optional or self.present(day) else f"no file {place.where(day)}"
        return place.lacks(day, now, self.settings.quiet_minutes, optional=optional)

    def fingerprints(self, day: date) -> Iterator[str]:
        """Yield what tells one version of each of a day's files from another."""
        return self.place.fingerprints(day)


def rows_of(settings: Settings, table: str) -> Files | Question:
    """Return where the rows of a table are: in files, or in what a query answers."""
    return question_of(settings, table) or Files(settings, place_of(settings, table))


def place_of(settings: Settings, table: str) -> Place | Bucket:
    """Return where the files of a table lie."""
    assert settings.landing_dir is not None
    source = load_sources(settings, load_contract(settings)).table(table)
    if source.files.startswith(STORES):
        return bucket_of(source.files, table, source.ready)
    root = Path("/") if source.files.startswith("/") else settings.landing_dir
    return Place(table, Pattern(source.files.lstrip("/"), table), root, source.ready, settings.landing_dir)


def data_files(settings: Settings, table: str, day: date) -> list[Path]:
    """Return what stands for data of one table and day, by name: odd entries too, so that none is lost in silence.

    A query has no files, and what lies in an object store is none here: ``entries`` has it.
    """
    place = _local(settings, table)
    return place.files(day) if place else []


def files_of_all_days(settings: Settings, table: str) -> Iterator[tuple[date, Path]]:
    """Yield the files of a table day by day, also of days outside of the settings' bounds, which never land."""
    if place := _local(settings, table):
        for day in sorted(set(place.days())):
            yield from ((day, path) for path in place.files(day))


def folders_of_files(settings: Settings) -> list[Path]:
    """Return the folders below which files of tables lie, each once; nothing of object stores."""
    return sorted({place.root / place.pattern.prefix for place in _locals(settings)})


def is_elsewhere(settings: Settings, table: str) -> bool:
    """Tell whether the rows of a table lie in a database or an object store, so that no file here holds them."""
    return _local(settings, table) is None


def entries(settings: Settings, table: str, day: date) -> list[Entry]:
    """Return the files of one table and day, wherever they lie."""
    return place_of(settings, table).entries(day)


def faults_of_sources(settings: Settings) -> Iterator[str]:
    """Ask every database and object store of ``sources.yaml``; say what is wrong with each, changing nothing."""
    yield from faults_of_queries(settings)
    for table in load_sources(settings, load_contract(settings)).tables:
        rows = rows_of(settings, table)
        if isinstance(rows, Files) and isinstance(rows.place, Bucket):
            try:
                next(rows.days(), None)
            except LandingError as error:
                yield f"{table}: {error}"


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
    found, places = [], _locals(settings)
    declared = [place.root / place.pattern.prefix for place in places if str(place.pattern) != _default(place.table)]
    own = {place.table for place in places if str(place.pattern) == _default(place.table)}
    for folder in _entries(settings.landing_dir):
        if any(path.is_relative_to(folder) or folder.is_relative_to(path) for path in declared):
            continue
        if folder.name not in own:
            found.append(f"{shown(folder)}: no table of the contract{nearest(shown(Path(folder.name)), own)}")
            continue
        for entry in _entries(folder):
            if _day_of(entry.name) is None:
                found.append(f"{shown(entry)}: no day; a day's folder is named {DAY}=2026-03-01")
    return found


def _local(settings: Settings, table: str) -> Place | None:
    """Return where a table's files lie on this machine; None where its rows are elsewhere."""
    rows = rows_of(settings, table)
    return rows.place if isinstance(rows, Files) and isinstance(rows.place, Place) else None


def _locals(settings: Settings) -> list[Place]:
    return [place for table in load_contract(settings).tables if (place := _local(settings, table))]


def _default(table: str) -> str:
    return DEFAULT.replace("{table}", table)


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


def landed_tables(settings: Settings, day: date, settled: Collection[str] = ()) -> tuple[list[str], list[str]]:
    """Return the tables that ``day`` has (files or a marker, or an answer), and the required ones that it lacks.

    Args:
        settings: Names the sources.
        day: The day.
        settled: Tables that landed: of those, queries need not be asked.

    Raises:
        DatabaseError: A database cannot be asked.
    """
    present, absent = [], []
    for table in load_contract(settings).tables:
        rows = rows_of(settings, table)
        if (isinstance(rows, Question) and table in settled) or rows.present(day):
            present.append(table)
        elif table not in settings.optional_tables:
            absent.append(table)
    return present, absent


def days_in_zone(settings: Settings) -> list[date]:
    """Return the days that any table of the contract has, oldest first, within the settings' bounds."""
    days: set[date] = set()
    for table in load_contract(settings).tables:
        days.update(rows_of(settings, table).days())
    return sorted(
        day for day in days if day >= settings.first_day and (settings.last_day is None or day <= settings.last_day)
    )


def missing(settings: Settings, day: date, now: float | None = None) -> list[str]:
    """Say what ``day`` still waits for, one sentence per table; empty when the day is ready.

    Required tables must be complete; an optional table must be complete once it has anything of the day.

    Args:
        settings: Names the landing zone, the optional tables and ``quiet_minutes``.
        day: The day.
        now: Seconds since the epoch.
    """
    now = time.time() if now is None else now
    reasons = []
    for table in load_contract(settings).tables:
        why = rows_of(settings, table).lacks(day, now)
        reasons += [f"{table}: {why}"] if why else []
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
    """Return a hash of the names, sizes and bytes of the day's files and of queries' rows, to notice a changed day.

    Args:
        settings: Names the landing zone.
        day: The day.
        tables: Tables to cover; all of the contract by default.
    """
    digest = hashlib.sha256()
    sources = [rows_of(settings, table) for table in (load_contract(settings).tables if tables is None else tables)]
    if tables is not None and len(sources) == 1 and isinstance(sources[0], Question):
        return input_hash_of(tables[0], sources[0].answer(day).digest)
    for rows in sources:
        for found in rows.fingerprints(day):
            digest.update(f"{found}\x1e".encode())
    return digest.hexdigest()[:32]


def input_hash_of(table: str, answer: str) -> str:
    """Return the ``input_hash`` of a table whose query has an answer of this digest."""
    return hashlib.sha256(f"{table}\x1f{answer}".encode()).hexdigest()[:32]


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
