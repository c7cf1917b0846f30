"""Releases and the champion pointer: what serves, what served, and who decided it.

A release is an immutable folder ``releases/<surface>/<id>/``. The champion pointer is an append-only log,
``champion/<surface>/<number>.json``: every entry is created exclusively under the number after the one its writer had
read, so that of two concurrent moves one wins and the other is refused. The last valid entry tells the champion.
``repository/<surface>/`` follows the pointer in the Triton model repository layout.
"""

import json
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from ml.store.artifacts import Artifact
from ml.store.files import Bucket, sha256_bytes, sha256_file
from ml.store.manifest import Manifest, Record
from ml.store.model_card import render_model_card
from ml.store.open import open_files
from ml.store.sealed import DamagedError, digest, seal, unseal
from ml.store.triton import with_version
from ml.store.verdicts import Override, StoredVerdict, Verdict, VerdictKey, VerdictStore, now, read_verdict
from ml.surfaces.spec import Surface

log = logging.getLogger(__name__)

MODEL, CONFIG, SCHEMA, MANIFEST = "model.onnx", "config.pbtxt", "schema.json", "manifest.json"
SERVED = (MODEL, CONFIG, SCHEMA)
"""Files of a candidate that say what is served."""
CANDIDATE = (*SERVED, MANIFEST)
"""Files that every candidate holds."""
CARD, VERDICT, RELEASE = "model_card.html", "verdict.json", "release.json"
"""Files that promotion adds."""
MIN_KEPT = 3
_ORPHAN_AGE_S = 24 * 3600.0
_ENTRY = re.compile(r"\d{6}\.json")


class Refusal(StrEnum):
    """Why a promotion or a rollback was refused."""

    NO_VERDICT = "no_verdict"
    VERDICT_FAILED = "verdict_failed"
    VERDICT_INCONCLUSIVE = "verdict_inconclusive"
    VERDICT_EDITED = "verdict_edited"
    OTHER_BYTES = "other_bytes"
    GATE_CHANGED = "gate_changed"
    SUPERSEDED = "superseded"
    NOT_NEWER = "not_newer"
    BARRED = "barred"
    CANDIDATE_DAMAGED = "candidate_damaged"
    MANIFEST_MISMATCH = "manifest_mismatch"
    SCHEMA_MISMATCH = "schema_mismatch"
    OVERRIDE_UNSIGNED = "override_unsigned"
    NO_CHAMPION = "no_champion"
    NO_PREVIOUS = "no_previous"
    UNKNOWN_RELEASE = "unknown_release"
    RELEASE_DAMAGED = "release_damaged"


OVERRIDABLE = frozenset(
    {
        Refusal.VERDICT_FAILED,
        Refusal.VERDICT_INCONCLUSIVE,
        Refusal.GATE_CHANGED,
        Refusal.SUPERSEDED,
        Refusal.NOT_NEWER,
        Refusal.BARRED,
    }
)
"""Refusals that a named person may overrule; those about identity and integrity are not among them."""


class PromotionRefused(RuntimeError):
    """The champion pointer was not moved; ``code`` says why."""

    def __init__(self, code: Refusal, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


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


class ReleaseRecord(Record):
    """Content of ``release.json``."""

    id: str
    surface: str
    partition: date
    candidate: str = Field(description="Digest of the candidate's files")
    verdict_hash: str
    override: Override | None
    overruled: tuple[str, ...] = Field(default=(), description="Refusals that the override overruled")
    files: dict[str, str] = Field(description="SHA-256 of every other file")
    created_at: datetime


@dataclass(frozen=True)
class Release:
    """An immutable release whose files were checked."""

    record: ReleaseRecord
    manifest: Manifest
    path: Path

    @property
    def id(self) -> str:
        """Name of the release."""
        return self.record.id

    @property
    def model(self) -> Path:
        """Path of the ONNX file."""
        return self.path / MODEL

    @property
    def verdict(self) -> Verdict:
        """The verdict that it was promoted on."""
        return read_verdict((self.path / VERDICT).read_bytes(), str(self.path / VERDICT))[0]

    @property
    def schema(self) -> dict[str, Any]:
        """Feature schema: inputs and outputs of the model."""
        return json.loads((self.path / SCHEMA).read_bytes())


@dataclass(frozen=True)
class Champion:
    """The release that serves now and the log entry that says so."""

    pointer: Pointer
    release: Release


@dataclass(frozen=True)
class _State:
    """The log, folded."""

    entries: tuple[Pointer, ...]
    next_number: int

    @property
    def last(self) -> Pointer | None:
        return self.entries[-1] if self.entries else None

    @property
    def number(self) -> int:
        return self.last.number if self.last else 0

    @property
    def version(self) -> int:
        return self.last.version if self.last else 0

    @property
    def champion(self) -> str | None:
        return self.last.release if self.last else None

    @property
    def barred(self) -> frozenset[str]:
        return frozenset(r for e in self.entries for r in e.barred)

    @property
    def barred_models(self) -> frozenset[str]:
        shown = {(e.release, e.onnx_sha256) for e in self.entries}
        shown |= {(e.challenger.release, e.challenger.onnx_sha256) for e in self.entries if e.challenger}
        return frozenset(model for release, model in shown if release in self.barred)

    @property
    def retired(self) -> frozenset[str]:
        return frozenset(r for e in self.entries for r in e.retired)

    @property
    def reference(self) -> str | None:
        return next((e.release for e in reversed(self.entries) if e.action == "reference"), None)

    def recent(self) -> list[Pointer]:
        """Return the last move to each release, newest first."""
        found: dict[str, Pointer] = {}
        for entry in reversed(self.entries):
            if entry.moves:
                found.setdefault(entry.release, entry)
        return list(found.values())


class ReleaseStore:
    """Releases, champion pointers and model repository below one folder (``settings.artifacts_dir``)."""

    def __init__(self, root: Path | Bucket) -> None:
        self.files = open_files(root)
        self.verdicts = VerdictStore(root)

    def surfaces(self) -> list[str]:
        """Return the surfaces that have a champion log, sorted."""
        return self.files.names("champion")

    def pointer(self, surface: str) -> Pointer | None:
        """Return the newest valid entry of the champion log: cheap enough to poll."""
        for name in reversed(self._numbers(surface)):
            entry = self._entry(surface, name)
            if entry is not None:
                return entry
        return None

    def history(self, surface: str) -> list[Pointer]:
        """Return every valid entry of the champion log, oldest first."""
        return list(self._state(surface).entries)

    def champion(self, surface: str) -> Champion | None:
        """Return what serves now, its files checked; None before the first promotion.

        Raises:
            DamagedError: A file of the release is missing or was changed.
        """
        pointer = self.pointer(surface)
        return None if pointer is None else Champion(pointer, self.release(surface, pointer.release))

    def reference(self, surface: str) -> str | None:
        """Return the last release that a person confirmed, or None."""
        return self._state(surface).reference

    def barred(self, surface: str) -> frozenset[str]:
        """Return the releases that must not come back."""
        return self._state(surface).barred

    def releases(self, surface: str) -> list[str]:
        """Return the ids of the stored releases, sorted."""
        return self.files.names(f"releases/{surface}")

    def release(self, surface: str, release: str) -> Release:
        """Return one release after checking every file.

        Raises:
            FileNotFoundError: No such release.
            DamagedError: A file is missing or was changed.
        """
        key = f"releases/{surface}/{release}"
        content, _ = unseal(self.files.read(f"{key}/{RELEASE}"), f"{key}/{RELEASE}")
        try:
            record = ReleaseRecord.model_validate(content)
        except ValidationError as error:
            raise DamagedError(f"{key}/{RELEASE} is no valid record: {error}") from error
        path = self.files.path(key)
        for name, stated in record.files.items():
            if not (path / name).is_file() or sha256_file(path / name) != stated:
                raise DamagedError(f"{path / name} is missing or was changed: its hash is not {stated}")
        manifest = Manifest.from_bytes((path / MANIFEST).read_bytes(), f"{key}/{MANIFEST}")
        return Release(record, manifest, path)

    def pinned_snapshots(self, surfaces: list[str]) -> frozenset[int]:
        """Return the lake snapshots that stored releases were made from; housekeeping must keep them."""
        return frozenset(self.release(s, r).manifest.snapshot for s in surfaces for r in self.releases(s))

    def verdict_key(self, surface: Surface, candidate: Artifact) -> VerdictKey:
        """Return the key of the verdict that would let ``candidate`` become champion at this moment.

        Raises:
            DamagedError: The candidate's manifest is missing, was changed or is invalid.
        """
        manifest = Manifest.from_bytes(candidate.read(MANIFEST), f"{candidate.path}/{MANIFEST}")
        pointer = self.pointer(surface.name)
        return VerdictKey(
            surface=surface.name,
            candidate=candidate.digest,
            champion=pointer.release if pointer else None,
            eval_days=manifest.eval_days,
            snapshot=manifest.snapshot,
            gate_digest=surface.gate.digest,
        )

    def promote(
        self,
        surface: str,
        candidate: Artifact,
        key: VerdictKey,
        *,
        partition: date,
        by: str,
        reason: str,
        evaluation: Mapping[str, Any] | None = None,
        plots: Mapping[str, bytes] | None = None,
        override: Override | None = None,
        run_id: str | None = None,
    ) -> Pointer:
        """Make ``candidate`` the champion if its verdict allows it; fails closed.

        Promoting the champion again changes nothing but repairs the model repository, also when another run has made
        the same files for its day again.

        Args:
            surface: Name of the surface.
            candidate: Artifact with the files of ``CANDIDATE``; ``config.pbtxt`` without a version policy.
            key: What the verdict must be about, from ``verdict_key`` at the time of asking.
            partition: Partition that the candidate is promoted for.
            by: Who asks.
            reason: Why.
            evaluation: JSON of the evaluation, for the model card.
            plots: PNG images by title, for the model card.
            override: A person's decision against the gate, recorded in the release.
            run_id: Dagster run that asks.

        Returns:
            The log entry that points to the candidate's release.

        Raises:
            PromotionRefused: With the code of the first reason that no override covers.
        """
        state = self._state(surface)
        if override is not None and not (override.by.strip() and override.reason.strip()):
            raise PromotionRefused(Refusal.OVERRIDE_UNSIGNED, "an override needs a name and a reason")
        manifest = _checked_candidate(surface, candidate, partition)
        if state.last is not None and self._serves(state.last, candidate, partition):
            self.sync_repository(surface)
            return state.last
        stored, objections = self._objections(state, candidate, key, manifest)
        if objections and (override is None or any(code not in OVERRIDABLE for code, _ in objections)):
            raise PromotionRefused(*next(o for o in objections if override is None or o[0] not in OVERRIDABLE))
        if stored is None:
            raise PromotionRefused(Refusal.NO_VERDICT, f"the gate never judged {candidate.digest}")

        overruled = tuple(code.value for code, _ in objections)
        release = self._publish(candidate, stored, manifest, evaluation, plots, override, overruled)
        entry = Pointer(
            surface=surface,
            number=state.next_number,
            previous=state.number,
            version=state.version + 1,
            release=release,
            partition=manifest.partition,
            onnx_sha256=manifest.onnx_sha256,
            action="override" if overruled else "promote",
            at=now(),
            by=override.by if override and overruled else by,
            reason=override.reason if override and overruled else reason,
            run_id=run_id,
        )
        entry = self._append(entry, state)
        self.sync_repository(surface)
        return entry

    def rollback(
        self, surface: str, *, by: str, reason: str, to: str | None = None, run_id: str | None = None
    ) -> Pointer:
        """Point back to the previous good release, or to ``to``, and bar the one that served.

        Raises:
            PromotionRefused: Nothing to roll back, no release to return to, ``to`` unknown, barred or damaged, or the
                pointer moved meanwhile.
        """
        state = self._state(surface)
        current = state.last
        if current is None:
            raise PromotionRefused(Refusal.NO_CHAMPION, f"{surface} has no champion")
        target = self._named_target(state, surface, to) if to else self._previous_target(state, surface)
        entry = Pointer(
            surface=surface,
            number=state.next_number,
            previous=state.number,
            version=state.version + 1,
            release=target.release,
            partition=target.partition,
            onnx_sha256=target.onnx_sha256,
            action="rollback",
            at=now(),
            by=by,
            reason=reason,
            barred=(current.release,),
            run_id=run_id,
        )
        entry = self._append(entry, state)
        self.sync_repository(surface)
        return entry

    def confirm(self, surface: str, *, by: str, reason: str) -> Pointer:
        """Make the champion the reference release that later verdicts compare with against slow decay."""
        return self._note(self._state(surface), surface, "reference", by, reason)

    def challenge(
        self,
        surface: str,
        candidate: Artifact,
        key: VerdictKey,
        *,
        partition: date,
        mode: Literal["canary", "shadow"],
        share: float,
        by: str,
        reason: str,
        evaluation: Mapping[str, Any] | None = None,
        plots: Mapping[str, bytes] | None = None,
        run_id: str | None = None,
    ) -> Pointer:
        """Serve ``candidate`` beside the champion, in place of any other challenger; it must be fit to be promoted.

        Args are those of ``promote``, and ``mode`` and ``share`` of ``Challenger``. The next move of the pointer ends
        it, whether it is promoted or another one is.

        Raises:
            PromotionRefused: There is no champion, or the candidate would not be promoted.
        """
        state = self._state(surface)
        if state.last is None:
            raise PromotionRefused(Refusal.NO_CHAMPION, f"{surface} has no champion to challenge")
        manifest = _checked_candidate(surface, candidate, partition)
        stored, objections = self._objections(state, candidate, key, manifest)
        if objections:
            raise PromotionRefused(*objections[0])
        assert stored is not None, "without a verdict there is an objection"
        release = self._publish(candidate, stored, manifest, evaluation, plots, None, ())
        challenger = Challenger(release=release, onnx_sha256=manifest.onnx_sha256, mode=mode, share=share)
        return self._note(state, surface, "challenge", by, reason, challenger=challenger, run_id=run_id)

    def end_challenge(self, surface: str, *, by: str, reason: str, bar: bool = False) -> Pointer:
        """Take the challenger away; with ``bar``, for good.

        Raises:
            PromotionRefused: There is none.
        """
        state = self._state(surface)
        if state.last is None or state.last.challenger is None:
            raise PromotionRefused(Refusal.UNKNOWN_RELEASE, f"{surface} has no challenger")
        barred = (state.last.challenger.release,) if bar else ()
        return self._note(state, surface, "challenge", by, reason, challenger=None, barred=barred)

    def retire(self, surface: str, *, keep: int = 5, by: str = "retention") -> list[str]:
        """Delete old releases; keep the champion, the reference and at least ``keep`` others to return to.

        The log gives releases up before their folders go, so that no concurrent rollback can point to one of them.

        Returns:
            Ids of the releases given up by this call.
        """
        if keep < MIN_KEPT:
            raise ValueError(f"keep={keep}: at least {MIN_KEPT} releases are kept")
        self.files.sweep()
        state = self._state(surface)
        if state.last is None:
            return []
        recent = state.recent()
        good = [e.release for e in recent if e.release not in state.barred]
        challenger = state.last.challenger.release if state.last.challenger else None
        kept = {state.champion, state.reference, challenger, *good[:keep], *(e.release for e in recent[:keep])}
        stale = tuple(sorted({e.release for e in recent} - kept - state.retired))
        if stale:
            try:
                self._note(state, surface, "retire", by, f"keeps {len(kept - {None})} releases", retired=stale)
            except PromotionRefused:  # the champion changed meanwhile; the next call sees which releases are stale now
                return []
        known = {e.release for e in state.entries} | {challenger}
        for release in self.releases(surface):
            orphan = release not in known and self._age(f"releases/{surface}/{release}") > _ORPHAN_AGE_S
            if release in state.retired | set(stale) or orphan:
                self.files.remove_folder(f"releases/{surface}/{release}")
        return list(stale)

    def sync_repository(self, surface: str) -> bool:
        """Bring ``repository/<surface>/`` in line with the pointer; safe to repeat and to interrupt.

        The new version's folder is complete before ``config.pbtxt`` names it; the version before it stays for servers
        that still read it, older ones go last. Where the champion moves meanwhile, it is followed.

        Returns:
            Whether there is a champion.
        """
        folder = f"repository/{surface}"
        with self.files.lock(folder):
            champion = self.champion(surface)
            while champion is not None:
                self._publish_version(folder, champion)
                seen, champion = champion, self.champion(surface)
                if champion is not None and champion.pointer == seen.pointer:
                    return True
        return False

    def _publish_version(self, folder: str, champion: Champion) -> None:
        version, release = champion.pointer.version, champion.release
        model, config = f"{folder}/{version}/{MODEL}", f"{folder}/{CONFIG}"
        if not self._holds(model, release.manifest.onnx_sha256):
            self.files.replace(model, release.model.read_bytes())
        content = with_version((release.path / CONFIG).read_text(encoding="utf-8"), version).encode()
        if not self._holds(config, sha256_bytes(content)):
            self.files.replace(config, content)
        for name in self.files.names(folder):
            if name.isdigit() and int(name) not in (version, version - 1):
                self.files.remove_folder(f"{folder}/{name}")

    def _holds(self, key: str, sha256: str) -> bool:
        return self.files.exists(key) and sha256_bytes(self.files.read(key)) == sha256

    def _objections(
        self, state: _State, candidate: Artifact, key: VerdictKey, manifest: Manifest
    ) -> tuple[StoredVerdict | None, list[tuple[Refusal, str]]]:
        """Return (the verdict, everything that speaks against promoting on it)."""
        if key.candidate != candidate.digest or key.surface != manifest.surface:
            return None, [(Refusal.OTHER_BYTES, f"the key is about {key.candidate}, not {candidate.digest}")]
        if (key.snapshot, key.eval_days) != (manifest.snapshot, manifest.eval_days):
            return None, [(Refusal.MANIFEST_MISMATCH, "the key names another snapshot or other days than the manifest")]
        try:
            judged = self.verdicts.of_candidate(key.surface, candidate.digest)
        except DamagedError as error:
            return None, [(Refusal.VERDICT_EDITED, str(error))]
        if not judged:
            return None, [(Refusal.NO_VERDICT, f"the gate never judged {candidate.digest}")]
        exact = [s for s in judged if s.verdict.key == key]
        stored = exact[-1] if exact else judged[-1]
        verdict = stored.verdict
        if verdict.judged != dict(candidate.files):
            return None, [(Refusal.OTHER_BYTES, f"{stored.path} judged other files than those of {candidate.path}")]
        if (verdict.key.snapshot, verdict.key.eval_days) != (manifest.snapshot, manifest.eval_days):
            return None, [(Refusal.OTHER_BYTES, f"{stored.path} judged another snapshot or other days")]

        found: list[tuple[Refusal, str]] = []
        if verdict.decision != "pass":
            failed = verdict.decision == "fail"
            code = Refusal.VERDICT_FAILED if failed else Refusal.VERDICT_INCONCLUSIVE
            found.append((code, f"{'; '.join(verdict.failures()) or verdict.decision} ({stored.path})"))
        if verdict.key.champion != state.champion or key.champion != state.champion:
            against = f"{verdict.key.champion or 'no champion'}, the champion is {state.champion or 'none'}"
            found.append((Refusal.SUPERSEDED, f"{stored.path} compared with {against}"))
        if verdict.key.gate_digest != key.gate_digest:
            found.append((Refusal.GATE_CHANGED, f"{stored.path} was judged by other thresholds than today's"))
        if state.last is not None and manifest.partition <= state.last.partition:
            message = f"{manifest.partition} is not after {state.last.partition}, the champion's"
            found.append((Refusal.NOT_NEWER, message))
        if manifest.onnx_sha256 in state.barred_models:
            found.append((Refusal.BARRED, f"a release with model {manifest.onnx_sha256} was rolled back"))
        return stored, found

    def _publish(
        self,
        candidate: Artifact,
        stored: StoredVerdict,
        manifest: Manifest,
        evaluation: Mapping[str, Any] | None,
        plots: Mapping[str, bytes] | None,
        override: Override | None,
        overruled: tuple[str, ...],
    ) -> str:
        signed = override if overruled else None
        identity = {
            "candidate": candidate.digest,
            "verdict": stored.content_hash,
            "override": signed.model_dump() if signed else None,
        }
        release = f"{manifest.partition}-{digest(identity)[:12]}"
        card = render_model_card(
            manifest, stored.verdict, release=release, evaluation=evaluation, plots=plots, override=signed
        )
        content = {name: candidate.read(name) for name in CANDIDATE} | {
            CARD: card.encode(),
            VERDICT: stored.path.read_bytes(),
        }
        record = ReleaseRecord(
            id=release,
            surface=manifest.surface,
            partition=manifest.partition,
            candidate=candidate.digest,
            verdict_hash=stored.content_hash,
            override=signed,
            overruled=overruled,
            files={name: sha256_bytes(data) for name, data in content.items()},
            created_at=now(),
        )
        key = f"releases/{manifest.surface}/{release}"
        self.files.create_folder(key, {**content, RELEASE: seal(record.model_dump(mode="json"))})
        try:
            self.release(manifest.surface, release)
        except DamagedError as error:
            raise PromotionRefused(Refusal.RELEASE_DAMAGED, str(error)) from error
        return release

    def _named_target(self, state: _State, surface: str, release: str) -> Pointer:
        target = next((e for e in state.recent() if e.release == release), None)
        if target is None or release in state.retired:
            raise PromotionRefused(Refusal.UNKNOWN_RELEASE, f"{release!r} never served {surface} or was retired")
        if release in state.barred:
            raise PromotionRefused(Refusal.BARRED, f"{release!r} was rolled back itself")
        if release == state.champion:
            raise PromotionRefused(Refusal.NO_PREVIOUS, f"{release!r} serves already")
        try:
            self.release(surface, release)
        except (DamagedError, FileNotFoundError) as error:
            raise PromotionRefused(Refusal.RELEASE_DAMAGED, str(error)) from error
        return target

    def _previous_target(self, state: _State, surface: str) -> Pointer:
        for entry in state.recent():
            if entry.release in state.barred | state.retired | {state.champion}:
                continue
            try:
                self.release(surface, entry.release)
            except (DamagedError, FileNotFoundError) as error:
                log.warning("rollback passes over release %s: %s", entry.release, error)
                continue
            return entry
        raise PromotionRefused(Refusal.NO_PREVIOUS, f"{surface} has no earlier release that is neither barred nor lost")

    def _note(
        self,
        state: _State,
        surface: str,
        action: Literal["reference", "retire", "challenge"],
        by: str,
        reason: str,
        *,
        retired: tuple[str, ...] = (),
        barred: tuple[str, ...] = (),
        **changes: Any,
    ) -> Pointer:
        """Append an entry that moves nothing to the state it was decided on; what it does not change stands."""
        if state.last is None:
            raise PromotionRefused(Refusal.NO_CHAMPION, f"{surface} has no champion")
        if state.champion in retired:
            raise PromotionRefused(Refusal.SUPERSEDED, f"{state.champion} serves and cannot be retired")
        told = {"action": action, "at": now(), "by": by, "reason": reason, "retired": retired, "barred": barred}
        return self._append(state.last.model_copy(update={"run_id": None, **told, **changes}), state)

    def _append(self, entry: Pointer, read: _State) -> Pointer:
        """Create ``entry`` as the next one after the state it was decided on: compare and swap.

        Where only a note (a confirmation, a retirement) came between, the entry takes the number after it.
        """
        state = read
        while not self.files.create(
            f"champion/{entry.surface}/{state.next_number:06d}.json",
            seal(entry.model_copy(update=_place(state)).model_dump(mode="json")),
        ):
            state = self._state(entry.surface)
            if state.version != read.version or entry.release in state.retired:
                message = f"the champion of {entry.surface} changed to {state.champion} meanwhile"
                raise PromotionRefused(Refusal.SUPERSEDED, message)
            if state.last is not None and entry.action in ("reference", "retire"):
                entry = entry.model_copy(update={"challenger": state.last.challenger})
        return entry.model_copy(update=_place(state))

    def _serves(self, pointer: Pointer, candidate: Artifact, partition: date) -> bool:
        """Tell whether the champion is this candidate; another run that made it again differs in its manifest alone."""
        try:
            files = self.release(pointer.surface, pointer.release).record.files
            return pointer.partition == partition and all(files[n] == candidate.files[n] for n in SERVED)
        except (DamagedError, FileNotFoundError) as error:
            log.error("champion %s of %s is damaged: %s", pointer.release, pointer.surface, error)
            return False

    def _numbers(self, surface: str) -> list[str]:
        return [name for name in self.files.names(f"champion/{surface}") if _ENTRY.fullmatch(name)]

    def _state(self, surface: str) -> _State:
        names = self._numbers(surface)
        entries = [entry for name in names if (entry := self._entry(surface, name)) is not None]
        return _State(tuple(entries), int(names[-1][:6]) + 1 if names else 1)

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

    def _age(self, key: str) -> float:
        try:
            return time.time() - self.files.modified(key)
        except FileNotFoundError:
            return 0.0


def _checked_candidate(surface: str, candidate: Artifact, partition: date) -> Manifest:
    """Return the manifest of a candidate whose files are what they claim to be."""
    try:
        candidate.verify()
        if digest(dict(candidate.files)) != candidate.digest:
            raise DamagedError(f"{candidate.path}: {candidate.digest} is not the digest of its files")
        if missing := sorted(set(CANDIDATE) - set(candidate.files)):
            raise DamagedError(f"{candidate.path} lacks {missing}")
    except DamagedError as error:
        raise PromotionRefused(Refusal.CANDIDATE_DAMAGED, str(error)) from error
    try:
        manifest = Manifest.from_bytes(candidate.read(MANIFEST), f"{candidate.path}/{MANIFEST}")
    except DamagedError as error:
        raise PromotionRefused(Refusal.MANIFEST_MISMATCH, str(error)) from error
    stated = {
        "surface": (manifest.surface, surface),
        "partition": (manifest.partition, partition),
        "onnx_sha256": (manifest.onnx_sha256, candidate.files[MODEL]),
    }
    for name, (said, actual) in stated.items():
        if said != actual:
            raise PromotionRefused(Refusal.MANIFEST_MISMATCH, f"the manifest says {name} {said}, this is {actual}")
    if manifest.feature_schema_hash != candidate.files[SCHEMA]:
        message = f"the manifest says schema {manifest.feature_schema_hash}, {SCHEMA} is {candidate.files[SCHEMA]}"
        raise PromotionRefused(Refusal.SCHEMA_MISMATCH, message)
    return manifest


def _place(state: _State) -> dict[str, int]:
    return {"number": state.next_number, "previous": state.number}
