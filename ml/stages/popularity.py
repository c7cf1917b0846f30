"""Popularity in a student's place: served where nothing serves and the gate refused the student of the day."""

import importlib.metadata
import tempfile
from datetime import date
from pathlib import Path

from ml.export.files import MODEL
from ml.export.popularity import export_popularity
from ml.foundation.artifacts import Artifact, ArtifactStore
from ml.foundation.files import sha256_file
from ml.foundation.settings import Settings
from ml.releases.manifest import Manifest
from ml.releases.promotion import Proposal
from ml.releases.refusals import PromotionRefused, Refusal
from ml.releases.release import manifest_of
from ml.releases.store import ReleaseStore
from ml.releases.verdicts import StoredVerdict, Verdict, because, missing_traffic
from ml.stages.artifacts import artifact_name, find
from ml.stages.candidate import LIBRARIES, candidate_files, declared, schema_file
from ml.stages.release import Released
from ml.surfaces.spec import Surface

POPULARITY = "popularity"
"""Name of its artifacts beside those of the surface's assets."""


def refused_student(settings: Settings, surface: Surface, partition: date) -> StoredVerdict:
    """Return the verdict that refuses the candidate of a partition, in whose place popularity may serve.

    Raises:
        PromotionRefused: The surface does not say that it may, something serves, or the gate has not refused.
    """
    store = ReleaseStore.of(settings)
    if surface.first_release != POPULARITY:
        told = f"{surface.name} has no `first_release: popularity` in its YAML"
        raise PromotionRefused(Refusal.NOT_FIRST, told)
    if (serving := store.pointer(surface.name)) is not None:
        raise PromotionRefused(Refusal.NOT_FIRST, f"{serving.release} serves {surface.name}; popularity is not needed")
    candidate = find(settings, surface, "onnx", partition)
    judged = store.verdicts.of_candidate(surface.name, candidate.digest)
    if not judged or judged[-1].verdict.decision == "pass":
        told = "passed: promote it" if judged else "was not judged: materialize `onnx` with its checks"
        raise PromotionRefused(Refusal.NOT_FIRST, f"the candidate of {surface.name} {partition} {told}")
    return judged[-1]


def instead_of(verdict: Verdict) -> str:
    """Say in whose place popularity serves, why, and what traffic is missing."""
    told = f"popularity, not a student: the gate refused the student because of {because(verdict.guards)}"
    lacking = missing_traffic(verdict.guards)
    return f"{told}; {lacking}" if lacking else told


def export_in_place(settings: Settings, surface: Surface, partition: date) -> Artifact:
    """Store the popularity of a surface as a candidate, with the evaluation days of the refused one."""
    refused = manifest_of(find(settings, surface, "onnx", partition))
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / MODEL
        export_popularity(surface, model)
        schema, digest = schema_file(surface), sha256_file(model)
        manifest = Manifest(
            **declared(settings, surface, schema),
            surface=surface.name,
            partition=partition,
            kind=POPULARITY,
            technique="none",
            snapshot=refused.evaluated_at,
            train_days=(),
            eval_days=refused.eval_days,
            examples=tuple(day for day in refused.examples if day.day in refused.eval_days),
            soft_labels=(),
            teacher=None,
            seed=0,
            parameters=0,
            libraries={name: importlib.metadata.version(name) for name in LIBRARIES},
            checkpoint_sha256=digest,
            onnx_sha256=digest,
        )
        files = candidate_files(surface, model, schema, manifest)
        store = ArtifactStore(settings.artifacts_dir)
        return store.put(artifact_name(surface, POPULARITY), partition.isoformat(), files, {})


def promote_popularity(
    settings: Settings, surface: Surface, candidate: Artifact, refused: StoredVerdict, *, by: str, reason: str | None
) -> Released:
    """Let a judged popularity serve.

    Raises:
        PromotionRefused: With the reason; nothing was changed.
    """
    store, partition = ReleaseStore.of(settings), refused.verdict.partition
    told = instead_of(refused.verdict)
    pointer = store.promote(
        surface.name,
        Proposal(
            candidate=candidate,
            key=store.verdict_key(surface, candidate),
            partition=partition,
            by=by,
            reason=f"{reason} ({told})" if reason else told,
        ),
    )
    release = store.release(surface.name, pointer.release)
    return Released(release.id, release.path, pointer.onnx_sha256, None)
