"""Exact lookup of int64 ids inside the graph: a table of M buckets with k places each, addressed by ``id mod M``."""

import numpy as np

UNKNOWN_ROW = 0
"""Embedding row of every id that the vocabulary does not hold."""

_WAYS = 8
_EMPTY = -1


def build_table(ids: np.ndarray, *, ways: int = _WAYS) -> tuple[np.ndarray, np.ndarray]:
    """Lay out a vocabulary as buckets, so that finding an id takes one gather and ``ways`` comparisons.

    Args:
        ids: Distinct ids, int64 [n]; ``ids[j]`` gets row ``j + 1``, row 0 stays the unknown vector.
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
    rows[bucket[order], place] = order + 1
    return keys, rows


def _next_prime(n: int) -> int:
    n = max(n, 2)
    while any(n % d == 0 for d in range(2, int(n**0.5) + 1)):
        n += 1
    return n
