"""Homes to spoil: each a copy of one with a champion and a healthy candidate, made by the real graph."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.names import surface_key
from checks import gate
from checks.guards import GUARDS
from deploy.automation.jobs import release_chain
from deploy.definitions import build_definitions
from ml.evaluation.outcome import BLOCKING, Outcome
from ml.foundation.artifacts import Artifact, ArtifactStore
from ml.foundation.lake import Lake
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.releases.champions import Pointer
from ml.releases.manifest import Manifest
from ml.releases.release import manifest_of
from ml.releases.store import ReleaseStore
from ml.releases.verdicts import Check, Verdict
from ml.stages.artifacts import artifact_name, find
from ml.surfaces.spec import Surface

SURFACES = PROJECT_ROOT / "tests" / "sabotage" / "surfaces"
GATE = "gate"
"""Stage that judges the candidate as it lies there; every other stage is an asset."""


@dataclass(frozen=True)
class Bench:
    """A home whose ``partition`` has a candidate, and whose champion is of the day before."""

    settings: Settings
    surface: Surface
    partition: date

    @property
    def store(self) -> ReleaseStore:
        """The releases."""
        return ReleaseStore.of(self.settings)

    @property
    def pointer(self) -> Pointer | None:
        """The champion's entry."""
        return self.store.pointer(self.surface.name)

    @property
    def candidate(self) -> Artifact:
        """The candidate that lies there."""
        return self.artifact("onnx")

    @property
    def manifest(self) -> Manifest:
        """The candidate's manifest."""
        return manifest_of(self.candidate)

    @property
    def verdict(self) -> Verdict:
        """The newest verdict about the candidate."""
        return self.store.verdicts.of_candidate(self.surface.name, self.candidate.digest)[-1].verdict

    @property
    def kind(self) -> str:
        """Which ranker the candidate is."""
        return self.manifest.kind

    def copy(self, home: Path) -> "Bench":
        """Return the same bench in another folder."""
        shutil.copytree(self.settings.home, home)
        return Bench(settings_of(home), self.surface, self.partition)

    def artifact(self, asset: str) -> Artifact:
        """Return the latest artifact of an asset."""
        return find(self.settings, self.surface, asset, self.partition)

    def put(self, asset: str, files: Mapping[str, bytes]) -> Artifact:
        """Store an asset's artifact again with some files changed, as its asset would."""
        found = self.artifact(asset)
        content = {name: found.read(name) for name in found.files} | dict(files)
        store = ArtifactStore(self.settings.artifacts_dir)
        return store.put(artifact_name(self.surface, asset), self.partition.isoformat(), content, found.meta)

    def sql(self, *statements: str) -> None:
        """Change the lake, each statement in a commit of its own."""
        with Lake(self.settings) as lake:
            for statement in statements:
                with lake.transaction("sabotage"):
                    lake.connection.execute(statement)

    def go_on(self, stage: str, *, without: Iterable[int] = (), partition: date | None = None) -> list[str]:
        """Materialize everything from an asset (or the gate alone) to the release; return the steps that failed.

        Args:
            stage: The first asset of the release chain to materialize, or ``GATE``.
            without: Guards that are switched off.
            partition: Partition; default is the candidate's.
        """
        chain = release_chain(self.surface)
        definitions = build_definitions(self.settings)
        release = dg.AssetSelection.assets(chain[-1])
        if stage == GATE:
            selection = dg.AssetSelection.checks_for_assets(surface_key(self.surface.name, "onnx")) | release
        else:
            selection = dg.AssetSelection.assets(*chain[chain.index(surface_key(self.surface.name, stage)) :])
        failed = []
        with switched_off(without), dg.DagsterInstance.ephemeral() as instance:
            for some in (selection, release):  # a release alone asks again, whatever failed in the run before
                job = dg.define_asset_job("sabotage", some)
                repository = dg.Definitions.merge(definitions, dg.Definitions(jobs=[job])).get_repository_def()
                result = repository.get_job("sabotage").execute_in_process(
                    instance=instance, partition_key=str(partition or self.partition), raise_on_error=False
                )
                failed += [e.step_key for e in result.all_events if e.event_type_value == "STEP_FAILURE"]
        return failed


@contextmanager
def switched_off(numbers: Iterable[int]) -> Iterator[None]:
    """Let some guards find nothing wrong, without looking."""
    off = set(numbers)
    assert off <= {guard.number for guard in GUARDS}
    fine = [Check(name="switched_off", outcome=Outcome.PASS)]
    silent = [replace(g, judge=lambda subject: (fine, "switched off")) if g.number in off else g for g in GUARDS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "GUARDS", silent)
        yield


def settings_of(home: Path) -> Settings:
    """Return the settings of a bench's home."""
    return Settings(home=home, surfaces_dir=SURFACES, threads=1)


@dataclass(frozen=True)
class Case:
    """One way to get a bad student promoted.

    Attributes:
        name: What is spoilt.
        stage: Where the graph goes on after the change: an asset of the release chain, or ``GATE``.
        change: The change.
        caught: The guard that must fail, or the step that must refuse before there is a candidate.
    """

    name: str
    stage: str
    change: Callable[[Bench], None]
    caught: int | str

    def try_it(self, healthy: Bench, scratch: Path) -> str:
        """Spoil one copy and not another, go on with both; return what else caught it.

        The spoilt one must leave the champion where it is, the other one be promoted. Where one guard alone failed,
        the spoilt one is promoted without that guard: nothing else stood in its way.
        """
        spoilt = healthy.copy(scratch / "spoilt")
        before = spoilt.pointer
        assert before is not None
        self.change(spoilt)
        self._forget_candidate(spoilt)
        failed = spoilt.go_on(self.stage)
        assert spoilt.pointer == before, "the champion moved"
        if isinstance(self.caught, str):
            assert failed[:1] == [self.caught]
            second = "never a candidate"
        else:
            assert failed == ["homepage_gate", "homepage__release"], failed
            blocked = {g.number: g.reason for g in spoilt.verdict.guards if g.outcome in BLOCKING}
            assert self.caught in blocked, blocked
            others = sorted(blocked.keys() - {self.caught})
            second = ", ".join(f"guard {number}" for number in others)
            if not others:
                assert spoilt.go_on(GATE, without=[self.caught]) == []
                assert spoilt.pointer is not None and spoilt.pointer.onnx_sha256 == spoilt.manifest.onnx_sha256
                second = "none: promoted without that guard"
        twin = healthy.copy(scratch / "twin")
        self._forget_candidate(twin)
        assert twin.go_on(self.stage) == []
        assert twin.pointer is not None and twin.pointer.number == before.number + 1
        return second

    def _forget_candidate(self, bench: Bench) -> None:
        """Where the candidate is made again, the one of before is not there to be promoted in its place."""
        if self.stage != GATE:
            shutil.rmtree(bench.candidate.path.parent)


def each(often: Sequence[Any], long: Sequence[Any]) -> pytest.MarkDecorator:
    """Parametrize ``case`` by some that always run, and by those that run where -k asks for them."""
    cases = [*often, *(pytest.param(case, marks=pytest.mark.long) for case in long)]
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name.replace(" ", "_"))
