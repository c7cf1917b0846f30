"""Candidates and evaluations that are not what they should be, and what the gate makes of them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pytest

from checks import gate
from checks.guard import Again, Guard, Subject
from checks.guards.slices import SliceRow
from ml.evaluation import evaluate
from ml.evaluation.outcome import BLOCKING
from ml.evaluation.predictions import Scores
from ml.evaluation.results import Evaluation, Result
from ml.foundation.artifacts import Artifact, ArtifactStore
from ml.foundation.files import Files
from ml.foundation.settings import Settings
from ml.releases.manifest import Manifest
from ml.releases.promotion import Proposal
from ml.releases.release import manifest_of
from ml.releases.store import ReleaseStore
from ml.releases.verdicts import GuardResult, Override, Verdict
from ml.surfaces.spec import Surface
from tests.support.known import the

NOTHING = Scores(np.empty(0, np.int64), {}, {})


@dataclass(frozen=True)
class Bench:
    """A candidate of the small home, in a release store of its own.

    ``found`` are the figures that guards shall see, instead of those that they find themselves.
    """

    settings: Settings
    surface: Surface
    candidate: Artifact
    evaluation: Evaluation
    store: ReleaseStore
    checkpoint: Artifact | None = None
    found: Evaluation | None = None

    @property
    def manifest(self) -> Manifest:
        return manifest_of(self.candidate)

    def but(self, **changes: Any) -> "Bench":
        """Return the bench with other parts."""
        return replace(self, **changes)

    def variant(self, files: dict[str, bytes] | None = None, **story: Any) -> "Bench":
        """Return the bench with a candidate of other files, or with another story told in its manifest."""
        content = {name: self.candidate.read(name) for name in self.candidate.files} | (files or {})
        content["manifest.json"] = self.manifest.model_copy(update=story).to_bytes()
        artifacts = ArtifactStore(the(Files, self.store.files).root)
        return self.but(candidate=artifacts.put("models/tiny/onnx", self.candidate.partition, content))

    def figures(self, match: Callable[[Result], bool], **values: float | None) -> "Bench":
        """Return the bench with other figures where ``match`` holds."""
        evaluation = self.found or self.evaluation
        results = tuple(replace(r, **values) if match(r) else r for r in evaluation.results)
        assert results != evaluation.results
        return self.but(found=replace(evaluation, results=results))

    def without(self, match: Callable[[Result], bool]) -> "Bench":
        """Return the bench with an evaluation that lacks the figures where ``match`` holds."""
        evaluation = self.found or self.evaluation
        results = tuple(r for r in evaluation.results if not match(r))
        assert results != evaluation.results
        return self.but(found=replace(evaluation, results=results))

    def ask(self, guard: Guard) -> GuardResult:
        """Run one guard, as the gate does."""
        with self.subject() as subject:
            return gate.ask(guard, subject)

    @contextmanager
    def subject(self) -> Iterator[Subject]:
        """Give what guards look at, and close the lake."""
        key = self.store.verdict_key(self.surface, self.candidate)
        with pytest.MonkeyPatch.context() as patch, ExitStack() as lakes:
            if self.found is not None:
                patch.setattr(Subject, "again", Again(self.found, NOTHING))
            yield Subject(
                self.settings, self.surface, self.candidate, self.evaluation, self.store, key, self.checkpoint, lakes
            )

    def judge(self) -> Verdict:
        """Run the gate: models score again, and ``found`` is both what is stated and what guards compute of that."""
        options = {"store": self.store, "checkpoint": self.checkpoint}
        stated = self.found or self.evaluation
        with pytest.MonkeyPatch.context() as patch:
            if self.found is not None:
                patch.setattr(evaluate, "compute_evaluation", lambda *args, **kwargs: self.found)
            return gate.judge(self.settings, self.surface, self.candidate, stated, **options).verdict

    def promote(self, override: Override | None = None) -> str:
        """Judge the candidate, make it the champion, and return the id of its release."""
        self.judge()
        key = self.store.verdict_key(self.surface, self.candidate)
        proposal = Proposal(self.candidate, key, self.manifest.partition, "test", "because")
        return self.store.promote(self.surface.name, proposal, override=override).release


def blocked(result: GuardResult) -> set[str]:
    """Return the checks that block."""
    return {check.name for check in result.checks if check.outcome in BLOCKING}


def figure(task: str, comparison: str, value: float, lo: float, hi: float, **more: Any) -> SliceRow:
    """Return what suites read of one row that guards measure from an evaluation."""
    cell = {"task": task, "comparison": comparison, "metric": "auc", "value": value, "lo": lo, "hi": hi}
    return cast(SliceRow, cell | {"n": 1000, "positives": 100} | more)


def of(kind: str, reference: str | None, task: str = "ctr", metric: str = "auc") -> Callable[[Result], bool]:
    """Return what is true of one figure over all rows."""
    return lambda r: (r.model, r.reference, r.task, r.metric, r.slice) == (kind, reference, task, metric, "all")
