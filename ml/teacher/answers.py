"""What goes into any teacher and what comes out of it: batches of inputs, and scores by the contract."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from ml.teacher.contract import Contract, TeacherOutput
from ml.teacher.refused import TeacherRefused, missing_output

Batch = Mapping[str, np.ndarray]
"""Inputs by contract name: arrays [n, *shape] of the contract's dtype."""


class TeacherModel(Protocol):
    """A teacher that can score; several threads may do so at once."""

    contract: Contract
    parameters: int | None

    def score(self, batch: Batch) -> np.ndarray:
        """Score a batch.

        Args:
            batch: Every input of the contract.

        Returns:
            float64 [n, outputs] in contract order: logits, or values where the contract says so. Probabilities are
            turned into logits; one outside [0, 1] becomes NaN.

        Raises:
            TeacherRefused: The answer has another shape than the contract says, or the endpoint fails.
        """
        ...

    def embed(self, batch: Batch) -> dict[str, np.ndarray]:
        """Return {embedding of the contract: float32 [n, d]} of a batch as ``score`` takes it.

        Raises:
            TeacherRefused: A vector has another shape, or the model fails.
        """
        ...

    def close(self) -> None:
        """Release what the model holds."""
        ...


def numpy_type(dtype: str) -> np.dtype:
    """Return the type of an input's array; texts are objects."""
    return np.dtype(object) if dtype == "string" else np.dtype(dtype)


def default_batch(contract: Contract, rows: int) -> dict[str, np.ndarray]:
    """Return ``rows`` rows in which every input takes the contract's default; masks tell of no value."""
    return {
        item.name: np.full((rows, *item.shape), item.filler, dtype=numpy_type(item.dtype)) for item in contract.inputs
    }


def checked_rows(contract: Contract, batch: Batch) -> int:
    """Return the number of rows of a batch that is what the contract says.

    Raises:
        ValueError: An array has another type or shape.
    """
    n = len(batch[contract.inputs[0].name])
    for item in contract.inputs:
        column = batch[item.name]
        if column.shape != (n, *item.shape) or column.dtype != numpy_type(item.dtype):
            raise ValueError(
                f"input {item.name!r}: {column.dtype}{list(column.shape)} given, {item.dtype}{[n, *item.shape]} wanted"
            )
    return n


def with_rank(column: np.ndarray, rank: int) -> np.ndarray:
    """Give a scalar column the trailing 1 that a graph with inputs of shape [n, 1] wants."""
    return column.reshape(-1, 1) if column.ndim == 1 and rank == 2 else column


def stored_scores(
    contract: Contract,
    answers: Mapping[str, object],
    n: int,
    where: str,
    classes: Mapping[str, Mapping[int, int]] | None = None,
) -> np.ndarray:
    """Turn a model's answers into stored scores, float64 [n, outputs] in the contract's order.

    Args:
        contract: Which outputs, and what they are.
        answers: {output of the contract: tensor}.
        n: Rows that were asked.
        where: File or URL, for messages.
        classes: {output: {class: column}} where `index` of the contract names a class.

    Raises:
        TeacherRefused: An output is missing, or no tensor of numbers with one for each row.
    """
    scores = np.empty((n, len(contract.outputs)))
    for column, item in enumerate(contract.outputs):
        if item.source not in answers:
            raise TeacherRefused(f"{where}: {missing_output(item, answers)}")
        values = answers[item.source]
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
            kind = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
            raise TeacherRefused(f"{where}: output {item.source!r} is {kind}, no tensor of numbers")
        index = _index(item, (classes or {}).get(item.source), where)
        scores[:, column] = item.to_score(_column(values, item, index, n, where))
    return scores


def _index(item: TeacherOutput, classes: Mapping[int, int] | None, where: str) -> int | None:
    if classes is None:
        return item.index
    if item.index is None or item.index not in classes:
        raise TeacherRefused(
            f"{where}: output {item.source!r} has the classes {sorted(classes)}, index is {item.index}"
        )
    return classes[item.index]


def _column(values: np.ndarray, item: TeacherOutput, index: int | None, n: int, where: str) -> np.ndarray:
    found = values.shape
    if values.ndim > 2 and len(values) == n:
        values = values.reshape(n, *(length for length in values.shape[1:] if length != 1))
    if values.shape == (n,) and not index:
        return values
    if values.ndim == 2 and len(values) == n:
        width = values.shape[1]
        if index is None and width == 1:
            return values[:, 0]
        if index is None:
            raise TeacherRefused(f"{where}: output {item.source!r} has {width} columns; the contract needs `index`")
        if index < width:
            return values[:, index]
        raise TeacherRefused(f"{where}: output {item.source!r} has {width} columns, index is {item.index}")
    raise TeacherRefused(f"{where}: output {item.source!r} has shape {list(found)} for {n} rows, wanted [n] or [n, k]")
