"""Compressed text files, unpacked up to a bound: a small file that unpacks to far more must not take the memory."""

import gzip
from pathlib import Path

import pyarrow as pa

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


PACKED = (".gz", ".zst")
"""Endings of compressed text files."""


def unpacked(path: Path, limit: int | None = None) -> bytes:
    """Return the content of a text file, whether it is compressed or not.

    Raises:
        UnpacksTooFar: A compressed one is longer than ``limit``.
    """
    name = path.name.lower()
    if not name.endswith(PACKED):
        return path.read_bytes()
    most = -1 if limit is None else limit + 1
    if name.endswith(".gz"):
        with gzip.open(path) as file:
            content = file.read(most)
    else:
        with pa.input_stream(str(path), compression="zstd") as stream:
            content = stream.read(None if most < 0 else most)
    if limit is not None and len(content) > limit:
        raise UnpacksTooFar(limit)
    return content


def packed(content: bytes, path: Path) -> bytes:
    """Return content as it is to stand in a text file of this name."""
    name = path.name.lower()
    if name.endswith(".gz"):
        return gzip.compress(content, mtime=0)
    return pa.compress(content, codec="zstd", asbytes=True) if name.endswith(".zst") else content
