"""Files of a table in an object store: ``s3://``, ``gs://`` and ``az://`` patterns of ``sources.yaml``.

Credentials, region and endpoint come from the variables of the store's own clients: ``AWS_*``, ``GOOGLE_*``,
``AZURE_*``.
"""

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import obstore
from obstore.exceptions import BaseError
from obstore.store import from_url

from ml.landing.contract import LandingError
from ml.landing.entries import Entry
from ml.landing.patterns import Pattern, marker_name, matches
from ml.landing.sources import Ready

if TYPE_CHECKING:  # types that the package does not have when it runs
    from obstore import ObjectMeta
    from obstore.store import ObjectStore, RetryConfig

_VARIABLES = {"s3": "AWS_*", "gs": "GOOGLE_*", "az": "AZURE_*"}
_PATIENCE = timedelta(seconds=10)
T = TypeVar("T")


class StoreError(LandingError):
    """An object store that cannot be asked; names the address, and where its credentials come from."""


@dataclass(frozen=True)
class Bucket:
    """Where the objects of one table lie, and what says that a day of them is complete."""

    table: str
    url: str
    """Scheme and name, such as ``s3://bucket``."""
    pattern: Pattern
    """Of keys."""
    ready: Ready | None

    def where(self, day: date) -> str:
        """Return the address of a day's objects."""
        return f"{self.url}/{self.pattern.of(day)}"

    def marker(self, day: date) -> str | None:
        """Return the key of the object that says that a day is complete, if there may be one."""
        name = marker_name(self.pattern, self.ready.marker if self.ready else None, self.table, day)
        return None if name is None else f"{self.pattern.folder(day)}/{name}".lstrip("/")

    def marked(self, day: date) -> bool:
        """Tell whether that object is there."""
        return self.marker(day) in self._listed(day)

    def days(self) -> Iterator[date]:
        """Yield the days that have objects; some come more than once."""
        for key in self._listed(None):
            if day := self.pattern.day_of(key):
                yield day

    def entries(self, day: date) -> list[Entry]:
        """Return the data of a day, by key."""
        return [Entry(f"{self.url}/{key}", f"{self.url}/{key}", self._fetch(key)) for key in self._data(day)]

    def fingerprints(self, day: date) -> Iterator[str]:
        """Yield what tells one version of each of a day's objects from another; none of them is read."""
        for key, found in self._data(day).items():
            yield f"{self.table}/{key}\x1f{found['size']}\x1f{found['e_tag'] or found['last_modified']}"

    def touched(self, day: date) -> float:
        """Return when anything of a day last changed, objects included that are not data."""
        folder = f"{self.pattern.folder(day)}/"
        there = self._listed(day) if self.pattern.day_in_folder else self._data(day)
        times = [found["last_modified"].timestamp() for key, found in there.items() if key.startswith(folder)]
        return max([*times, *(found["last_modified"].timestamp() for found in self._data(day).values())], default=0.0)

    def lacks(self, day: date, now: float, quiet_minutes: float, *, optional: bool) -> str | None:
        """Say what a day waits for; None if it is complete, or has nothing and need not."""
        if optional and not self._data(day) and not self.marked(day):
            return None
        marker, marked = self.marker(day), self.marked(day)
        ready = self.ready or Ready(silence=quiet_minutes)
        if marked and (self.ready is None or ready.marker):
            return None
        lacking = f"no {self.url}/{marker}" if marker else "no marker"
        if ready.silence is None:
            return lacking
        if not self._data(day) and not marked:
            return f"no object {self.where(day)}"
        quiet = (now - self.touched(day)) / 60
        if quiet < ready.silence:
            return (
                f"{lacking}, and the last change is {max(quiet, 0):.0f} minutes old; complete after {ready.silence:g}"
            )
        return None

    def _data(self, day: date) -> "dict[str, ObjectMeta]":
        pattern, marker = self.pattern.of(day), self.marker(day)
        return {
            key: found
            for key, found in self._listed(day).items()
            if key != marker and not key.rpartition("/")[2].startswith(("_", ".")) and matches(key, pattern)
        }

    def _listed(self, day: date | None) -> "dict[str, ObjectMeta]":
        """Return {key: what the store says of it} of a day, or of all days."""
        kept = _kept.get()
        if kept is None:
            return self._list(self.pattern.prefix if day is None else self.pattern.folder(day))
        if self not in kept:
            kept[self] = self._list(self.pattern.prefix)
        if day is None:
            return kept[self]
        folder = self.pattern.folder(day)
        return {key: found for key, found in kept[self].items() if not folder or key.startswith(f"{folder}/")}

    def _list(self, prefix: str) -> "dict[str, ObjectMeta]":
        pages = self._asked(lambda store: list(obstore.list(store, prefix or None)), prefix)
        return dict(sorted((found["path"], found) for page in pages for found in page))

    def _fetch(self, key: str) -> Callable[[Path], None]:
        def fetch(path: Path) -> None:
            with path.open("wb") as file:
                for part in self._asked(lambda store: obstore.get(store, key), key).stream():
                    file.write(part)

        return fetch

    def _asked(self, question: "Callable[[ObjectStore], T]", key: str) -> T:
        try:
            return question(_opened(self.url))
        except FileNotFoundError:
            raise
        except (BaseError, ValueError) as error:
            told = " ".join(str(error).split())[:500]
            variables = _VARIABLES[self.url.partition(":")[0]]
            raise StoreError(
                f"{self.url}/{key} cannot be read: {told}; address and credentials come from the {variables} variables"
            ) from None


def bucket_of(text: str, table: str, ready: Ready | None) -> Bucket:
    """Return where the objects of a pattern with a scheme lie."""
    scheme, _, rest = text.partition("://")
    name, _, keys = rest.partition("/")
    return Bucket(table, f"{scheme}://{name}", Pattern(keys, table), ready)


_kept: "ContextVar[dict[Bucket, dict[str, ObjectMeta]] | None]" = ContextVar("listings", default=None)


@contextmanager
def listings_kept() -> Generator[None]:
    """List each bucket once for all days until the end of the block."""
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def _opened(url: str) -> "ObjectStore":
    prefix = _VARIABLES[url.partition(":")[0]].removesuffix("*")
    return _store(url, tuple(sorted(pair for pair in os.environ.items() if pair[0].startswith(prefix))))


@lru_cache(maxsize=32)
def _store(url: str, environment: tuple[tuple[str, str], ...]) -> "ObjectStore":
    """Open a store as its variables say now; a client keeps its connections."""
    patience: RetryConfig = {"max_retries": 2, "retry_timeout": _PATIENCE}
    plain = any(name.endswith("_ALLOW_HTTP") and value.lower() == "true" for name, value in environment)
    return from_url(url, client_options={"connect_timeout": "5s", "allow_http": plain}, retry_config=patience)
