"""The champion log: who serves a surface, who served, and who decided it.

The champion pointer is an append-only log, ``champion/<surface>/<number>.json``: every entry is created exclusively
under the number after the one its writer had read, so that of two concurrent moves one wins and the other is refused.
The last entry tells the champion.

What an entry bars or gives up holds for ever, so a log that lost one may bring back what was rolled back. It is
therefore read whole or not at all: numbers without a gap, every entry sealed, and each carries the hash of all entries
before it. ``heads/<surface>.json`` says how far the log reached, so that a lost end is seen too. A log that is not
whole is refused until a person says what holds (``ml.releases.recovery``).

Whoever can write can make a log that is whole. Where a key is set, entries and head are signed, and a log counts only
if a trusted key signed its head and each entry, or a later one by which a person answers for all before it (``sign``).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import partial
from typing import Literal

from pydantic import Field, ValidationError

from ml.foundation.files import FileStore, sha256_bytes
from ml.foundation.sealed import DamagedError, seal, unseal_signed
from ml.foundation.signing import UNSIGNED, Keyring, Signed, UntrustedError
from ml.releases.manifest import Record
from ml.releases.refusals import PromotionRefused, Refusal
from ml.releases.verdicts import now

_ENTRY = re.compile(r"\d+\.json")
_LOST = "missing"
_GAP = 10
"""More entries in a row than this are not lost while later ones stay: what has such a number is none."""


Mode = Literal["canary", "interleave", "shadow"]
"""How a challenger takes part."""


class Challenger(Record):
    """A release beside the champion.

    A canary answers some users, an interleaving challenger picks every other item of theirs, a shadow scores some
    requests and answers none.
    """

    release: str
    onnx_sha256: str
    mode: Mode
    share: float = Field(gt=0, le=1, description="Of users with an id (canary, interleave), or of requests (shadow)")


class Pointer(Record):
    """One entry of the champion log."""

    surface: str
    number: int = Field(ge=1)
    previous: int = Field(ge=0, description="Entry that its writer had read")
    version: int = Field(ge=1, description="Rises by one with every move; version in the model repository")
    release: str
    partition: date
    onnx_sha256: str
    action: Literal[
        "promote", "popularity", "override", "rollback", "reference", "retire", "challenge", "recover", "vacate", "sign"
    ]
    at: datetime
    by: str
    reason: str
    barred: tuple[str, ...] = Field(default=(), description="Releases that this entry bars from coming back")
    retired: tuple[str, ...] = Field(default=(), description="Releases that this entry gives up for deletion")
    challenger: Challenger | None = Field(default=None, description="Beside this champion; a move ends it")
    run_id: str | None = None
    predecessor: str | None = Field(default=None, description="Hash of every entry before; version 0.1 wrote none")
    vacant: bool = Field(default=False, description="No release serves: the last one was lost")
    replaced: dict[int, str] = Field(
        default={}, description="Unreadable entries that this one stands for: SHA-256 as found by number, or missing"
    )

    @property
    def moves(self) -> bool:
        """Tell whether this entry changed what serves."""
        return self.action in ("promote", "popularity", "override", "rollback", "recover")


@dataclass(frozen=True)
class State:
    """The log, folded: what every entry so far comes to."""

    entries: tuple[Pointer, ...]
    hash: str = ""
    """Of all entries; the next one carries it."""
    signed: Mapping[int, Signed] = field(default_factory=dict)
    """Who signed each entry, by number."""
    head: Signed = UNSIGNED
    """Who signed how far the log reaches."""

    @property
    def untrusted(self) -> dict[str, Signed]:
        """What no trusted key answers for: entries by key, and the head."""
        answered = [e.number for e in self.entries if e.action == "sign" and not self.signed[e.number].fault]
        after = max(answered, default=0)
        found = {_key(e.surface, e.number): self.signed[e.number] for e in self.entries if e.number > after}
        if self.last is not None:
            found[f"heads/{self.last.surface}.json"] = self.head
        return {key: signed for key, signed in found.items() if signed.fault}

    @property
    def last(self) -> Pointer | None:
        """Return the newest entry."""
        return self.entries[-1] if self.entries else None

    @property
    def number(self) -> int:
        """Return its number, 0 before the first."""
        return self.last.number if self.last else 0

    @property
    def next_number(self) -> int:
        """Return the number of the next entry."""
        return self.number + 1

    @property
    def version(self) -> int:
        """Return its version in the model repository."""
        return self.last.version if self.last else 0

    @property
    def champion(self) -> str | None:
        """Return the release that serves."""
        return self.last.release if self.last and not self.last.vacant else None

    @property
    def popularity(self) -> frozenset[str]:
        """Return the releases that rank by popularity: none is a measure for those that come after."""
        return frozenset(e.release for e in self.entries if e.action == "popularity")

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
        found = set[str]()
        for entry in self.entries:
            found = (found - {entry.release} if entry.moves else found) | set(entry.retired)
        return frozenset(found)

    @property
    def returnable(self) -> frozenset[str]:
        """Return the releases that serve, challenge, or may come back."""
        named = {e.release for e in self.entries} | {e.challenger.release for e in self.entries if e.challenger}
        return frozenset(named - self.barred - self.retired)

    @property
    def reference(self) -> str | None:
        """Return the release that a person confirmed last, and before that the first one promoted.

        Neither a barred release nor popularity is a measure, and a deleted one cannot be compared with: the next in
        order takes its place.
        """
        confirmed = [e.release for e in reversed(self.entries) if e.action == "reference"]
        served = [e.release for e in self.entries if e.moves]
        gone = self.barred | self.retired | self.popularity
        return next((release for release in [*confirmed, *served] if release not in gone), None)

    @property
    def reference_age(self) -> int:
        """Return how many days the champion's partition lies after the reference's."""
        partitions = {entry.release: entry.partition for entry in self.entries}
        if self.last is None or self.reference is None:
            return 0
        return max(0, (self.last.partition - partitions[self.reference]).days)

    def recent(self) -> list[Pointer]:
        """Return the last move to each release, newest first."""
        found: dict[str, Pointer] = {}
        for entry in reversed(self.entries):
            if entry.moves:
                found.setdefault(entry.release, entry)
        return list(found.values())


@dataclass(frozen=True)
class Damage:
    """A log that is not whole: what can be read of it, and what cannot.

    Attributes:
        state: The readable entries, folded.
        found: SHA-256 of each unreadable entry by number, or ``missing``.
        told: What is wrong, one line each.
    """

    state: State
    found: Mapping[int, str]
    told: tuple[str, ...]


class Head(Record):
    """How far a log has reached at least, and the hash of its entries up to there."""

    number: int = Field(ge=0)
    hash: str


_NO_HEAD = Head(number=0, hash="")


class ChampionLog:
    """The champion logs of all surfaces below one root.

    Args:
        files: Where they lie.
        keys: Who signs entries, and whose signatures count.
    """

    def __init__(self, files: FileStore, keys: Keyring | None = None) -> None:
        self.files = files
        self.keys = keys or Keyring()
        self._trusted: dict[str, str] = {}

    def surfaces(self) -> list[str]:
        """Return the surfaces that have a champion log, or had one, sorted."""
        heads = {name.removesuffix(".json") for name in self.files.names("heads")}
        return sorted(heads | set(self.files.names("champion")))

    def pointer(self, surface: str) -> Pointer | None:
        """Return the newest entry while a release serves: cheap enough to poll, as the entries before are not read.

        Raises:
            DamagedError: The end of the log was lost or changed.
            UntrustedError: A key is set, and no trusted one signed it.
        """
        numbers, (head, _) = self._numbers(surface), self._head(surface)
        last = self._slot(surface, numbers[-1]) if numbers == list(range(1, len(numbers) + 1)) and numbers else None
        entry = last.entry if last else None
        stated = entry.predecessor if entry else None
        read = not self.keys.required or self._trusted.get(surface) == head.hash
        told = Head(number=last.number, hash=_after(stated, last.found)) if last and stated is not None else None
        if head != told or not read:
            entry = self.state(surface).last
        return None if entry is None or entry.vacant else entry

    def state(self, surface: str) -> State:
        """Return every entry, folded.

        Raises:
            DamagedError: The log is not whole.
            UntrustedError: A key is set, and no trusted one answers for all of it.
        """
        state = self.read(surface)
        if self.keys.required and state.untrusted:
            key, signed = next(iter(state.untrusted.items()))
            more = f" and {len(state.untrusted) - 1} more" if len(state.untrusted) > 1 else ""
            raise UntrustedError(
                f"the champion log of {surface} is not trusted: {key}: {signed}{more}. Look at it: crossfade release "
                f"list {surface}. Where it is right: crossfade release sign {surface}. Where it is not, put "
                f"champion/{surface} and heads/{surface}.json back from a backup"
            )
        self._trusted[surface] = state.hash
        return state

    def read(self, surface: str) -> State:
        """Return every entry, folded, whoever signed it: to look at.

        Raises:
            DamagedError: The log is not whole.
        """
        found = self.inspect(surface)
        if found.told:
            raise DamagedError(
                f"the champion log of {surface} is not whole: {'; '.join(found.told)}. Put champion/{surface} and "
                f"heads/{surface}.json back from a backup, or say what serves: crossfade release recover {surface}"
            )
        return found.state

    def inspect(self, surface: str) -> Damage:
        """Return what can be read of a log and what is wrong with it; the log is whole where nothing is."""
        told, head, signed = list[str](), _NO_HEAD, UNSIGNED
        try:
            head, signed = self._head(surface)
        except DamagedError as error:
            told.append(str(error))
        numbers = self._numbers(surface)
        far = [number for number in numbers if number > max(head.number, 2 * len(numbers)) + _GAP]
        told += [f"champion/{surface} has a file numbered {number}: no entry; move it away" for number in far]
        last = max([head.number, *(number for number in numbers if number not in far)], default=0)
        log = _Folding([self._slot(surface, number) for number in range(1, last + 1)])
        if head.number and head.number not in log.found | log.replaced and log.hashes[head.number] != head.hash:
            log.doubt(head.number, f"heads/{surface}.json")
        told += [log.wrong[number] for number in sorted(log.wrong)]
        entries = tuple(log.entries[number] for number in sorted(log.entries))
        if head.number == 0 and last > 1:  # the one that the first entry found, put back
            signed = UNSIGNED
        signers = {number: log.slots[number].signed for number in log.entries}
        return Damage(State(entries, log.hashes.get(last, ""), signers, signed), log.found, tuple(told))

    def append(self, entry: Pointer, read: State) -> Pointer:
        """Create ``entry`` as the next one after the state it was decided on: compare and swap.

        Where only a note (a confirmation, a retirement) came between, the entry takes the number after it.

        Raises:
            PromotionRefused: The champion changed meanwhile, or the log gave up what the entry needs.
            DamagedError: The log is not whole.
        """
        state, look = read, self.read if entry.action == "sign" else self.state
        _require_kept(entry, state)
        while not self._create(placed := _placed(entry, state), state.hash):
            state = look(entry.surface)
            if (state.version, state.champion) != (read.version, read.champion):
                message = f"the champion of {entry.surface} changed to {state.champion} meanwhile"
                raise PromotionRefused(Refusal.SUPERSEDED, message)
            if state.last is not None and entry.action in ("reference", "retire", "sign"):
                entry = entry.model_copy(update={"challenger": state.last.challenger})
            _require_kept(entry, state)
        return placed

    def replace(self, entry: Pointer, damage: Damage) -> Pointer:
        """Create ``entry`` as the next one of a log that is not whole, in place of what cannot be read of it.

        Raises:
            PromotionRefused: Somebody else wrote to the log meanwhile.
        """
        number = max([damage.state.number, *damage.found], default=0) + 1
        placed = entry.model_copy(
            update={
                "number": number,
                "previous": damage.state.number,
                "version": damage.state.version + len(damage.found) + 1,
                "predecessor": damage.state.hash or None,
                "replaced": dict(damage.found),
            }
        )
        if not self._create(placed, damage.state.hash):
            raise PromotionRefused(Refusal.SUPERSEDED, f"{_key(entry.surface, number)} was written meanwhile")
        return placed

    def note(
        self,
        state: State,
        surface: str,
        action: Literal["reference", "retire", "challenge", "vacate", "sign"],
        by: str,
        reason: str,
        *,
        retired: tuple[str, ...] = (),
        barred: tuple[str, ...] = (),
        **changes: object,
    ) -> Pointer:
        """Append an entry that moves nothing to the state it was decided on; what it does not change stands."""
        if state.last is None or (state.champion is None and action != "sign"):
            raise PromotionRefused(Refusal.NO_CHAMPION, f"{surface} has no champion")
        told = {"action": action, "at": now(), "by": by, "reason": reason, "retired": retired, "barred": barred}
        return self.append(state.last.model_copy(update={"run_id": None, "replaced": {}, **told, **changes}), state)

    def sign(self, surface: str, by: str, reason: str) -> list[str]:
        """Answer for all of a log that no trusted key answers for: append an entry of this home's key, sign the head.

        Returns:
            What no trusted key answered for.

        Raises:
            DamagedError: The log is not whole.
        """
        state = self.read(surface)
        found = [f"{key} was {signed}" for key, signed in state.untrusted.items()]
        if any(key.startswith("champion/") for key in state.untrusted):
            self.note(state, surface, "sign", by, reason)
        elif found:
            self._witness(surface, Head(number=state.number, hash=state.hash))
        return found

    def witness(self, surface: str) -> None:
        """Record how far the log reaches."""
        state = self.state(surface)
        if state.entries:
            self._witness(surface, Head(number=state.number, hash=state.hash))

    def _create(self, entry: Pointer, before: str) -> bool:
        """Create an entry after those of hash ``before`` unless its number is taken."""
        key, head = _key(entry.surface, entry.number), f"heads/{entry.surface}.json"
        content = seal(entry.model_dump(mode="json"), partial(self.keys.sign_document, key))
        if self.keys.required and entry.number == 1:  # a log without a head may have lost its end
            self.files.create(head, seal(_NO_HEAD.model_dump(), partial(self.keys.sign_document, head)))
        if not self.files.create(key, content):
            return False
        self._witness(entry.surface, Head(number=entry.number, hash=_after(before, sha256_bytes(content))))
        return True

    def _witness(self, surface: str, head: Head) -> None:
        key = f"heads/{surface}.json"
        self.files.replace(key, seal(head.model_dump(), partial(self.keys.sign_document, key)))
        if self._numbers(surface)[-1] > head.number:  # somebody has appended since, and may have recorded it before us
            self.witness(surface)

    def _numbers(self, surface: str) -> list[int]:
        return sorted(int(name[:-5]) for name in self.files.names(f"champion/{surface}") if _ENTRY.fullmatch(name))

    def _head(self, surface: str) -> tuple[Head, Signed]:
        key = f"heads/{surface}.json"
        try:
            content, content_hash, signature = unseal_signed(self.files.read(key), key)
            return Head.model_validate(content), self.keys.of_document(key, content_hash, signature)
        except FileNotFoundError:
            return _NO_HEAD, UNSIGNED
        except ValidationError as error:
            raise DamagedError(f"{key} names no entry: {error.errors()[0]['msg']}") from error

    def _entry(self, surface: str, number: int) -> tuple[Pointer, Signed]:
        """Return one entry, and who signed it.

        Raises:
            DamagedError: It is missing, or is not what it says.
        """
        key = _key(surface, number)
        try:
            content, content_hash, signature = unseal_signed(self.files.read(key), key)
            entry = Pointer.model_validate(content)
        except FileNotFoundError as error:
            raise DamagedError(f"{key} is missing") from error
        except ValidationError as error:
            raise DamagedError(f"{key} is no entry: {error.errors()[0]['loc']} {error.errors()[0]['msg']}") from error
        if (entry.surface, entry.number) != (surface, number):
            raise DamagedError(f"{key} says that it is {entry.surface} {entry.number}")
        return entry, self.keys.of_document(key, content_hash, signature)

    def _slot(self, surface: str, number: int) -> "_Slot":
        key = _key(surface, number)
        try:
            found = sha256_bytes(self.files.read(key))
        except FileNotFoundError:
            return _Slot(number, key, _LOST, None, wrong=f"{key} is missing")
        except DamagedError as error:
            return _Slot(number, key, _LOST, None, wrong=str(error))
        try:
            return _Slot(number, key, found, *self._entry(surface, number))
        except DamagedError as error:
            return _Slot(number, key, found, None, wrong=str(error))


@dataclass(frozen=True)
class _Slot:
    """A number of the log: what lies there, and the entry that it is."""

    number: int
    key: str
    found: str
    entry: Pointer | None
    signed: Signed = UNSIGNED
    wrong: str = ""


class _Folding:
    """Follows the hashes from entry to entry.

    An entry is proven by the one after it, the last one by the head. What comes after a lost entry says what hash there
    was.

    Attributes:
        entries: Those that are what the log says, by number.
        hashes: Hash of the log after each number.
        replaced: What was found in place of entries that later ones stand for.
        found: What was found in place of those that nobody answers for.
        wrong: What is wrong with them.
    """

    def __init__(self, slots: list[_Slot]) -> None:
        self.slots = {slot.number: slot for slot in slots}
        self.entries: dict[int, Pointer] = {}
        self.hashes: dict[int, str] = {}
        self.replaced = {n: found for slot in slots if slot.entry for n, found in slot.entry.replaced.items()}
        self.found: dict[int, str] = {}
        self.wrong: dict[int, str] = {}
        running, known, chained = "", True, False
        for slot in slots:
            entry, stated = slot.entry, slot.entry.predecessor if slot.entry else None
            if (accepted := self.replaced.get(slot.number)) is not None:
                entry = None
                if accepted != slot.found:
                    self._give_up(slot, f"{slot.key} changed after it was given up")
            elif entry is None:
                self._give_up(slot, slot.wrong)
            elif stated is None and chained:
                entry = None
                self._give_up(slot, f"{slot.key} does not carry the hash of the entries before it")
            elif stated is not None and known and stated != running:
                self.doubt(slot.number - 1, slot.key)
            if entry is not None:
                self.entries[slot.number] = entry
                running, chained = stated or running, chained or stated is not None
            known = entry is not None
            running = self.hashes[slot.number] = _after(running, slot.found)

    def doubt(self, last: int, witness: str) -> None:
        """Give up the entries up to ``last`` that nothing proves, since ``witness`` follows on others."""
        for number in range(last, 0, -1):
            entry = self.entries.pop(number, None)
            if entry is not None:
                self._give_up(self.slots[number], f"{self.slots[number].key} is not the entry that {witness} follows")
                if entry.predecessor is not None:
                    return

    def _give_up(self, slot: _Slot, why: str) -> None:
        self.found[slot.number], self.wrong[slot.number] = slot.found, why


def _after(before: str, sha256: str) -> str:
    """Return the hash of a log after an entry, given that of the entries before it."""
    return sha256_bytes(f"{before} {sha256}".encode())


def _key(surface: str, number: int) -> str:
    return f"champion/{surface}/{number:06d}.json"


def _placed(entry: Pointer, state: State) -> Pointer:
    return entry.model_copy(
        update={"number": state.next_number, "previous": state.number, "predecessor": state.hash or None}
    )


def _require_kept(entry: Pointer, state: State) -> None:
    """Refuse an entry that needs a release which the log gave up, or gives up one that is needed."""
    needed = {entry.release} | ({entry.challenger.release} if entry.challenger else set())
    if gone := sorted(needed & state.retired):
        message = f"{gone[0]} was retired and its files may be gone; judge the candidate again to release it anew"
        raise PromotionRefused(Refusal.RETIRED, message)
    challenger = state.last.challenger.release if state.last and state.last.challenger else None
    if needed := [release for release in (state.champion, state.reference, challenger) if release in entry.retired]:
        raise PromotionRefused(Refusal.SUPERSEDED, f"{needed[0]} is needed and cannot be retired")
