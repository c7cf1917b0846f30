"""What speaks against a candidate that somebody wants to serve."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

from ml.evaluation.results import EvaluationFile
from ml.export.files import MODEL, SCHEMA
from ml.foundation.artifacts import Artifact
from ml.foundation.sealed import DamagedError, digest
from ml.releases.champions import State
from ml.releases.gate import shortcomings
from ml.releases.manifest import Manifest
from ml.releases.refusals import PromotionRefused, Refusal
from ml.releases.release import CANDIDATE, manifest_of
from ml.releases.verdicts import StoredVerdict, VerdictKey, VerdictStore
from ml.surfaces.gate import PromotionGate


@dataclass(frozen=True)
class Proposal:
    """A candidate that somebody wants to serve.

    Attributes:
        candidate: Artifact with the files of ``CANDIDATE``; ``config.pbtxt`` without a version policy.
        key: What the verdict must be about, from ``ReleaseStore.verdict_key`` at the time of asking.
        partition: Partition that it is proposed for.
        by: Who asks.
        reason: Why.
        evaluation: JSON of the evaluation, for the model card.
        plots: PNG images by title, for the model card.
        run_id: Dagster run that asks.
        policy: Who promotes on this surface today; the verdict says who did when it was judged.
    """

    candidate: Artifact
    key: VerdictKey
    partition: date
    by: str
    reason: str
    evaluation: EvaluationFile | None = None
    plots: Mapping[str, bytes] | None = None
    run_id: str | None = None
    policy: PromotionGate = field(default_factory=PromotionGate)


def objections(
    verdicts: VerdictStore, state: State, proposal: Proposal, manifest: Manifest
) -> tuple[StoredVerdict | None, list[tuple[Refusal, str]]]:
    """Return (the verdict, everything that speaks against promoting on it)."""
    candidate, key = proposal.candidate, proposal.key
    if key.candidate != candidate.digest or key.surface != manifest.surface:
        return None, [(Refusal.OTHER_BYTES, f"the key is about {key.candidate}, not {candidate.digest}")]
    if (key.snapshot, key.eval_days) != (manifest.snapshot, manifest.eval_days):
        return None, [(Refusal.MANIFEST_MISMATCH, "the key names another snapshot or other days than the manifest")]
    try:
        judged = verdicts.of_candidate(key.surface, candidate.digest)
    except DamagedError as error:
        return None, [(Refusal.VERDICT_EDITED, str(error))]
    if not judged:
        return None, [(Refusal.NO_VERDICT, f"the gate never judged {candidate.digest}")]
    exact = [s for s in judged if s.verdict.key == key]
    stored = exact[-1] if exact else judged[-1]
    verdict = stored.verdict
    if verdicts.keys.required and stored.signed.fault:
        told = f"{stored.path} is {stored.signed}" if stored.signed.key is None else f"{stored.path}: {stored.signed}"
        return None, [(Refusal.UNTRUSTED, f"{told}. Judge again: materialize `onnx` with its checks")]
    if verdict.judged != dict(candidate.files):
        return None, [(Refusal.OTHER_BYTES, f"{stored.path} judged other files than those of {candidate.path}")]
    about = (verdict.key.snapshot, verdict.key.eval_days, verdict.partition)
    if about != (manifest.snapshot, manifest.eval_days, manifest.partition):
        return None, [(Refusal.OTHER_BYTES, f"{stored.path} judged another snapshot, partition or other days")]
    if verdict.about != ("popularity" if manifest.kind == "popularity" else "ranker"):
        return None, [(Refusal.OTHER_BYTES, f"{stored.path} judged a {verdict.about}, this is a {manifest.kind}")]
    if lacking := shortcomings(verdict):
        told = f"{stored.path} is no verdict of this gate: {'; '.join(lacking)}"
        return None, [(Refusal.VERDICT_INCOMPLETE, f"{told}. Materialize `onnx` with its checks again")]
    return stored, _doubts(state, proposal, manifest, stored)


def _doubts(state: State, proposal: Proposal, manifest: Manifest, stored: StoredVerdict) -> list[tuple[Refusal, str]]:
    """Return what speaks against promoting on a verdict that is about these very files."""
    verdict, key = stored.verdict, proposal.key
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
    if manifest.kind == "popularity" and state.champion:
        found.append((Refusal.NOT_FIRST, f"{state.champion} serves; popularity is released where nothing does"))
    elif state.last is not None and state.champion and not _after(manifest.partition, state, state.last.partition):
        message = f"{manifest.partition} is not after {state.last.partition}, the champion's"
        found.append((Refusal.NOT_NEWER, message))
    if manifest.onnx_sha256 in state.barred_models:
        found.append((Refusal.BARRED, f"a release with model {manifest.onnx_sha256} was rolled back"))
    return found


def _after(partition: date, state: State, last: date) -> bool:
    """Tell whether a partition is new enough to serve: a ranker of the same day may follow on popularity."""
    return partition >= last if state.champion in state.popularity else partition > last


def checked_manifest(surface: str, candidate: Artifact, partition: date) -> Manifest:
    """Return the manifest of a candidate whose files are what they claim to be.

    Raises:
        PromotionRefused: They are not.
    """
    try:
        candidate.verify()
        if digest(dict(candidate.files)) != candidate.digest:
            raise DamagedError(f"{candidate.path}: {candidate.digest} is not the digest of its files")
        if other := sorted(set(CANDIDATE) ^ set(candidate.files)):
            raise DamagedError(f"{candidate.path}: a candidate is {', '.join(CANDIDATE)}; it lacks or adds {other}")
    except DamagedError as error:
        raise PromotionRefused(Refusal.CANDIDATE_DAMAGED, str(error)) from error
    try:
        manifest = manifest_of(candidate)
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
