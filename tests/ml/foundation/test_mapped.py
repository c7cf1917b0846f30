"""Arrays in a file: they are what arrays in memory are, and leave nothing behind."""

import mmap
from pathlib import Path

import numpy as np
import pytest

from ml.foundation.mapped import Shape, arrays

WANTED: dict[str, tuple[Shape, type[np.generic]]] = {
    "ids": ((5, 3), np.int64),
    "odd": ((7,), np.uint8),
    "none": ((0, 4), np.float32),
    "no columns": ((5, 0), np.int64),
    "numbers": ((5,), np.float32),
}


@pytest.mark.parametrize("mapped", [True, False])
def test_each_array_holds_what_it_is_given_and_no_file_is_left(tmp_path: Path, mapped: bool) -> None:
    folder = tmp_path / "made" if mapped else None
    made = arrays(WANTED, folder)
    assert {name: (array.shape, array.dtype) for name, array in made.items()} == {
        name: (shape, np.dtype(dtype)) for name, (shape, dtype) in WANTED.items()
    }
    for value, array in enumerate(made.values()):
        array[...] = value
    assert all((array == value).all() for value, array in enumerate(made.values()))
    assert not list(tmp_path.rglob("*.*")) and (folder is None or not list(folder.iterdir()))
    if mapped:
        assert all(array.ctypes.data % 64 == 0 and _lies_in_a_file(array) for array in made.values() if array.size)


def _lies_in_a_file(array: object) -> bool:
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(array, mmap.mmap)


def test_a_file_for_which_there_is_no_room_is_refused_before_it_is_written_to(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        arrays({"all": ((2**60,), np.uint8)}, tmp_path)
