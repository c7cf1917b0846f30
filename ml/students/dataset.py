"""Training sets: which rows of which snapshot of the lake a student learns from, and those rows as tensors."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import Tensor

from ml.features.build import empty_days
from ml.features.unshown import UnshownError, unshown_table
from ml.foundation.documents import is_object
from ml.foundation.lake import FEATURES, ML, Lake
from ml.foundation.mapped import arrays
from ml.foundation.settings import Settings
from ml.students.columns import AfterRanking, to_arrays
from ml.students.unshown import UnshownSet, identify, joined, query_of, read_pairs, scores_matrix, scores_of
from ml.surfaces.spec import Surface
from ml.teacher.labels import named_labels, unshown_rows
from ml.teacher.teachers import LabelsOf, other_teachers

_BATCH_ROWS = 65_536


class TrainingSetError(ValueError):
    """A training set that cannot be built or read; the message names surface, partition and day."""


_ONE_TEACHER = ("teacher_version", "contract_hash", "teacher_outputs")
"""Keys of a set whose labels are of the one teacher that needs no name."""


class TrainingSet(BaseModel):
    """The identity of the rows of one student partition: a query and a snapshot.

    Attributes:
        surface: Name of the surface.
        partition: Partition day D.
        snapshot: Lake snapshot that every read of this set uses.
        train_days: Days that are trained on, oldest first.
        eval_days: Days that are evaluated on, oldest first; all later than ``train_days``.
        labels: Whose soft labels are learnt, one entry a teacher.
        rows: Exposures per day, training and evaluation; 0 for a day on which nothing was shown.
        coverage: Share of exposures with a soft label of every teacher, per day that has exposures.
        content_hash: Order-free hash of all rows, soft labels included.
        query: The query whose rows these are, days and teacher filled in.
        unshown: Pairs of the training days that nobody was shown, where the surface declares them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    surface: str
    partition: date
    snapshot: int
    train_days: tuple[date, ...]
    eval_days: tuple[date, ...]
    labels: tuple[LabelsOf, ...]
    rows: dict[date, int]
    coverage: dict[date, float]
    content_hash: str
    query: str
    unshown: UnshownSet | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_one_teacher(cls, content: object) -> object:
        """Read a set of a home with one teacher: it has been written so since before there could be several."""
        if not is_object(content) or "teacher_version" not in content:
            return content
        rest = dict(content)
        version, hashed, outputs = (rest.pop(name) for name in _ONE_TEACHER)
        return {**rest, "labels": [{"version": version, "contract_hash": hashed, "outputs": outputs}]}

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Write what is not there as it was written before there could be any: such a set keeps its digest."""
        found: dict[str, object] = dump(self)
        if self.unshown is None:
            del found["unshown"]
        if [of.teacher for of in self.labels] == [None]:
            del found["labels"]
            [of] = self.labels
            found |= dict(zip(_ONE_TEACHER, (of.version, of.contract_hash, list(of.outputs)), strict=True))
        return found

    @property
    def teacher_outputs(self) -> tuple[str, ...]:
        """What heads call the soft labels: the outputs of all teachers, in order."""
        return tuple(output for of in self.labels for output in of.outputs)

    @property
    def train_rows(self) -> int:
        """Exposures of the training days."""
        return sum(self.rows[day] for day in self.train_days)

    @property
    def eval_rows(self) -> int:
        """Exposures of the evaluation days."""
        return sum(self.rows[day] for day in self.eval_days)

    @property
    def digest(self) -> str:
        """Content hash of the whole record."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Return canonical JSON."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "TrainingSet":
        """Read what ``to_json`` wrote."""
        return cls.model_validate_json(text)

    def validation_split(self, validation_days: int) -> tuple[tuple[date, ...], tuple[date, ...]]:
        """Split ``train_days`` into days to fit on and the last ``validation_days`` with rows to validate on.

        Raises:
            TrainingSetError: No day with rows would be left to fit on.
        """
        filled = [day for day in self.train_days if self.rows[day]]
        if validation_days >= len(filled):
            raise TrainingSetError(
                f"{self.surface} {self.partition}: {len(filled)} training days with rows leave none before "
                f"{validation_days} validation days"
            )
        at = self.train_days.index(filled[-validation_days])
        return self.train_days[:at], self.train_days[at:]


@dataclass(frozen=True)
class Dataset:
    """Rows in (ts, exposure_id) order, as tensors of n rows.

    Attributes:
        inputs: {input: int64 or float32, [n] or [n, length]}.
        labels: {task: float32 [n]}, NaN where the label is masked.
        soft_labels: {teacher output: float32 [n]}, NaN where missing; empty when they were not read.
        exposure_id: int64 [n].
        user_id: int64 [n], 0 where null.
        day: int32 [n], days since 1970-01-01.
        unshown: Pairs beside these rows that nobody was shown; None where they were not read.
        folder: Where a file holds these tensors, and may hold what is made of them; None is memory.
    """

    inputs: dict[str, Tensor]
    labels: dict[str, Tensor]
    soft_labels: dict[str, Tensor]
    exposure_id: Tensor
    user_id: Tensor
    day: Tensor
    unshown: "Unshown | None" = None
    folder: Path | None = None

    def __len__(self) -> int:
        return self.exposure_id.shape[0]

    def select(self, rows: slice | Tensor) -> "Dataset":
        """Return some rows, by slice or index [m]."""

        def pick(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor[rows] for name, tensor in tensors.items()}

        return Dataset(
            pick(self.inputs),
            pick(self.labels),
            pick(self.soft_labels),
            self.exposure_id[rows],
            self.user_id[rows],
            self.day[rows],
            self.unshown and self.unshown.select(len(self), rows),
            self.folder,
        )


@dataclass(frozen=True)
class Unshown:
    """Pairs beside n exposures.

    Attributes:
        rows: m pairs: inputs of the branch, and soft labels; no hard ones. ``exposure_id`` is the pair's own id.
        of: Which of the exposures lent each pair its user, time and place, int64 [m], rising.
    """

    rows: Dataset
    of: Tensor

    def select(self, n: int, kept: slice | Tensor) -> "Unshown":
        """Return the pairs of some of the n exposures, in their order."""
        chosen = torch.arange(n)[kept]
        place = torch.full((n,), -1)
        place[chosen] = torch.arange(len(chosen))
        now = place[self.of]
        order = torch.argsort(now, stable=True)
        order = order[now[order] >= 0]
        return Unshown(self.rows.select(order), now[order])


def build_training_set(
    lake: Lake,
    surface: Surface,
    partition: date,
    labels: Sequence[LabelsOf],
    *,
    further: int = 0,
) -> TrainingSet:
    """Fix the rows of one partition at the newest snapshot.

    Args:
        lake: Lake with ``features.examples_<surface>`` and ``ml.soft_labels_<surface>``.
        surface: The surface; gives the days and the columns.
        partition: Partition day D.
        labels: Whose soft labels are learnt, one entry a teacher; ``ml.teacher.teachers.labels_of`` gives the home's.
        further: Evaluation days beyond the surface's.

    Raises:
        TrainingSetError: Too few training days since ``first_day``, a day without final examples, no exposure on any
            training or any evaluation day, soft labels that one of the teachers did not give, or pairs that are not so.
    """
    where = f"{surface.name} {partition}"
    train_days, eval_days = _days(surface, partition, lake.settings.first_day, further)
    days, snapshot = train_days + eval_days, lake.snapshot()
    with Lake(lake.settings, snapshot=snapshot) as pinned:
        for table in (_examples(surface), _soft_labels(surface)):
            if not pinned.table_exists(table):
                raise TrainingSetError(f"{where}: there is no table {table}")
        rows, labelled, complete = _count(pinned, surface, days, labels)
        absent = [day for day in days if day not in rows]
        empty = empty_days(pinned, surface.name, absent) if absent else set()
        if missing := [str(day) for day in absent if day not in empty]:
            raise TrainingSetError(f"{where}: {_examples(surface)} has no final rows of {', '.join(missing)}")
        for name, window in (("training", train_days), ("evaluation", eval_days)):
            if empty.issuperset(window):
                raise TrainingSetError(f"{where}: nothing was shown on the {name} days {window[0]} to {window[-1]}")
        for of in labels:
            _check_soft_labels(pinned, surface, where, rows, labelled[of], of)
        query = _query(surface, labels, days)
        _, content_hash = pinned.content_hash(f"({query})")
        unshown = _unshown(pinned, surface, where, [day for day in train_days if rows.get(day)], labels)
    return TrainingSet(
        surface=surface.name,
        partition=partition,
        snapshot=snapshot,
        train_days=tuple(train_days),
        eval_days=tuple(eval_days),
        labels=tuple(labels),
        rows=rows | dict.fromkeys(empty, 0),
        coverage={day: complete[day] / n for day, n in rows.items()},
        content_hash=content_hash,
        query=query,
        unshown=unshown,
    )


def _unshown(
    pinned: Lake, surface: Surface, where: str, days: list[date], labels: Sequence[LabelsOf]
) -> UnshownSet | None:
    """Return the declared pairs of some days, labelled by these teachers."""
    if not surface.distillation.unshown:
        return None
    try:
        return identify(pinned, surface, days, labels)
    except UnshownError as error:
        raise TrainingSetError(f"{where}: {error}") from error


def _days(surface: Surface, partition: date, first_day: date, further: int) -> tuple[list[date], list[date]]:
    """Return the days of training and of evaluation, none before the first day."""
    train_days = [day for day in surface.training_days(partition) if day >= first_day]
    if len(train_days) < surface.window.min_train_days:
        raise TrainingSetError(
            f"{surface.name} {partition}: {len(train_days)} training days since {first_day}, "
            f"{surface.window.min_train_days} are needed; the first partition is {surface.first_partition(first_day)}"
        )
    return train_days, [day for day in surface.evaluation_days(partition, further) if day >= first_day]


def load(
    settings: Settings,
    training_set: TrainingSet,
    surface: Surface,
    days: Sequence[date],
    *,
    soft_labels: bool,
    after_ranking: AfterRanking = "logged",
) -> Dataset:
    """Read some days of a training set at its snapshot, streamed into tensors that a file of the home holds.

    Args:
        settings: Names the lake.
        training_set: The set.
        surface: The surface.
        days: Days of the set to read.
        soft_labels: Whether to read soft labels, also of pairs that nobody was shown; without, their tables are not
            touched.
        after_ranking: Logged or serving values of ``after_ranking`` inputs.

    Raises:
        TrainingSetError: A day is not in the set, or the lake has another number of rows than the set.
        DamagedError: A file that holds rows of these days is not as it was written.
    """
    if foreign := [str(day) for day in days if day not in training_set.rows]:
        raise TrainingSetError(f"{surface.name} {training_set.partition}: {', '.join(foreign)} not in the training set")
    n = sum(training_set.rows[day] for day in set(days))
    labels = training_set.labels if soft_labels else ()
    query = _query(surface, labels, days) + " order by e.ts, e.exposure_id"
    outputs = training_set.teacher_outputs if soft_labels else ()
    dataset = _empty(surface, n, outputs, settings.home / "training")
    at = 0
    pairs = [day for day in days if training_set.unshown and day in training_set.unshown.rows and soft_labels]
    tables = [_examples(surface), *([_soft_labels(surface)] if soft_labels else [])]
    tables += [unshown_table(surface.name), unshown_rows(surface.name).labels] if pairs else []
    with Lake(settings, snapshot=training_set.snapshot) as lake:
        found = lake.files.named(at=training_set.snapshot, tables=tables, days=(min(days), max(days))) if days else []
        lake.files.check(found, record=False)
        for batch in lake.batches(query, rows=_BATCH_ROWS):
            if at + batch.num_rows <= n:
                _fill(dataset.select(slice(at, at + batch.num_rows)), batch, surface, labels, after_ranking)
            at += batch.num_rows
        if at != n:
            raise TrainingSetError(
                f"{surface.name} {training_set.partition}: snapshot {training_set.snapshot} has {at} rows, the set has "
                f"{n}"
            )
        if not (training_set.unshown and pairs):
            return dataset
        query = query_of(surface, labels, pairs)
        try:
            found = read_pairs(lake, surface, query, labels)
            unshown = _beside(dataset, found, outputs, sum(training_set.unshown.rows[day] for day in set(pairs)))
        except UnshownError as error:
            raise TrainingSetError(f"{surface.name} {training_set.partition}: {error}") from error
    return replace(dataset, unshown=unshown)


def _beside(exposures: Dataset, found: dict[str, Tensor], outputs: Sequence[str], wanted: int) -> Unshown | None:
    """Return what ``read_pairs`` found beside its exposures; refuse other pairs than the training set names."""
    count = len(found[":pair_id"]) if found else 0
    if count != wanted:
        raise UnshownError(f"there are {count} pairs that nobody was shown, the training set has {wanted}")
    if not found:
        return None
    order = torch.argsort(exposures.exposure_id)
    place = torch.searchsorted(exposures.exposure_id[order], found[":exposure_id"]).clamp(max=len(order) - 1)
    of = order[place]
    if not torch.equal(exposures.exposure_id[of], found[":exposure_id"]):
        raise UnshownError("there are pairs of exposures that the training set does not have")
    rows = Dataset(
        inputs={name: column for name, column in found.items() if not name.startswith(":")},
        labels={},
        soft_labels={output: found[":scores"][:, at].contiguous() for at, output in enumerate(outputs)},
        exposure_id=found[":pair_id"],
        user_id=exposures.user_id[of],
        day=exposures.day[of],
    )
    return Unshown(rows, of)


def _empty(surface: Surface, n: int, outputs: Sequence[str], folder: Path | None) -> Dataset:
    """Return a data set of n rows that are still to be filled in."""
    shapes = {
        name: ((n, *spec.shape), np.int64 if spec.dtype == "int64" else np.float32)
        for name, spec in surface.inputs.items()
    }
    wanted: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {
        **{f"input {name}": shape for name, shape in shapes.items()},
        **{f"label {task}": ((n,), np.float32) for task in surface.tasks},
        **{f"soft {output}": ((n,), np.float32) for output in outputs},
        "exposure_id": ((n,), np.int64),
        "user_id": ((n,), np.int64),
        "day": ((n,), np.int32),
    }
    tensors = {name: torch.from_numpy(array) for name, array in arrays(wanted, folder).items()}

    def named(kind: str) -> dict[str, Tensor]:
        return {name.removeprefix(kind): tensor for name, tensor in tensors.items() if name.startswith(kind)}

    keys = tensors["exposure_id"], tensors["user_id"], tensors["day"]
    return Dataset(named("input "), named("label "), named("soft "), *keys, folder=folder)


def _fill(
    target: Dataset, batch: pa.RecordBatch, surface: Surface, labels: Sequence[LabelsOf], after_ranking: AfterRanking
) -> None:
    for name, array in to_arrays(batch, surface.inputs, after_ranking).items():
        target.inputs[name].numpy()[:] = array
    for name, task in surface.tasks.items():
        target.labels[name].numpy()[:] = _floats(batch.column(task.label))
    for column, of in scores_of(labels).items():
        for output, values in zip(of.outputs, scores_matrix(batch.column(column), len(of.outputs)).T, strict=True):
            target.soft_labels[output].numpy()[:] = values
    target.exposure_id.numpy()[:] = batch.column("exposure_id").to_numpy()
    target.user_id.numpy()[:] = batch.column("_user_id").fill_null(0).to_numpy()
    target.day.numpy()[:] = batch.column("day").cast(pa.int32()).to_numpy()


def _floats(column: pa.Array) -> np.ndarray:
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False)  # a null becomes NaN


def _examples(surface: Surface) -> str:
    return f"{FEATURES}.examples_{surface.name}"


def _soft_labels(surface: Surface) -> str:
    return f"{ML}.soft_labels_{surface.name}"


def _query(surface: Surface, labels: Sequence[LabelsOf], days: Sequence[date]) -> str:
    columns = dict.fromkeys([*surface.inputs, *(task.label for task in surface.tasks.values())])
    selected = ["e.day", "e.exposure_id", "e.ts", "e.user_id as _user_id", *(f"e.{_name(c)}" for c in columns)]
    wanted = ", ".join(f"date '{day}'" for day in sorted(set(days)))
    source = f"{_examples(surface)} as e"
    scores, joins = joined(labels, _soft_labels(surface), "e", "exposure_id")
    return f"select {', '.join([*selected, *scores])} from {source}{joins} where e.day in ({wanted})"


def _count(
    lake: Lake, surface: Surface, days: Sequence[date], labels: Sequence[LabelsOf]
) -> tuple[dict[date, int], dict[LabelsOf, dict[date, int]], dict[date, int]]:
    """Return per day the rows, those that each teacher labelled, and those that all of them did.

    Repeated soft labels, and ones of another width, are refused.
    """
    columns = scores_of(labels)
    told = "".join(f", count({c}), min(len({c})), max(len({c}))" for c in columns)
    every = " and ".join(f"{column} is not null" for column in columns)
    counts = lake.connection.execute(
        f"select day, count(*), count(distinct exposure_id), count(*) filter ({every}){told} "
        f"from ({_query(surface, labels, days)}) group by day order by day"
    ).fetchall()
    labelled: dict[LabelsOf, dict[date, int]] = {of: {} for of in labels}
    for day, rows, distinct, _, *of_teachers in counts:
        if rows != distinct:
            raise TrainingSetError(f"{surface.name} {day}: {rows - distinct} exposures have several rows")
        for place, of in enumerate(labels):
            n, low, high = of_teachers[3 * place : 3 * place + 3]
            outputs, labelled[of][day] = len(of.outputs), n
            if n and (low, high) != (outputs, outputs):
                whose = f" of teacher {of.teacher}" if of.teacher else ""
                raise TrainingSetError(
                    f"{surface.name} {day}: soft labels{whose} of {low} to {high} outputs, not {outputs}"
                )
    return {row[0]: row[1] for row in counts}, labelled, {row[0]: row[3] for row in counts}


def _check_soft_labels(
    lake: Lake, surface: Surface, where: str, rows: dict[date, int], labelled: dict[date, int], of: LabelsOf
) -> None:
    """Refuse days that a teacher did not label, or labelled in part where another version of it labelled the rest."""
    table, teacher = _soft_labels(surface), f"teacher {of}"
    for day, n in rows.items():
        if labelled[day] == n:
            continue
        others = lake.connection.execute(
            f"select distinct s.teacher_version, s.contract_hash from {named_labels(lake, table)} as s "
            f"join {_examples(surface)} as e on e.exposure_id = s.exposure_id and e.day = s.day where s.day = ? "
            "and (s.teacher is null or not list_contains(?::varchar[], s.teacher)) "
            f"and s.exposure_id not in (select exposure_id from {table} where day = ? "
            "and teacher_version = ? and contract_hash = ?) order by all",
            [day, other_teachers(lake.settings, of.teacher), day, of.version, of.contract_hash],
        ).fetchall()
        if not labelled[day]:
            found = f"; there are some of {others}" if others else ""
            raise TrainingSetError(f"{where}: no soft labels of {teacher} for {day}{found}")
        if others:
            raise TrainingSetError(f"{where}: soft labels of {day} are mixed, {teacher} and {others}")


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'
