"""Arrays that lie in a file rather than in memory, where the system may take their pages back at any time."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

Shape = tuple[int, ...]

_ALIGNED = 64
"""Bytes of a cache line; arithmetic on vectors may round otherwise where it starts elsewhere."""


def arrays(wanted: Mapping[str, tuple[Shape, type[np.generic]]], folder: Path | None) -> dict[str, np.ndarray]:
    """Return arrays to be filled.

    Args:
        wanted: {name: shape and element type}.
        folder: Where a file without a name holds all of them for as long as one of them lives; None is memory.

    Raises:
        OSError: There is no room for the file.
    """
    if folder is None:
        return {name: np.empty(shape, dtype) for name, (shape, dtype) in wanted.items()}
    sizes = [np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64)) for shape, dtype in wanted.values()]
    starts = np.cumsum([0, *(-(-size // _ALIGNED) * _ALIGNED for size in sizes)]).tolist()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        # All of it now: where a disk is full, a page that is written to later ends the process.
        os.posix_fallocate(file.fileno(), 0, max(starts[-1], 1))
        whole = np.memmap(file, np.uint8, "r+").view(np.ndarray)
    return {
        name: whole[start : start + size].view(dtype).reshape(shape)
        for (name, (shape, dtype)), start, size in zip(wanted.items(), starts, sizes, strict=False)
    }
