"""Loads the champion of every surface, its challenger and the current features, and follows without missing a request.

What serves a surface is one immutable ``Served`` (a model and features that fit each other); a request takes it once
and keeps it to its end. A replacement is loaded, warmed and bound beside it, then the reference is swapped; the old one
goes when its last request ends.
"""

import hashlib
import logging
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Literal, Protocol, TypedDict, TypeVar

from deploy.serving.counts import Counts
from deploy.serving.metrics import Metrics, Rarely, log
from deploy.serving.protocol import TensorSpec
from deploy.serving.troubles import Troubles, stamp
from ml.export.files import SCHEMA
from ml.foundation.settings import Settings
from ml.inference.model import Model
from ml.inference.request import RequestPlan
from ml.inference.snapshot import BoundFeatures, FeatureSnapshot, current_snapshot
from ml.releases.store import ReleaseStore

_LOOK_S = 30.0
"""A look that takes longer than this beyond the pause before it is a trouble."""

T = TypeVar("T")


class Pointed(Protocol):
    """What a store says serves a surface."""

    @property
    def surface(self) -> str:
        """Name that requests ask for."""
        ...

    @property
    def release(self) -> str:
        """Id that answers name."""
        ...

    @property
    def version(self) -> int:
        """Version, which rises with every change."""
        ...


class Files(Protocol):
    """The files of a release, checked; ``schema.json`` lies in ``path``."""

    @property
    def path(self) -> Path:
        """Folder of the files."""
        ...

    @property
    def model(self) -> Path:
        """Path of the ONNX file."""
        ...


class Store(Protocol):
    """Where models come from: the release store with its champions, or an experiment's variants."""

    def surfaces(self) -> list[str]:
        """Return the surfaces that have a model."""
        ...

    def pointer(self, surface: str) -> Pointed | None:
        """Return what serves a surface; polled."""
        ...

    def trusted_release(self, surface: str, release: str) -> Files:
        """Return the checked files of one release; whoever signed them is trusted."""
        ...


class Released:
    """A release, loaded.

    Attributes:
        surface: Surface that it ranks.
        release: Release id.
        path: Folder of its files.
        model: The session.
        tensors: Its inputs as protocol tensors.
        plan: How a /rank request becomes inputs.
        counts: What it has answered.
    """

    def __init__(self, surface: str, release: str, path: Path, model: Model) -> None:
        self.surface = surface
        self.release = release
        self.path = path
        self.model = model
        self.counts = Counts()
        self.tensors = {name: TensorSpec(name, item.dtype, item.shape) for name, item in model.schema.inputs.items()}
        self.plan = RequestPlan(model.schema.inputs)


class Label(TypedDict):
    """What every answer names."""

    release: str
    feature_day: str | None


@dataclass(frozen=True, slots=True)
class Served:
    """What answers requests of one surface.

    Attributes:
        released: The release.
        version: Its version in the model repository, which rises with every move of the champion pointer.
        features: Features bound to its inputs; ``None`` before any publication.
    """

    released: Released
    version: str
    features: BoundFeatures | None

    @property
    def identity(self) -> tuple[str, str, str | None]:
        """Return (release, version, feature snapshot)."""
        return self.released.release, self.version, self.features.snapshot_id if self.features else None

    @property
    def label(self) -> Label:
        """Return what every answer names: the release and the feature day."""
        return {
            "release": self.released.release,
            "feature_day": self.features.day.isoformat() if self.features else None,
        }


@dataclass(frozen=True, slots=True)
class Challenging:
    """A challenger, loaded.

    Attributes:
        served: It and its features.
        mode: Whether it answers (``canary``), picks every other item (``interleave``), or only scores (``shadow``).
        share: Of users, or of requests.
        model: Hash of its model: another verdict about it takes the same users.
    """

    served: Served
    mode: Literal["canary", "interleave", "shadow"]
    share: float
    model: str

    def takes(self, key: object) -> bool:
        """Tell whether a user (or request) is one of its share: always the same for the same challenger."""
        digest = hashlib.blake2b(f"{self.model} {key}".encode(), digest_size=8).digest()
        return int.from_bytes(digest) < self.share * 2**64


class Engine:
    """Holds what is served and keeps it current.

    Args:
        settings: Names the home; its release store and feature snapshots are followed.
        metrics: Counts loads and shows what is served.
        poll_s: Seconds between looks at the pointers.
        store: Where models come from, in place of the home's release store.
    """

    def __init__(
        self, settings: Settings, metrics: Metrics, *, poll_s: float = 1.0, store: Store | None = None
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.poll_s = poll_s
        self.store: Store = store or ReleaseStore.of(settings)
        self.served: dict[str, Served] = {}
        self.challengers: dict[str, Challenging] = {}
        self.troubles = Troubles(metrics)
        self.draining = False
        self._champions: set[str] = set()
        self._snapshot: FeatureSnapshot | None = None
        self._stamps: dict[Path, str] = {}
        self._looked = time.monotonic()
        metrics.look_age.set_function(lambda: time.monotonic() - self._looked)
        self._shown: set[tuple[str, str, str, str | None]] = set()
        self._failures = Rarely(per_s=1 / 60)
        self._stop = threading.Event()
        self._refreshing = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Load what is there, then follow the pointers in a thread."""
        self._look()
        self._thread = threading.Thread(target=self._follow, name="crossfade-follow", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop following."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def drain(self) -> None:
        """Say from now on that the server gets no traffic any more."""
        self.draining = True
        self.metrics.ready.set(0)

    def refresh(self) -> None:
        """Look at the pointers once and load what changed; what cannot be loaded leaves the old in place."""
        with self._refreshing:
            try:
                self._look_at("feature pointer", self._refresh_snapshot)
                listed = self._listed()
                for surface in sorted(self._champions | set(listed)):
                    self._look_at(f"champion of {surface}", partial(self._refresh_pointed, surface))
                self._stamps = {path: one for path, one in self._stamps.items() if path in self._paths()}
                self._show()
            finally:
                self._looked = time.monotonic()
                self.troubles.looked()

    def _listed(self) -> list[str]:
        try:
            return self.store.surfaces()
        except Exception as error:
            self.troubles.note("champions", f"which surfaces have a champion is not known: {error!r}")
            return []

    def _look_at(self, what: str, look: Callable[[], None]) -> None:
        """Let one thing that cannot be looked at stop no other."""
        try:
            look()
        except Exception as error:  # nobody knows what should serve: what is loaded stays
            self.troubles.note(what, f"{what} not known, the old one stays: {error}")

    def _refresh_pointed(self, surface: str) -> None:
        known = surface in self._champions
        self._champions.add(surface)
        pointer = self.store.pointer(surface)
        if pointer is not None:
            self._refresh_surface(pointer)
            self._refresh_challenger(pointer)
        elif known:
            self.troubles.note(f"champion of {surface}", f"the champion log of {surface} is gone, the old one stays")
        else:
            self._champions.discard(surface)

    def answering(self, surface: str, user: object) -> Served | None:
        """Return what ranks for a user: the canary where the user is one of its share, else the champion."""
        challenger = self.challengers.get(surface)
        if challenger is not None and challenger.mode == "canary" and user is not None and challenger.takes(user):
            return challenger.served
        return self.served.get(surface)

    def interleaved(self, surface: str, user: object, champion: Served) -> Served | None:
        """Return what picks every other item for a user of its share, once it has the champion's features."""
        challenger = self.challengers.get(surface)
        if challenger is None or challenger.mode != "interleave" or user is None or not challenger.takes(user):
            return None
        return challenger.served if challenger.served.identity[2] == champion.identity[2] else None

    def shadow(self, surface: str, request: object) -> Served | None:
        """Return what scores a request besides, if it is one of the shadow's share."""
        challenger = self.challengers.get(surface)
        shadows = challenger is not None and challenger.mode == "shadow" and challenger.takes(request)
        return challenger.served if challenger is not None and shadows else None

    def stale(self, day: date) -> str | None:
        """Return why features of ``day`` are too old to rank with, or ``None``."""
        age, limit = self._age(day), self.settings.max_feature_age_days
        return f"features of {day} are {age} days old; at most {limit} are served" if age > limit else None

    def not_ready(self) -> list[str]:
        """Return the reasons why the server should get no traffic; empty when it is ready."""
        if self.draining:
            return ["the server is about to end"]
        if not self._champions:
            return ["no surface has a champion"]
        served = self.served
        reasons = [f"the champion of {name} is not loaded" for name in self.missing()]
        for name, item in served.items():
            if item.features is None:
                reasons.append(f"{name} has no features")
            elif stale := self.stale(item.features.day):
                reasons.append(f"{name}: {stale}")
        return reasons

    def missing(self) -> list[str]:
        """Return the surfaces whose champion is not loaded."""
        return sorted(self._champions - self.served.keys())

    def details(self) -> dict[str, str]:
        """Return what is wrong, whether it keeps the server from being ready or not, by what it is about."""
        silent = time.monotonic() - self._looked - self.poll_s
        if silent <= _LOOK_S:
            return self.troubles.current
        return {**self.troubles.current, "look": f"pointers were last looked at {silent:.0f} s ago"}

    def _age(self, day: date) -> int:
        """Return the days from ``day`` to the last day of a finite source, or to today (UTC)."""
        return ((self.settings.last_day or datetime.now(UTC).date()) - day).days

    def _follow(self) -> None:
        while not self._stop.wait(self.poll_s):
            self._look()

    def _look(self) -> None:
        try:
            self.refresh()
        except BaseException as error:  # a look is repeated, whatever it ends with: a library's panic is no Exception
            if (before := self._failures.due(type(error).__name__)) is not None:
                log(logging.ERROR, "refresh failed", exc_info=True, not_told=before)

    def _refresh_snapshot(self) -> None:
        path, old = current_snapshot(self.settings), self._snapshot
        if path is None:
            if old is not None:
                self.troubles.note("features", f"the feature pointer is gone, features of {old.day} stay")
            return
        if old is not None and old.id == path.name:
            self._check_files(path, "features", partial(FeatureSnapshot.load, path))
            return
        self._stamps[path] = stamp(path)
        self._snapshot = self._attempt("features", "features", path.name, partial(FeatureSnapshot.load, path)) or old

    def _check_files(self, path: Path, what: str, check: Callable[[], object]) -> None:
        """Note where files that are loaded have changed or are gone: they would not load again."""
        now = stamp(path)
        if now and self._stamps.get(path) == now:
            return
        told = f"{what} as loaded stay, their files do not load any more"
        if self.troubles.attempt(what, f"{path.name} {now}"[:200], told, check) is not None:
            self._stamps[path] = now

    def _paths(self) -> set[Path]:
        loaded = [*self.served.values(), *(item.served for item in self.challengers.values())]
        found = {item.released.path for item in loaded}
        return {path for path in self._stamps if path in found or path.name == (self._snapshot and self._snapshot.id)}

    def _refresh_surface(self, pointer: Pointed) -> None:
        surface, snapshot, old = pointer.surface, self._snapshot, self.served.get(pointer.surface)
        wanted = (pointer.release, str(pointer.version), snapshot.id if snapshot else None)
        if old is not None and old.identity == wanted:
            check = partial(self.store.trusted_release, surface, pointer.release)
            self._check_files(old.released.path, f"release of {surface}", check)
            return
        name = f"{surface}/{pointer.release} with features {wanted[2]}"
        new = self._attempt("release", f"release of {surface}", name, lambda: self._champion(pointer, old))
        if new is None and old is not None and old.released.release != pointer.release and old.identity[2] != wanted[2]:
            name = f"{surface}/{old.released.release} with features {wanted[2]}"
            what = f"features of {surface}"
            new = self._attempt("release", what, name, lambda: self._bound(old.released, old.version))
        if new is not None:
            self.served = {**self.served, surface: new}
            log(logging.INFO, "serving", surface=surface, version=new.version, **new.label)

    def _refresh_challenger(self, pointer: Pointed) -> None:
        """Load, bind or drop the challenger; one that cannot be loaded answers nobody."""
        surface, wanted = pointer.surface, getattr(pointer, "challenger", None)
        old, snapshot = self.challengers.get(surface), self._snapshot.id if self._snapshot else None
        if old is not None and (wanted is None or old.served.released.release != wanted.release):
            self.challengers = {name: item for name, item in self.challengers.items() if name != surface}
            log(logging.INFO, "challenge ended", surface=surface, **old.served.label)
        if wanted is None:
            return
        asked = (wanted.release, wanted.mode, wanted.share, snapshot)
        if old is not None and (old.served.released.release, old.mode, old.share, old.served.identity[2]) == asked:
            return
        known = self._same(wanted.release, old.served if old else None, self.served.get(surface))
        name = f"{surface}/{wanted.release} as {wanted.mode} with features {snapshot}"
        what = f"challenger of {surface}"
        served = self._attempt("challenger", what, name, lambda: self._load(surface, wanted.release, "0", known))
        if served is not None:
            self.challengers = {
                **self.challengers,
                surface: Challenging(served, wanted.mode, wanted.share, wanted.onnx_sha256),
            }
            log(logging.INFO, wanted.mode, surface=surface, share=wanted.share, **served.label)

    @staticmethod
    def _same(release: str, *candidates: Served | None) -> Served | None:
        """Return the one that serves this release already."""
        return next((item for item in candidates if item is not None and item.released.release == release), None)

    def _champion(self, pointer: Pointed, old: Served | None) -> Served:
        challenger = self.challengers.get(pointer.surface)
        known = self._same(pointer.release, old, challenger.served if challenger else None)
        return self._load(pointer.surface, pointer.release, str(pointer.version), known)

    def _load(self, surface: str, name: str, version: str, known: Served | None) -> Served:
        if known is not None:
            return self._bound(known.released, version)
        release = self.store.trusted_release(surface, name)
        model = Model(release.model.read_bytes(), (release.path / SCHEMA).read_bytes())
        self._stamps[release.path] = stamp(release.path)
        released = Released(surface, name, release.path, model)
        served = self._bound(released, version)
        weakref.finalize(released, self._on_drained, surface, name).atexit = False
        return served

    def _bound(self, released: Released, version: str) -> Served:
        features = self._snapshot.bind(released.model.schema.inputs) if self._snapshot else None
        return Served(released, version, features)

    def _on_drained(self, surface: str, release: str) -> None:
        self.metrics.drained.inc()
        log(logging.INFO, "drained", surface=surface, release=release)

    def _attempt(self, kind: str, what: str, name: str, load: Callable[[], T]) -> T | None:
        """Return ``load()``, or ``None`` where it fails or is not tried again yet."""
        started = time.perf_counter()

        def counted() -> T:
            try:
                return load()
            except Exception:
                self.metrics.loads.labels(kind, "failed").inc()
                raise

        result = self.troubles.attempt(what, name, f"{kind} not loaded, the old one stays", counted)
        if result is not None:
            self.metrics.loads.labels(kind, "loaded").inc()
            log(logging.INFO, f"{kind} loaded", name=name, seconds=round(time.perf_counter() - started, 3))
        return result

    def _show(self) -> None:
        served = {(surface, *item.identity) for surface, item in self.served.items()}
        for gone in self._shown - served:
            self.metrics.serving.remove(*(label or "" for label in gone))
        for new in served - self._shown:
            self.metrics.serving.labels(*(label or "" for label in new)).set(1)
        self._shown = served
        self.metrics.challenger.clear()
        for surface, item in self.challengers.items():
            self.metrics.challenger.labels(surface, item.served.released.release, item.mode).set(item.share)
        if self._snapshot is not None:
            self.metrics.feature_age.set(self._age(self._snapshot.day))
        self.metrics.ready.set(not self.not_ready())
