"""The daily feature snapshot that serving reads: one immutable folder per day, independent of releases.

``<home>/serving/features/<day>-<hash>/`` holds one uncompressed Arrow file per declared feature table, sorted by its
int64 keys, and a manifest with what serving has to know of each: keys, columns, types and defaults. ``current.json``
beside the folders points to the one to serve. Every numeric column of the tables is kept, so that a release that is
older or newer than the surface files still finds its inputs.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml.features.contracts import TYPES, Contract, contracts, faults
from ml.features.tables import CREATOR_OF, FeatureTable, feature_tables
from ml.foundation.files import Files, sha256_bytes
from ml.foundation.ids import NO_ID
from ml.foundation.lake import ALIAS, FEATURES, Lake
from ml.foundation.settings import Settings
from ml.students.columns import to_arrays
from ml.surfaces.columns import Input
from ml.surfaces.spec import Surface

KNOWN = {"user_id": "feat_user", "item_id": "feat_item"}
"""Tables that have a row of every user and item known by the day."""

_KEYS_OF_OLD = {
    "feat_user": ["user_id"],
    "feat_item": ["item_id"],
    "feat_creator": ["creator_id"],
    "feat_user_creator": ["user_id", "creator_id"],
}
"""Keys of the tables in a snapshot whose manifest does not name them."""

KEEP = 3
"""Snapshots that stay by default, newest days first; the one pointed to always does."""

SERVING = "serving"
"""Of the instance directory: what the server reads."""
FOLDER, POINTER, MANIFEST = "features", "features/current.json", "manifest.json"

_KEPT = re.compile(f"{TYPES['number']}|{TYPES['number[]']}")


class SnapshotError(RuntimeError):
    """A feature snapshot that cannot be published or read; the message names table and column."""


@dataclass(frozen=True)
class Published:
    """A published snapshot: its folder, day, content hash and rows per table."""

    path: Path
    day: date
    digest: str
    rows: dict[str, int]


def snapshot_files(settings: Settings) -> Files:
    """Return the store of this home's feature snapshots."""
    return Files(settings.home / SERVING)


def publish(
    lake: Lake,
    settings: Settings,
    surfaces: Mapping[str, Surface],
    day: date,
    *,
    keep: int = KEEP,
) -> Published:
    """Write the features of ``day`` and point serving to them, unless it already serves a later day.

    The same features give the same folder, and publishing them again changes nothing.

    Args:
        lake: Holds the feature tables; all are read as of one lake snapshot.
        settings: Names the home.
        surfaces: Their `daily` inputs must all exist as columns of their types.
        day: Day whose exposures the features are for.
        keep: Snapshots that stay, newest days first, beside this one and the one pointed to.

    Raises:
        SnapshotError: A table or column is missing or of another type, a key is null or repeated, or the day has no
            features at all.
    """
    tables = feature_tables(settings)
    lake.connection.begin()
    try:
        queries = {name: _query(lake, table, day) for name, table in tables.items()}
        _require_columns(lake, settings, surfaces, tables)
        rows, digest = _identity(lake, queries, tables, day)
        files = snapshot_files(settings)
        name = f"{day}-{digest}"
        if not files.exists(f"{FOLDER}/{name}"):
            files.create_folder(f"{FOLDER}/{name}", _content(lake, queries, tables, day, digest))
    finally:
        lake.connection.rollback()
    with files.lock(POINTER):
        try:
            current = _pointed(files)
        except SnapshotError:  # this is how it is mended
            current = None
        if current is None or not files.exists(f"{FOLDER}/{current}") or _day_of(current) <= day:
            current = name
            files.replace(POINTER, json.dumps({"id": name, "day": day.isoformat()}).encode())
        _prune(files, {name, current}, keep)
    return Published(files.path(f"{FOLDER}/{name}"), day, digest, rows)


def features_of(lake: Lake, settings: Settings, day: date) -> "FeatureSnapshot":
    """Return the features of any day that the lake holds, the same that ``publish`` gives the server for it.

    Args:
        lake: Holds the feature tables, as of one lake snapshot.
        settings: Names the app that declares them.
        day: Day whose exposures the features are for.

    Raises:
        SnapshotError: A table is missing, a key is null or repeated, or the day has no features at all.
    """
    tables = feature_tables(settings)
    queries = {name: _query(lake, table, day) for name, table in tables.items()}
    _, digest = _identity(lake, queries, tables, day)
    return FeatureSnapshot(
        f"{day}-{digest}",
        day,
        {name: _sorted(lake, query, tables[name]) for name, query in queries.items()},
        {name: list(table.entity) for name, table in tables.items()},
        {name: dict(table.defaults) for name, table in tables.items()},
    )


def current_snapshot(settings: Settings) -> Path | None:
    """Return the folder that ``current.json`` points to, or ``None`` before the first publication."""
    files = snapshot_files(settings)
    name = _pointed(files)
    return None if name is None else files.path(f"{FOLDER}/{name}")


def published_day(settings: Settings) -> date | None:
    """Return the day of the features that serving is pointed to, by name alone; ``None`` before the first."""
    name = _pointed(snapshot_files(settings))
    return None if name is None else _day_of(name)


class FeatureSnapshot:
    """The features of one day, in memory; see ``bind`` for looking them up.

    Attributes:
        id: ``<day>-<hash>``.
        day: Day whose exposures the features are for.
        tables: Arrow table per feature table, sorted by its keys.
        keys: Key columns of each table.
        defaults: {column: value where a table has no row or a null} of each table.
    """

    def __init__(
        self,
        id: str,
        day: date,
        tables: dict[str, pa.Table],
        keys: dict[str, list[str]],
        defaults: dict[str, dict[str, float]],
    ) -> None:
        self.id = id
        self.day = day
        self.tables = tables
        self.keys = keys
        self.defaults = defaults

    @classmethod
    def load(cls, path: Path) -> "FeatureSnapshot":
        """Read the files of one snapshot and check them against their manifest.

        Raises:
            SnapshotError: A file is missing or its bytes are not the published ones.
        """
        try:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            entries = manifest["tables"]
            tables = {name: _read(path / entry["file"], entry["sha256"]) for name, entry in entries.items()}
            keys = {name: entry["keys"] if "keys" in entry else _KEYS_OF_OLD[name] for name, entry in entries.items()}
            defaults = {name: entry.get("defaults", {}) for name, entry in entries.items()}
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise SnapshotError(f"feature snapshot {path} cannot be read: {error}") from error
        if missing := set(KNOWN.values()) - tables.keys():
            raise SnapshotError(f"feature snapshot {path} lacks {', '.join(sorted(missing))}")
        return cls(path.name, date.fromisoformat(manifest["day"]), tables, keys, defaults)

    def bind(self, inputs: Mapping[str, Input]) -> "BoundFeatures":
        """Prepare the `daily` inputs of one model for lookups; inputs of other kinds are left out.

        Raises:
            SnapshotError: An input's table or column is not in the snapshot.
        """
        return BoundFeatures(self, inputs)


class BoundFeatures:
    """The `daily` inputs of one model, converted once by the function that also makes training tensors.

    Scalars of one table lie in a matrix [inputs, rows + 1]; the last row holds the defaults, for unknown keys: those of
    the table where it declares them, as in the examples, else those of the inputs.

    Args:
        snapshot: Features of one day.
        inputs: Inputs of the model by name.
    """

    def __init__(self, snapshot: FeatureSnapshot, inputs: Mapping[str, Input]) -> None:
        self.snapshot_id = snapshot.id
        self.day = snapshot.day
        self._entities = snapshot.keys
        self._keys = {name: _key_columns(snapshot.tables[name], keys) for name, keys in snapshot.keys.items()}
        self._packs: dict[str, list[tuple[list[str], np.ndarray]]] = {}
        by_table: dict[str, dict[str, Input]] = {name: {} for name in snapshot.tables}
        for name, item in inputs.items():
            if item.source is None:
                continue
            table, column = item.source.split(".")
            if table not in by_table or column not in snapshot.tables[table].column_names:
                raise SnapshotError(f"feature snapshot {snapshot.id} has no {item.source}, which input {name!r} needs")
            by_table[table][name] = item
        for table, wanted in by_table.items():
            if wanted:
                self._packs[table] = _pack(snapshot.tables[table], wanted, snapshot.defaults[table])
        creator = Input.model_validate(
            {"kind": "daily", "type": "id", "from": f"{CREATOR_OF}.creator_id", "embedding": 1, "default": NO_ID}
        )
        [(_, matrix)] = _pack(snapshot.tables[CREATOR_OF], {"creator_id": creator}, {})
        self._creators = matrix[0]

    def lookup(self, user_ids: np.ndarray, item_ids: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        """Look up every `daily` input.

        Args:
            user_ids: int64 [n], or [1] for one user of all items.
            item_ids: int64 [n].

        Returns:
            C-contiguous arrays [n] or [n, length] by input name, where nulls and unknown keys hold the default; and
            {``feat_user`` or ``feat_item``: how many of the ids it lacks}, tables that lack none left out.
        """
        rows = len(item_ids)
        known = {"user_id": self._find(KNOWN["user_id"], user_ids), "item_id": self._find(KNOWN["item_id"], item_ids)}
        ids = {"user_id": user_ids, "item_id": item_ids, "creator_id": self._creators[known["item_id"]]}
        found: dict[str, np.ndarray] = {}
        for table, packs in self._packs.items():
            positions = self._positions(table, ids, known)
            if len(positions) != rows:
                positions = np.broadcast_to(positions, rows)
            for names, matrix in packs:
                if matrix.ndim == 2:
                    found.update(zip(names, matrix.take(positions, axis=1), strict=True))
                else:
                    found[names[0]] = matrix[0].take(positions, axis=0)
        lacking = {
            KNOWN[entity]: int(np.count_nonzero(positions == len(self._keys[KNOWN[entity]][0])))
            for entity, positions in known.items()
        }
        return found, {table: count for table, count in lacking.items() if count}

    def knows(self, table: str, ids: np.ndarray) -> np.ndarray:
        """Return bool [n]: whether a table with one key has a row for each int64 id."""
        return self._find(table, ids) < len(self._keys[table][0])

    def _positions(self, table: str, ids: Mapping[str, np.ndarray], known: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the rows of a table [1] or [n] by the ids of its entity; ``known`` holds those of ``KNOWN``."""
        first, *second = self._entities[table]
        if second:
            return self._find_pairs(table, ids[first], ids[second[0]])
        return known[first] if KNOWN.get(first) == table else self._find(table, ids[first])

    def _find(self, table: str, ids: np.ndarray) -> np.ndarray:
        [keys] = self._keys[table]
        return _search(keys, ids, 0, len(keys))

    def _find_pairs(self, table: str, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return the rows of the pairs of ``first`` [1] or [n] and ``second`` [1] or [n]."""
        of_first, of_second = self._keys[table]
        if len(first) == 1:
            return _find_second(of_first, of_second, first[0], second)
        second = np.broadcast_to(second, first.shape)
        positions = np.full(len(first), len(of_first))
        distinct, inverse = np.unique(first, return_inverse=True)
        order = np.argsort(inverse, kind="stable")
        bounds = np.searchsorted(inverse[order], np.arange(len(distinct) + 1))
        for i, key in enumerate(distinct):
            own = order[bounds[i] : bounds[i + 1]]
            positions[own] = _find_second(of_first, of_second, key, second[own])
        return positions


def _find_second(firsts: np.ndarray, seconds: np.ndarray, first: np.int64, wanted: np.ndarray) -> np.ndarray:
    """Return the rows of ``first`` and each of ``wanted`` in sorted pairs, their number where there is none."""
    start, stop = firsts.searchsorted(first, "left"), firsts.searchsorted(first, "right")
    return _search(seconds[start:stop], wanted, start, len(firsts))


def _search(keys: np.ndarray, wanted: np.ndarray, start: int | np.intp, missing: int) -> np.ndarray:
    """Return ``start`` + the position of each wanted key in sorted ``keys``, ``missing`` where there is none."""
    if len(keys) == 0:
        return np.full(len(wanted), missing)
    positions = np.minimum(keys.searchsorted(wanted), len(keys) - 1)
    return np.where(keys[positions] == wanted, positions + start, missing)


def _key_columns(table: pa.Table, keys: Iterable[str]) -> list[np.ndarray]:
    return [table.column(key).combine_chunks().to_numpy(zero_copy_only=True) for key in keys]


def _pack(
    table: pa.Table, inputs: Mapping[str, Input], defaults: Mapping[str, float]
) -> list[tuple[list[str], np.ndarray]]:
    """Return (names, values [inputs, rows + 1] or [1, rows + 1, length]) per dtype; the last row is all defaults."""
    columns = {}
    for name, item in inputs.items():
        source = (item.source or "").split(".")[1]
        column = pa.chunked_array([*table.column(source).chunks, pa.nulls(1, table.column(source).type)])
        columns[name] = pc.fill_null(column, defaults[source]) if source in defaults else column
    arrays = to_arrays(pa.table(columns), dict(inputs), "serving")
    packs = [([name], array[np.newaxis]) for name, array in arrays.items() if array.ndim > 1]
    for dtype in (np.int64, np.float32):
        names = [name for name, array in arrays.items() if array.ndim == 1 and array.dtype == dtype]
        if names:
            packs.append((names, np.stack([arrays[name] for name in names])))
    return packs


def _declared(tables: Mapping[str, FeatureTable]) -> dict[str, dict[str, object]]:
    return {name: {"keys": list(table.entity), "defaults": table.defaults} for name, table in tables.items()}


def _identity(
    lake: Lake, queries: Mapping[str, str], tables: Mapping[str, FeatureTable], day: date
) -> tuple[dict[str, int], str]:
    """Return the rows of each table, and the hash of all that a snapshot of the day holds."""
    hashed = {name: lake.content_hash(f"({query})") for name, query in queries.items()}
    rows = {name: count for name, (count, _) in hashed.items()}
    if not any(rows.values()):
        raise SnapshotError(f"no features of {day}: {', '.join(tables)} have no row of that day")
    content = json.dumps([day.isoformat(), hashed, _declared(tables)])
    return rows, hashlib.sha256(content.encode()).hexdigest()[:16]


def _sorted(lake: Lake, query: str, table: FeatureTable) -> pa.Table:
    found = lake.sql(f"{query} order by {', '.join(table.entity)}").combine_chunks()
    _check_keys(table.name, found, table.entity)
    return found


def _query(lake: Lake, table: FeatureTable, day: date) -> str:
    name = f"{FEATURES}.{table.name}"
    if not lake.table_exists(name):
        raise SnapshotError(f"the lake has no table {name}")
    keys = table.entity
    kinds = lake.columns(name)
    if missing := [key for key in keys if key not in kinds]:
        raise SnapshotError(f"{name} has no column {', '.join(missing)}")
    values = [column for column, kind in kinds.items() if column not in keys and _KEPT.fullmatch(kind)]
    listed = ", ".join([*(f"{key}::bigint as {key}" for key in keys), *(f'"{value}"' for value in values)])
    return f"select {listed} from {ALIAS}.{name} where day = date '{day}'"


def _require_columns(lake: Lake, settings: Settings, surfaces: Mapping[str, Surface], tables: Iterable[str]) -> None:
    """Refuse tables that lack a column which a surface reads, or have it with another type."""
    declared = contracts(settings, surfaces)
    for table in tables:
        read: Contract = {column: kind for column, kind in declared[table].items() if kind != "any"}
        if found := list(faults(read, lake.columns(f"{FEATURES}.{table}"))):
            raise SnapshotError(f"{table}: {'; '.join(found)}; build its day again, or mend its SQL")


def _content(
    lake: Lake, queries: Mapping[str, str], declared: Mapping[str, FeatureTable], day: date, digest: str
) -> dict[str, bytes]:
    """Return the files of a snapshot by name."""
    content: dict[str, bytes] = {}
    tables = _declared(declared)
    for name, query in queries.items():
        table = _sorted(lake, query, declared[name])
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        file = f"{name}.arrow"
        content[file] = sink.getvalue().to_pybytes()
        columns = {field.name: str(field.type) for field in table.schema}
        found = {"file": file, "sha256": sha256_bytes(content[file]), "rows": len(table), "columns": columns}
        tables[name] = {**found, **tables[name]}
    manifest = {
        "day": day.isoformat(),
        "digest": digest,
        "lake_snapshot": lake.snapshot(),
        "published_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "tables": tables,
    }
    content[MANIFEST] = json.dumps(manifest, indent=1).encode()
    return content


def _check_keys(name: str, table: pa.Table, keys: Iterable[str]) -> None:
    if any(table.column(key).null_count for key in keys):
        raise SnapshotError(f"{name} has a null key among {', '.join(keys)}")
    columns = _key_columns(table, keys)
    same = np.logical_and.reduce([column[1:] == column[:-1] for column in columns])
    if same.any():
        first = int(same.argmax())
        raise SnapshotError(f"{name} repeats the key {[int(column[first]) for column in columns]}")


def _read(path: Path, sha256: str) -> pa.Table:
    content = path.read_bytes()  # not mapped: a file that somebody cuts off later would end the process that maps it
    if (actual := sha256_bytes(content)) != sha256:
        raise SnapshotError(f"{path} has sha256 {actual}, its manifest says {sha256}")
    return pa.ipc.open_file(pa.py_buffer(content)).read_all()


def _pointed(files: Files) -> str | None:
    try:
        return str(json.loads(files.read(POINTER))["id"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise SnapshotError(
            f"{files.path(POINTER)} is no pointer to features: {error!r}; publish them again"
        ) from error


def _day_of(name: str) -> date:
    return date.fromisoformat(name[:10])


def _prune(files: Files, pointed: set[str], keep: int) -> None:
    """Remove all but the newest folders; a server that has read a removed one keeps it until it lets go."""
    folders = [name for name in files.names(FOLDER) if files.path(f"{FOLDER}/{name}").is_dir()]
    newest = sorted(folders, key=lambda name: (_day_of(name), files.modified(f"{FOLDER}/{name}")), reverse=True)
    for name in set(folders) - pointed - set(newest[:keep]):
        files.remove_folder(f"{FOLDER}/{name}")
