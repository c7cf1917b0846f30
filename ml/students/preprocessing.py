"""Preprocessing inside the graph: raw columns in, embedding rows and standardised numbers out.

Every constant (vocabularies, clip bounds, means, deviations) is a buffer fitted on training rows, so that the exported
model takes raw columns and cannot disagree with training.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ml.foundation.mapped import arrays
from ml.students.vocabulary import UNKNOWN_ROW, build_table, distinct_ids, divide_ids, hash_of
from ml.surfaces.columns import Input

OUTCOME_CODES = (1, 2, 3)
"""Codes of a session's outcomes in an event list; 0 means no event."""

_CLIP_QUANTILES = (0.001, 0.999)
_EVENT_DECAY = 0.7
_MAX_DEVIATIONS = 10.0
_LARGEST = float(np.finfo(np.float32).max)
_CHUNK = 16_384
_EVENT_FEATURES = 2 * len(OUTCOME_CODES) + 1


class Preprocessing(nn.Module):
    """Map raw inputs to embedding rows and one dense matrix.

    Numbers: NaN takes the default, clipped to the 0.1 % and 99.9 % quantile of the training rows (where one value fills
    all of these, of the rows that differ from it: a rare flag stays), transformed, standardised. Vectors: standardised
    per component. Event lists: share of each outcome, the same with newer events weighing more (0.7 per step back), and
    how full the list is; standardised. Nothing lies beyond 10 deviations.
    Ids and categories: exact lookup; an id that training has not seen takes row 0. Where ``id_table`` bounds a table,
    rarer ids share the rows behind the exact ones by a hash.

    Args:
        inputs: The surface's inputs.
        vocabularies: {vocabulary: distinct ids with a row of their own, int64 [v]}; see ``vocabulary_of``.
        rare: {vocabulary: distinct ids that share rows, int64 [r]}, where others are unknown.

    Attributes:
        ids: Names of the id and category inputs, in the order of the embedding rows.
        sizes: {vocabulary: embedding rows, those that are shared and the unknown one included}.
        slices: {number, vector or event list: its columns in the dense matrix}.
        width: Columns of the dense matrix.
    """

    keys: Tensor
    places: Tensor
    buckets: Tensor
    offset: Tensor
    low: Tensor
    high: Tensor
    default: Tensor
    log1p: Tensor
    mean: Tensor
    deviation: Tensor
    codes: Tensor
    event_weights: Tensor
    exact: Tensor
    first_shared: Tensor
    shared: Tensor

    def __init__(
        self,
        inputs: Mapping[str, Input],
        vocabularies: Mapping[str, np.ndarray],
        rare: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        super().__init__()
        self.inputs = dict(inputs)
        self.ids = tuple(name for name, spec in inputs.items() if spec.type in ("id", "category"))
        self.hashes_unseen = False
        self.vocabulary = {name: vocabulary_of(name, inputs) for name in self.ids}
        self._add_vocabularies(vocabularies, rare or {})
        self._add_shared(vocabularies)
        self.numbers = tuple(name for name, spec in inputs.items() if spec.type == "number")
        self.slices: dict[str, slice] = {}
        self.width = 0
        others = [name for name, spec in inputs.items() if spec.type in ("vector", "event_list")]
        for name in (*self.numbers, *others):
            wide = {"number": 1, "vector": inputs[name].length}.get(inputs[name].type, _EVENT_FEATURES)
            self.slices[name] = slice(self.width, self.width + wide)
            self.width += wide
        numbers = [inputs[name] for name in self.numbers]
        self.register_buffer("low", torch.zeros(len(numbers)))
        self.register_buffer("high", torch.zeros(len(numbers)))
        self.register_buffer("default", torch.tensor([spec.default for spec in numbers], dtype=torch.float32))
        self.register_buffer("log1p", torch.tensor([spec.transform == "log1p" for spec in numbers], dtype=torch.bool))
        self.register_buffer("mean", torch.zeros(self.width))
        self.register_buffer("deviation", torch.ones(self.width))
        longest = max((spec.length for spec in inputs.values() if spec.type == "event_list"), default=0)
        decay = _EVENT_DECAY ** torch.arange(longest, dtype=torch.float32)
        self.register_buffer("event_weights", torch.stack([torch.ones(longest), decay], dim=1))
        self.register_buffer("codes", torch.tensor(OUTCOME_CODES))

    def _add_vocabularies(self, vocabularies: Mapping[str, np.ndarray], rare: Mapping[str, np.ndarray]) -> None:
        """Lay the tables of all vocabularies out as one, so that one gather finds the ids of a whole row."""
        tables = {}
        for name, ids in vocabularies.items():
            others = rare.get(name, ids[:0])
            shared = hash_of(others) % max(_shared(self.inputs[name]), 1)
            places = np.concatenate([np.arange(len(ids)), len(ids) + shared]) + 1
            tables[name] = build_table(np.concatenate([ids, others]), places)
        self.sizes = {name: len(ids) + 1 + _shared(self.inputs[name]) for name, ids in vocabularies.items()}
        buckets = {name: len(keys) for name, (keys, _) in tables.items()}
        ends = np.cumsum([0, *buckets.values()])
        offset = dict(zip(tables, ends.tolist(), strict=False))
        empty = np.empty((0, 1), dtype=np.int64)
        for buffer, index in (("keys", 0), ("places", 1)):
            joined = np.concatenate([table[index] for table in tables.values()]) if tables else empty
            self.register_buffer(buffer, torch.from_numpy(joined))
        for buffer, values in (("buckets", buckets), ("offset", offset)):
            per_input = [values[self.vocabulary[name]] for name in self.ids]
            self.register_buffer(buffer, torch.tensor(per_input, dtype=torch.int64))

    def _add_shared(self, vocabularies: Mapping[str, np.ndarray]) -> None:
        """Note where the shared rows of each input are; a ranker without any has none of these buffers."""
        owners = [self.inputs[self.vocabulary[name]] for name in self.ids]
        if not any(map(_shared, owners)):
            return
        exact = [len(vocabularies[self.vocabulary[name]]) for name in self.ids]
        hashes = [spec.id_table is not None and spec.id_table.unseen == "bucket" for spec in owners]
        self.hashes_unseen = any(hashes)
        first = [own + 1 if hashed else UNKNOWN_ROW for own, hashed in zip(exact, hashes, strict=True)]
        count = [_shared(spec) if hashed else 1 for spec, hashed in zip(owners, hashes, strict=True)]
        self.register_buffer("exact", torch.tensor(exact, dtype=torch.int64))
        self.register_buffer("first_shared", torch.tensor(first, dtype=torch.int64), persistent=False)
        self.register_buffer("shared", torch.tensor(count, dtype=torch.int64), persistent=False)

    @classmethod
    def fit(cls, inputs: Mapping[str, Input], columns: Mapping[str, Tensor]) -> "Preprocessing":
        """Fit every constant on training rows.

        Args:
            inputs: The surface's inputs.
            columns: {input: raw values, [n] or [n, length]}, n >= 1.
        """
        sources: dict[str, list[str]] = {}
        for name, spec in inputs.items():
            if spec.type in ("id", "category"):
                sources.setdefault(vocabulary_of(name, inputs), []).append(name)
        vocabularies: dict[str, np.ndarray] = {}
        rare: dict[str, np.ndarray] = {}
        for vocabulary, names in sources.items():
            table, seen = inputs[vocabulary].id_table, [columns[name].numpy() for name in names]
            vocabularies[vocabulary] = distinct_ids(seen)
            if table is not None:
                vocabularies[vocabulary], others = divide_ids(vocabularies[vocabulary], seen, table)
                if table.hash_buckets and table.unseen == "unknown":
                    rare[vocabulary] = others
        fitted = cls(inputs, vocabularies, rare)
        for index, name in enumerate(fitted.numbers):
            values = columns[name].numpy()
            values = np.where(np.isnan(values), np.float32(inputs[name].default), values)
            floor = 0.0 if inputs[name].transform == "log1p" else -_LARGEST
            bounds = np.clip(_clip_bounds(values), floor, _LARGEST)
            fitted.low[index], fitted.high[index] = (float(bound) for bound in bounds)
        mean, deviation = _moments(lambda: (fitted.raw_dense(part).numpy() for part in _chunks(columns)))
        fitted.mean.copy_(torch.from_numpy(mean))
        fitted.deviation.copy_(torch.from_numpy(np.where(deviation > 1e-6, deviation, 1.0)))
        return fitted

    def known(self, name: str) -> np.ndarray:
        """Return the ids of an id or category input that have a row of their own, int64 [v], in that order."""
        return _stored_ids(self.state_dict(), "", self.ids.index(name))[0]

    def sharing(self, name: str) -> np.ndarray:
        """Return the ids of an id or category input that are stored as sharing rows, int64 [r]."""
        return _stored_ids(self.state_dict(), "", self.ids.index(name))[1]

    @classmethod
    def restore(cls, inputs: Mapping[str, Input], state: Mapping[str, Tensor], prefix: str = "") -> "Preprocessing":
        """Build from the inputs and a state dict, whose names start with ``prefix``."""
        ids = [name for name, spec in inputs.items() if spec.type in ("id", "category")]
        stored = {vocabulary_of(name, inputs): _stored_ids(state, prefix, index) for index, name in enumerate(ids)}
        restored = cls(
            inputs,
            {vocabulary: own for vocabulary, (own, _) in stored.items()},
            {vocabulary: rare for vocabulary, (_, rare) in stored.items()},
        )
        restored.load_state_dict({name: state[prefix + name] for name in restored.state_dict()})
        return restored

    def rows(self, columns: Mapping[str, Tensor]) -> Tensor:
        """Return the embedding rows of the id and category inputs, int64 [n, len(ids)]; 0 is unknown."""
        if not self.ids:
            return torch.zeros((_count(columns), 0), dtype=torch.int64)
        ids = torch.stack([columns[name] for name in self.ids], dim=1)
        bucket = torch.remainder(ids, self.buckets) + self.offset
        match = functional.embedding(bucket, self.keys) == ids.unsqueeze(2)
        rows = torch.where(match, functional.embedding(bucket, self.places), UNKNOWN_ROW).sum(dim=2)
        if not self.hashes_unseen:
            return rows
        return torch.where(rows == UNKNOWN_ROW, self.first_shared + hash_of(ids) % self.shared, rows)

    def kinds(self, rows: Tensor) -> Tensor:
        """Return whether each embedding row [n, len(ids)] is unknown (0), one id's own (1) or shared (2), as int64."""
        exact = [
            self.sizes[self.vocabulary[name]] - 1 - _shared(self.inputs[self.vocabulary[name]]) for name in self.ids
        ]
        return (rows != UNKNOWN_ROW).to(torch.int64) + (rows > torch.tensor(exact)).to(torch.int64)

    def raw_dense(self, columns: Mapping[str, Tensor]) -> Tensor:
        """Return numbers, vectors and event features before standardising, float32 [n, width]."""
        parts = []
        if self.numbers:
            numbers = torch.stack([columns[name] for name in self.numbers], dim=1)
            numbers = torch.where(torch.isnan(numbers), self.default, numbers)
            numbers = torch.minimum(torch.maximum(numbers, self.low), self.high)
            parts.append(torch.where(self.log1p, torch.log1p(torch.clamp(numbers, min=0.0)), numbers))
        for name in self.slices:
            match self.inputs[name].type:
                case "vector":
                    vector = columns[name]
                    parts.append(torch.where(torch.isnan(vector), 0.0, vector))
                case "event_list":
                    parts.append(self._events(columns[name]))
        return torch.cat(parts, dim=1) if parts else torch.zeros((_count(columns), 0))

    def _events(self, events: Tensor) -> Tensor:
        """Return event features, float32 [n, 7], of outcome codes, int64 [n, length], newest first."""
        length = events.shape[1]
        codes = (events.unsqueeze(1) == self.codes.unsqueeze(1)).to(torch.float32)
        counts = torch.matmul(codes, self.event_weights[:length])
        filled = (events != 0).to(torch.float32).sum(dim=1, keepdim=True)
        shares = counts[:, :, 0] / torch.clamp(filled, min=1.0)
        return torch.cat([shares, counts[:, :, 1], filled / length], dim=1)

    def forward(self, columns: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return embedding rows, int64 [n, len(ids)], and the dense matrix, float32 [n, width]."""
        standard = (self.raw_dense(columns) - self.mean) / self.deviation
        return self.rows(columns), torch.clamp(standard, -_MAX_DEVIATIONS, _MAX_DEVIATIONS)

    def convert(self, columns: Mapping[str, Tensor], folder: Path | None = None) -> tuple[Tensor, Tensor]:
        """Do ``forward`` in chunks for whole data sets; a file in ``folder``, if given, holds what comes of it."""
        n = _count(columns)
        wanted: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {
            "rows": ((n, len(self.ids)), np.int64),
            "dense": ((n, self.width), np.float32),
        }
        made = {name: torch.from_numpy(array) for name, array in arrays(wanted, folder).items()}
        for start, part in zip(range(0, n, _CHUNK), _chunks(columns), strict=True):
            own = slice(start, start + _CHUNK)
            made["rows"][own], made["dense"][own] = self(part)
        return made["rows"], made["dense"]


def vocabulary_of(name: str, inputs: Mapping[str, Input]) -> str:
    """Return the name of the vocabulary of an id or category input.

    Raises:
        ValueError: It names an input that has no vocabulary of its own, or one with another embedding size.
    """
    spec = inputs[name]
    if spec.vocabulary is None:
        return name
    shared = inputs[spec.vocabulary]
    if shared.type not in ("id", "category") or shared.vocabulary is not None:
        raise ValueError(f"inputs.{name}.vocabulary names {spec.vocabulary!r}, which has no vocabulary of its own")
    if shared.embedding != spec.embedding:
        raise ValueError(
            f"inputs.{name} has embedding {spec.embedding}, its vocabulary {spec.vocabulary!r} has {shared.embedding}"
        )
    return spec.vocabulary


def key(name: str) -> str:
    """Return the module name of an input or task; a bare name such as ``type`` would hide a method of ``nn.Module``."""
    return f"_{name}"


def _shared(spec: Input) -> int:
    """Return how many rows the rarer ids of a vocabulary share."""
    return spec.id_table.hash_buckets if spec.id_table else 0


def _clip_bounds(values: np.ndarray) -> tuple[float, float]:
    """Return the lowest and highest value that a number [n] keeps."""
    low, high = np.quantile(values, _CLIP_QUANTILES, method="nearest")
    if low == high and len(rare := values[values != low]):
        ends = np.quantile(rare, _CLIP_QUANTILES, method="nearest")
        low, high = min(low, ends[0]), max(high, ends[1])
    return float(low), float(high)


def _moments(parts: Callable[[], Iterator[np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation, float64 [width], of rows that ``parts`` gives some at a time, twice."""
    total, n = _summed(parts())
    mean = total / n
    squares, _ = _summed(np.square(part - mean) for part in parts())
    return mean, np.sqrt(squares / n)


def _summed(parts: Iterable[np.ndarray]) -> tuple[np.ndarray, int]:
    """Return the sum of all rows, float64 [width], added one after another as numpy does for a whole matrix; and n."""
    total, n = np.zeros(0), 0
    for part in parts:
        before = total[np.newaxis] if n else np.zeros((0, part.shape[1]))
        total = np.add.reduce(np.concatenate([before, part.astype(np.float64)]), axis=0)
        n += len(part)
    return total, n


def _chunks(columns: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    starts = range(0, _count(columns), _CHUNK)
    return [{name: column[start : start + _CHUNK] for name, column in columns.items()} for start in starts]


def _count(columns: Mapping[str, Tensor]) -> int:
    return next(iter(columns.values())).shape[0]


def _stored_ids(state: Mapping[str, Tensor], prefix: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of input ``index`` with a row of their own, int64 [v], in that order, and those that share one."""
    keys, places, buckets, offset = (state[prefix + name] for name in ("keys", "places", "buckets", "offset"))
    own = slice(int(offset[index]), int(offset[index] + buckets[index]))
    found, rows = keys[own].numpy(), places[own].numpy()
    count = int(state[prefix + "exact"][index]) if prefix + "exact" in state else int((rows != UNKNOWN_ROW).sum())
    ids = np.empty(count, dtype=np.int64)
    exact = (rows != UNKNOWN_ROW) & (rows <= count)
    ids[rows[exact] - 1] = found[exact]
    return ids, np.sort(found[rows > count])
