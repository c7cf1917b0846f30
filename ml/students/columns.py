"""Arrow columns of the examples to the arrays that a ranker takes; training, evaluation and serving share it."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml.foundation.ids import NO_ID
from ml.surfaces.columns import Input

AfterRanking = Literal["logged", "serving"]
"""Whether ``after_ranking`` inputs keep the logged values or take the fixed value that they have when serving."""


class ColumnError(ValueError):
    """A table that does not fit the inputs; the message names the column."""


def to_arrays(
    table: pa.Table | pa.RecordBatch, inputs: Mapping[str, Input], after_ranking: AfterRanking
) -> dict[str, np.ndarray]:
    """Turn columns into dense arrays, without a step per row.

    A null number takes the input's default, a null id becomes 0, a null vector or list zeros. A shorter event list is
    padded with zeros, a longer one keeps its first (newest) entries. With ``after_ranking="serving"`` those columns
    need not exist.

    Args:
        table: n rows; columns are found by name, further ones are ignored.
        inputs: The surface's inputs.
        after_ranking: See ``AfterRanking``.

    Returns:
        {name: array}; int64 or float32 as ``Input.dtype``, shape [n] or [n, length].

    Raises:
        ColumnError: A column is missing, has another type, or a vector has another length.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, spec in inputs.items():
        if spec.kind == "after_ranking" and after_ranking == "serving":
            arrays[name] = np.full((table.num_rows, *spec.shape), spec.serving_value, dtype=spec.dtype)
            continue
        if name not in table.schema.names:
            raise ColumnError(f"column {name!r} is missing; there are {table.schema.names}")
        column = table.column(name)
        try:
            arrays[name] = _list(column, spec) if spec.shape else _scalar(column, spec)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ColumnError) as error:
            raise ColumnError(f"column {name!r} of type {column.type} does not fit {spec.type}: {error}") from error
    return arrays


def _scalar(column: pa.ChunkedArray | pa.Array, spec: Input) -> np.ndarray:
    if spec.dtype == "int64":
        return np.array(pc.fill_null(pc.cast(column, pa.int64()), NO_ID).to_numpy())  # Arrow's own is read-only
    return _float32(pc.fill_null(pc.cast(column, pa.float64(), safe=False), spec.default).to_numpy())


def _list(column: pa.ChunkedArray | pa.Array, spec: Input) -> np.ndarray:
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    rows, length = len(whole), spec.length
    out = np.zeros((rows, length), dtype=spec.dtype)
    if pa.types.is_null(whole.type):
        return out
    lengths = pc.call_function("list_value_length", [whole]).fill_null(0).to_numpy().astype(np.int64)
    present = whole.is_valid().to_numpy(zero_copy_only=False)
    if spec.type == "vector" and (wrong := lengths[present & (lengths != length)]).size:
        raise ColumnError(f"a vector of length {wrong[0]}, not {length}")
    flat = whole.filter(whole.is_valid()).flatten()
    values = pc.fill_null(pc.cast(flat, pa.int64() if spec.dtype == "int64" else pa.float64()), 0).to_numpy()
    row = np.repeat(np.arange(rows), lengths)
    place = np.arange(len(values)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    kept = place < length
    out[row[kept], place[kept]] = values[kept] if spec.dtype == "int64" else _float32(values[kept])
    return out


def _float32(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # beyond float32 is infinite, which the ranker clips
        return values.astype(np.float32)
