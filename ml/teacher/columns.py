"""Table columns to the teacher's input arrays; what is missing takes the contract's default and is counted."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ml.teacher.contract import TeacherInput

_SQL_TYPES = {"bool": "BOOLEAN", "int32": "INTEGER", "int64": "BIGINT", "float32": "FLOAT", "float64": "DOUBLE"}
_NUMERIC = re.compile(r"^(BOOLEAN|U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL.*?)(\[\d*\])?$")


class ColumnError(ValueError):
    """A column that cannot be what the teacher's contract wants; the message names table, column and row."""


@dataclass(frozen=True)
class TeacherRows:
    """Rows as the teacher wants them.

    Attributes:
        inputs: {input: [n] or [n, k] of the contract's dtype}, without gaps.
        defaulted: Inputs that took their default, per row [n].
        defaulted_by_input: {input: rows that took its default}.
    """

    inputs: dict[str, np.ndarray]
    defaulted: np.ndarray
    defaulted_by_input: dict[str, int]


class InputColumns:
    """Match the columns of a table with the contract's inputs by name.

    Args:
        inputs: The contract's inputs.
        columns: {column of the table: DuckDB type}.
        table: Name of the table, for messages.

    Attributes:
        select: SQL of the columns to read, cast to the contract's types.
        absent: Inputs that the table has no column for; their default stands in every row.

    Raises:
        ColumnError: A column is neither numeric nor boolean, or a list where the contract says a number.
    """

    def __init__(self, inputs: Sequence[TeacherInput], columns: Mapping[str, str], table: str) -> None:
        self._inputs, self._table = tuple(inputs), table
        self.absent = tuple(item.name for item in inputs if item.name not in columns)
        self.select: list[str] = []
        for item in inputs:
            kind = columns.get(item.name)
            if kind is None:
                continue
            if not _NUMERIC.match(kind) or kind.endswith("]") != bool(item.shape):
                wanted = f"{item.dtype}{list(item.shape) if item.shape else ''}"
                raise ColumnError(f"{table}.{item.name} is {kind}, the teacher's contract says {wanted}")
            name = '"' + item.name.replace('"', '""') + '"'
            self.select.append(f"{name}::{_SQL_TYPES[item.dtype]}{'[]' if item.shape else ''} as {name}")

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
        defaulted = np.full(n, len(self.absent), dtype=np.int32)
        counts: dict[str, int] = {}
        for item in self._inputs:
            if item.name in self.absent:
                arrays[item.name] = np.full((n, *item.shape), item.default, dtype=item.dtype)
                counts[item.name] = n
                continue
            column = rows.column(item.name)
            if item.shape:
                self._check_lengths(column, item, rows.column(key))
                values, missing = _vector(column, item)
            else:
                values, missing = _scalar(column, item)
            arrays[item.name] = values
            counts[item.name] = 0 if missing is None else int(missing.sum())
            if missing is not None:
                defaulted += missing
        return TeacherRows(arrays, defaulted, counts)

    def _check_lengths(self, column: pa.Array, item: TeacherInput, keys: pa.Array) -> None:
        lengths = column.value_lengths().fill_null(item.shape[0]).to_numpy(zero_copy_only=False)
        if (lengths != item.shape[0]).any():
            bad = int(np.flatnonzero(lengths != item.shape[0])[0])
            raise ColumnError(
                f"{self._table}.{item.name} of row {keys[bad].as_py()} has {lengths[bad]} numbers, "
                f"the teacher's contract says {item.shape[0]}"
            )


def _scalar(column: pa.Array, item: TeacherInput) -> tuple[np.ndarray, np.ndarray | None]:
    missing = None
    if column.null_count:
        missing = column.is_null().to_numpy(zero_copy_only=False)
        column = column.fill_null(pa.scalar(item.default, type=column.type))
    values = column.to_numpy(zero_copy_only=False)
    return _without_nan(values, missing, item)


def _vector(column: pa.Array, item: TeacherInput) -> tuple[np.ndarray, np.ndarray | None]:
    flat = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, item.shape[0])
    values, missing = flat, None
    if column.null_count:
        missing = column.is_null().to_numpy(zero_copy_only=False)
        values = np.empty((len(column), item.shape[0]), dtype=flat.dtype)
        values[:] = item.default
        values[~missing] = flat
    values, missing = _without_nan(values, missing, item)
    return values.astype(item.dtype, copy=False), missing


def _without_nan(
    values: np.ndarray, missing: np.ndarray | None, item: TeacherInput
) -> tuple[np.ndarray, np.ndarray | None]:
    """Replace NaN, which stands for a missing number or a null within a vector, by the default."""
    if values.dtype.kind != "f":
        return values, missing
    nan = np.isnan(values)
    if not nan.any():
        return values, missing
    nan = np.any(nan, axis=1) if nan.ndim == 2 else nan
    values = values.copy()
    values[nan] = item.default
    return values, nan if missing is None else missing | nan
