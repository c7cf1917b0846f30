"""Which releases stay to return to; the others are deleted."""

import time

from ml.foundation.files import FileStore
from ml.releases.champions import ChampionLog
from ml.releases.refusals import PromotionRefused

MIN_KEPT = 3
_ORPHAN_AGE_S = 24 * 3600.0


def retire(files: FileStore, champions: ChampionLog, surface: str, *, keep: int, by: str) -> list[str]:
    """Delete old releases; keep the champion, the reference and at least ``keep`` others to return to.

    The log gives releases up before their folders go, so that no concurrent rollback can point to one of them.

    Returns:
        Ids of the releases given up by this call.
    """
    if keep < MIN_KEPT:
        raise ValueError(f"keep={keep}: at least {MIN_KEPT} releases are kept")
    files.sweep()
    state = champions.state(surface)
    if state.last is None:
        return []
    recent = state.recent()
    good = [e.release for e in recent if e.release not in state.barred]
    challenger = state.last.challenger.release if state.last.challenger else None
    kept = {state.champion, state.reference, challenger, *good[:keep], *(e.release for e in recent[:keep])}
    stale = tuple(sorted({e.release for e in recent} - kept - state.retired))
    if stale:
        try:
            champions.note(state, surface, "retire", by, f"keeps {len(kept - {None})} releases", retired=stale)
        except PromotionRefused:  # the champion changed meanwhile; the next call sees which releases are stale now
            return []
    known = {e.release for e in state.entries} | {challenger}
    for release in files.names(f"releases/{surface}"):
        orphan = release not in known and _age(files, f"releases/{surface}/{release}") > _ORPHAN_AGE_S
        if release in state.retired | set(stale) or orphan:
            files.remove_folder(f"releases/{surface}/{release}")
    return list(stale)


def _age(files: FileStore, key: str) -> float:
    try:
        return time.time() - files.modified(key)
    except FileNotFoundError:
        return 0.0
