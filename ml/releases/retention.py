"""Which releases stay to return to; the others are deleted."""

import time

from ml.foundation.files import FileStore
from ml.releases.champions import ChampionLog
from ml.releases.refusals import PromotionRefused

MIN_KEPT = 3
_ORPHAN_AGE_S = 24 * 3600.0


def retire(files: FileStore, champions: ChampionLog, surface: str, *, keep: int, by: str) -> list[str]:
    """Delete old releases; keep the champion, the reference and at least ``keep`` others to return to.

    The log gives releases up before their folders go, those too that it never named: whoever moves the pointer to one
    of them meanwhile is refused by the log, or refuses this.

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
    known = {e.release for e in state.entries} | {challenger}
    stored = files.names(f"releases/{surface}")
    orphans = [name for name in stored if name not in known and _age(files, surface, name) > _ORPHAN_AGE_S]
    stale = tuple(sorted({*orphans, *(e.release for e in recent)} - kept - state.retired))
    champions.witness(surface)
    if stale:
        try:
            champions.note(state, surface, "retire", by, f"keeps {len(kept - {None})} releases", retired=stale)
        except PromotionRefused:  # the champion changed meanwhile; the next call sees which releases are stale now
            return []
    for release in stored:
        if release in state.retired | set(stale):
            files.remove_folder(f"releases/{surface}/{release}")
    return list(stale)


def _age(files: FileStore, surface: str, release: str) -> float:
    try:
        return time.time() - files.modified(f"releases/{surface}/{release}")
    except FileNotFoundError:
        return 0.0
