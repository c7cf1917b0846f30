"""What keeps a server from serving what it should: told once per cause, shown as long as it lasts."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from deploy.serving.metrics import Metrics, Rarely, log

_RETRY_FIRST_S, _RETRY_MOST_S = 1.0, 60.0

T = TypeVar("T")


class _Failed(NamedTuple):
    name: str
    told: str
    again_at: float
    pause: float


class Troubles:
    """Troubles by what they are about, found anew by each look.

    Args:
        metrics: Shows them.
    """

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.current: dict[str, str] = {}
        self._found: dict[str, str] = {}
        self._failed: dict[str, _Failed] = {}
        self._rarely = Rarely(per_s=1 / 60, at_once=5)

    def note(self, what: str, told: str) -> None:
        """Note that something is wrong with ``what`` in this look."""
        self._found[what] = told

    def attempt(self, what: str, name: str, told: str, load: Callable[[], T]) -> T | None:
        """Return ``load()``, or ``None`` where it fails; the same failing one is tried again with growing pauses.

        Args:
            what: What the trouble would be about.
            name: Which one it is: another one is tried at once.
            told: What it means for people that it fails.
            load: Loads it.
        """
        before = self._failed.get(what)
        if before is not None and before.name != name:
            before = None
        if before is not None and time.monotonic() < before.again_at:
            self.note(what, before.told)
            return None
        try:
            result = load()
        except Exception as error:  # whatever is wrong with the new one, the old one serves on
            pause = min(2 * before.pause, _RETRY_MOST_S) if before is not None else _RETRY_FIRST_S
            told = f"{told}: {name}: {str(error) or repr(error)}"
            self._failed[what] = _Failed(name, told, time.monotonic() + pause, pause)
            self.note(what, told)
            return None
        self._failed.pop(what, None)
        return result

    def looked(self) -> None:
        """End a look: tell what is new and what is over."""
        found, self._found = self._found, {}
        for what, told in found.items():
            if self.current.get(what) != told and (before := self._rarely.due(what)) is not None:
                log(logging.ERROR, told, about=what, not_told=before)
        for what in self.current.keys() - found.keys():
            if self._rarely.due(f"{what} is over") is not None:
                log(logging.INFO, "trouble is over", about=what)
        self._failed = {what: failed for what, failed in self._failed.items() if what in found}
        self.current = found
        self.metrics.troubles.clear()
        for what in found:
            self.metrics.troubles.labels(what).set(1)


def stamp(path: Path) -> str:
    """Return what changes when files of a folder do: names, sizes and times; empty where there is no folder."""
    try:
        found = [(entry.name, entry.stat()) for entry in path.iterdir()]
    except OSError:
        return ""
    return " ".join(sorted(f"{name}:{stat.st_size}:{stat.st_mtime_ns}" for name, stat in found))
