"""Soft labels: frozen teachers' scores of the app's own examples, one row per exposure and version of a teacher.

Rows are streamed from ``features.teacher_inputs_<surface>``, scored, spooled to a file of the home and committed in one
transaction, so that memory does not grow with the rows and a killed run leaves the table as it was.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from ml.features.unshown import unshown_inputs_table
from ml.foundation.dropped import require_kept
from ml.foundation.files import scratch_folder
from ml.foundation.lake import ALIAS, FEATURES, ML, Lake, escaped, quoted
from ml.foundation.progress import Progress, Step, silent
from ml.foundation.settings import Settings
from ml.teacher.columns import InputColumns
from ml.teacher.contract import Contract
from ml.teacher.scorers import scorer
from ml.teacher.scoring import KEY, Scorer, on_threads
from ml.teacher.vocabulary import vocabularies
from ml.teacher.withdrawn import WITHDRAWN_EXPOSURES, can_be_asked

if TYPE_CHECKING:
    from ml.teacher.answers import TeacherModel

LANDED_TABLE = f"{FEATURES}.stg_teacher_scores"
"""Scores that a sister team handed over."""

BATCH_ROWS = 8_192
_HELD_ROWS = 16_384
"""Rows of a partition that DuckDB may hold before it writes them; by default half a million per thread."""

_SPOOL_SCHEMA = pa.schema(
    [
        ("day", pa.date32()),
        ("exposure_id", pa.int64()),
        ("scores", pa.list_(pa.float64())),
        ("defaulted_inputs", pa.int32()),
    ]
)


class LabelError(ValueError):
    """Rows that cannot be labelled; the message names the table and the exposure or column."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DayLabels(_Model):
    """Soft labels of one day."""

    day: date
    rows: int
    examples: int = Field(description="Rows of teacher_inputs_<surface>")
    coverage: float = Field(description="rows / examples; 1 for a day without examples")
    defaulted_share: float = Field(description="Mean share of inputs that took the contract's default")
    content_hash: str


class ScoreSummary(_Model):
    """Distribution of one output over all rows: logits, or values."""

    mean: float
    sd: float
    min: float
    max: float


class LabelReport(_Model):
    """What one labelling did."""

    surface: str
    table: str
    teacher: str
    teacher_version: str
    contract_hash: str
    days: tuple[DayLabels, ...]
    rows: int
    examples: int
    coverage: float
    defaulted_share: float
    defaulted_inputs: dict[str, float] = Field(description="Share of rows that took the default, per input")
    unknown_inputs: dict[str, float] = Field(
        default={}, description="Share of rows whose value the teacher cannot take, per input that has such rows"
    )
    hashed_inputs: tuple[str, ...] = Field(
        default=(), description="Inputs that read our hash of an id, without `id:` in the contract"
    )
    absent_inputs: tuple[str, ...] = Field(description="Inputs for which the app has no column at all")
    outputs: dict[str, ScoreSummary]
    rows_by_node: dict[str, int] = Field(description="Rows that each node of a Ray cluster scored; empty without one")
    seconds: float
    rows_per_second: float = Field(description="From opening the teacher to the commit, without this report's figures")
    snapshot: int


@dataclass(frozen=True)
class Rows:
    """What a teacher labels of a surface.

    Attributes:
        inputs: ``schema.table`` of its inputs, which has ``day`` and the key.
        labels: ``schema.table`` of what it says of them.
        key: Column that names a row.
    """

    inputs: str
    labels: str
    key: str

    @property
    def keys(self) -> tuple[str, ...]:
        """Columns of both tables that name a row, or the person whom it is about."""
        return tuple(dict.fromkeys([self.key, KEY]))

    @property
    def what(self) -> str:
        """What a row is, for people."""
        return self.key.removesuffix("_id")


def soft_labels_table(surface: str) -> str:
    """Return ``schema.table`` of a surface's soft labels."""
    return f"{ML}.soft_labels_{_checked(surface)}"


def exposure_rows(surface: str) -> Rows:
    """Return the exposures of a surface, by ``exposure_id``."""
    return Rows(f"{FEATURES}.teacher_inputs_{_checked(surface)}", soft_labels_table(surface), KEY)


def unshown_rows(surface: str) -> Rows:
    """Return the pairs that nobody was shown, by ``pair_id``."""
    return Rows(unshown_inputs_table(surface), f"{ML}.unshown_labels_{_checked(surface)}", "pair_id")


RowsOf = Callable[[str], Rows]
"""What of a surface is labelled: ``exposure_rows`` or ``unshown_rows``."""


TEACHER_COLUMN = pa.schema([("teacher", pa.string())])
"""Who gave a label; rows of before there could be several teachers have none."""


def named_labels(lake: Lake, table: str) -> str:
    """Return the query of a table of labels with who gave each; null where a state of an earlier version is silent."""
    [name] = TEACHER_COLUMN.names
    lacking = "" if name in lake.columns(table) else f", null::varchar as {name}"
    return f"(select *{lacking} from {ALIAS}.{table})"


def nameless_labels(lake: Lake) -> list[str]:
    """Return the tables of labels of an earlier version, which do not say who gave them."""
    kinds = ("soft_labels_", "unshown_labels_")
    tables = [f"{schema}.{name}" for schema, name in lake.tables() if schema == ML and name.startswith(kinds)]
    return [table for table in tables if not set(TEACHER_COLUMN.names) <= set(lake.columns(table))]


def name_labels(lake: Lake, teacher: str | None) -> None:
    """Add the column of who gave a label to tables of an earlier version; None says nothing of the rows that are there.

    Rows and files stay as they are: the name is the column's default in what was written without it.
    """
    default = f" default '{escaped(teacher)}'" if teacher else ""
    for table in nameless_labels(lake):

        def step(table: str = table) -> None:
            with lake.transaction(f"{table}: who gave a label") as c:
                c.execute(f"alter table {ALIAS}.{table} add column {TEACHER_COLUMN.names[0]} varchar{default}")

        lake.retry(step)


def init_soft_labels(lake: Lake, surface: str, rows_of: RowsOf = exposure_rows) -> None:
    """Create the surface's table of soft labels, empty, unless it exists."""
    rows = rows_of(surface)
    table = rows.labels
    if lake.table_exists(table):
        lake.add_columns(table, TEACHER_COLUMN)
        return
    keys = ", ".join(f"{key} BIGINT" for key in rows.keys)

    def step() -> None:
        with lake.transaction(f"{table}: create") as c:
            c.execute(
                f"create table if not exists {ALIAS}.{table} (day DATE, {keys}, teacher_version VARCHAR, "
                f"contract_hash VARCHAR, scores DOUBLE[], defaulted_inputs INTEGER, teacher VARCHAR)"
            )
            c.execute(f"alter table {ALIAS}.{table} set partitioned by (day)")

    lake.retry(step)


def label_days(
    lake: Lake,
    settings: Settings,
    surface_name: str,
    contract: Contract,
    days: Iterable[date],
    progress: Progress = silent,
    withheld: Collection[str] = (),
    rows_of: RowsOf = exposure_rows,
) -> LabelReport:
    """Score every row of ``days`` and replace the soft labels of this teacher version in one commit.

    Args:
        lake: The lake; ``features.teacher_inputs_<surface>`` must exist, and ``features.stg_teacher_scores`` for landed
            scores. A column matches the contract's input of its name; a missing column or cell takes the default.
        settings: Home, and what scores: threads, or a Ray cluster.
        surface_name: The surface.
        contract: The teacher; labels of its other versions stay beside the new ones.
        days: Days to label; a day without examples ends up without labels.
        progress: Told after each day.
        withheld: Inputs that take their default although the app has them, to see what they are worth.
        rows_of: What is labelled: exposures, or pairs that nobody was shown.

    Raises:
        TeacherRefused: The teacher is malformed.
        ColumnError: A column cannot be what the contract wants.
        LabelError: A table is missing, or a score is not finite. Whatever is raised, no row is written.
        ClusterError: The Ray cluster of the settings cannot be used.
    """
    started = time.perf_counter()
    days = sorted(set(days))
    with _opened(contract, settings.teacher_providers) as model, _spool_folder(settings) as folder, frugal(lake):
        reader = _Reader(lake, rows_of(surface_name), contract, withheld)
        init_soft_labels(lake, surface_name, rows_of)
        defaulted, unknown, nodes = _spool(settings, model, reader, days, folder, progress)
        _check_known(reader, defaulted, unknown, sum(reader.examples(days).values()))
        snapshot = _commit(lake, reader.rows, contract, days, folder)
        labelled = time.perf_counter() - started
        summaries = _summaries(lake, contract, folder)
    per_day = _day_labels(lake, reader, surface_name, days, rows_of)
    rows, seen = sum(d.rows for d in per_day), sum(d.examples for d in per_day)
    return LabelReport(
        surface=surface_name,
        table=reader.labels,
        teacher=contract.name,
        teacher_version=contract.version,
        contract_hash=contract.contract_hash,
        days=tuple(per_day),
        rows=rows,
        examples=seen,
        coverage=rows / seen if seen else 1.0,
        defaulted_share=sum(d.defaulted_share * d.rows for d in per_day) / rows if rows else 0.0,
        **_of_inputs(reader, defaulted, unknown, rows),
        outputs=summaries,
        rows_by_node=dict(sorted(nodes.items())),
        seconds=time.perf_counter() - started,
        rows_per_second=rows / max(labelled, 1e-9),
        snapshot=snapshot,
    )


class _Inputs(TypedDict):
    defaulted_inputs: dict[str, float]
    unknown_inputs: dict[str, float]
    hashed_inputs: tuple[str, ...]
    absent_inputs: tuple[str, ...]


def _of_inputs(reader: "_Reader", defaulted: Mapping[str, int], unknown: Mapping[str, int], rows: int) -> _Inputs:
    """Return what a report says of the teacher's inputs; shares are of the rows."""
    return _Inputs(
        defaulted_inputs={i.name: defaulted[i.name] / rows if rows else 0.0 for i in reader.contract.inputs},
        unknown_inputs={name: count / rows for name, count in sorted(unknown.items()) if count},
        hashed_inputs=reader.columns.hashed,
        absent_inputs=reader.columns.absent,
    )


def _day_labels(lake: Lake, reader: "_Reader", surface: str, days: list[date], rows_of: RowsOf) -> list[DayLabels]:
    """Return what the lake holds of each day that was labelled."""
    contract = reader.contract
    examples = reader.examples(days)
    shares = _defaulted_by_day(lake, reader.labels, contract, days)
    width = max(len(contract.inputs), 1)
    per_day: list[DayLabels] = []
    hashes = label_hashes(lake, surface, contract.version, contract.contract_hash, days, rows_of)
    for day, (rows, content_hash) in hashes.items():
        seen = examples.get(day, 0)
        per_day.append(
            DayLabels(
                day=day,
                rows=rows,
                examples=seen,
                coverage=rows / seen if seen else 1.0,
                defaulted_share=shares.get(day, 0.0) / width,
                content_hash=content_hash,
            )
        )
    return per_day


def unavailable_inputs(lake: Lake, surface_name: str, contract: Contract) -> tuple[str, ...]:
    """Return the inputs of a teacher that the app has no column for."""
    return _Reader(lake, exposure_rows(surface_name), contract).columns.absent


def label_hashes(
    lake: Lake,
    surface_name: str,
    teacher_version: str,
    contract_hash: str,
    days: Iterable[date],
    rows_of: RowsOf = exposure_rows,
) -> dict[date, tuple[int, str]]:
    """Return {day: (rows, order-free content hash)} of the labels that one teacher version gave."""
    table = rows_of(surface_name).labels
    # The name is within the contract's hash, and tables of earlier versions have no column of it.
    columns = ", ".join(quoted(name) for name in lake.columns(table) if name not in TEACHER_COLUMN.names)
    query = f"(select {columns} from {ALIAS}.{table} where teacher_version = ? and contract_hash = ?)"
    return lake.content_hashes(query, days, [teacher_version, contract_hash])


def unlabelled_days(
    settings: Settings,
    surfaces: Sequence[str],
    contract: Contract,
    first: date,
    last: date,
    rows_of: RowsOf = exposure_rows,
) -> list[date]:
    """Return the days of [first, last] that have teacher inputs, but on some surface no label of this contract."""
    found: set[date] = set()
    between = "where day between ? and ?"
    with Lake(settings) as lake:
        for surface in surfaces:
            inputs, labels = exposure_rows(surface).inputs, rows_of(surface).labels
            if not lake.table_exists(inputs):
                continue
            wanted = lake.connection.execute(f"select distinct day from {ALIAS}.{inputs} {between}", [first, last])
            days = {day for (day,) in wanted.fetchall()}
            if lake.table_exists(labels):
                mine = "and teacher_version = ? and contract_hash = ?"
                known = [first, last, contract.version, contract.contract_hash]
                there = lake.connection.execute(f"select distinct day from {ALIAS}.{labels} {between} {mine}", known)
                days -= {day for (day,) in there.fetchall()}
            found |= days
    return sorted(found)


def rescore(
    lake: Lake,
    settings: Settings,
    surface_name: str,
    contract: Contract,
    days: Iterable[date],
    n: int = 100,
    seed: int = 0,
    rows_of: RowsOf = exposure_rows,
) -> float:
    """Score a sample of stored rows again.

    Args:
        lake: The lake.
        settings: Threads that score.
        surface_name: The surface.
        contract: The teacher whose labels are sampled.
        days: Days to sample from.
        n: Rows to sample.
        seed: Chooses the rows.
        rows_of: What was labelled.

    Returns:
        The largest absolute difference over rows and outputs, in logits or values.

    Raises:
        LabelError: Nothing is stored for these days and this teacher, or a stored row has lost its inputs.
    """
    days = sorted(set(days))
    reader = _Reader(lake, rows_of(surface_name), contract)
    key = reader.rows.key
    if not lake.table_exists(reader.labels):
        raise LabelError(f"{reader.labels} has no rows: the surface was never labelled")
    sample = lake.sql(
        f"select {key} as {KEY}, scores from {ALIAS}.{reader.labels} where day in (select unnest(?::date[])) "
        f"and teacher_version = ? and contract_hash = ? order by md5(concat({key}, '|', ?::bigint)) limit ?",
        [days, contract.version, contract.contract_hash, seed, n],
    )
    if sample.num_rows == 0:
        raise LabelError(
            f"{reader.labels} has no rows of teacher {contract.name!r} {contract.version!r} on {_span(days)}"
        )
    stored = dict(zip(sample["exposure_id"].to_pylist(), sample["scores"].to_pylist(), strict=True))
    again: dict[int, Sequence[float]] = {}
    condition = f"day in (select unnest(?::date[])) and list_contains(?::bigint[], {key})"
    with _opened(contract, settings.teacher_providers) as model:
        if model is None:
            parts = (part for day in days for part in reader.landed(day))
        else:
            rows = ((None, batch) for batch in reader.batches(condition, [days, list(stored)]))
            scored = on_threads(model, reader.columns, settings.threads)(rows)
            parts = ((part.exposure_ids, part.scores) for _, part in scored)
        for exposure_ids, scores in parts:
            wanted = np.isin(exposure_ids, list(stored))
            again |= dict(zip(exposure_ids[wanted].tolist(), scores[wanted].tolist(), strict=True))
    lost = sorted(set(stored) - set(again))
    if lost:
        raise LabelError(f"{reader.inputs} has no row for {reader.rows.what} {lost[0]}, which {reader.labels} holds")
    return max(float(np.abs(np.subtract(again[key], scores)).max()) for key, scores in stored.items())


class _Reader:
    """Streams the teacher's inputs of some rows of one surface."""

    def __init__(self, lake: Lake, rows: Rows, contract: Contract, withheld: Collection[str] = ()) -> None:
        self.lake, self.contract, self.rows = lake, contract, rows
        self.labels, self.inputs = rows.labels, rows.inputs
        if contract.scores and rows.key != KEY:
            raise LabelError(
                f"teacher {contract.name!r} {contract.version!r} hands over scores of exposures: it says nothing "
                f"of pairs that nobody was shown. Leave distillation.unshown out"
            )
        for table in (self.inputs, *([LANDED_TABLE] if contract.scores else [])):
            if not lake.table_exists(table):
                raise LabelError(f"the lake has no table {table}; build it first")
        known = vocabularies(contract)
        self.columns = InputColumns(contract.inputs, lake.columns(self.inputs), self.inputs, known, withheld)
        self._select = ", ".join([f"{rows.key} as {KEY}", *self.columns.select])

    def examples(self, days: Iterable[date]) -> dict[date, int]:
        """Count the rows per day."""
        query = f"select day, count(*) from {ALIAS}.{self.inputs} where day in (select unnest(?::date[])) group by day"
        return dict(self.lake.connection.execute(query, [list(days)]).fetchall())

    def day(self, day: date) -> Iterator[pa.RecordBatch]:
        """Stream one day as it is stored: what a row's scores are does not depend on the rows beside it."""
        return self.batches("day = ?", [day])

    def batches(self, condition: str, parameters: Sequence[object]) -> Iterator[pa.RecordBatch]:
        """Stream the rows that meet a condition, as a scorer takes them."""
        query = f"select {self._select} from {ALIAS}.{self.inputs} where {condition}"
        yield from self.lake.batches(query, parameters, rows=BATCH_ROWS)

    def landed_query(self, day: date) -> tuple[str, list[object]]:
        """Return the query of one day's landed scores by exposure; the last one landed counts.

        An exposure that lacks a task has no row, nor one whose user withdrew the link: the score is of the account.
        """
        scores = ", ".join("max(score) filter (where task = ?)" for _ in self.contract.outputs)
        consent = f"anti join ({WITHDRAWN_EXPOSURES}) as w on w.exposure_id = s.exposure_id and w.day = ?"
        withdrawn, days = (consent, [day]) if can_be_asked(self.lake) else ("", [])
        query = f"""
            with latest as (
                select s.exposure_id, s.task, arg_max(s.score, s.day) as score
                from {ALIAS}.{LANDED_TABLE} as s
                semi join {ALIAS}.{self.inputs} as e on e.exposure_id = s.exposure_id and e.day = ?
                {withdrawn}
                where s.day >= ? and s.teacher_version = ? and list_contains(?::varchar[], s.task)
                group by s.exposure_id, s.task
            )
            select exposure_id, [{scores}]::double[] as scores
            from latest group by exposure_id having count(*) = ? order by exposure_id"""
        tasks = list(self.contract.tasks)
        return query, [day, *days, day, self.contract.version, tasks, *tasks, len(tasks)]

    def landed(self, day: date) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Stream one day's landed scores as (exposure ids [n], scores [n, outputs])."""
        query, parameters = self.landed_query(day)
        for rows in self.lake.batches(query, parameters, rows=BATCH_ROWS):
            raw = rows.column("scores").flatten().to_numpy(zero_copy_only=False).reshape(rows.num_rows, -1)
            scores = [output.to_score(raw[:, i]) for i, output in enumerate(self.contract.outputs)]
            yield rows.column("exposure_id").to_numpy(), np.stack(scores, axis=1)


@contextmanager
def _opened(contract: Contract, providers: Sequence[str]) -> Iterator["TeacherModel | None"]:
    """Yield the validated teacher; ``None`` where its scores are landed."""
    if contract.scores:
        yield None
        return
    from ml.teacher.runtime import open_teacher

    model = open_teacher(contract, providers)
    try:
        yield model
    finally:
        model.close()


def _spool(
    settings: Settings,
    model: "TeacherModel | None",
    reader: _Reader,
    days: list[date],
    folder: Path,
    progress: Progress,
) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """Write the scores of ``days`` into one Parquet file per day.

    Returns:
        How often each input took its default, how often for a value that the teacher cannot take, and the rows that
        each node scored; empty where the scores landed.
    """
    if days:
        require_kept(reader.lake, [f"{FEATURES}.teacher_inputs_"], days[0], days[-1])
    if model is None:
        _spool_landed(reader, days, folder, progress)
        return Counter(), Counter(), Counter()
    with scorer(settings, model, reader.columns) as scored:
        return _spool_inferred(scored, reader, days, folder, progress)


def _spool_inferred(
    scored: Scorer, reader: _Reader, days: list[date], folder: Path, progress: Progress
) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """Score every row of ``days`` into one Parquet file per day.

    Returns:
        As ``_spool``.
    """
    defaulted, unknown, nodes = Counter[str](), Counter[str](), Counter[str]()
    counts = reader.examples(days)
    # One stream over all days: no core waits at the end of a day.
    batches = ((day, batch) for day in days if counts.get(day) for batch in reader.day(day))
    by_day = groupby(scored(batches), key=lambda part: part[0])
    following = next(by_day, None)
    for done, day in enumerate(days, 1):
        rows = 0
        if following and following[0] == day:
            with _writer(folder, day) as writer:
                for _, part in following[1]:
                    _check_finite(reader, part.exposure_ids, part.scores)
                    writer.write_batch(_spooled(day, part.exposure_ids, part.scores, part.defaulted))
                    rows += len(part.scores)
                    defaulted.update(part.defaulted_by_input)
                    unknown.update(part.unknown_by_input)
                    nodes.update({part.node: len(part.scores)} if part.node else {})
            following = next(by_day, None)
        progress(Step(reader.labels, done, len(days), line=f"{day}, {rows:,} rows scored"))
    return defaulted, unknown, nodes


def _spool_landed(reader: _Reader, days: list[date], folder: Path, progress: Progress) -> None:
    """Write the landed scores of ``days`` into one Parquet file per day."""
    for done, day in enumerate(days, 1):
        rows = 0
        with _writer(folder, day) as writer:
            for exposure_ids, scores in reader.landed(day):
                _check_finite(reader, exposure_ids, scores)
                writer.write_batch(_spooled(day, exposure_ids, scores, np.zeros(len(scores), dtype=np.int32)))
                rows += len(scores)
        progress(Step(reader.labels, done, len(days), line=f"{day}, {rows:,} landed rows"))


def _writer(folder: Path, day: date) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        folder / f"{day}.parquet", _SPOOL_SCHEMA, compression="none", use_dictionary=False, write_statistics=False
    )


def _spooled(day: date, exposure_ids: np.ndarray, scores: np.ndarray, defaulted: np.ndarray) -> pa.RecordBatch:
    offsets = np.arange(len(scores) + 1, dtype=np.int32) * scores.shape[1]
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(scores).reshape(-1)))
    days = pa.repeat(pa.scalar(day, pa.date32()), len(scores))
    return pa.record_batch([days, pa.array(exposure_ids), lists, pa.array(defaulted)], schema=_SPOOL_SCHEMA)


def _check_finite(reader: _Reader, exposure_ids: np.ndarray, scores: np.ndarray) -> None:
    bad = np.argwhere(~np.isfinite(scores))
    if len(bad):
        row, column = bad[0]
        contract, what = reader.contract, reader.rows.what
        raise LabelError(
            f"teacher {contract.name!r} {contract.version!r}: output {contract.outputs[column].task!r} of {what} "
            f"{exposure_ids[row]} is {scores[row, column]} (or no probability); nothing was written to {reader.labels}"
        )


def _check_known(reader: _Reader, defaulted: Counter[str], unknown: Counter[str], rows: int) -> None:
    """Refuse a teacher that knows nearly none of the ids: its scores would be noise that looks like knowledge."""
    for item in reader.contract.inputs:
        present = rows - (defaulted[item.name] - unknown[item.name])
        if item.id is not None and present and unknown[item.name] > item.max_unknown_share * present:
            raise LabelError(
                f"teacher {reader.contract.name!r} {reader.contract.version!r}: {unknown[item.name]} of {present} "
                f"values of {reader.inputs}.{item.source} are ids that it does not know (input {item.name!r}, "
                f"id: {item.id}, max_unknown_share {item.max_unknown_share:g}): do they come in the form that it was "
                f"trained on? Nothing was written to {reader.labels}"
            )


def _commit(lake: Lake, rows: Rows, contract: Contract, days: list[date], folder: Path) -> int:
    files = [str(file) for file in sorted(folder.glob("*.parquet"))]
    table, keys, scored = rows.labels, ", ".join(rows.keys), "read_parquet(?)"
    if rows.key != KEY:  # the spool names a row by its key alone
        scored = (
            f"(from read_parquet(?) select * exclude ({KEY}), {KEY} as {rows.key}) "
            f"inner join (select day, {keys} from {ALIAS}.{rows.inputs}) using (day, {rows.key})"
        )

    def step() -> None:
        with lake.transaction(f"{table}: teacher {contract.name} {contract.version}, {_span(days)}") as c:
            c.execute(
                f"delete from {ALIAS}.{table} where day in (select unnest(?::date[])) "
                f"and teacher_version = ? and contract_hash = ?",
                [days, contract.version, contract.contract_hash],
            )
            if files:
                c.execute(
                    f"insert into {ALIAS}.{table} by name select day, {keys}, ?::varchar as teacher_version, "
                    f"?::varchar as contract_hash, scores, defaulted_inputs, ?::varchar as teacher from {scored}",
                    [contract.version, contract.contract_hash, contract.name, files],
                )

    lake.retry(step)
    return lake.snapshot()


def _summaries(lake: Lake, contract: Contract, folder: Path) -> dict[str, ScoreSummary]:
    files = [str(file) for file in folder.glob("*.parquet")]
    if not files:
        return {}
    wanted = ", ".join(
        f"avg(scores[{i}]), stddev_pop(scores[{i}]), min(scores[{i}]), max(scores[{i}])"
        for i in range(1, len(contract.outputs) + 1)
    )
    values = lake.connection.execute(f"select {wanted} from read_parquet(?)", [files]).fetchone() or ()
    if not values or values[0] is None:
        return {}
    return {
        task: ScoreSummary(mean=values[4 * i], sd=values[4 * i + 1], min=values[4 * i + 2], max=values[4 * i + 3])
        for i, task in enumerate(contract.tasks)
    }


def _defaulted_by_day(lake: Lake, table: str, contract: Contract, days: list[date]) -> dict[date, float]:
    query = (
        f"select day, avg(defaulted_inputs) from {ALIAS}.{table} where day in (select unnest(?::date[])) "
        f"and teacher_version = ? and contract_hash = ? group by day"
    )
    return dict(lake.connection.execute(query, [days, contract.version, contract.contract_hash]).fetchall())


def _spool_folder(settings: Settings) -> AbstractContextManager[Path]:
    return scratch_folder(settings.home / "spool", "labels")


@contextmanager
def frugal(lake: Lake) -> Iterator[None]:
    """Leave the cores to the teacher, and memory flat: each of DuckDB's threads would hold row groups of its own."""
    before = lake.connection.execute("select current_setting('threads')").fetchone()
    lake.connection.execute(f"set partitioned_write_flush_threshold = {_HELD_ROWS}; set threads = 1")
    try:
        yield
    finally:
        lake.connection.execute(f"reset partitioned_write_flush_threshold; set threads = {before[0] if before else 1}")


def _checked(surface: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,40}", surface):
        raise ValueError(f"{surface!r} is no name of a surface")
    return surface


def _span(days: Sequence[date]) -> str:
    return f"{days[0]} to {days[-1]}" if len(days) > 1 else str(days[0]) if days else "no days"
