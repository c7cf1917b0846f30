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
from ml.landing.databases import faults_of_queries, queries_of, question_of
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


def place_of(settings: Settings, table: str) -> Place | Bucket:
    """Return where the files of a table lie."""
    assert settings.landing_dir is not None
    source = load_sources(settings, load_contract(settings)).table(table)
    if source.files.startswith(STORES):
        return bucket_of(source.files, table, source.ready)
    root = Path("/") if source.files.startswith("/") else settings.landing_dir
    return Place(table, Pattern(source.files.lstrip("/"), table), root, source.ready)


def data_files(settings: Settings, table: str, day: date) -> list[Path]:
    """Return what stands for data of one table and day, by name: odd entries too, so that none is lost in silence.

    A query has no files, and what lies in an object store is none here: ``entries`` has it.
    """
    place = _place(settings, table)
    return place.files(day) if isinstance(place, Place) else []


def files_of_all_days(settings: Settings, table: str) -> Iterator[tuple[date, Path]]:
    """Yield the files of a table day by day, also of days outside of the settings' bounds, which never land."""
    place = _place(settings, table)
    if isinstance(place, Place):
        for day in sorted(set(place.days())):
            yield from ((day, path) for path in place.files(day))


def folders_of_files(settings: Settings) -> list[Path]:
    """Return the folders below which files of tables lie, each once; nothing of object stores."""
    places = [place for table in load_contract(settings).tables if isinstance(place := _place(settings, table), Place)]
    return sorted({place.root / place.pattern.prefix for place in places})


def is_elsewhere(settings: Settings, table: str) -> bool:
    """Tell whether the rows of a table lie in a database or an object store, so that no file here holds them."""
    return not isinstance(_place(settings, table), Place)


def entries(settings: Settings, table: str, day: date) -> list[Entry]:
    """Return the files of one table and day, wherever they lie."""
    place = place_of(settings, table)
    if isinstance(place, Bucket):
        return place.entries(day)
    return [Entry(path, label(settings, path)) for path in place.files(day)]


def faults_of_sources(settings: Settings) -> Iterator[str]:
    """Ask every database and object store of ``sources.yaml``; say what is wrong with each, changing nothing."""
    yield from faults_of_queries(settings)
    for table in load_sources(settings, load_contract(settings)).tables:
        place = _place(settings, table)
        if isinstance(place, Bucket):
            try:
                next(place.days(), None)
            except LandingError as error:
                yield f"{table}: {error}"


def label(settings: Settings, path: Path) -> str:
    """Return what ledger and quarantine call a file: its path below the landing zone, or the whole of another's."""
    assert settings.landing_dir is not None
    inside = path.is_relative_to(settings.landing_dir)
    return str(path.relative_to(settings.landing_dir) if inside else path)


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
    places = [place for table in tables if isinstance(place := _place(settings, table), Place)]
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


def _place(settings: Settings, table: str) -> Place | Bucket | None:
    return None if question_of(settings, table) else place_of(settings, table)


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
        settled: Tables of queries that need not be asked: they have it.

    Raises:
        DatabaseError: A database cannot be asked.
    """
    present, absent = [], []
    for table in load_contract(settings).tables:
        question = question_of(settings, table)
        if question is not None:
            there = table in settled or question.present(day)
        else:
            place = place_of(settings, table)
            there = bool(entries(settings, table, day)) or place.marked(day)
        if there:
            present.append(table)
        elif table not in settings.optional_tables:
            absent.append(table)
    return present, absent


def days_in_zone(settings: Settings) -> list[date]:
    """Return the days that any table of the contract has, oldest first, within the settings' bounds."""
    days: set[date] = set()
    for table in load_contract(settings).tables:
        question = question_of(settings, table)
        days.update(place_of(settings, table).days() if question is None else question.days())
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
        question = question_of(settings, table)
        why = _lacks(settings, place_of(settings, table), day, now) if question is None else question.lacks(day, now)
        reasons += [f"{table}: {why}"] if why else []
    return reasons


def _lacks(settings: Settings, place: Place | Bucket, day: date, now: float) -> str | None:
    """Say what a table of a day waits for; None if it is complete."""
    optional = place.table in settings.optional_tables
    if place.ready and place.ready.query:
        why = queries_of(settings, place.table).lacks(day)
        there = entries(settings, place.table, day) or place.marked(day)
        return why if why or there or optional else f"no file {place.where(day)}"
    if isinstance(place, Bucket):
        there = place.entries(day) or place.marked(day)
        return place.lacks(day, now, settings.quiet_minutes) if there or not optional else None
    ready, folder, files = place.ready or Ready(silence=settings.quiet_minutes), place.folder(day), place.files(day)
    there = folder.is_dir() if place.pattern.day_in_folder else bool(files) or place.marked(day)
    if not there:
        # What stands in the folder's place is refused by name when the day is read.
        if optional or (place.pattern.day_in_folder and os.path.lexists(folder)):
            return None
        return f"{folder} does not exist" if not folder.is_dir() else f"no file {place.where(day)}"
    if (place.ready is None or ready.marker) and place.marked(day):
        return None
    marker = place.marker(day)
    lacking = f"no {marker.name}" if marker else "no marker"
    if ready.silence is None:
        return f"{lacking} in {folder}"
    if not files and not place.marked(day):
        return f"{folder} holds no file; an empty table needs an empty file or {marker.name if marker else SUCCESS}"
    quiet = (now - place.touched(day)) / 60
    if quiet < -1:
        return f"{lacking}, and the last change is dated {-quiet:.0f} minutes in the future"
    if quiet < ready.silence:
        return f"{lacking}, and the last change is {max(quiet, 0):.0f} minutes old; complete after {ready.silence:g}"
    return None


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
    if tables is not None and len(tables) == 1 and (question := question_of(settings, tables[0])):
        return input_hash_of(tables[0], question.answer(day).digest)
    for table in tables if tables is not None else load_contract(settings).tables:
        if question := question_of(settings, table):
            digest.update(f"{table}\x1f{question.answer(day).digest}\x1e".encode())
        elif isinstance(place := place_of(settings, table), Bucket):
            for found in place.fingerprints(day):
                digest.update(f"{found}\x1e".encode())
        for path in data_files(settings, table, day):
            digest.update(f"{table}/{shown(Path(path.name))}\x1f{_fingerprint(path)}\x1e".encode())
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
