"""What a guard is, and what the guards of one candidate look at."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from ml.export.files import MODEL
from ml.foundation.artifacts import Artifact, ArtifactStore
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.releases.gate import Silence
from ml.releases.manifest import Manifest
from ml.releases.release import Champion, Release, manifest_of
from ml.releases.store import ReleaseStore
from ml.releases.verdicts import Check, VerdictKey
from ml.stages.artifacts import artifact_name, find
from ml.surfaces.spec import Role, Surface
from ml.teacher.contract import Contract
from ml.teacher.teachers import contracts_of, kinds_of

if TYPE_CHECKING:
    from ml.evaluation.predictions import Scores
    from ml.evaluation.results import Evaluation
    from ml.stages.evaluation import Ranker

Found = tuple[list[Check], str]
"""Checks, and a note for people about all of them. No check says that the guard does not apply; the note says why."""

FIRST = "the first candidate: no champion to compare with"


SERVED = "served"
"""Name of the candidate's exported file among the models that are scored again."""


@dataclass(frozen=True)
class Again:
    """The evaluation days as the models themselves score them: figures, and the scores that they come from."""

    evaluation: "Evaluation"
    scores: "Scores"


@dataclass(frozen=True)
class Subject:
    """One candidate, and everything beside it that a guard may look at.

    Attributes:
        settings: The home.
        surface: Specification and thresholds.
        candidate: Artifact with the files of ``ml.releases.store.CANDIDATE``.
        stated: The stored evaluation of the candidate's partition, which a guard compares with what it finds itself.
        store: Where champion and verdicts are.
        key: What the verdict will be about; it names the champion.
        checkpoint: The checkpoint that was exported, where it is another one than the manifest names.
        lakes: Closes the lake when every guard has looked.
    """

    settings: Settings
    surface: Surface
    candidate: Artifact
    stated: "Evaluation"
    store: ReleaseStore
    key: VerdictKey
    checkpoint: Artifact | None
    lakes: ExitStack

    @cached_property
    def manifest(self) -> Manifest:
        """The candidate's manifest."""
        return manifest_of(self.candidate)

    @property
    def rival(self) -> Role:
        """The ranker of the partition that was not chosen."""
        return "control" if self.manifest.kind == "student" else "student"

    @property
    def days(self) -> list[date]:
        """Every day that was trained or evaluated on."""
        return sorted({*self.manifest.train_days, *self.manifest.eval_days})

    @property
    def contracts(self) -> dict[str | None, Contract]:
        """The contracts of the pinned teachers that label the surface; the name of an only one may be None."""
        return contracts_of(self.settings, self.surface)

    @property
    def kinds(self) -> dict[str, str]:
        """Kind of each output of these teachers, by what the surface calls it."""
        return kinds_of(self.settings, self.surface)

    @cached_property
    def past(self) -> Lake:
        """The lake at the snapshot that training read."""
        return self.lakes.enter_context(Lake(self.settings, snapshot=self.manifest.snapshot))

    @cached_property
    def evaluated(self) -> Lake:
        """The lake at the snapshot that the evaluation read, a later one where it widened."""
        if self.manifest.evaluated_at == self.manifest.snapshot:
            return self.past
        return self.lakes.enter_context(Lake(self.settings, snapshot=self.manifest.evaluated_at))

    @property
    def windows(self) -> list[tuple[Lake, list[date]]]:
        """The days that were trained or evaluated on, each with the lake as it was read."""
        if self.evaluated is self.past:
            return [(self.past, self.days)]
        return [(self.past, list(self.manifest.train_days)), (self.evaluated, list(self.manifest.eval_days))]

    @cached_property
    def present(self) -> Lake:
        """The lake as it is: it has the predictions, which are newer than the rows that were learnt from."""
        return self.lakes.enter_context(Lake(self.settings))

    @cached_property
    def exported(self) -> Artifact:
        """The checkpoint that the manifest names.

        Raises:
            ValueError: The subject's own checkpoint is another one.
        """
        wanted = self.manifest.checkpoint_sha256
        if (found := self.checkpoint) is None:
            name = artifact_name(self.surface, self.manifest.kind)
            found = ArtifactStore(self.settings.artifacts_dir).get(name, self.candidate.partition, wanted)
        if found.digest != wanted:
            raise ValueError(f"checkpoint {found.digest} is not the manifest's {wanted}")
        return found

    @cached_property
    def is_export(self) -> bool:
        """Whether the candidate's model is byte for byte what its checkpoint exports to; no other is run in here."""
        from ml.stages.candidate import exported_file

        return exported_file(self.exported) == self.candidate.read(MODEL)

    @property
    def evaluation(self) -> "Evaluation":
        """The figures of the candidate's partition, from what the models themselves say of every row."""
        return self.again.evaluation

    @cached_property
    def again(self) -> Again:
        """Every evaluation row scored again by every model, and the figures of that: nothing stored is believed."""
        from ml.evaluation.evaluate import compute_evaluation
        from ml.stages.evaluation import score_again

        scores = score_again(self.evaluated, self.settings, self.surface, self.manifest, self._rankers())
        evaluation = compute_evaluation(
            self.evaluated,
            self.surface,
            self.manifest.partition,
            teacher_outputs=self.kinds,
            seed=self.settings.seed,
            scores=scores.without(SERVED),
            days=self.manifest.eval_days,
        )
        return Again(evaluation, scores)

    def _rankers(self) -> dict[str, "Ranker"]:
        """Return what scores rows: both rankers' checkpoints, the releases, and the candidate as it would serve."""
        from ml.stages.evaluation import checkpoint_ranker, released_models, scoring

        served = {SERVED: (self.manifest.onnx_sha256, scoring(self.candidate.path / MODEL))} if self.is_export else {}
        return {
            self.manifest.kind: checkpoint_ranker(self.exported),
            self.rival: checkpoint_ranker(find(self.settings, self.surface, self.rival, self.manifest.partition)),
            **released_models(self.champion(), self.reference()),
            **served,
        }

    def champion(self) -> Champion | None:
        """Return the champion that the verdict's key names.

        Raises:
            RuntimeError: It changed while guards looked.
        """
        champion = self.store.champion(self.surface.name)
        found = champion.release.id if champion else None
        if found != self.key.champion:
            raise RuntimeError(f"the champion changed from {self.key.champion} to {found} while the gate was judging")
        return champion

    def has_champion(self) -> bool:
        """Return whether there is a champion, which the evaluation has to know.

        Raises:
            RuntimeError: The stored evaluation does not know it, or it changed while guards looked.
        """
        champion = self.champion()
        if champion is not None and "champion" not in self.stated.models:
            raise RuntimeError(f"evaluated before {champion.release.id} was champion: materialize `evaluation` again")
        return champion is not None

    def reference(self) -> Release | None:
        """Return the reference release, where it is another one than the champion."""
        name = self.store.reference(self.surface.name)
        return None if name in (None, self.key.champion) else self.store.trusted_release(self.surface.name, name)


class Thresholds(BaseModel):
    """Base of thresholds that a guard's own file declares; every one has a default."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def of(cls, surface: Surface, guard: str) -> Self:
        """Return the surface's thresholds for the guard.

        Raises:
            ValueError: The surface sets one that there is not, or to a value that it cannot have.
        """
        try:
            return cls.model_validate(surface.gate.guards.get(guard, {}))
        except ValidationError as error:
            raise ValueError(f"surface {surface.name}, gate: guards: {guard}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Daily:
    """A guard's check of each day, on the asset that makes what it looks at.

    Attributes:
        asset: Name of the asset below its surface.
        name: Name of the check.
        means: What the check looks at, for people.
        to_do: What to do when it fails.
        judge: Looks at some days of a lake, as it is or at the snapshot that it shows.
    """

    asset: str
    name: str
    means: str
    to_do: str
    judge: Callable[[Lake, Surface, Sequence[date]], list[Check]]


@dataclass(frozen=True, kw_only=True)
class Guard:
    """One guard of the gate: what a file in ``checks/guards`` calls ``GUARD``.

    Attributes:
        number: Place in the gate.
        name: Name of its file.
        means: What it looks at, a sentence for people.
        to_do: What to do when it warns or blocks.
        judge: Measures a candidate and holds it against the thresholds. What it raises blocks the candidate.
        daily: The same for each day, before there is a candidate.
        thresholds: What a surface may set below ``gate: guards: <name>:``; None takes nothing from there.
        silent: When it may measure nothing: never, without a champion ("first"), or where the surface gives it nothing
            to look at ("ever"). A guard that is silent when it may not be fails.
    """

    number: int
    name: str
    means: str
    to_do: str
    judge: Callable[[Subject], Found]
    daily: Daily | None = None
    thresholds: type[Thresholds] | None = None
    silent: Silence = "never"

    @property
    def check(self) -> str:
        """Name of its asset check, such as ``guard_01_data``."""
        return f"guard_{self.number:02d}_{self.name}"
