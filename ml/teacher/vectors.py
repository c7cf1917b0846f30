"""The teacher's vectors of users and items, computed once a day for those that were shown something or were shown.

A contract's ``embeddings`` name them. What the teacher is told of a user or an item stands in the rows of
``teacher_inputs_<surface>``: one row of the day speaks for all, since a vector's inputs depend on the user or the item
alone. Vectors are streamed, spooled to a file of the home and committed in one transaction, as soft labels are.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from ml.features.tables import VECTORS_TABLE
from ml.foundation.files import scratch_folder
from ml.foundation.lake import ALIAS, FEATURES, Lake, quoted
from ml.foundation.progress import Progress, Step, silent
from ml.foundation.settings import Settings
from ml.teacher.answers import default_batch
from ml.teacher.columns import InputColumns
from ml.teacher.contract import Contract, TeacherEmbedding
from ml.teacher.labels import BATCH_ROWS, exposure_rows, frugal
from ml.teacher.scoring import in_order
from ml.teacher.vocabulary import vocabularies
from ml.teacher.withdrawn import ACCOUNT

if TYPE_CHECKING:
    from ml.teacher.answers import TeacherModel

VECTORS_SCHEMA = pa.schema(
    [
        ("day", pa.date32()),
        ("user_id", pa.int64()),
        ("item_id", pa.int64()),
        ("teacher", pa.string()),
        ("embedding", pa.string()),
        ("teacher_version", pa.string()),
        ("contract_hash", pa.string()),
        ("vector", pa.list_(pa.float32())),
        ("defaulted_inputs", pa.int32()),
        ("with_account", pa.bool_()),
    ]
)
"""Rows of ``VECTORS_TABLE``: one of ``user_id`` and ``item_id`` is null; ``with_account`` tells whether the teacher was
told of a linked account."""

_ENTITY = "entity"


class VectorError(ValueError):
    """Vectors that cannot be computed; the message names the embedding, and the user, item or column."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DayVectors(_Model):
    """Vectors of one embedding and day."""

    day: date
    entities: int = Field(description="Users or items of the day's exposures that have a row of teacher inputs")
    rows: int = Field(description="Vectors; those of whom the teacher is told nothing have none")
    defaulted_share: float = Field(description="Mean share of the embedding's inputs that took their default")
    content_hash: str


class EmbeddingReport(_Model):
    """What one computation did for one embedding."""

    name: str
    entity: str
    length: int | None = Field(description="Numbers of a vector; null where there was none")
    days: tuple[DayVectors, ...]
    defaulted_inputs: dict[str, int] = Field(description="Users or items that took the default, per input")
    absent_inputs: tuple[str, ...] = Field(description="Inputs for which the app has no column at all")

    @property
    def rows(self) -> int:
        """Vectors of all days."""
        return sum(day.rows for day in self.days)

    @property
    def entities(self) -> int:
        """Users or items of all days, each once a day."""
        return sum(day.entities for day in self.days)


class VectorReport(_Model):
    """What one computation did."""

    teacher: str
    teacher_version: str
    contract_hash: str
    embeddings: tuple[EmbeddingReport, ...]
    snapshot: int


def embed_days(
    lake: Lake,
    settings: Settings,
    contract: Contract,
    surfaces: Iterable[str],
    days: Iterable[date],
    progress: Progress = silent,
) -> VectorReport:
    """Compute the vectors of all users and items of some days, and replace those of this teacher in one commit.

    A day has the vectors of one version: those of two do not lie in one space, and features read the newest.

    Args:
        lake: The lake, with ``features.stg_exposures`` and the ``teacher_inputs_<surface>`` of those days; a surface
            without such a table is passed over.
        settings: Home, threads and providers.
        contract: The teacher; vectors of other teachers stay beside the new ones, unless they have the same names.
        surfaces: Names of the surfaces whose users and items count.
        days: Days to compute; a day without exposures ends up without vectors.
        progress: Told after each embedding and day.

    Raises:
        TeacherRefused: The teacher is malformed.
        ColumnError: A column cannot be what the contract wants.
        VectorError: The contract names no embedding, no surface has teacher inputs, two rows of a user or an item on
            one day differ in what should depend on it alone, or a vector is not finite. Whatever is raised, no row is
            written.
    """
    from ml.teacher.runtime import open_teacher

    if not contract.embeddings:
        raise VectorError(f"teacher {contract.name!r} {contract.version!r}: its contract names no `embeddings`")
    days = sorted(set(days))
    inputs = [table for name in surfaces if lake.table_exists(table := exposure_rows(name).inputs)]
    if not inputs:
        raise VectorError(f"no surface of {sorted(surfaces)} has a table of teacher inputs; build it first")
    model = open_teacher(contract, settings.teacher_providers)
    try:
        with scratch_folder(settings.home / "spool", "vectors") as folder, frugal(lake):
            spooled = [
                _spool(_Reader(lake, contract, item, inputs), settings.threads, model, days, folder, progress)
                for item in contract.embeddings
            ]
            init_vectors(lake)
            snapshot = _commit(lake, contract, days, [file for found in spooled for file in found.files])
    finally:
        model.close()
    return VectorReport(
        teacher=contract.name,
        teacher_version=contract.version,
        contract_hash=contract.contract_hash,
        embeddings=tuple(_report(lake, contract, found, days) for found in spooled),
        snapshot=snapshot,
    )


def init_vectors(lake: Lake) -> None:
    """Create the table of vectors, empty, unless it exists."""
    if not lake.table_exists(VECTORS_TABLE):
        lake.replace_days(VECTORS_TABLE, VECTORS_SCHEMA.empty_table(), [], message=f"{VECTORS_TABLE}: create")


def unembedded_days(
    settings: Settings, surfaces: Iterable[str], contract: Contract, first: date, last: date
) -> list[date]:
    """Return the days of [first, last] that have teacher inputs on some surface, but no vector of this contract."""
    found: set[date] = set()
    select = f"select distinct day from {ALIAS}.{{}} where day between ? and ?"
    with Lake(settings) as lake:
        for table in (exposure_rows(name).inputs for name in surfaces):
            if lake.table_exists(table):
                found |= {day for (day,) in lake.connection.execute(select.format(table), [first, last]).fetchall()}
        if lake.table_exists(VECTORS_TABLE):
            mine = f"{select.format(VECTORS_TABLE)} and teacher = ? and teacher_version = ? and contract_hash = ?"
            known = [first, last, contract.name, contract.version, contract.contract_hash]
            found -= {day for (day,) in lake.connection.execute(mine, known).fetchall()}
    return sorted(found)


def vector_hashes(lake: Lake, contract: Contract, name: str, days: Iterable[date]) -> dict[date, tuple[int, str]]:
    """Return {day: (rows, order-free content hash)} of the vectors of one embedding and teacher version."""
    mine = "teacher = ? and embedding = ? and teacher_version = ? and contract_hash = ?"
    parameters = [contract.name, name, contract.version, contract.contract_hash]
    return lake.content_hashes(f"(select * from {ALIAS}.{VECTORS_TABLE} where {mine})", days, parameters)


@dataclass(frozen=True)
class _Batch:
    """Vectors of a batch of users or items, and how many of their inputs took the default."""

    ids: np.ndarray
    vectors: np.ndarray
    defaulted: np.ndarray
    with_account: pa.Array
    defaulted_by_input: dict[str, int]


@dataclass(frozen=True)
class _Spooled:
    """What was computed for one embedding: files, and counts by day."""

    item: TeacherEmbedding
    files: tuple[str, ...]
    length: int | None
    entities: Counter[date]
    defaulted_by_input: Counter[str]
    absent: tuple[str, ...]


class _Reader:
    """Streams what the teacher is told of the users or items of a day."""

    def __init__(self, lake: Lake, contract: Contract, item: TeacherEmbedding, inputs: Sequence[str]) -> None:
        self.lake, self.contract, self.item = lake, contract, item
        self._tables = {table: lake.columns(table) for table in inputs}
        masks = {mask for mask, of in contract.masks.items() if of in item.inputs}
        wanted = tuple(i for i in contract.inputs if i.name in item.inputs or i.name in masks)
        self._sources = list(dict.fromkeys(i.source for i in wanted))
        described = lake.connection.execute(f"describe {self._rows()}", [date.min] * len(inputs)).fetchall()
        columns = {name: kind for name, kind, *_ in described}
        where = " and ".join(inputs)
        self.columns = InputColumns(wanted, columns, where, vocabularies(contract))
        present = [name for name in self._sources if name in columns]
        if not present:
            raise VectorError(
                f"{where} has none of the columns {', '.join(self._sources)} that embedding {item.name!r} of teacher "
                f"{contract.name!r} is made of: select them there, or leave the embedding out of the contract"
            )
        self._present = ", ".join(f"seen.{quoted(name)}" for name in present)
        accounts = [f"seen.{name} is not null" for name in ACCOUNT if name in columns]
        self._account = " or ".join(accounts) or "true"

    def _rows(self) -> str:
        """Return the query of the rows of a day of every surface: a parameter for each."""
        kept = dict.fromkeys(["day", "exposure_id", *self._sources, *ACCOUNT])
        listed = {
            table: ", ".join(quoted(name) for name in kept if name in there) for table, there in self._tables.items()
        }
        return " union all by name ".join(
            f"select {of} from {ALIAS}.{table} where day = ?" for table, of in listed.items()
        )

    def _seen(self) -> str:
        """Return the rows of a day with the user or item that each is about."""
        key = f"shown.{self.item.entity}"
        return (
            f"select {key} as {_ENTITY}, seen.exposure_id, {self._account} as with_account, {self._present} "
            f"from ({self._rows()}) as seen join {ALIAS}.{FEATURES}.stg_exposures as shown "
            f"on shown.day = seen.day and shown.exposure_id = seen.exposure_id where {key} is not null"
        )

    def day(self, day: date) -> Iterator[pa.RecordBatch]:
        """Stream one row of each user or item of a day, as the teacher's columns take it.

        Raises:
            VectorError: Two rows of one differ.
        """
        parameters = [day] * len(self._tables)
        differing = f"select {_ENTITY} from ({self._seen()}) as seen group by {_ENTITY}"
        differing += f" having count(distinct hash({self._present})) > 1 order by 1"
        if found := self.lake.connection.execute(differing, parameters).fetchall():
            raise VectorError(
                f"embedding {self.item.name!r} of teacher {self.contract.name!r}: on {day} {len(found)} values of "
                f"{self.item.entity}, the first {found[0][0]}, have rows of teacher inputs that differ in "
                f"{', '.join(self._sources)}. Its inputs must depend on {self.item.entity} alone: take the others "
                "out of `inputs` in the contract, or build the teacher inputs of the day again"
            )
        one = f"row_number() over (partition by shown.{self.item.entity} order by seen.exposure_id) = 1"
        chosen = ", ".join([_ENTITY, "with_account", *self.columns.select])
        query = f"select {chosen} from ({self._seen()} qualify {one}) as seen order by {_ENTITY}"
        yield from self.lake.batches(query, parameters, rows=BATCH_ROWS)

    def embed(self, model: "TeacherModel", rows: pa.RecordBatch) -> _Batch:
        """Return the vectors of a batch; those of whom the teacher is told nothing are left out.

        Raises:
            VectorError: A vector is not finite.
        """
        found = self.columns.read(rows, _ENTITY)
        ids, width = rows.column(_ENTITY).to_numpy(), len(self.item.inputs)
        vectors = model.embed(default_batch(self.contract, len(ids)) | found.inputs)[self.item.name]
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):
            raise VectorError(
                f"teacher {self.contract.name!r} {self.contract.version!r}: embedding {self.item.name!r} of "
                f"{self.item.entity} {ids[bad[0]]} is not finite; nothing was written to {VECTORS_TABLE}"
            )
        told = found.defaulted < width
        account = rows.column("with_account").filter(pa.array(told))
        return _Batch(ids[told], vectors[told], found.defaulted[told], account, found.defaulted_by_input)


def _spool(
    reader: _Reader, threads: int, model: "TeacherModel", days: Sequence[date], folder: Path, progress: Progress
) -> _Spooled:
    """Write the vectors of some days into one Parquet file per day."""
    item, entities, defaulted = reader.item, Counter[date](), Counter[str]()
    files: list[str] = []
    length: int | None = None

    def submit(rows: pa.RecordBatch) -> Future[_Batch]:
        return pool.submit(reader.embed, model, rows)

    with ThreadPoolExecutor(threads, thread_name_prefix="vectors") as pool:
        for done, day in enumerate(days, 1):
            path, rows = folder / f"{item.name}-{day}.parquet", 0
            with pq.ParquetWriter(path, VECTORS_SCHEMA, compression="none", use_dictionary=False) as writer:
                batches = ((len(batch), batch) for batch in reader.day(day))
                for seen, batch in in_order(submit, lambda future: future.result(), batches, threads):
                    entities[day] += seen
                    defaulted.update(batch.defaulted_by_input)
                    rows += len(batch.ids)
                    length = batch.vectors.shape[1]
                    writer.write_batch(_record(reader.contract, item, day, batch))
            files.append(str(path))
            line = f"{item.name} {day}, {rows:,} vectors of {entities[day]:,}"
            progress(Step(VECTORS_TABLE, done, len(days), line=line))
    return _Spooled(item, tuple(files), length, entities, defaulted, reader.columns.absent)


def _record(contract: Contract, item: TeacherEmbedding, day: date, batch: _Batch) -> pa.RecordBatch:
    n, width = batch.vectors.shape
    offsets = pa.array(np.arange(n + 1, dtype=np.int32) * width)
    told: dict[str, pa.Array] = {
        "day": pa.repeat(pa.scalar(day, pa.date32()), n),
        "user_id": pa.nulls(n, pa.int64()),
        "item_id": pa.nulls(n, pa.int64()),
        "vector": pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(batch.vectors).reshape(-1))),
        "defaulted_inputs": pa.array(batch.defaulted, pa.int32()),
        "with_account": batch.with_account,
        item.entity: pa.array(batch.ids, pa.int64()),
    }
    named = dict(zip(("teacher", "teacher_version"), (contract.name, contract.version), strict=True))
    for column, value in {**named, "embedding": item.name, "contract_hash": contract.contract_hash}.items():
        told[column] = pa.repeat(pa.scalar(value, pa.string()), n)
    return pa.record_batch([told[name] for name in VECTORS_SCHEMA.names], schema=VECTORS_SCHEMA)


def _commit(lake: Lake, contract: Contract, days: Sequence[date], files: Sequence[str]) -> int:
    def step() -> None:
        with lake.transaction(f"{VECTORS_TABLE}: teacher {contract.name} {contract.version}, {len(days)} days") as c:
            # Of an embedding that another teacher gave before, features would read both: they name a vector alone.
            mine = "day in (select unnest(?::date[])) and (teacher = ? or list_contains(?::varchar[], embedding))"
            named = [item.name for item in contract.embeddings]
            c.execute(f"delete from {ALIAS}.{VECTORS_TABLE} where {mine}", [days, contract.name, named])
            if files:
                c.execute(f"insert into {ALIAS}.{VECTORS_TABLE} by name from read_parquet(?)", [list(files)])

    lake.retry(step)
    return lake.snapshot()


def _report(lake: Lake, contract: Contract, found: _Spooled, days: Sequence[date]) -> EmbeddingReport:
    item, width = found.item, len(found.item.inputs)
    query = f"""
        select day, avg(defaulted_inputs) / {width} from {ALIAS}.{VECTORS_TABLE}
        where day in (select unnest(?::date[])) and teacher = ? and embedding = ? and teacher_version = ?
        and contract_hash = ? group by day"""
    mine = [days, contract.name, item.name, contract.version, contract.contract_hash]
    shares = dict(lake.connection.execute(query, mine).fetchall())
    per_day = [
        DayVectors(
            day=day,
            entities=found.entities[day],
            rows=rows,
            defaulted_share=shares.get(day, 0.0),
            content_hash=content_hash,
        )
        for day, (rows, content_hash) in vector_hashes(lake, contract, item.name, days).items()
    ]
    return EmbeddingReport(
        name=item.name,
        entity=item.entity,
        length=found.length,
        days=tuple(per_day),
        defaulted_inputs={name: found.defaulted_by_input[name] for name in item.inputs},
        absent_inputs=found.absent,
    )
