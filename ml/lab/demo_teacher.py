"""The demo teacher: a multi-task ranker trained on the sister platform's logs only, exported to ONNX, then frozen.

It is one teacher among many: what comes out is a contract and an ONNX file, and labelling knows nothing else of it.
"""

import json
import logging
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn

from ml.evaluation.metrics import auc
from ml.foundation.documents import Document, DocumentError, load_yaml
from ml.foundation.lake import ALIAS, FEATURES, Lake
from ml.foundation.names import faults_of
from ml.foundation.progress import Progress, Step, silent
from ml.foundation.settings import Settings
from ml.students.preprocessing import Preprocessing
from ml.surfaces.columns import Input
from ml.teacher.columns import InputColumns
from ml.teacher.contract import (
    CARD_FILE,
    CONTRACT_FILE,
    Contract,
    ContractError,
    Entity,
    Teacher,
    TeacherEmbedding,
    TeacherInput,
    TeacherOutput,
    load_contract,
    write_contract,
)
from ml.teacher.streams import read_ahead

SOURCE_TABLE = f"{FEATURES}.source_examples"
"""The only table that the training reads."""

MODEL_FILE = "model.onnx"

_SAMPLE_ROWS = 200_000
_READ_ROWS = 65_536


class TrainingError(ValueError):
    """A demo teacher that cannot be trained; the message names the table, column or day."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DemoInput(_Model):
    """One input; see ``demo.yaml``."""

    type: Literal["id", "category", "number", "vector"]
    embedding: int = Field(default=0, ge=0)
    length: int = Field(default=1, ge=1)
    transform: Literal["identity", "log1p"] = "identity"
    source_only: bool = False
    drop: float | None = Field(default=None, ge=0, lt=1)
    meaning: str = ""

    @property
    def dtype(self) -> Literal["int64", "float32"]:
        """Type in the contract."""
        return "int64" if self.type in ("id", "category") else "float32"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return (self.length,) if self.type == "vector" else ()

    def preprocessed(self, default: float = 0.0) -> Input:
        """Return the specification that the shared preprocessing takes."""
        kept = self.model_dump(include={"type", "embedding", "length", "transform"})
        return Input(kind="request", default=default, **kept)


class DemoOutput(_Model):
    """One task; see ``demo.yaml``."""

    kind: Literal["logit", "value"]
    label: str
    given: str | None = None
    weight: float = Field(default=1.0, gt=0)
    meaning: str = ""


class DemoVector(_Model):
    """A vector of a user or an item; ``inputs`` are those of the network's products that it is made of."""

    entity: Entity
    inputs: tuple[str, ...] = Field(min_length=1)


class DemoNetwork(_Model):
    """Sizes of the network."""

    id_deviation: float = Field(gt=0, description="Standard deviation of fresh embeddings")
    products: tuple[tuple[str, str], ...] = ()
    bottom: tuple[int, ...] = Field(min_length=1)
    tower: int = Field(ge=1)


class DemoTraining(_Model):
    """Optimisation; see ``demo.yaml``."""

    learning_rate: float = Field(gt=0)
    embedding_learning_rate: float = Field(gt=0)
    final_rate: float = Field(gt=0, le=1)
    batch_size: int = Field(ge=1)
    epochs: int = Field(default=1, ge=1)
    drop_column: float = Field(default=0.0, ge=0, lt=1)
    drop_source_only: float = Field(default=0.0, ge=0, lt=1)


class DemoSpec(_Model):
    """How the demo teacher is built and trained."""

    name: str
    version: str
    source: str
    license: str
    inputs: dict[str, DemoInput] = Field(min_length=1)
    network: DemoNetwork
    outputs: dict[str, DemoOutput] = Field(min_length=1)
    vectors: dict[str, DemoVector] = Field(default={}, description="One of users and one of items, or none")
    training: DemoTraining

    @model_validator(mode="after")
    def _references(self) -> Self:
        for name, item in self.inputs.items():
            if item.type in ("id", "category") and item.embedding == 0:
                raise ValueError(f"inputs.{name} of type {item.type} needs `embedding`")
        for pair in self.network.products:
            for name in pair:
                if name not in self.inputs or self.inputs[name].type not in ("id", "category", "vector"):
                    raise ValueError(f"network.products names {name!r}, which is no id, category or vector")
            if len({self.inputs[name].embedding for name in pair} - {0}) > 1:
                raise ValueError(f"network.products: {list(pair)} have embeddings of different sizes")
        if clash := set(self.inputs) & set(self.outputs):
            raise ValueError(f"{sorted(clash)} name both an input and an output")
        if self.vectors and sorted(v.entity for v in self.vectors.values()) != ["item_id", "user_id"]:
            raise ValueError("vectors: there is one of user_id and one of item_id, or none")
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        """Label columns, each once."""
        outputs = self.outputs.values()
        return tuple(dict.fromkeys([o.label for o in outputs] + [o.given for o in outputs if o.given]))


def load_demo_spec(path: Path) -> DemoSpec:
    """Read the training specification.

    Raises:
        ContractError: The file is missing, is no YAML mapping, or breaks a rule; names file and key.
    """
    try:
        return DemoSpec.model_validate(load_yaml(path))
    except ValidationError as error:
        raise ContractError(f"{path}: {faults_of(error, DemoSpec, path.read_bytes())}") from error
    except DocumentError as error:
        raise ContractError(str(error)) from error
    except OSError as error:
        raise ContractError(f"{path}: {error}") from error


def train_demo_teacher(
    settings: Settings, through: date, out_dir: Path, seed: int, progress: Progress = silent
) -> Teacher:
    """Train the demo teacher on the source days first_day..through and freeze it.

    Reads ``features.source_examples`` alone, in the order of time, day by day, so that memory does not grow with the
    days. The same rows and seed give the same teacher.

    Args:
        settings: Lake, first day, threads and ``teacher_spec``.
        through: Last day that it learns from.
        out_dir: Receives ``<contract hash>/{model.onnx, contract.yaml, card.json}`` and, written last, a
            ``contract.yaml`` that points there.
        seed: Seed of parameters and missingness.
        progress: Told after each stage and day.

    Returns:
        The pinned teacher.

    Raises:
        TrainingError: The table, a column or a day is missing.
        ContractError: The training specification cannot be used.
    """
    started = time.perf_counter()
    spec = load_demo_spec(Path(str(settings.teacher_spec)))
    days = settings.days(settings.first_day, through)
    if not days:
        raise TrainingError(f"the teacher's last day {through} lies before first_day {settings.first_day}")
    with Lake(settings) as lake, _one_torch_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rows = _count(lake, spec, days)
        found = f"{sum(rows.values()):,} source impressions of {len(days)} days, {days[0]} to {through}"
        progress(Step("teacher", line=found))
        inputs, preprocessing, vocabularies, biases = _fit(lake, spec, days)
        known = ", ".join(f"{name} {size:,}" for name, size in vocabularies.items())
        progress(Step("teacher", line=f"ids known: {known}"))
        network = _Network(spec, preprocessing, vocabularies, biases)
        validation = _train(lake, spec, inputs, network, rows, progress)
    contract = _contract(spec, through, inputs)
    parameters = sum(p.numel() for p in network.parameters())
    card = {
        "name": contract.name,
        "version": contract.version,
        "trained_through": through.isoformat(),
        "days": [days[0].isoformat(), through.isoformat()],
        "rows": sum(rows.values()),
        "parameters": parameters,
        "vocabularies": vocabularies,
        "seed": seed,
        "validation": {
            "what": f"source rows of {through}, each batch scored before it was learnt",
            "tasks": validation,
        },
        "spec": spec.model_dump(mode="json", exclude={"vectors"} if not spec.vectors else None),
        "seconds": round(time.perf_counter() - started, 2),
    }
    teacher = _publish(contract, network, card, out_dir)
    frozen = f"{teacher.name} {teacher.version} frozen, {parameters:,} parameters, {card['seconds']} s"
    progress(Step("teacher", line=frozen))
    return teacher.model_copy(update={"parameters": parameters})


def _contract(spec: DemoSpec, through: date, inputs: tuple[TeacherInput, ...]) -> Contract:
    return Contract(
        name=spec.name,
        version=f"{spec.version}.{through:%Y%m%d}",
        trained_through=through,
        source=spec.source,
        license=spec.license,
        model=MODEL_FILE,
        inputs=inputs,
        outputs=tuple(
            TeacherOutput(task=task, kind=item.kind, meaning=item.meaning) for task, item in spec.outputs.items()
        ),
        embeddings=tuple(
            TeacherEmbedding(name=name, entity=item.entity, inputs=item.inputs) for name, item in spec.vectors.items()
        ),
    )


def read_card(contract: Contract) -> Document:
    """Return the card that lies beside the contract's model; empty where there is none."""
    path = contract.model_path.parent / CARD_FILE if contract.model else None
    return json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else {}


# --- the network ---


class _Network(nn.Module):
    """Embeddings, projections and their products -> bottom -> a tower per task -> a logit or value per task.

    Args:
        spec: Inputs, sizes, tasks.
        preprocessing: Fitted; ids of one embedding size share one table, each with rows of its own.
        vocabularies: Known ids per id and category input; each has one row more, for unknown ids.
        biases: Initial output per task: base rate as a logit, or mean value.
    """

    def __init__(
        self,
        spec: DemoSpec,
        preprocessing: Preprocessing,
        vocabularies: Mapping[str, int],
        biases: Mapping[str, float],
    ) -> None:
        super().__init__()
        self.spec, self.preprocessing = spec, preprocessing
        self.tables = nn.ModuleDict()
        self.members: dict[str, list[int]] = {}
        for name in preprocessing.ids:
            self.members.setdefault(str(spec.inputs[name].embedding), []).append(preprocessing.ids.index(name))
        for size, members in self.members.items():
            sizes = [vocabularies[preprocessing.ids[i]] + 1 for i in members]
            table = nn.Embedding(sum(sizes), int(size))
            nn.init.normal_(table.weight, std=spec.network.id_deviation)
            self.tables[size] = table
            self.register_buffer(f"offsets_{size}", torch.tensor([sum(sizes[:i]) for i in range(len(sizes))]))
        self.projections = nn.ModuleDict()
        projected_width = 0
        for pair in spec.network.products:
            for name in pair:
                projected = f"{name}_{self._size(pair)}"
                if spec.inputs[name].type == "vector" and projected not in self.projections:
                    self.projections[projected] = nn.Linear(spec.inputs[name].length, self._size(pair))
                    projected_width += self._size(pair)
        width = preprocessing.width + sum(spec.inputs[name].embedding for name in preprocessing.ids)
        width += projected_width + sum(self._size(pair) for pair in spec.network.products)
        sizes = (width, *spec.network.bottom)
        layers = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(sizes)]
        self.bottom = nn.Sequential(*layers)
        tasks, tower = len(spec.outputs), spec.network.tower
        self.towers = nn.Linear(sizes[-1], tasks * tower)
        self.heads = nn.Parameter(torch.randn(tasks, tower) / tower**0.5)
        self.biases = nn.Parameter(torch.tensor([biases[task] for task in spec.outputs]))

    def _size(self, pair: tuple[str, str]) -> int:
        sizes = [self.spec.inputs[name].embedding for name in pair if self.spec.inputs[name].embedding]
        return sizes[0] if sizes else max(self.spec.inputs[name].embedding for name in self.preprocessing.ids)

    def outputs(self, rows: Tensor, dense: Tensor) -> Tensor:
        """Return logits and values, float32 [n, tasks], of embedding rows [n, ids] and dense numbers [n, width]."""
        factors, embedded = self._factors(rows, dense)
        flat = [dense, *embedded]
        for pair in self.spec.network.products:
            left, right = self._names(pair, factors)
            flat.append(factors[left] * factors[right])
        bottom = self.bottom(torch.cat(flat, dim=1))
        towers = torch.relu(self.towers(bottom)).unflatten(1, self.heads.shape)
        return (towers * self.heads).sum(2) + self.biases

    def _factors(self, rows: Tensor, dense: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Return what products are made of, float32 [n, size] by name, and the same as inputs of the bottom."""
        pre = self.preprocessing
        factors: dict[str, Tensor] = {}
        flat: list[Tensor] = []
        for size, members in self.members.items():
            found = self.tables[size](rows[:, members] + getattr(self, f"offsets_{size}"))
            flat.append(found.flatten(1))
            factors |= {pre.ids[i]: found[:, place] for place, i in enumerate(members)}
        for projected, projection in self.projections.items():
            factors[projected] = projection(dense[:, pre.slices[projected.rsplit("_", 1)[0]]])
            flat.append(factors[projected])
        return factors, flat

    def _names(self, pair: tuple[str, str], factors: Mapping[str, Tensor]) -> tuple[str, str]:
        left, right = (name if name in factors else f"{name}_{self._size(pair)}" for name in pair)
        return left, right

    def vectors(self, rows: Tensor, dense: Tensor) -> list[Tensor]:
        """Return the vectors of the specification, float32 [n, d] each; those of user and item are of one length.

        Their elementwise product has what the products of the network have: a factor of the user, and beside it the sum
        of the factors of the item that it is multiplied with.
        """
        factors, _ = self._factors(rows, dense)
        users = next(v.inputs for v in self.spec.vectors.values() if v.entity == "user_id")
        beside: dict[str, list[str]] = {}
        for pair in self.spec.network.products:
            left, right = self._names(pair, factors)
            user, item = (left, right) if pair[0] in users else (right, left)
            beside.setdefault(user, []).append(item)
        of_user = torch.cat([factors[user] for user in beside], dim=1)
        of_item = torch.cat([torch.stack([factors[i] for i in items]).sum(0) for items in beside.values()], dim=1)
        return [of_user if vector.entity == "user_id" else of_item for vector in self.spec.vectors.values()]

    def forward(self, *columns: Tensor) -> tuple[Tensor, ...]:
        """Score raw columns in the order of the contract's inputs; returns one float32 [n] per task, then vectors."""
        rows, dense = self.preprocessing(dict(zip(self.spec.inputs, columns, strict=True)))
        vectors = self.vectors(rows, dense) if self.spec.vectors else []
        return (*self.outputs(rows, dense).unbind(1), *vectors)


# --- reading the source ---


def _count(lake: Lake, spec: DemoSpec, days: Sequence[date]) -> dict[date, int]:
    """Return the rows per day; every day must have some."""
    if not lake.table_exists(SOURCE_TABLE):
        raise TrainingError(f"the lake has no table {SOURCE_TABLE}; build it first")
    columns = lake.columns(SOURCE_TABLE)
    for name in (*spec.inputs, *spec.labels):
        if name not in columns:
            raise TrainingError(f"{SOURCE_TABLE} has no column {name}")
    query = f"select day, count(*) from {ALIAS}.{SOURCE_TABLE} where day in (select unnest(?::date[])) group by day"
    found = dict(lake.connection.execute(query, [list(days)]).fetchall())
    if missing := [day for day in days if not found.get(day)]:
        raise TrainingError(f"{SOURCE_TABLE} has no rows of {missing[0]}" + (", ..." if len(missing) > 1 else ""))
    return {day: found[day] for day in days}


def _fit(
    lake: Lake, spec: DemoSpec, days: Sequence[date]
) -> tuple[tuple[TeacherInput, ...], Preprocessing, dict[str, int], dict[str, float]]:
    """Fit vocabularies on all rows, and constants, defaults and initial outputs on a fixed sample of rows.

    The default of a number is its mean (after the transform), so that an unknown number says nothing.
    """
    source = f"{ALIAS}.{SOURCE_TABLE} where day between ? and ?"
    span = [days[0], days[-1]]
    ids = {}
    for name, item in spec.inputs.items():
        if item.type in ("id", "category"):
            query = f"select distinct {name}::bigint as id from {source} and {name} is not null order by id"
            ids[name] = lake.sql(query, span)["id"].to_numpy()
    total = lake.connection.execute(f"select count(*) from {source}", span).fetchone()
    step = max(1, (total or (0,))[0] // _SAMPLE_ROWS)
    dense = {name: item for name, item in spec.inputs.items() if item.type in ("number", "vector")}
    unfilled = tuple(
        TeacherInput(name=name, dtype=item.dtype, shape=item.shape, default=0 if item.shape else float("nan"))
        for name, item in dense.items()
    )
    reader = InputColumns(unfilled, lake.columns(SOURCE_TABLE), SOURCE_TABLE)
    labels = ", ".join(f"{label}::double as {label}" for label in spec.labels)
    sample = lake.sql(
        f"select impression_id, {', '.join([*reader.select, labels])} from {source} and impression_id % ? = 0 "
        f"order by day, impression_id",
        [*span, step],
    )
    columns = reader.read(sample.combine_chunks().to_batches()[0], "impression_id").inputs
    defaults = {name: _neutral(columns[name], item) for name, item in dense.items() if item.type == "number"}
    specs = {name: item.preprocessed(defaults.get(name, 0.0)) for name, item in spec.inputs.items()}
    preprocessing = Preprocessing(specs, ids)
    if dense:
        fitted = Preprocessing.fit(
            {name: specs[name] for name in dense}, {name: torch.from_numpy(columns[name].copy()) for name in dense}
        )
        for buffer in ("low", "high", "mean", "deviation"):
            getattr(preprocessing, buffer).copy_(getattr(fitted, buffer))
    inputs = tuple(
        TeacherInput(
            name=name,
            dtype=item.dtype,
            shape=item.shape,
            default=defaults.get(name, 0),
            id="hashed" if item.type == "id" else None,
            meaning=item.meaning,
        )
        for name, item in spec.inputs.items()
    )
    raw = np.stack([sample[label].to_numpy() for label in spec.labels], axis=1)
    targets = _targets(spec, raw.astype(np.float32))
    biases = {}
    for place, (task, item) in enumerate(spec.outputs.items()):
        known = targets[:, place][~np.isnan(targets[:, place])].astype(np.float64)
        mean = float(known.mean()) if len(known) else 0.0
        rate = min(max(mean, 1e-4), 1 - 1e-4)
        biases[task] = mean if item.kind == "value" else float(np.log(rate / (1 - rate)))
    return inputs, preprocessing, {name: len(known) for name, known in ids.items()}, biases


def _neutral(values: np.ndarray, item: DemoInput) -> float:
    known = values[~np.isnan(values)].astype(np.float64)
    if not len(known):
        return 0.0
    mean = np.expm1(np.log1p(known.clip(min=0)).mean()) if item.transform == "log1p" else known.mean()
    return float(np.float32(mean))


def _targets(spec: DemoSpec, labels: np.ndarray) -> np.ndarray:
    """Return the label of each task, [n, tasks], NaN where it is masked."""
    places = {label: place for place, label in enumerate(spec.labels)}
    targets = np.stack([labels[:, places[item.label]] for item in spec.outputs.values()], axis=1)
    for place, item in enumerate(spec.outputs.values()):
        if item.given:
            targets[~(labels[:, places[item.given]] > 0), place] = np.nan
    return targets


@dataclass(frozen=True)
class _Chunk:
    """Preprocessed rows of one day, in order of time: embedding rows [n, ids], dense [n, width], targets [n, tasks]."""

    day: date
    rows: Tensor
    dense: Tensor
    targets: Tensor

    def __getitem__(self, part: slice) -> "_Chunk":
        return _Chunk(self.day, self.rows[part], self.dense[part], self.targets[part])

    def __len__(self) -> int:
        return len(self.rows)


def _chunks(
    lake: Lake, spec: DemoSpec, inputs: tuple[TeacherInput, ...], preprocessing: Preprocessing, days: Sequence[date]
) -> Iterator[_Chunk]:
    reader = InputColumns(inputs, lake.columns(SOURCE_TABLE), SOURCE_TABLE)
    labels = ", ".join(f"{label}::float as {label}" for label in spec.labels)
    selected = ", ".join(["impression_id", *reader.select, labels])
    query = f"select {selected} from {ALIAS}.{SOURCE_TABLE} where day = ? order by ts, impression_id"
    for day in days:
        for batch in lake.batches(query, [day], rows=_READ_ROWS):
            raw = reader.read(batch, "impression_id").inputs
            columns = {name: torch.from_numpy(column.copy()) for name, column in raw.items()}
            known = [batch.column(label).to_numpy(zero_copy_only=False) for label in spec.labels]
            with torch.no_grad():
                rows, dense = preprocessing(columns)
            yield _Chunk(day, rows, dense, torch.from_numpy(_targets(spec, np.stack(known, axis=1))))


def _batches(chunks: Iterable[_Chunk], size: int, apart: date) -> Iterator[_Chunk]:
    """Cut chunks into batches of ``size`` rows; none mixes rows of the day ``apart`` with rows of days before."""
    held: list[_Chunk] = []
    for chunk in chunks:
        if chunk.day == apart and held and held[-1].day != apart:
            yield _joined(held)
            held = []
        held.append(chunk)
        if sum(len(c) for c in held) < size:
            continue
        whole = _joined(held)
        full = len(whole) // size * size
        for start in range(0, full, size):
            yield whole[start : start + size]
        held = [whole[full:]] if full < len(whole) else []
    if held:
        yield _joined(held)


def _joined(chunks: Sequence[_Chunk]) -> _Chunk:
    columns = zip(*((c.rows, c.dense, c.targets) for c in chunks), strict=True)
    return _Chunk(chunks[-1].day, *(torch.cat(column) for column in columns))


# --- training ---


def _train(
    lake: Lake,
    spec: DemoSpec,
    inputs: tuple[TeacherInput, ...],
    network: _Network,
    rows: Mapping[date, int],
    progress: Progress,
) -> dict[str, dict[str, object]]:
    """Train in the order of time; return the metrics of the last day, each batch scored before it was learnt."""
    training, days = spec.training, list(rows)
    tables = list(network.tables.parameters())
    rest = [p for name, p in network.named_parameters() if not name.startswith("tables.")]
    optimizer = torch.optim.Adam(
        [
            {"params": tables, "lr": training.embedding_learning_rate},
            {"params": rest, "lr": training.learning_rate},
        ],
        fused=True,
    )
    steps = training.epochs * -(-sum(rows.values()) // training.batch_size)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, training.final_rate, total_iters=max(steps - 1, 1))
    missing = _Missing(spec, inputs, network.preprocessing)
    loss_of = _Loss(spec)
    seen: list[tuple[Tensor, Tensor]] = []

    def learnt(epoch: int, day: date, loss: float) -> None:
        done = epoch * len(days) + days.index(day) + 1
        progress(Step("teacher", done, training.epochs * len(days), line=f"{day} learnt, loss {loss:.4f}"))

    for epoch in range(training.epochs):
        chunks = read_ahead(_chunks(lake, spec, inputs, network.preprocessing, days))
        present, total, count = None, 0.0, 0
        for batch in _batches(chunks, training.batch_size, apart=days[-1]):
            if batch.day != present:
                if present is not None:
                    learnt(epoch, present, total / count)
                present, total, count = batch.day, 0.0, 0
            if epoch == 0 and batch.day == days[-1]:
                with torch.no_grad():
                    seen.append((network.outputs(batch.rows, batch.dense), batch.targets))
            loss = loss_of(network.outputs(*missing(batch.rows, batch.dense)), batch.targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total, count = total + loss.item(), count + 1
        if present is not None:
            learnt(epoch, present, total / count)
    scores = torch.cat([s for s, _ in seen]).double().numpy()
    targets = torch.cat([t for _, t in seen]).double().numpy()
    return {task: _metric(item, targets[:, i], scores[:, i]) for i, (task, item) in enumerate(spec.outputs.items())}


class _Missing:
    """Training with natural missingness: columns take the contract's default as they will on the app."""

    def __init__(self, spec: DemoSpec, inputs: tuple[TeacherInput, ...], preprocessing: Preprocessing) -> None:
        names = list(spec.inputs)
        defaults = {i.name: torch.tensor(np.full((1, *i.shape), i.default, dtype=i.dtype)) for i in inputs}
        with torch.no_grad():
            self._rows, self._dense = preprocessing(defaults)
        usual = spec.training.drop_column
        share = [usual if item.drop is None else item.drop for item in spec.inputs.values()]
        self._share = torch.tensor(share)
        self._source_only = torch.tensor([item.source_only for item in spec.inputs.values()])
        self._together = spec.training.drop_source_only
        self._ids = torch.tensor([names.index(name) for name in preprocessing.ids], dtype=torch.int64)
        column_of = torch.zeros(preprocessing.width, dtype=torch.int64)
        for name, columns in preprocessing.slices.items():
            column_of[columns] = names.index(name)
        self._column_of = column_of

    def __call__(self, rows: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        n = len(rows)
        dropped = torch.rand(n, len(self._share)) < self._share
        dropped |= (torch.rand(n, 1) < self._together) & self._source_only
        rows = torch.where(dropped[:, self._ids], self._rows, rows)
        return rows, torch.where(dropped[:, self._column_of], self._dense, dense)


class _Loss:
    """Weighted sum over tasks of the mean loss over known labels: BCE of logits, squared error of values."""

    def __init__(self, spec: DemoSpec) -> None:
        self._weights = torch.tensor([item.weight for item in spec.outputs.values()])
        self._logits = torch.tensor([item.kind == "logit" for item in spec.outputs.values()])

    def __call__(self, scores: Tensor, targets: Tensor) -> Tensor:
        known = ~torch.isnan(targets)
        wanted = torch.where(known, targets, 0.0)
        cross_entropy = nn.functional.softplus(scores) - wanted * scores
        losses = torch.where(self._logits, cross_entropy, (scores - wanted) ** 2)
        means = (losses * known).sum(0) / known.sum(0).clamp(min=1)
        return (means * self._weights).sum()


def _metric(item: DemoOutput, targets: np.ndarray, scores: np.ndarray) -> dict[str, object]:
    known = ~np.isnan(targets)
    labels, scores = targets[known], scores[known]
    if item.kind == "logit":
        return {
            "metric": "auc",
            "value": _number(auc(labels, scores)),
            "n": len(labels),
            "positives": int(labels.sum()),
        }
    total = float(((labels - labels.mean()) ** 2).sum()) if len(labels) else 0.0
    r2 = 1 - float(((labels - scores) ** 2).sum()) / total if total > 0 else float("nan")
    return {"metric": "r2", "value": _number(r2), "n": len(labels)}


def _number(value: float) -> float | None:
    return round(value, 6) if np.isfinite(value) else None


# --- freezing ---


def _publish(contract: Contract, network: _Network, card: dict[str, object], out_dir: Path) -> Teacher:
    """Write model, contract and card under their hash, then the contract that points there; each step is atomic."""
    out_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out_dir, prefix=".new-") as scratch:
        folder = Path(scratch) / "teacher"
        folder.mkdir()
        _export(contract, network, folder / MODEL_FILE)
        write_contract(contract, folder / CONTRACT_FILE)
        teacher = load_contract(folder / CONTRACT_FILE).reference()
        card |= {"contract_hash": teacher.contract_hash}
        (folder / CARD_FILE).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
        target = out_dir / teacher.contract_hash
        if target.exists():
            shutil.rmtree(folder)
        else:
            folder.replace(target)
        pointer = Path(scratch) / CONTRACT_FILE
        write_contract(contract.model_copy(update={"model": f"{target.name}/{MODEL_FILE}"}), pointer)
        pointer.replace(out_dir / CONTRACT_FILE)
    return teacher


def _export(contract: Contract, network: _Network, path: Path) -> None:
    """Export to ONNX with raw columns as inputs and a symbolic batch dimension."""
    columns = tuple(torch.tensor(np.full((2, *i.shape), i.default, dtype=i.dtype)) for i in contract.inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            network.eval(),
            columns,
            dynamo=True,
            input_names=[item.name for item in contract.inputs],
            output_names=[*contract.tasks, *(item.name for item in contract.embeddings)],
            dynamic_shapes=(tuple({0: torch.export.Dim.DYNAMIC} for _ in columns),),
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    model = program.model_proto
    del model.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    path.write_bytes(model.SerializeToString(deterministic=True))


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Train on one thread, for the same bits on any machine size; the other cores read ahead."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
