"""Releases and the champion pointer: what serves, what served, and who decided it."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ml.foundation.artifacts import Artifact
from ml.foundation.file_stores import open_files
from ml.foundation.files import Bucket
from ml.foundation.lake import lake_id
from ml.foundation.sealed import DamagedError
from ml.foundation.settings import Settings
from ml.foundation.signing import Keyring, UntrustedError, UnusableKey
from ml.releases.approvals import Approvals, ends, stricter
from ml.releases.champions import Challenger, ChampionLog, Mode, Pointer, State
from ml.releases.ownership import require_owner
from ml.releases.promotion import Proposal, checked_manifest, objections
from ml.releases.publishing import publish
from ml.releases.refusals import OVERRIDABLE, PromotionRefused, Refusal
from ml.releases.release import (
    RELEASE,
    SERVED,
    SIGNATURE,
    Champion,
    Release,
    manifest_of,
    read_release,
    require_trusted,
)
from ml.releases.repository import ModelRepository
from ml.releases.retention import retire
from ml.releases.signer import require_named
from ml.releases.verdicts import (
    About,
    GuardResult,
    Override,
    StoredVerdict,
    Verdict,
    VerdictKey,
    VerdictStore,
    decide,
    now,
)
from ml.surfaces.gate import PromotionGate
from ml.surfaces.spec import Surface

log = logging.getLogger(__name__)


class ReleaseStore:
    """Releases, champion pointers and model repository below one folder (``settings.artifacts_dir``).

    Args:
        root: The folder, or a place in an object store.
        lake: Returns the id of the lake whose releases these are. A store that was opened without one reads what
            belongs to a lake, and moves nothing there.
        keys: Who signs, and whose signatures count. A store that was opened without them takes what is unsigned.
    """

    def __init__(self, root: Path | Bucket, lake: Callable[[], str] | None = None, keys: Keyring | None = None) -> None:
        self.root = root
        self._lake = lake
        self.files = open_files(root)
        self.keys = keys or Keyring()
        self.verdicts = VerdictStore(root, self.keys)
        self.champions = ChampionLog(self.files, self.keys)
        self.approvals = Approvals(self.files, self.keys)
        self.repository = ModelRepository(self.files)

    @classmethod
    def of(cls, settings: Settings) -> "ReleaseStore":
        """Return the store of a home, which moves champions for the home's lake and signs with its key."""
        return cls(settings.artifacts_dir, partial(lake_id, settings), Keyring.of(settings))

    def require_owner(self) -> None:
        """Refuse to move anything in artifacts that belong to another lake.

        Raises:
            PromotionRefused: They do.
        """
        require_owner(self.files, self._lake() if self._lake else None)

    def surfaces(self) -> list[str]:
        """Return the surfaces that have a champion log, sorted."""
        return self.champions.surfaces()

    def pointer(self, surface: str) -> Pointer | None:
        """Return the newest entry of the champion log while a release serves: cheap enough to poll."""
        return self.champions.pointer(surface)

    def history(self, surface: str) -> list[Pointer]:
        """Return every entry of the champion log, oldest first, whoever signed it."""
        return list(self.champions.read(surface).entries)

    def champion(self, surface: str) -> Champion | None:
        """Return what serves now, its files checked; None before the first promotion.

        Raises:
            DamagedError: A file of the release is missing or was changed.
            UntrustedError: A key is set, and no trusted one signed the release or the log.
        """
        pointer = self.pointer(surface)
        if pointer is None:
            return None
        try:
            return Champion(pointer, self.trusted_release(surface, pointer.release))
        except UntrustedError:
            raise
        except (DamagedError, FileNotFoundError) as error:
            told = f"{surface} serves {pointer.release}, which cannot be read: {error}"
            todo = f"put releases/{surface} back from a backup, or: crossfade release recover {surface}"
            raise DamagedError(f"{told}; {todo}") from error

    def reference(self, surface: str) -> str | None:
        """Return the release that slow decay is measured from: see ``State.reference``; None before a promotion."""
        return self.champions.state(surface).reference

    def past_reference(self, surface: str) -> Release | None:
        """Return the reference release, its files checked, where it is another one than the champion."""
        state = self.champions.state(surface)
        return None if state.reference in (None, state.champion) else self.trusted_release(surface, state.reference)

    def barred(self, surface: str) -> frozenset[str]:
        """Return the releases that must not come back."""
        return self.champions.state(surface).barred

    def releases(self, surface: str) -> list[str]:
        """Return the ids of the stored releases, sorted."""
        return self.files.names(f"releases/{surface}")

    def release(self, surface: str, release: str) -> Release:
        """Return one release after checking every file.

        Raises:
            FileNotFoundError: No such release.
            DamagedError: A file is missing or was changed.
        """
        return read_release(self.files, surface, release, self.keys)

    def trusted_release(self, surface: str, release: str) -> Release:
        """Return one release after checking every file, and who signed them.

        Raises:
            FileNotFoundError: No such release.
            DamagedError: A file is missing or was changed.
            UntrustedError: A key is set, and no trusted one signed it.
        """
        return require_trusted(self.keys, self.release(surface, release))

    def sign(self, surface: str, *, by: str, reason: str) -> list[str]:
        """Sign what of a surface no trusted key answers for: releases that the log names, then the log.

        For what was there before a key was set, and after a key is no longer trusted. A person answers for it.

        Returns:
            What was signed, and what it was before, one line each.

        Raises:
            PromotionRefused: The name or the reason prints nothing.
            DamagedError: The log or a release is not whole.
            UnusableKey: There is no key to sign with.
        """
        require_named(by=by, reason=reason)
        self.require_owner()
        if self.keys.signer is None:
            raise UnusableKey("nobody is set who could sign: CROSSFADE_SIGNING_KEY_FILE, or CROSSFADE_SIGNING=keyless")
        done = list[str]()
        for name in sorted(self.champions.read(surface).returnable.intersection(self.releases(surface))):
            found = self.release(surface, name)
            if not found.signed.fault:
                continue
            key = f"releases/{surface}/{name}"
            bundle = self.keys.sign_files(name, found.record.signed_files(self.files.read(f"{key}/{RELEASE}")))
            if bundle is not None:
                self.files.replace(f"{key}/{SIGNATURE}", bundle)
                done.append(f"{key} was {found.signed}")
        return [*done, *self.champions.sign(surface, by, reason)]

    def pinned_snapshots(self, surfaces: list[str]) -> frozenset[int]:
        """Return the lake snapshots that stored releases were made from; housekeeping must keep them.

        Raises:
            DamagedError: A release cannot be read, so that its snapshot is not known.
        """
        found = set[int]()
        for surface in surfaces:
            for name in self.releases(surface):
                try:
                    manifest = self.release(surface, name).manifest
                    found |= {manifest.snapshot, manifest.evaluated_at}
                except DamagedError as error:
                    raise DamagedError(f"{error}; mend it: crossfade release recover {surface}") from error
        return frozenset(found)

    def verdict_key(self, surface: Surface, candidate: Artifact) -> VerdictKey:
        """Return the key of the verdict that would let ``candidate`` become champion at this moment.

        Raises:
            DamagedError: The candidate's manifest is missing, was changed or is invalid.
        """
        manifest = manifest_of(candidate)
        pointer = self.pointer(surface.name)
        return VerdictKey(
            surface=surface.name,
            candidate=candidate.digest,
            champion=pointer.release if pointer else None,
            eval_days=manifest.eval_days,
            snapshot=manifest.snapshot,
            gate_digest=surface.gate.digest,
        )

    def record(
        self,
        candidate: Artifact,
        key: VerdictKey,
        guards: tuple[GuardResult, ...],
        *,
        promotion: PromotionGate,
        about: About = "ranker",
        run_id: str | None = None,
    ) -> StoredVerdict:
        """Decide by what the guards found of a candidate, and write it down as a verdict.

        Args:
            candidate: What they looked at.
            key: What the verdict is about, as it was when they began to look.
            guards: What each of them found.
            promotion: Who promotes it.
            about: What the candidate is.
            run_id: Dagster run that judged.
        """
        verdict = Verdict(
            key=key,
            about=about,
            partition=manifest_of(candidate).partition,
            decision=decide(guards),
            guards=guards,
            judged=dict(candidate.files),
            judged_at=now(),
            promotion=promotion,
            run_id=run_id,
        )
        return self.verdicts.write(verdict)

    def promote(self, surface: str, proposal: Proposal, *, override: Override | None = None) -> Pointer:
        """Make a candidate the champion if its verdict allows it; fails closed.

        Promoting the champion again changes nothing but repairs the model repository, also when another run has made
        the same files for its day again.

        Args:
            surface: Name of the surface.
            proposal: The candidate, and who asks for it.
            override: A person's decision against the gate, recorded in the release.

        Returns:
            The log entry that points to the candidate's release.

        Raises:
            PromotionRefused: With the code of the first reason that no override covers.
        """
        self.require_owner()
        state = self.champions.state(surface)
        for signer in (proposal, *([override] if override else [])):
            require_named(by=signer.by, reason=signer.reason)
        manifest = checked_manifest(surface, proposal.candidate, proposal.partition)
        if state.last is not None and state.champion and self._serves(state.last, proposal):
            self.sync_repository(surface)
            return state.last
        stored, found = objections(self.verdicts, state, proposal, manifest)
        policy = stricter(stored.verdict.promotion, proposal.policy) if stored else proposal.policy
        if stored is not None and not found:
            found = self.approvals.doubts(stored, policy)
        if found and (override is None or any(code not in OVERRIDABLE for code, _ in found)):
            raise PromotionRefused(*next(o for o in found if override is None or o[0] not in OVERRIDABLE))
        if stored is None:
            raise PromotionRefused(Refusal.NO_VERDICT, f"the gate never judged {proposal.candidate.digest}")

        if found and override is not None:
            override = self.approvals.seconded(stored, override, policy)
        overruled = tuple(code.value for code, _ in found)
        release = publish(self.files, self.keys, proposal, stored, manifest, override, overruled)
        entry = Pointer(
            surface=surface,
            number=state.next_number,
            previous=state.number,
            version=state.version + 1,
            release=release,
            partition=manifest.partition,
            onnx_sha256=manifest.onnx_sha256,
            action="override" if overruled else "popularity" if manifest.kind == "popularity" else "promote",
            at=now(),
            by=override.by if override and overruled else proposal.by,
            reason=override.reason if override and overruled else proposal.reason,
            run_id=proposal.run_id,
        )
        entry = self.champions.append(entry, state)
        self.sync_repository(surface)
        return entry

    def approve(self, surface: str, proposal: Proposal) -> Pointer:
        """Say yes to a candidate that passed and waits for a person, and make it the champion.

        The yes is recorded first: killed in between, the next promotion finds it.

        Args:
            surface: Name of the surface.
            proposal: The candidate, and who says yes to it.

        Raises:
            PromotionRefused: It would not be promoted on its verdict, or waited for too long.
        """
        require_named(by=proposal.by, reason=proposal.reason)
        self.require_owner()
        state = self.champions.state(surface)
        manifest = checked_manifest(surface, proposal.candidate, proposal.partition)
        if state.last is None or not state.champion or not self._serves(state.last, proposal):
            stored, found = objections(self.verdicts, state, proposal, manifest)
            if found:
                raise PromotionRefused(*found[0])
            assert stored is not None, "without a verdict there is an objection"
            policy = stricter(stored.verdict.promotion, proposal.policy)
            waits = self.approvals.doubts(stored, policy)
            if waits and now() > ends(stored, policy):
                raise PromotionRefused(*waits[0])
            if waits:
                self.approvals.add(stored, "approve", proposal.by, proposal.reason)
        return self.promote(surface, proposal)

    def rollback(
        self, surface: str, *, by: str, reason: str, to: str | None = None, run_id: str | None = None
    ) -> Pointer:
        """Point back to the previous good release, or to ``to``, and bar the one that served.

        Raises:
            PromotionRefused: Nothing to roll back, no release to return to, ``to`` unknown, barred or damaged, or the
                pointer moved meanwhile.
        """
        require_named(by=by, reason=reason)
        self.require_owner()
        state = self.champions.state(surface)
        if state.last is None:
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
            barred=(state.champion,) if state.champion else (),
            run_id=run_id,
        )
        entry = self.champions.append(entry, state)
        self.sync_repository(surface)
        return entry

    def confirm(self, surface: str, *, by: str, reason: str) -> Pointer:
        """Make the champion the reference release, which before is the first one promoted."""
        require_named(by=by, reason=reason)
        self.require_owner()
        return self.champions.note(self.champions.state(surface), surface, "reference", by, reason)

    def challenge(self, surface: str, proposal: Proposal, *, mode: Mode, share: float) -> Pointer:
        """Serve a candidate beside the champion, in place of any other challenger; it must be fit to be promoted.

        The next move of the pointer ends it, whether it is promoted or another one is.

        Args:
            surface: Name of the surface.
            proposal: The candidate, and who asks for it.
            mode: As in ``Challenger``.
            share: As in ``Challenger``.

        Raises:
            PromotionRefused: There is no champion, or the candidate would not be promoted.
        """
        require_named(by=proposal.by, reason=proposal.reason)
        self.require_owner()
        state = self.champions.state(surface)
        if state.champion is None:
            raise PromotionRefused(Refusal.NO_CHAMPION, f"{surface} has no champion to challenge")
        manifest = checked_manifest(surface, proposal.candidate, proposal.partition)
        stored, found = objections(self.verdicts, state, proposal, manifest)
        if found:
            raise PromotionRefused(*found[0])
        assert stored is not None, "without a verdict there is an objection"
        release = publish(self.files, self.keys, proposal, stored, manifest)
        challenger = Challenger(release=release, onnx_sha256=manifest.onnx_sha256, mode=mode, share=share)
        return self.champions.note(
            state, surface, "challenge", proposal.by, proposal.reason, challenger=challenger, run_id=proposal.run_id
        )

    def end_challenge(self, surface: str, *, by: str, reason: str, bar: bool = False) -> Pointer:
        """Take the challenger away; with ``bar``, for good.

        Raises:
            PromotionRefused: There is none.
        """
        require_named(by=by, reason=reason)
        self.require_owner()
        state = self.champions.state(surface)
        if state.last is None or state.last.challenger is None:
            raise PromotionRefused(Refusal.UNKNOWN_RELEASE, f"{surface} has no challenger")
        barred = (state.last.challenger.release,) if bar else ()
        return self.champions.note(state, surface, "challenge", by, reason, challenger=None, barred=barred)

    def retire(self, surface: str, *, keep: int = 5, by: str = "retention") -> list[str]:
        """Delete old releases; see ``ml.releases.retention``."""
        self.require_owner()
        return retire(self.files, self.champions, surface, keep=keep, by=by)

    def sync_repository(self, surface: str) -> bool:
        """Bring the model repository in line with the pointer; return whether there is a champion."""
        return self.repository.sync(surface, self.champion)

    def _named_target(self, state: State, surface: str, release: str) -> Pointer:
        target = next((e for e in state.recent() if e.release == release), None)
        if target is None or release in state.retired:
            raise PromotionRefused(Refusal.UNKNOWN_RELEASE, f"{release!r} never served {surface} or was retired")
        if release in state.barred:
            raise PromotionRefused(Refusal.BARRED, f"{release!r} was rolled back itself")
        if release == state.champion:
            raise PromotionRefused(Refusal.NO_PREVIOUS, f"{release!r} serves already")
        try:
            self.trusted_release(surface, release)
        except (DamagedError, FileNotFoundError) as error:
            raise PromotionRefused(Refusal.RELEASE_DAMAGED, str(error)) from error
        return target

    def _previous_target(self, state: State, surface: str) -> Pointer:
        for entry in state.recent():
            if entry.release in state.barred | state.retired | {state.champion}:
                continue
            try:
                self.trusted_release(surface, entry.release)
            except (DamagedError, FileNotFoundError) as error:
                log.warning("rollback passes over release %s: %s", entry.release, error)
                continue
            return entry
        raise PromotionRefused(Refusal.NO_PREVIOUS, f"{surface} has no earlier release that is neither barred nor lost")

    def _serves(self, pointer: Pointer, proposal: Proposal) -> bool:
        """Tell whether the champion is this candidate; another run that made it again differs in its manifest alone."""
        try:
            files = self.trusted_release(pointer.surface, pointer.release).record.files
            return pointer.partition == proposal.partition and all(
                files[n] == proposal.candidate.files[n] for n in SERVED
            )
        except (DamagedError, FileNotFoundError) as error:
            log.error("champion %s of %s is damaged: %s", pointer.release, pointer.surface, error)
            return False
