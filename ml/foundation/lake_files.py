"""Hashes of the lake's data files: taken when they are written, compared before anything is learnt from them.

A bit that flips in a Parquet file is mostly read as other data, not as an error. So the SHA-256 of each file is
recorded in a table beside the catalog's own, ``crossfade_file_hash``, by the id that the catalog gives a file for ever:
it is in every copy of the catalog and holds for every state of the lake. A file is hashed once, by whoever commits it;
what merges files checks them first, since the merged one would carry the damage on under a good hash.
"""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from ml.foundation.files import sha256_file
from ml.foundation.sealed import DamagedError
from ml.foundation.settings import Settings

if TYPE_CHECKING:  # the definitions load without an engine
    import duckdb

log = logging.getLogger(__name__)

CATALOG = "__ducklake_metadata_lake"
"""Where DuckLake attaches its own tables."""
HASHES = f"{CATALOG}.crossfade_file_hash"
_NAMED = 5


@dataclass(frozen=True)
class LakeFile:
    """A data or delete file that the catalog names.

    Attributes:
        id: Of the file, in the catalog.
        table: ``schema.table``.
        path: Below the lake's data, or absolute.
        bytes: Size that the catalog says.
        sha256: Recorded hash; None where none was recorded.
    """

    id: int
    table: str
    path: str
    bytes: int
    sha256: str | None


@dataclass(frozen=True)
class Checked:
    """What a check of files came to.

    Attributes:
        files: Files that were read and are as they were written.
        bytes: Their size.
        recorded: Files among them that had no hash, and have one from here on.
    """

    files: int
    bytes: int
    recorded: int


_FILES = f"""
with files as (
    select data_file_id as file_id, data_file_id, table_id, begin_snapshot, end_snapshot, path,
        path_is_relative, file_size_bytes from {CATALOG}.ducklake_data_file
    union all
    select delete_file_id, data_file_id, table_id, begin_snapshot, end_snapshot, path,
        path_is_relative, file_size_bytes from {CATALOG}.ducklake_delete_file
),
tables as (
    select * from {CATALOG}.ducklake_table
    qualify row_number() over (partition by table_id order by begin_snapshot desc) = 1
),
schemas as (
    select * from {CATALOG}.ducklake_schema
    qualify row_number() over (partition by schema_id order by begin_snapshot desc) = 1
),"""
"""Data and delete files of all snapshots, the newest name of each table and schema."""

_OF_DAYS = f"""
    select data_file_id from {CATALOG}.ducklake_file_partition_value
    where try_cast(partition_value as date) between ? and ?
    union all
    select s.data_file_id from {CATALOG}.ducklake_file_column_stats as s
    where (s.table_id, s.column_id) in (select (table_id, column_id) from {CATALOG}.ducklake_partition_column)
        and try_cast(s.max_value as date) >= ? and try_cast(s.min_value as date) <= ?"""
"""Data files that have rows of some days: of one day's partition, or of several days by their bounds."""


class LakeFiles:
    """The files of the lake that a connection has attached."""

    def __init__(self, connection: "duckdb.DuckDBPyConnection", settings: Settings) -> None:
        self.connection = connection
        self.root = settings.lake_url or settings.lake_dir / "data"
        self.threads = settings.threads
        self._known = False

    def named(
        self,
        *,
        at: int | None = None,
        tables: Sequence[str] | None = None,
        days: tuple[date, date] | None = None,
        every: bool = False,
    ) -> list[LakeFile]:
        """Return the files that the catalog names, by id.

        Args:
            at: Snapshot whose files are meant; default the newest.
            tables: ``schema.table`` of those that are meant; default all.
            days: First and last day of the partitions that are meant; default all files.
            every: Files of all snapshots that are kept.
        """
        live = (
            "f.end_snapshot is null"
            if at is None
            else f"{at} >= f.begin_snapshot and {at} < coalesce(f.end_snapshot, 1e18)"
        )
        conditions = [
            "true" if every else live,
            *(["s.schema_name || '.' || t.table_name in (select unnest(?))"] if tables else []),
        ]
        parameters: list[object] = [list(tables)] if tables else []
        if days:
            conditions.append(f"f.data_file_id in ({_OF_DAYS})")
            parameters += [*days, *days]
        query = f"""
            {_FILES} hashes as (select file_id, min(sha256) as sha256 from {self._hashes()} group by file_id)
            select f.file_id, s.schema_name || '.' || t.table_name,
                case when f.path_is_relative then
                    case when t.path_is_relative then case when s.path_is_relative then s.path else '' end || t.path
                    else t.path end || f.path
                else f.path end,
                f.file_size_bytes, h.sha256
            from files as f
            join tables as t on f.table_id = t.table_id
            join schemas as s on t.schema_id = s.schema_id
            left join hashes as h on f.file_id = h.file_id
            where {" and ".join(conditions)} order by 1"""
        return [LakeFile(*row) for row in self.connection.execute(query, parameters).fetchall()]

    def record(self) -> int:
        """Hash every file that has no hash yet; return how many. Cheap where only a commit's own files are new."""
        first = not self._recorded()
        query = f"""
            select data_file_id from {CATALOG}.ducklake_data_file
            union all select delete_file_id from {CATALOG}.ducklake_delete_file
            except select file_id from {self._hashes()}"""
        missing = {file_id for (file_id,) in self.connection.execute(query).fetchall()}
        if not missing:
            return 0
        files = [file for file in self.named(every=True) if file.id in missing]
        if first and (older := len(missing - self._of_newest_commit())):
            log.warning("no hashes were recorded: those of %d files are taken as the files are now", older)
        found = {file.id: sha256 for file, sha256 in self._read(files) if sha256 is not None}
        self._write(found)
        return len(found)

    def _of_newest_commit(self) -> set[int]:
        query = f"""
            select data_file_id from (
                select data_file_id, begin_snapshot from {CATALOG}.ducklake_data_file
                union all select delete_file_id, begin_snapshot from {CATALOG}.ducklake_delete_file
            ) where begin_snapshot = (select max(snapshot_id) from {CATALOG}.ducklake_snapshot)"""
        return {file_id for (file_id,) in self.connection.execute(query).fetchall()}

    def check(self, files: Iterable[LakeFile], *, record: bool = True) -> Checked:
        """Read files and compare them with their hashes.

        Args:
            files: Of ``named``.
            record: Record the hashes of files that have none, which are taken to be whole if their size is right.

        Raises:
            DamagedError: One is missing or was changed.
        """
        files = list(files)
        wrong, new = [], {}
        for file, sha256 in self._read(files):
            if sha256 is None:
                wrong.append(f"{self.root}/{file.path} of {file.table} is missing or has not its {file.bytes} bytes")
            elif file.sha256 is None:
                new[file.id] = sha256
            elif file.sha256 != sha256:
                wrong.append(f"{self.root}/{file.path} of {file.table} was changed: its hash is not {file.sha256}")
        if wrong:
            more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
            told = "put them back from a backup, or land and build their days again"
            raise DamagedError(f"{len(wrong)} of {len(files)} files: {'; '.join(wrong[:_NAMED])}{more}; {told}")
        if record and new:
            log.warning("%d files had no recorded hash: taken as they are now", len(new))
            self._write(new)
        return Checked(len(files), sum(file.bytes for file in files), len(new) if record else 0)

    def mergeable(self, max_bytes: int) -> list[LakeFile]:
        """Return the files below ``max_bytes`` that a merge may read: of partitions of a table that have several."""
        query = f"""
            select data_file_id from (
                select f.data_file_id, count(*) over (partition by f.table_id, v.values) as files
                from {CATALOG}.ducklake_data_file as f
                left join (
                    select data_file_id, string_agg(partition_value, '/' order by partition_key_index) as values
                    from {CATALOG}.ducklake_file_partition_value group by data_file_id
                ) as v on f.data_file_id = v.data_file_id
                where f.end_snapshot is null and f.file_size_bytes < ?
            ) where files > 1"""
        chosen = {file_id for (file_id,) in self.connection.execute(query, [max_bytes]).fetchall()}
        return [file for file in self.named() if file.id in chosen]

    def bytes(self) -> dict[str, int]:
        """Return {``schema.table``: bytes of the files that any kept snapshot names}, sorted by table."""
        found = dict[str, int]()
        for file in self.named(every=True):
            found[file.table] = found.get(file.table, 0) + file.bytes
        return dict(sorted(found.items()))

    def forget(self) -> None:
        """Remove the hashes of files that the catalog names no more."""
        if self._recorded():
            self.connection.execute(f"""
                delete from {HASHES} where file_id not in (
                    select data_file_id from {CATALOG}.ducklake_data_file
                    union all select delete_file_id from {CATALOG}.ducklake_delete_file
                )""")

    def _recorded(self) -> bool:
        """Tell whether hashes were ever recorded."""
        import duckdb

        if not self._known:
            try:
                self.connection.execute(f"select 1 from {HASHES} limit 0")
                self._known = True
            except duckdb.CatalogException:
                return False
        return True

    def _hashes(self) -> str:
        return HASHES if self._recorded() else "(select null::bigint as file_id, null::varchar as sha256 limit 0)"

    def _write(self, found: dict[int, str]) -> None:
        if not found:
            return
        self.connection.execute(f"create table if not exists {HASHES} (file_id bigint, sha256 varchar)")
        query = f"""
            insert into {HASHES}
            select * from (select unnest(?::bigint[]) as file_id, unnest(?::varchar[]) as sha256)
            where file_id not in (select file_id from {HASHES})"""
        self.connection.execute(query, [list(found), list(found.values())])

    def _read(self, files: Sequence[LakeFile]) -> list[tuple[LakeFile, str | None]]:
        """Return the hash of each file as it is; None where it is missing or has another size."""
        if not files:
            return []
        with ThreadPoolExecutor(self.threads) as pool:
            return list(zip(files, pool.map(self._sha256, files), strict=True))

    def _sha256(self, file: LakeFile) -> str | None:
        try:
            if isinstance(self.root, Path):
                path = self.root / file.path
                return sha256_file(path) if path.stat().st_size == file.bytes else None
            return _sha256_of_object(self.root, file)
        except FileNotFoundError:
            return None


def _sha256_of_object(root: str, file: LakeFile) -> str | None:
    import obstore
    from obstore.store import from_url

    found, size = hashlib.sha256(), 0
    for chunk in obstore.get(from_url(root), file.path).stream():
        found.update(chunk)
        size += len(chunk)
    return found.hexdigest() if size == file.bytes else None
