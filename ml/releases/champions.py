"""The champion log: who serves a surface, who served, and who decided it.

The champion pointer is an append-only log, ``champion/<surface>/<number>.json``: every entry is created exclusively
under the number after the one its writer had read, so that of two concurrent moves one wins and the other is refused.
The last valid entry tells the champion.
"""

import logging
import re
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

from pydantic import Field, ValidationError

from ml.foundation.files import FileStore
from ml.foundation.sealed import DamagedError, seal, unseal
from ml.releases.manifest import Record
from ml.releases.refusals import PromotionRefused, Refusal
from ml.releases.verdicts import now

log = logging.getLogger(__name__)

_ENTRY = re.compile(r"\d{6}\.json")


class Challenger(Record):
    """A release beside the champion: a canary answers some users, a shadow scores some requests and answers none."""

    release: str
    onnx_sha256: str
    mode: Literal["canary", "shadow"]
    share: float = Field(gt=0, le=1, description="Of users with an id (canary), or of requests (shadow)")


class Pointer(Record):
    """One entry of the champion log."""

    surface: str
    number: int = Field(ge=1)
    previous: int = Field(ge=0, description="Entry that its writer had read")
    version: int = Field(ge=1, description="Rises by one with every move; version in the model repository")
    release: str
    partition: date
    onnx_sha256: str
    action: Literal["promote", "override", "rollback", "reference", "retire", "challenge"]
    at: datetime
    by: str
    reason: str
    barred: tuple[str, ...] = Field(default=(), description="Releases that this entry bars from coming back")
    retired: tuple[str, ...] = Field(default=(), description="Releases that this entry gives up for deletion")
    challenger: Challenger | None = Field(default=None, description="Beside this champion; a move ends it")
    run_id: str | None = None

    @property
    def moves(self) -> bool:
        """Tell whether this entry changed what serves."""
        return self.action in ("promote", "override", "rollback")


@dataclass(frozen=True)
class State:
    """The log, folded: what every entry so far comes to."""

    entries: tuple[Pointer, ...]
    next_number: int

    @property
    def last(self) -> Pointer | None:
        """Return the newest entry."""
        return self.entries[-1] if self.entries else None

    @property
    def number(self) -> int:
        """Return its number, 0 before the first."""
        return self.last.number if self.last else 0

    @property
    def version(self) -> int:
        """Return its version in the model repository."""
        return self.last.version if self.last else 0

    @property
    def champion(self) -> str | None:
        """Return the release that serves."""
        return self.last.release if self.last else None

    @property
    def barred(self) -> frozenset[str]:
        """Return the releases that must not come back."""
        return frozenset(r for e in self.entries for r in e.barred)

    @property
    def barred_models(self) -> frozenset[str]:
        """Return the hashes of the barred releases' models."""
        shown = {(e.release, e.onnx_sha256) for e in self.entries}
        shown |= {(e.challenger.release, e.challenger.onnx_sha256) for e in self.entries if e.challenger}
        return frozenset(model for release, model in shown if release in self.barred)

    @property
    def retired(self) -> frozenset[str]:
        """Return the releases that were given up."""
        return frozenset(r for e in self.entries for r in e.retired)

    @property
    def reference(self) -> str | None:
        """Return the release that a person confirmed last, and before that the first one promoted.

        A barred release is no measure, and a deleted one cannot be compared with: the next in order takes its place.
        """
        confirmed = [e.release for e in reversed(self.entries) if e.action == "reference"]
        served = [e.release for e in self.entries if e.moves]
        gone = self.barred | self.retired
        return next((release for release in [*confirmed, *served] if release not in gone), None)

    def recent(self) -> list[Pointer]:
        """Return the last move to each release, newest first."""
        found: dict[str, Pointer] = {}
        for entry in reversed(self.entries):
            if entry.moves:
                found.setdefault(entry.release, entry)
        return list(found.values())


class ChampionLog:
    """The champion logs of all surfaces below one root."""

    def __init__(self, files: FileStore) -> None:
        self.files = files

    def surfaces(self) -> list[str]:
        """Return the surfaces that have a champion log, sorted."""
        return self.files.names("champion")

    def pointer(self, surface: str) -> Pointer | None:
        """Return the newest valid entry: cheap enough to poll."""
        for name in reversed(self._numbers(surface)):
            entry = self._entry(surface, name)
            if entry is not None:
                return entry
        return None

    def state(self, surface: str) -> State:
        """Return every valid entry, folded."""
        names = self._numbers(surface)
        entries = [entry for name in names if (entry := self._entry(surface, name)) is not None]
        return State(tuple(entries), int(names[-1][:6]) + 1 if names else 1)

    def append(self, entry: Pointer, read: State) -> Pointer:
        """Create ``entry`` as the next one after the state it was decided on: compare and swap.

        Where only a note (a confirmation, a retirement) came between, the entry takes the number after it.
        """
        state = read
        while not self.files.create(
            f"champion/{entry.surface}/{state.next_number:06d}.json",
            seal(entry.model_copy(update=_place(state)).model_dump(mode="json")),
        ):
            state = self.state(entry.surface)
            if state.version != read.version or entry.release in state.retired:
                message = f"the champion of {entry.surface} changed to {state.champion} meanwhile"
                raise PromotionRefused(Refusal.SUPERSEDED, message)
            if state.last is not None and entry.action in ("reference", "retire"):
                entry = entry.model_copy(update={"challenger": state.last.challenger})
        return entry.model_copy(update=_place(state))

    def note(
        self,
        state: State,
        surface: str,
        action: Literal["reference", "retire", "challenge"],
        by: str,
        reason: str,
        *,
        retired: tuple[str, ...] = (),
        barred: tuple[str, ...] = (),
        **changes: object,
    ) -> Pointer:
        """Append an entry that moves nothing to the state it was decided on; what it does not change stands."""
        if state.last is None:
            raise PromotionRefused(Refusal.NO_CHAMPION, f"{surface} has no champion")
        if state.champion in retired:
            raise PromotionRefused(Refusal.SUPERSEDED, f"{state.champion} serves and cannot be retired")
        told = {"action": action, "at": now(), "by": by, "reason": reason, "retired": retired, "barred": barred}
        return self.append(state.last.model_copy(update={"run_id": None, **told, **changes}), state)

    def _numbers(self, surface: str) -> list[str]:
        return [name for name in self.files.names(f"champion/{surface}") if _ENTRY.fullmatch(name)]

    def _entry(self, surface: str, name: str) -> Pointer | None:
        key = f"champion/{surface}/{name}"
        try:
            content, _ = unseal(self.files.read(key), key)
            entry = Pointer.model_validate(content)
        except (DamagedError, ValidationError) as error:
            log.error("champion log: entry ignored: %s", error)
            return None
        if (entry.surface, f"{entry.number:06d}.json") != (surface, name):
            log.error("champion log: entry ignored: %s says it is %s %d", key, entry.surface, entry.number)
            return None
        return entry


def _place(state: State) -> dict[str, int]:
    return {"number": state.next_number, "previous": state.number}
