"""The vocabulary's table finds every id exactly, and nothing else."""

import numpy as np
import pytest

from ml.students.vocabulary import build_table


def rows_of(ids: np.ndarray, keys: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """One gather and k comparisons, as a graph does it."""
    bucket = ids % len(keys)
    return ((keys[bucket] == ids[..., None]) * rows[bucket]).sum(-1)


@pytest.mark.parametrize("n", [0, 1, 24, 5_000])
def test_every_id_finds_its_row_and_others_find_row_zero(n: int) -> None:
    rng = np.random.default_rng(n)
    ids = np.unique(rng.integers(0, 2**63 - 1, size=n, dtype=np.int64))
    rng.shuffle(ids)
    table = build_table(ids)
    assert np.array_equal(rows_of(ids, *table), np.arange(1, len(ids) + 1))
    strangers = np.setdiff1d(rng.integers(0, 2**63 - 1, size=1_000, dtype=np.int64), ids)
    assert not rows_of(strangers, *table).any()


def test_small_negative_and_extreme_ids_are_exact() -> None:
    ids = np.array([0, 1, 23, -1, -5, 2**63 - 1, -(2**63)], dtype=np.int64)
    table = build_table(ids)
    assert rows_of(ids, *table).tolist() == list(range(1, 8))
    assert rows_of(np.array([[2, -2], [-1, 7]]), *table).tolist() == [[0, 0], [4, 0]]


def test_table_stays_small() -> None:
    ids = np.random.default_rng(1).integers(0, 2**63 - 1, size=20_000, dtype=np.int64)
    keys, rows = build_table(ids)
    assert keys.shape == rows.shape
    assert keys.shape[1] == 8
    assert keys.size < 8 * len(ids)


def test_a_repeated_id_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match="id 7 occurs 2 times"):
        build_table(np.array([1, 7, 3, 7]))
