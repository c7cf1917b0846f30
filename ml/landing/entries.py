"""Entries of a day: how each is opened, and what is wrong with one that is no ordinary file, found without that."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_REMEDY = "move it out of the landing zone (entries whose names begin with _ or . are skipped)"


@dataclass(frozen=True)
class Entry:
    """A file of data.

    Attributes:
        name: Its path, or its address in an object store.
        label: What ledger and quarantine call it.
        fetch: Writes an object into a local file; None for a file.
    """

    name: Path | str
    label: str
    fetch: Callable[[Path], None] | None = None

    @contextmanager
    def opened(self, folder: Path) -> Iterator[Path]:
        """Give the path of the file, or of a copy in ``folder``, which goes at the end of the block."""
        if self.fetch is None:
            yield Path(self.name)
            return
        copy = folder / str(self.name).rpartition("/")[2]
        try:
            self.fetch(copy)
            yield copy
        finally:
            copy.unlink(missing_ok=True)


def shown(path: Path | str) -> str:
    r"""Return a path as text that any terminal, log and database takes: a byte that is not UTF-8 reads ``\xff``."""
    return os.fsencode(path).decode(errors="backslashreplace")


def oddity(path: Path) -> str | None:
    """Say why an entry is not read and what to do about it; None for a file that can be opened without waiting."""
    if shown(path) != str(path):
        return "its name is not UTF-8; rename it"
    try:
        mode = path.stat().st_mode
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        if path.is_symlink():
            target = shown(path.readlink())
            return f"its link to {target} cannot be followed ({why}); put the file in its place, or {_REMEDY}"
        return f"{why}; {_REMEDY}"
    if stat.S_ISREG(mode):
        return None
    kind = _KINDS.get(stat.S_IFMT(mode), "no file")
    kind = f"a link to {kind}" if path.is_symlink() else kind
    if stat.S_ISDIR(mode):
        return f"it is {kind}; data files lie in the day's folder itself: move its files there, or {_REMEDY}"
    return f"it is {kind}, not a file; {_REMEDY}"
