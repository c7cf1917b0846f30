"""A person's rows in rankings that were written outside of the lake: Parquet files, tables of the app's databases."""

import glob
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ml.foundation.lake import ALIAS, Lake
from ml.foundation.settings import Settings
from ml.inference.request import USER
from ml.landing.databases import delete_rows
from ml.landing.erase import erase_rows
from ml.stages.rankings import RANKED_DAYS
from ml.surfaces.files import load_surfaces

_DAY = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]"


@dataclass(frozen=True)
class RankedRows:
    """Rows that are for one person.

    Attributes:
        files: {file: numbers of its rows, from 1}.
        tables: {(database, table): rows}.
        lost: Places that rankings were written to once and that the app declares no more, other than files.
    """

    files: dict[Path, set[int]]
    tables: dict[tuple[str, str], int]
    lost: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Rows by place."""
        found = {str(path): len(numbers) for path, numbers in self.files.items()}
        return found | {f"{database}.{table}": rows for (database, table), rows in self.tables.items()}


def ranked_rows(settings: Settings, lake: Lake, users: AbstractSet[str]) -> RankedRows:
    """Find the rows; every file that rankings were written to is looked at, also of places declared no more.

    Raises:
        DatabaseError: A declared database cannot be reached, so that it is not known whom it names.
        ArrowException: A file is no Parquet.
    """
    noted = _places(lake)
    targets = [surface.rankings.to for surface in load_surfaces(settings).values() if surface.rankings]
    paths = {Path(place) for place in noted if _is_file(place)}
    for to in targets:
        if to.parquet:
            paths |= set(_files(settings.home / to.parquet))
    found = {path: _numbers(path, users) for path in sorted(paths) if path.is_file()}
    databases = {(to.database, to.table) for to in targets if to.database and to.table}
    counts = {of: delete_rows(settings, *of, USER, users, dry_run=True) for of in sorted(databases)}
    declared = {f"{database}.{table}" for database, table in databases}
    lost = {place for place in noted if not _is_file(place) and not place.startswith(f"{ALIAS}.")}
    return RankedRows(
        files={path: numbers for path, numbers in found.items() if numbers},
        tables={of: rows for of, rows in counts.items() if rows},
        lost=tuple(sorted(lost - declared)),
    )


def erase(settings: Settings, rows: RankedRows, users: AbstractSet[str]) -> None:
    """Remove the rows that ``ranked_rows`` found.

    Raises:
        DatabaseError: A database cannot be written to.
    """
    for path, numbers in rows.files.items():
        erase_rows(path, numbers, parquet=True)
    for database, table in rows.tables:
        delete_rows(settings, database, table, USER, users)


def _numbers(path: Path, users: AbstractSet[str]) -> set[int]:
    with pq.ParquetFile(path) as file:
        if USER not in file.schema_arrow.names:
            return set()
        named = file.read([USER]).column(USER).cast(pa.string())
    return {number for number, user in enumerate(named.to_pylist(), 1) if user in users}


def _is_file(place: str) -> bool:
    return place.startswith("/")


def _places(lake: Lake) -> list[str]:
    """Return where rankings were ever written."""
    if not lake.table_exists(RANKED_DAYS):
        return []
    query = f"select distinct place from {ALIAS}.{RANKED_DAYS} order by all"
    return [place for (place,) in lake.connection.execute(query).fetchall()]


def _files(pattern: Path) -> Iterator[Path]:
    """Yield the files of all days."""
    parts = [_DAY.join(map(glob.escape, part.split("{day}"))) for part in pattern.parts[1:]]
    yield from Path(pattern.anchor).glob("/".join(parts))
