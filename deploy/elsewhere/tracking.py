"""Candidates as runs of an MLflow tracking server: figures, verdicts, and which of them became releases.

A candidate is one run, found again by its digest; judged again, it gets another step of the same figures.
"""

import os
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, NoReturn

import dagster as dg
from pydantic import BaseModel

from checks.assets import VERDICT_CHECK
from deploy.elsewhere.runs import TRY_AGAIN, Place, Unreachable
from ml.foundation.artifacts import ArtifactStore
from ml.foundation.settings import Settings
from ml.releases.manifest import Manifest
from ml.releases.release import manifest_of
from ml.releases.store import ReleaseStore
from ml.releases.verdicts import StoredVerdict, because
from ml.stages.artifacts import artifact_name
from ml.surfaces.files import load_surfaces
from ml.surfaces.spec import Surface

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

CANDIDATE, RELEASE = "crossfade.candidate", "crossfade.release"
_BATCH = 500
_LONGEST = 4000
"""Characters of a tag or parameter; MLflow refuses 6,000."""
_NO_NAME = re.compile(r"[^\w\-. /:]")


class Tracked(BaseModel):
    """The cursor of ``mlflow_sensor``: runs, and the newest entry of each surface's champion log."""

    place: Place = Place()
    champions: dict[str, int] = {}


class Tracker:
    """Writes the candidates of a home to the tracking server that its settings name."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = ReleaseStore.of(settings)
        self.surfaces = load_surfaces(settings)

    @cached_property
    def client(self) -> "MlflowClient":
        """The client, loaded when there is something to tell.

        Raises:
            Unreachable: MLflow's client is not installed.
        """
        # A server that is down is tried again by the sensor's next look, not by minutes of waiting in this one.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            told = f"CROSSFADE_MLFLOW_URI needs packages that are not there: make install EXTRAS=mlflow ({error})"
            raise Unreachable(told) from error
        return MlflowClient(tracking_uri=self.settings.mlflow_uri)

    def run(self, instance: dg.DagsterInstance, record: dg.RunRecord) -> None:
        """Write every candidate that a run has judged.

        Raises:
            Unreachable: The server does not answer, or does not let us in.
        """
        run_id = record.dagster_run.run_id
        events = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
        for event in events:
            found = event.event_log_entry.get_dagster_event().asset_check_evaluation_data
            if found.check_name == VERDICT_CHECK:
                self.candidate(found.asset_key.path[0], str(found.metadata["candidate"].value))

    def candidate(self, name: str, candidate: str) -> None:
        """Write one candidate: what it was made of, what was measured, what was decided."""
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.exceptions import MlflowException

        surface, verdicts = self.surfaces[name], self.store.verdicts.of_candidate(name, candidate)
        if not verdicts:
            raise FileNotFoundError(f"{name} has no verdict about candidate {candidate}")
        stored = verdicts[-1]
        day, at = stored.verdict.partition.isoformat(), _milliseconds(stored.verdict.judged_at)
        artifact = ArtifactStore(self.settings.artifacts_dir).get(artifact_name(surface, "onnx"), day, candidate)
        manifest = manifest_of(artifact)
        figures = [*figures_of(self.settings, surface, stored)]
        try:
            run = self._run_of(name, candidate) or self._new_run(name, candidate, day, at)
            tags = [RunTag(key, text[:_LONGEST]) for key, text in tags_of(manifest, stored).items()]
            params = [Param(key, text[:_LONGEST]) for key, text in parameters_of(surface, manifest).items()]
            self.client.log_batch(run, params=params, tags=tags)
            for start in range(0, len(figures), _BATCH):
                batch = [Metric(key, value, at, len(verdicts)) for key, value in figures[start : start + _BATCH]]
                self.client.log_batch(run, metrics=batch)
            self.client.set_terminated(run, "FINISHED", end_time=at)
        except MlflowException as error:
            _raise(error)

    def champions(self, numbers: dict[str, int]) -> int:
        """Name the release of each candidate that serves since the last look; move ``numbers``, return how many."""
        named = 0
        for name in self.store.surfaces():
            pointer = self.store.pointer(name)
            if pointer is None or pointer.number == numbers.get(name):
                continue
            for entry in self.store.history(name):
                if entry.number > numbers.get(name, 0) and entry.moves and entry.release in self.store.releases(name):
                    self._name(name, entry.release, entry.at)
                    named += 1
            numbers[name] = pointer.number
        return named

    def _name(self, name: str, release: str, since: datetime) -> None:
        from mlflow.exceptions import MlflowException

        candidate = self.store.release(name, release).record.candidate
        try:
            run = self._run_of(name, candidate)
            if run is not None:
                self.client.set_tag(run, RELEASE, release)
                self.client.set_tag(run, "crossfade.champion_since", since.isoformat())
        except MlflowException as error:
            _raise(error)

    def _run_of(self, name: str, candidate: str) -> str | None:
        experiment = self.client.get_experiment_by_name(_experiment(name))
        if experiment is None:
            return None
        found = self.client.search_runs(
            [experiment.experiment_id], f"tags.`{CANDIDATE}` = '{candidate}'", max_results=1
        )
        return found[0].info.run_id if found else None

    def _new_run(self, name: str, candidate: str, day: str, at: int) -> str:
        experiment = self.client.get_experiment_by_name(_experiment(name))
        number = experiment.experiment_id if experiment else self.client.create_experiment(_experiment(name))
        run = self.client.create_run(number, start_time=at, tags={CANDIDATE: candidate}, run_name=f"{name} {day}")
        return run.info.run_id


def figures_of(settings: Settings, surface: Surface, stored: StoredVerdict) -> Iterator[tuple[str, float]]:
    """Yield the figures of a verdict: the evaluation's by task, metric and model, and each guard's checks.

    A check is ``<guard>/<check>``, its 95 % interval ``<guard>/<check>/lo`` and ``/hi``.
    """
    from ml.evaluation.results import Evaluation
    from ml.stages.evaluation import numbers_of

    verdict = stored.verdict
    found = ArtifactStore(settings.artifacts_dir).latest(
        artifact_name(surface, "evaluation"), verdict.partition.isoformat()
    )
    if found is not None:
        evaluation = Evaluation.from_json(found.read("evaluation.json").decode())
        if evaluation.days == verdict.key.eval_days:  # another one was measured on more days since
            yield from numbers_of(evaluation, surface).items()
    for guard in verdict.guards:
        for check in guard.checks:
            name = _NO_NAME.sub("_", f"{guard.name}/{check.name}")
            if isinstance(check.value, float):
                yield name, check.value
                if check.interval is not None:
                    yield f"{name}/lo", check.interval[0]
                    yield f"{name}/hi", check.interval[1]


def parameters_of(surface: Surface, manifest: Manifest) -> dict[str, str]:
    """Return what a candidate was trained with; of the surface's file, only where it is still as it was then."""
    found = {
        "kind": manifest.kind,
        "technique": manifest.technique,
        "seed": manifest.seed,
        "parameters": manifest.parameters,
        "train_days": f"{manifest.train_days[0]} to {manifest.train_days[-1]}",
        "eval_days": f"{manifest.eval_days[0]} to {manifest.eval_days[-1]}",
    }
    found |= {f"overrides.{name}": value for name, value in manifest.overrides.items()}
    if surface.digest == manifest.spec_digest:
        parts = surface.model_dump(mode="json", include={"window", "network", "training", "distillation", "rank_by"})
        parts["distillation"].pop("technique")
        found |= dict(_flat("", parts))
    return {name: str(value) for name, value in found.items()}


def tags_of(manifest: Manifest, stored: StoredVerdict) -> dict[str, str]:
    """Return where a candidate comes from and what was decided."""
    verdict = stored.verdict
    found = {
        "surface": manifest.surface,
        "partition": verdict.partition,
        "verdict": verdict.decision,
        "verdict_hash": stored.content_hash,
        "compared_with": verdict.key.champion,
        "snapshot": manifest.snapshot,
        "eval_snapshot": manifest.evaluated_at,
        "spec": manifest.spec_digest,
        "onnx_sha256": manifest.onnx_sha256,
        "teacher": ", ".join(f"{of.name} {of.version}" for of in manifest.teachers) or None,
        "dagster_run": verdict.run_id,
    }
    tags = {f"crossfade.{name}": str(value) for name, value in found.items() if value is not None}
    if manifest.git_commit:
        tags["mlflow.source.git.commit"] = manifest.git_commit
    return tags | {"mlflow.note.content": f"{verdict.decision}: {because(verdict.guards)}"}


def _flat(prefix: str, values: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}{name}.", {str(key): below for key, below in value.items()})
        elif value not in (None, [], ()):
            yield f"{prefix}{name}", value


def _experiment(surface: str) -> str:
    return f"crossfade/{surface}"


def _milliseconds(at: datetime) -> int:
    return int(1000 * at.timestamp())


def _raise(error: "MlflowException") -> NoReturn:
    """Tell a server that is down, or does not let us in, from one that takes offence at what was sent."""
    status = error.get_http_status_code()
    if 400 <= status < 500 and status not in TRY_AGAIN:
        raise error
    raise Unreachable(f"the MLflow server does not take what it is sent: {str(error)[:500]}") from error
