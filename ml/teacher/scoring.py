"""Scoring streamed batches in order, by threads of this process."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from ml.teacher.columns import InputColumns

if TYPE_CHECKING:
    from ml.teacher.answers import TeacherModel

KEY = "exposure_id"
"""Column that names a row."""

Task = TypeVar("Task")
Result = TypeVar("Result")
Key = TypeVar("Key")


@dataclass(frozen=True)
class Scored:
    """What became of one batch.

    Attributes:
        exposure_ids: The rows [n].
        scores: float64 [n, outputs] in contract order.
        defaulted: Inputs that took their default, per row [n].
        defaulted_by_input: {input: rows that took its default}.
        unknown_by_input: {input: rows of those that had a value which the teacher cannot take}.
        node: Where it was scored; empty in this process.
    """

    exposure_ids: np.ndarray
    scores: np.ndarray
    defaulted: np.ndarray
    defaulted_by_input: dict[str, int]
    unknown_by_input: dict[str, int]
    node: str = ""


class Scorer(Protocol):
    """Scores batches, each under a key, and yields them in the order in which they came; few are held at a time."""

    def __call__(self, batches: Iterable[tuple[Key, pa.RecordBatch]]) -> Iterator[tuple[Key, Scored]]:
        """See the class."""
        ...


def score(model: "TeacherModel", columns: InputColumns, rows: pa.RecordBatch, node: str = "") -> Scored:
    """Convert and score one batch."""
    found = columns.read(rows, KEY)
    scores = model.score(found.inputs)
    defaults, unknown = found.defaulted_by_input, found.unknown_by_input
    return Scored(rows.column(KEY).to_numpy(), scores, found.defaulted, defaults, unknown, node)


def in_order(
    submit: Callable[[pa.RecordBatch], Task],
    result: Callable[[Task], Result],
    batches: Iterable[tuple[Key, pa.RecordBatch]],
    waiting: int,
) -> Iterator[tuple[Key, Result]]:
    """Submit batches and yield their results in order; at most ``waiting`` + 1 are held, however many come."""
    running: deque[tuple[Key, Task]] = deque()
    for key, batch in batches:
        running.append((key, submit(batch)))
        if len(running) > waiting:
            key, task = running.popleft()
            yield key, result(task)
    while running:
        key, task = running.popleft()
        yield key, result(task)


def on_threads(model: "TeacherModel", columns: InputColumns, threads: int) -> Scorer:
    """Return what scores on threads of this process, while it reads the next batches."""

    def scored(batches: Iterable[tuple[Key, pa.RecordBatch]]) -> Iterator[tuple[Key, Scored]]:
        with ThreadPoolExecutor(threads, thread_name_prefix="teacher") as pool:
            yield from in_order(lambda b: pool.submit(score, model, columns, b), lambda f: f.result(), batches, threads)

    return scored
