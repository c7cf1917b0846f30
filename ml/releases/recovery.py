"""The way out of what the log and its releases were left in by a lost disk: by a person, by name and with a reason.

What a lost entry said is not known, so everything that it may have barred is barred: what served or challenged before
it, and stored releases that no readable entry names.
"""

from collections.abc import Iterator

from ml.evaluation.outcome import Outcome
from ml.foundation.artifacts import Artifact, ArtifactStore
from ml.foundation.sealed import DamagedError
from ml.releases.champions import Damage, Pointer, State
from ml.releases.promotion import Proposal
from ml.releases.publishing import publish
from ml.releases.refusals import PromotionRefused, Refusal
from ml.releases.release import MANIFEST, Release, manifest_of, release_id
from ml.releases.signer import require_named
from ml.releases.store import ReleaseStore
from ml.releases.verdicts import Override, StoredVerdict, now

UNREADABLE = (DamagedError, FileNotFoundError)


def recover(store: ReleaseStore, surface: str, *, by: str, reason: str, to: str | None = None) -> list[str]:
    """Make a surface's log and releases whole again; safe to repeat and to interrupt.

    A log that is not whole gets an entry that stands for what cannot be read of it. A release that cannot be read is
    made again from its candidate and verdict, where those are there; else the champion is rolled back, or gives up its
    place where there is nothing to go back to, and the next candidate is judged as a first one.

    Args:
        store: Releases and logs, opened with their lake.
        surface: Name of the surface.
        by: Who asks.
        reason: Why.
        to: Release that serves from here on; needed where the log is not whole, since it does not say.

    Returns:
        What was done, one line each; empty where everything is whole.

    Raises:
        PromotionRefused: ``to`` is missing, or cannot serve; nothing was changed.
    """
    require_named(by=by, reason=reason)
    store.require_owner()
    done = list[str]()
    damage = store.champions.inspect(surface)
    if damage.told:
        entry = store.champions.replace(_entry(store, surface, damage, to, by, reason), damage)
        done += [f"given up: {told}" for told in damage.told]
        done.append(f"{entry.release} serves by entry {entry.number}; barred: {', '.join(entry.barred) or 'none'}")
    state = store.champions.state(surface)
    for release in _unreadable(store, surface, state):
        done.append(_mend(store, surface, release, by, reason))
    if done:
        store.sync_repository(surface)
    return done


def _entry(store: ReleaseStore, surface: str, damage: Damage, to: str | None, by: str, reason: str) -> Pointer:
    """Return the entry that stands for what cannot be read of a log."""
    state, stored = damage.state, _readable(store, surface)
    if away := [told for told in damage.told if told.endswith("move it away")]:
        raise PromotionRefused(Refusal.UNKNOWN_RELEASE, away[0])
    counted = {name for name, release in stored.items() if not (store.keys.required and release.signed.fault)}
    fit = sorted(counted - state.barred)
    if to not in fit:
        known = ", ".join(fit) or "none that is whole and trusted"
        told = f"the log does not say what serves; name it with --to, one of {known}"
        raise PromotionRefused(Refusal.UNKNOWN_RELEASE, f"{to!r}: {told}" if to else told)
    manifest = stored[to].manifest
    return Pointer(
        surface=surface,
        number=1,
        previous=0,
        version=1,
        release=to,
        partition=manifest.partition,
        onnx_sha256=manifest.onnx_sha256,
        action="recover",
        at=now(),
        by=by,
        reason=reason,
        barred=tuple(sorted(_perhaps_barred(damage, set(stored)) - {to} - state.barred)),
    )


def _perhaps_barred(damage: Damage, stored: set[str]) -> set[str]:
    """Return the releases that an entry which cannot be read may have barred."""
    state = damage.state
    named = {entry.release for entry in state.entries} | {e.challenger.release for e in state.entries if e.challenger}
    found = stored - named
    for number in damage.found:
        before = State(tuple(entry for entry in state.entries if entry.number < number)).last
        if before is not None:
            found |= {before.release} | ({before.challenger.release} if before.challenger else set())
    return found


def _readable(store: ReleaseStore, surface: str) -> dict[str, Release]:
    found = {}
    for release in store.releases(surface):
        try:
            found[release] = store.release(surface, release)
        except UNREADABLE:
            continue
    return found


def _unreadable(store: ReleaseStore, surface: str, state: State) -> list[str]:
    """Return the releases that are named or stored, were not given up, and cannot be read; the champion first."""
    challenger = state.last.challenger.release if state.last and state.last.challenger else None
    needed = [r for r in (state.champion, state.reference, challenger) if r is not None]
    wanted = list(dict.fromkeys([*needed, *store.releases(surface)]))
    whole = _readable(store, surface)
    return [release for release in wanted if release not in whole and release not in state.retired]


def _mend(store: ReleaseStore, surface: str, release: str, by: str, reason: str) -> str:
    """Make one release again, or give it up; return what was done."""
    if made := next(_sources(store, surface, release), None):
        candidate, verdict, override, overruled = made
        store.files.remove_folder(f"releases/{surface}/{release}")
        manifest = manifest_of(candidate)
        asked = Proposal(candidate, verdict.verdict.key, manifest.partition, by, reason)
        publish(store.files, store.keys, asked, verdict, manifest, override, overruled)
        return f"{release} was made again from its candidate and verdict"
    state = store.champions.state(surface)
    if release == state.champion:
        try:
            return f"{release} is lost; rolled back to {store.rollback(surface, by=by, reason=reason).release}"
        except PromotionRefused as refused:
            if refused.code is not Refusal.NO_PREVIOUS:
                raise
        store.champions.note(state, surface, "vacate", by, reason, vacant=True, challenger=None)
        return f"{release} is lost, and nothing is left to go back to: {surface} has no champion; release a candidate"
    challenger = state.last.challenger if state.last else None
    if challenger and challenger.release == release:
        store.champions.note(state, surface, "challenge", by, reason, challenger=None)
        return f"{release} is lost; it challenges no more"
    if release == state.reference and state.champion:
        store.champions.note(state, surface, "reference", by, reason)
        return f"{release} is lost; the champion {state.champion} is the reference in its place"
    if state.champion:
        store.champions.note(state, surface, "retire", by, reason, retired=(release,))
    store.files.remove_folder(f"releases/{surface}/{release}")
    return f"{release} is lost; nothing needs it, so it was removed"


def _sources(
    store: ReleaseStore, surface: str, release: str
) -> Iterator[tuple[Artifact, StoredVerdict, Override | None, tuple[str, ...]]]:
    """Yield what a release of this id was made of: candidate, verdict, override and what it overruled."""
    entries = store.champions.state(surface).entries
    signed = [Override(by=e.by, reason=e.reason) for e in entries if e.release == release and e.action == "override"]
    artifacts, partition = ArtifactStore(store.root), release[:10]
    names = [f"models/{surface}/{asset}" for asset in ("onnx", "popularity", "incumbent")]
    for key in [f"{name}/{digest}" for name in names for digest in store.files.names(f"{name}/{partition}")]:
        try:
            name, digest = key.rsplit("/", 1)
            candidate = artifacts.get(name, partition, digest)
            judged = store.verdicts.of_candidate(surface, candidate.digest)
        except UNREADABLE:
            continue
        judged = [stored for stored in judged if not (store.keys.required and stored.signed.fault)]
        for verdict in judged if MANIFEST in candidate.files else ():
            for override in (None, *signed):
                day = manifest_of(candidate).partition
                if release_id(day, candidate.digest, verdict.content_hash, override) == release:
                    yield candidate, verdict, override, _overruled(verdict) if override else ()


def _overruled(verdict: StoredVerdict) -> tuple[str, ...]:
    """Return the refusal that an override certainly overruled; others that stood in its record are lost with it."""
    outcomes = {guard.outcome for guard in verdict.verdict.guards}
    failed = Outcome.FAIL in outcomes
    return (Refusal.VERDICT_FAILED.value if failed else Refusal.VERDICT_INCONCLUSIVE.value,)
