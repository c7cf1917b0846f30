"""Entries of a day's folder that are no ordinary files: what is wrong with each, found without opening it."""

import os
import stat
from pathlib import Path

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_REMEDY = "move it out of the landing zone (entries whose names begin with _ or . are skipped)"


def shown(path: Path) -> str:
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
