"""Widening: an undecided candidate's evaluation takes in each further final day, until it is decided or has enough.

A candidate is *open* while its newest verdict is inconclusive and more days may decide it, and while it was widened and
has no verdict yet: the run is under way, or was killed. While one is open, no newer student of its surface is made: if
one replaced it every day, none would ever see more than its own first days. It is closed by a verdict that decides, by
its last day (``e_max``), by another champion or teacher, or by a newer candidate that a person asks for. Nothing is
recorded but verdicts and evaluations, so that a run may be killed at any instant: it is repeated on the same rows.
"""

import logging
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal, get_args

from ml.evaluation.rows import newest_day
from ml.foundation.artifacts import Artifact, ArtifactStore
from ml.foundation.lake import Lake
from ml.foundation.sealed import DamagedError
from ml.foundation.settings import Settings
from ml.releases.release import manifest_of
from ml.releases.store import ReleaseStore
from ml.stages.artifacts import artifact_name, find
from ml.stages.training_set import check_files, read_training_set
from ml.students.dataset import TrainingSet, TrainingSetError, build_training_set
from ml.surfaces.spec import Role, Surface
from ml.teacher.labels import unlabelled_days
from ml.teacher.teachers import contracts_of

log = logging.getLogger(__name__)

ROWS = "evaluation_set.json"
"""File of a widened evaluation that says which rows it read."""

Standing = Literal["undecided", "unjudged", "closed"]
"""Of a candidate: judged inconclusive, widened and not judged yet, or neither."""


@dataclass(frozen=True)
class OpenCandidate:
    """A candidate that waits for evaluation days.

    Attributes:
        partition: Its partition.
        through: Last day that it was evaluated on.
        due: Newest final day that its evaluation can widen to; None while there is none.
    """

    partition: date
    through: date
    due: date | None

    def __str__(self) -> str:
        """Say what it waits for."""
        waits = f"its evaluation widens to {self.due}" if self.due else f"it waits for the day after {self.through}"
        return f"the candidate of {self.partition} is undecided: {waits}"


def open_candidate(settings: Settings, surface: Surface) -> OpenCandidate | None:
    """Return the open candidate of a surface, or None."""
    artifacts, name = ArtifactStore(settings.artifacts_dir), artifact_name(surface, "onnx")
    partition = max(artifacts.partitions(name), default=None)
    candidate = artifacts.latest(name, partition) if partition else None
    if candidate is None or _standing(settings, surface, candidate) == "closed":
        return None
    manifest, contracts = manifest_of(candidate), contracts_of(settings, surface).values()
    if {teacher.contract_hash for teacher in manifest.teachers} != {item.contract_hash for item in contracts}:
        return None
    last, through = surface.last_evaluation_day(manifest.partition), manifest.eval_days[-1]
    with Lake(settings) as lake:
        newest = newest_day(lake, surface)
        if newest is None or through >= last or newest > last:
            return None
    further = through + timedelta(days=1)
    due = newest >= further and not any(
        unlabelled_days(settings, [surface.name], contract, further, newest) for contract in contracts
    )
    return OpenCandidate(manifest.partition, through, newest if due else None)


def open_snapshots(settings: Settings, surface: Surface) -> frozenset[int]:
    """Return the lake snapshots that the open candidate of a surface was made from: its gate reads them again."""
    found = open_candidate(settings, surface)
    if found is None:
        return frozenset()
    manifest = manifest_of(find(settings, surface, "onnx", found.partition))
    return frozenset({manifest.snapshot, manifest.evaluated_at})


def rows_to_evaluate(settings: Settings, surface: Surface, partition: date) -> TrainingSet:
    """Return the rows that an evaluation made at this moment reads.

    They are wider than those of the stored one where its candidate was judged and left undecided; a run that was killed
    between evaluation and verdict is repeated on the same rows. They are never narrower for the same rankers.

    Raises:
        DamagedError: A file of the days that wider rows were made from is not as it was written.
    """
    rows = _stored_rows(settings, surface, partition)
    candidate = ArtifactStore(settings.artifacts_dir).latest(artifact_name(surface, "onnx"), partition.isoformat())
    if candidate is None or _standing(settings, surface, candidate) != "undecided":
        return rows
    manifest = manifest_of(candidate)
    trained = manifest.checkpoint_sha256 in _checkpoints(settings, surface, partition).values()
    if not trained or manifest.eval_days != rows.eval_days:
        return rows
    with Lake(settings) as lake:
        newest = newest_day(lake, surface) or rows.eval_days[-1]
        further = surface.further_days(partition, min(newest, surface.last_evaluation_day(partition)))
        if further <= surface.further_days(partition, rows.eval_days[-1]):
            return rows
        try:
            wider = build_training_set(lake, surface, partition, rows.labels, further=further)
        except TrainingSetError as error:
            log.warning("the evaluation of %s %s does not widen: %s", surface.name, partition, error)
            return rows
        check_files(lake, surface, wider)
        return wider


def evaluated_rows(settings: Settings, surface: Surface, partition: date) -> TrainingSet:
    """Return the rows that the stored evaluation of a partition read."""
    evaluation = find(settings, surface, "evaluation", partition)
    if ROWS in evaluation.files:
        return TrainingSet.from_json(evaluation.read(ROWS).decode())
    return read_training_set(settings, surface, partition)


def _stored_rows(settings: Settings, surface: Surface, partition: date) -> TrainingSet:
    """Return the rows of the stored evaluation of the partition's rankers, else those that evaluation begins with."""
    stored = ArtifactStore(settings.artifacts_dir).latest(artifact_name(surface, "evaluation"), partition.isoformat())
    if stored is None or ROWS not in stored.files:
        return read_training_set(settings, surface, partition)
    of_these = stored.meta.get("hashes") == _checkpoints(settings, surface, partition)
    return evaluated_rows(settings, surface, partition) if of_these else read_training_set(settings, surface, partition)


def _checkpoints(settings: Settings, surface: Surface, partition: date) -> dict[str, str]:
    return {role: find(settings, surface, role, partition).digest for role in get_args(Role)}


def _standing(settings: Settings, surface: Surface, candidate: Artifact) -> Standing:
    """Tell what the newest verdict leaves of a candidate; another champion than it is about closes it."""
    store = ReleaseStore.of(settings)
    try:
        judged, champion = store.verdicts.of_candidate(surface.name, candidate.digest), store.pointer(surface.name)
        if champion is None or date.fromisoformat(candidate.partition) <= champion.partition:
            return "closed"
        if not judged:
            manifest = manifest_of(candidate)
            widened = surface.further_days(manifest.partition, manifest.eval_days[-1]) > 0
            return "unjudged" if widened else "closed"
    except DamagedError:  # promotion refuses on it, whatever else is said about the candidate
        return "closed"
    verdict = judged[-1].verdict
    same = verdict.key.champion == champion.release
    return "undecided" if verdict.decision == "inconclusive" and same else "closed"
