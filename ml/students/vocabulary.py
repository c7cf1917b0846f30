"""Lookup of int64 ids inside the graph.

Exact by a table of M buckets with k places each, addressed by ``id mod M``; by a hash for ids that share embeddings.
"""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
from torch import Tensor

from ml.surfaces.columns import IdTable

Ids = TypeVar("Ids", np.ndarray, Tensor)

UNKNOWN_ROW = 0
"""Embedding row of every id that the vocabulary does not hold."""

_WAYS = 8
_EMPTY = -1
_ROWS = 1_000_000
"""Rows that are looked at together."""
_PRIME = 2**31 - 1
_FACTOR = 1_640_531_527


def hash_of(ids: Ids) -> Ids:
    r"""Return a hash in [0, 2^31 - 1) of int64 ids of any shape, alike in numpy, torch and onnxruntime.

    .. math:: h(x) = a (x \bmod p) \bmod p

    with p = 2^31 - 1, so that no product overflows.

    Source: Carter and Wegman, "Universal classes of hash functions" (1979).
    """
    return ids % _PRIME * _FACTOR % _PRIME


def distinct_ids(columns: Iterable[np.ndarray]) -> np.ndarray:
    """Return the distinct ids of some columns, int64 [n] each, rising; memory grows with their number, not with n."""
    found = np.empty(0, dtype=np.int64)
    for part in _parts(columns):
        found = np.unique(np.concatenate([found, np.unique(part)]))
    return found


def divide_ids(ids: np.ndarray, columns: Iterable[np.ndarray], table: IdTable) -> tuple[np.ndarray, np.ndarray]:
    """Divide the ids of training rows by how often they occur.

    Args:
        ids: The distinct ids, rising.
        columns: The id of every row, int64 [n] each.
        table: Bounds; of equally frequent ids the smaller come first.

    Returns:
        Ids with an embedding of their own, and the others; both rising.
    """
    counts = np.zeros(len(ids), dtype=np.int64)
    for part in _parts(columns):
        counts += np.bincount(ids.searchsorted(part), minlength=len(ids))
    own = counts >= table.min_count
    if table.max_ids is not None:
        own[np.argsort(-counts, kind="stable")[table.max_ids :]] = False
    return ids[own], ids[~own]


def _parts(columns: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for column in columns:
        for start in range(0, len(column), _ROWS):
            yield column[start : start + _ROWS]


def build_table(
    ids: np.ndarray, places: np.ndarray | None = None, *, ways: int = _WAYS
) -> tuple[np.ndarray, np.ndarray]:
    """Lay out a vocabulary as buckets, so that finding an id takes one gather and ``ways`` comparisons.

    Args:
        ids: Distinct ids, int64 [n]; row 0 stays the unknown vector.
        places: Row of each id, int64 [n]; without, ``ids[j]`` gets row ``j + 1``.
        ways: Places per bucket (k); eight int64 are one cache line.

    Returns:
        Keys and rows, both int64 [M, k] with M prime; a free place holds key -1 and row 0.

    Raises:
        ValueError: An id occurs twice.
    """
    ids = np.asarray(ids, dtype=np.int64).reshape(-1)
    found, counts = np.unique(ids, return_counts=True)
    if len(found) != len(ids):
        raise ValueError(f"id {found[counts > 1][0]} occurs {counts.max()} times in the vocabulary")
    buckets = _next_prime(max(len(ids) // ways, 1))
    while len(ids) and np.bincount(ids % buckets, minlength=buckets).max() > ways:
        buckets = _next_prime(buckets + buckets // 4 + 1)
    keys = np.full((buckets, ways), _EMPTY, dtype=np.int64)
    rows = np.full((buckets, ways), UNKNOWN_ROW, dtype=np.int64)
    bucket = ids % buckets
    order = np.argsort(bucket, kind="stable")
    sizes = np.bincount(bucket, minlength=buckets)
    place = np.arange(len(ids)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    keys[bucket[order], place] = ids[order]
    rows[bucket[order], place] = order + 1 if places is None else places[order]
    return keys, rows


def _next_prime(n: int) -> int:
    n = max(n, 2)
    while any(n % d == 0 for d in range(2, int(n**0.5) + 1)):
        n += 1
    return n
