"""Promotion of a candidate: as the champion, or beside it."""

from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

from ml.foundation.artifacts import ArtifactStore
from ml.foundation.settings import Settings
from ml.releases.approvals import ends, stricter
from ml.releases.champions import Mode
from ml.releases.promotion import Proposal
from ml.releases.store import ReleaseStore
from ml.releases.verdicts import Override
from ml.stages.artifacts import artifact_name, find
from ml.surfaces.spec import Surface


@dataclass(frozen=True)
class Released:
    """The champion after a promotion."""

    id: str
    path: Path
    digest: str
    previous: str | None


@dataclass(frozen=True)
class Waiting:
    """A candidate that passed and waits for a person, and until when."""

    partition: date
    until: datetime


def waiting_candidate(settings: Settings, surface: Surface) -> Waiting | None:
    """Return the newest candidate of a surface if it passed, is newer than the champion, and nobody has approved it."""
    artifacts, name = ArtifactStore(settings.artifacts_dir), artifact_name(surface, "onnx")
    partition = max(artifacts.partitions(name), default=None) if surface.gate.promotion.mode == "manual" else None
    candidate = artifacts.latest(name, partition) if partition else None
    if candidate is None:
        return None
    store = ReleaseStore.of(settings)
    judged, champion = store.verdicts.of_candidate(surface.name, candidate.digest), store.pointer(surface.name)
    if not judged or judged[-1].verdict.decision != "pass":
        return None
    stored, day = judged[-1], judged[-1].verdict.partition
    policy = stricter(stored.verdict.promotion, surface.gate.promotion)
    if (champion is not None and day <= champion.partition) or not store.approvals.doubts(stored, policy):
        return None
    return Waiting(day, ends(stored, policy))


def promote_candidate(
    settings: Settings,
    surface: Surface,
    partition: date,
    *,
    by: str,
    reason: str | None = None,
    override: Override | None = None,
) -> Released:
    """Make the candidate of a partition the champion, if its verdict or a person's override allows it.

    Raises:
        PromotionRefused: With the reason; nothing was changed.
    """
    store = ReleaseStore.of(settings)
    before = store.pointer(surface.name)
    asked = _proposal(settings, surface, partition, store, by, reason)
    pointer = store.promote(surface.name, asked, override=override)
    release = store.release(surface.name, pointer.release)
    return Released(release.id, release.path, pointer.onnx_sha256, before.release if before else None)


def approve_candidate(settings: Settings, surface: Surface, partition: date, *, by: str, reason: str) -> str:
    """Say yes to the candidate of a partition, which passed and waits for a person; return its release, which serves.

    Raises:
        PromotionRefused: With the reason; nothing was changed.
    """
    store = ReleaseStore.of(settings)
    return store.approve(surface.name, _proposal(settings, surface, partition, store, by, reason)).release


def challenge_champion(
    settings: Settings,
    surface: Surface,
    partition: date,
    *,
    mode: Mode,
    share: float,
    by: str,
    reason: str | None = None,
) -> str:
    """Serve the candidate of a partition beside the champion; return its release.

    Raises:
        PromotionRefused: The candidate would not be promoted; nothing was changed.
    """
    store = ReleaseStore.of(settings)
    asked = _proposal(settings, surface, partition, store, by, reason)
    challenger = store.challenge(surface.name, asked, mode=mode, share=share).challenger
    assert challenger is not None
    return challenger.release


def _proposal(
    settings: Settings, surface: Surface, partition: date, store: ReleaseStore, by: str, reason: str | None
) -> Proposal:
    """Return the candidate of a partition as the release store wants it."""
    candidate = find(settings, surface, "onnx", partition)
    evaluation = find(settings, surface, "evaluation", partition)
    plots = [name for name in evaluation.files if name.endswith(".png")]
    return Proposal(
        candidate=candidate,
        key=store.verdict_key(surface, candidate),
        partition=partition,
        by=by,
        reason=reason or f"candidate of {partition}",
        policy=surface.gate.promotion,
        evaluation=evaluation.json("evaluation.json"),
        plots={name.removesuffix(".png"): evaluation.read(name) for name in plots},
    )
