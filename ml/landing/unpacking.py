"""Compressed files, unpacked up to a bound: a small file that unpacks to far more must not take the memory."""

import gzip
from pathlib import Path

_ORDINARY_RATIO = 20
"""Logs of events shrink to a twentieth at best; a large file may unpack to so many times its size."""


class UnpacksTooFar(ValueError):
    """A file whose content is larger than the bound; says by which setting to raise it."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"it unpacks to more than {limit >> 20:,} MB; split it into several files, or raise "
            "CROSSFADE_MAX_UNPACKED_MB if the machine has the memory"
        )


def most_bytes(path: Path, least: int) -> int:
    """Return the bytes that a file may unpack to: ``least``, or more for a file that is large itself."""
    return max(least, _ORDINARY_RATIO * path.stat().st_size)


def unpacked(path: Path, limit: int) -> bytes:
    """Return the content of a gzip file.

    Raises:
        UnpacksTooFar: It is longer than ``limit``.
    """
    with gzip.open(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise UnpacksTooFar(limit)
    return content
