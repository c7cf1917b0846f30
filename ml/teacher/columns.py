"""Table columns to the teacher's input arrays; what is missing or unusable takes the default and is counted."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ml.teacher.answers import numpy_type
from ml.teacher.contract import TeacherInput
from ml.teacher.vocabulary import Vocabulary

_SQL_TYPES = {
    "bool": "BOOLEAN",
    **{f"int{bits}": name for bits, name in {8: "TINYINT", 16: "SMALLINT", 32: "INTEGER", 64: "BIGINT"}.items()},
    **{f"uint{bits}": name for bits, name in {8: "UTINYINT", 16: "USMALLINT", 32: "UINTEGER", 64: "UBIGINT"}.items()},
    "float16": "FLOAT",
    "float32": "FLOAT",
    "float64": "DOUBLE",
    "string": "VARCHAR",
}
NUMERIC = re.compile(r"^(BOOLEAN|U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL.*?)$")
_TEXT = re.compile(r"^(VARCHAR|UUID|ENUM.*)$", re.DOTALL)
_LIST = re.compile(r"\[\d*\]")


class ColumnError(ValueError):
    """A column that cannot be what the teacher's contract wants; the message names table, column and row."""


@dataclass(frozen=True)
class TeacherRows:
    """Rows as the teacher wants them.

    Attributes:
        inputs: {input: [n, *shape] of the contract's dtype}, without gaps.
        defaulted: Inputs that took their default, per row [n].
        defaulted_by_input: {input: rows that took its default}.
        unknown_by_input: {input: rows of those that had a value which the teacher cannot take}: an id that its
            vocabulary lacks, a number beyond its bounds.
    """

    inputs: dict[str, np.ndarray]
    defaulted: np.ndarray
    defaulted_by_input: dict[str, int]
    unknown_by_input: dict[str, int]


class InputColumns:
    """Match the columns of a table with the contract's inputs by name.

    Args:
        inputs: The contract's inputs.
        columns: {column of the table: DuckDB type}.
        table: Name of the table, for messages.
        vocabularies: {input: the ids that the teacher knows}, for inputs whose ids come by a vocabulary.
        withheld: Inputs that take their default although there is a column.

    Attributes:
        select: SQL of the columns to read, cast to the contract's types.
        absent: Inputs that the table has no column for; their default stands in every row.
        hashed: Inputs that read our hash of an id without a word of it in the contract.

    Raises:
        ColumnError: A column is of another kind than the contract says, or the landed ids that an input wants are not
            among the columns.
    """

    def __init__(
        self,
        inputs: Sequence[TeacherInput],
        columns: Mapping[str, str],
        table: str,
        vocabularies: Mapping[str, Vocabulary] | None = None,
        withheld: Collection[str] = (),
    ) -> None:
        self._vocabularies = dict(vocabularies or {})
        self._masks = {item.mask: item for item in inputs if item.mask is not None}
        self._inputs, self._table = tuple(item for item in inputs if item.name not in self._masks), table
        self._mask_types = {item.name: item.dtype for item in inputs if item.name in self._masks}
        for item in self._inputs:
            if item.id in ("raw", "vocabulary") and item.source not in columns:
                raise ColumnError(
                    f"{table} has no column {item.source}, and input {item.name!r} of the teacher's contract wants ids "
                    f"as they landed (id: {item.id}): select it there, or name another with `column:`"
                )
        self.absent = tuple(i.name for i in self._inputs if i.source not in columns or i.name in withheld)
        self.hashed = tuple(
            item.name for item in self._inputs if item.id is None and f"landed_{item.source}" in columns
        )
        self.select = [
            self._selected(item, columns[item.source]) for item in self._inputs if item.name not in self.absent
        ]

    def _selected(self, item: TeacherInput, kind: str) -> str:
        """Return the SQL of one column; what does not fit the contract's type becomes null."""
        base, depth = _LIST.sub("", kind), len(_LIST.findall(kind))
        landed = item.id in ("raw", "vocabulary")
        fits = (_TEXT, NUMERIC) if landed else (_TEXT,) if item.dtype == "string" else (NUMERIC,)
        if depth != len(item.shape) or not any(pattern.match(base) for pattern in fits):
            wanted = f"{item.dtype}{list(item.shape) if item.shape else ''}"
            raise ColumnError(f"{self._table}.{item.source} is {kind}, the teacher's contract says {wanted}")
        target = "VARCHAR" if item.id == "vocabulary" else _SQL_TYPES[item.dtype]
        source, name = _quoted(item.source), _quoted(item.name)
        gap = "" if _is_float(item) else f", {source} is null as {_quoted(_gap(item.name))}"
        return f"try_cast({source} as {target}{'[]' * depth}) as {name}{gap}"

    def read(self, rows: pa.RecordBatch, key: str) -> TeacherRows:
        """Convert a batch of the selected columns.

        Args:
            rows: The selected columns, and ``key``.
            key: Column that names a row in messages.

        Raises:
            ColumnError: A vector has another length than the contract says.
        """
        n = rows.num_rows
        arrays: dict[str, np.ndarray] = {}
        lengths: dict[str, np.ndarray] = {}
        defaulted = np.full(n, len(self.absent), dtype=np.int32)
        counts: dict[str, int] = {}
        unknown: dict[str, int] = {}
        for item in self._inputs:
            if item.name in self.absent:
                arrays[item.name] = np.full((n, *item.shape), item.filler, dtype=numpy_type(item.dtype))
                counts[item.name] = n
                lengths[item.name] = np.zeros((n, *item.shape[:1]), dtype=bool)
                continue
            cells = _Cells(item, self._vocabularies.get(item.name), self._table, rows.column(key))
            values, missing, lengths[item.name] = cells.read(rows.column(item.name))
            arrays[item.name] = values
            counts[item.name] = int(missing.sum())
            if not _is_float(item):
                gaps = rows.column(_gap(item.name)).to_numpy(zero_copy_only=False)
                unknown[item.name] = int((missing & ~gaps).sum())
            defaulted += missing
        for mask, item in self._masks.items():
            arrays[mask] = lengths[item.name].astype(numpy_type(self._mask_types[mask]))
        return TeacherRows(arrays, defaulted, counts, unknown)


class _Cells:
    """Converts one column."""

    def __init__(self, item: TeacherInput, vocabulary: Vocabulary | None, table: str, keys: pa.Array) -> None:
        self.item, self.vocabulary, self.table, self.keys = item, vocabulary, table, keys

    def read(self, column: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return values [n, *shape], which rows took the default [n], and where a ragged row has values [n, k]."""
        item = self.item
        values, missing, held = self._dense(column, item.shape)
        if not item.keep_nan and values.dtype.kind == "f":
            missing = missing | np.isnan(values).reshape(len(values), -1).any(axis=1)
        values[missing] = item.filler
        return values.astype(numpy_type(item.dtype), copy=False), missing, held

    def _dense(self, column: pa.Array, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if not shape:
            values, missing = self._leaves(column)
            return values, missing, ~missing
        n, outermost = len(column), len(shape) == len(self.item.shape)
        missing = column.is_null().to_numpy(zero_copy_only=False)
        lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        inner, lost, _ = self._dense(column.flatten(), shape[1:])
        filler = 0 if isinstance(self.item.filler, tuple) else self.item.filler
        values = np.full((n, *shape), filler, dtype=inner.dtype)
        held = np.zeros((n, shape[0]), dtype=bool)
        row = np.repeat(np.arange(n), lengths)
        place = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        if self.item.ragged and outermost:
            inside = (place < shape[0]) & ~lost
            values[row[inside], place[inside]] = inner[inside]
            held[row[inside], place[inside]] = True
            return values, missing, held
        wrong = np.flatnonzero((lengths != shape[0]) & ~missing)
        if len(wrong):
            self._refuse_length(int(wrong[0]) if outermost else None, int(lengths[wrong[0]]), shape[0])
        values[row, place] = inner
        missing[row[lost]] = True
        return values, missing, held

    def _refuse_length(self, row: int | None, found: int, wanted: int) -> None:
        of = f" of row {self.keys[row].as_py()}" if row is not None else ": a vector"
        raise ColumnError(
            f"{self.table}.{self.item.source}{of} has {found} values, the teacher's contract says {wanted}"
        )

    def _leaves(self, column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """Return single values as numpy has them, and which of them the teacher cannot take."""
        item = self.item
        if self.vocabulary is not None:
            indices = self.vocabulary.index(column)
            return self._within(indices.fill_null(0).to_numpy(zero_copy_only=False), _nulls(indices))
        missing = _nulls(column)
        if item.dtype == "string":
            return column.fill_null("").to_numpy(zero_copy_only=False), missing
        if not _is_float(item):
            column = column.fill_null(pa.scalar(0).cast(column.type))
        elif item.keep_nan and item.shape:
            missing = np.zeros(len(column), dtype=bool)
        return self._within(column.to_numpy(zero_copy_only=False), missing)

    def _within(self, values: np.ndarray, missing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low, high = self.item.bounds
        return np.array(values), missing | (values < low) | (values > high)


def _nulls(column: pa.Array) -> np.ndarray:
    return column.is_null().to_numpy(zero_copy_only=False)


def _is_float(item: TeacherInput) -> bool:
    return item.dtype.startswith("float")


def _gap(name: str) -> str:
    return f"{name} is missing"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
