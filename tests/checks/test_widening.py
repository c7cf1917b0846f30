"""An undecided candidate: its evaluation takes in each further day, survives a killed run, and ends in a decision."""

import shutil
from datetime import date, timedelta
from pathlib import Path

import pytest

from checks import gate
from checks.guard import Guard, Subject
from checks.guards import quality
from ml.evaluation.outcome import Outcome
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.operations.housekeeping import tidy
from ml.releases.refusals import PromotionRefused, Refusal
from ml.releases.release import manifest_of
from ml.releases.store import ReleaseStore
from ml.releases.verdicts import GuardResult, StoredVerdict, decide
from ml.stages import widening
from ml.stages.artifacts import find
from ml.stages.candidate import export_candidate
from ml.stages.evaluation import evaluate_models, read_evaluation
from ml.stages.release import promote_candidate
from ml.stages.training import train_model
from ml.stages.training_set import make_training_set
from ml.surfaces.spec import Surface
from ml.teacher.contract import load_contract
from ml.teacher.labels import label_days
from tests.support.known import present


class Nights:
    """The nights of one surface: what the runs of its jobs do."""

    def __init__(self, settings: Settings, surface: Surface, toolbox) -> None:
        self.settings, self.surface, self.toolbox = settings, surface, toolbox

    @property
    def store(self) -> ReleaseStore:
        return ReleaseStore(self.settings.artifacts_dir)

    def train(self, partition: date) -> None:
        make_training_set(self.settings, self.surface, partition)
        for role in ("control", "student"):
            train_model(self.settings, self.surface, partition, role, seed=1)
        self.export(partition)

    def export(self, partition: date) -> None:
        evaluate_models(self.settings, self.surface, partition)
        export_candidate(self.settings, self.surface, partition)

    def judge(self, partition: date) -> StoredVerdict:
        candidate = find(self.settings, self.surface, "onnx", partition)
        return gate.judge(
            self.settings, self.surface, candidate, read_evaluation(self.settings, self.surface, partition)
        )

    def undecided(self, partition: date) -> None:
        """Let the quality guard of the newest verdict be in doubt, as it is where the days are too few."""
        verdict = self.judge(partition).verdict
        doubt = GuardResult(number=3, name="quality", outcome=Outcome.INCONCLUSIVE, reason="too few days")
        guards = tuple(doubt if g.name == "quality" else g for g in verdict.guards)
        self.store.verdicts.write(verdict.model_copy(update={"guards": guards, "decision": decide(guards)}))

    def land(self, day: date) -> None:
        contract = load_contract(present(self.settings.teacher))
        rows = self.toolbox.examples(day)
        with Lake(self.settings) as lake:
            lake.replace_days("features.examples_tiny", rows, [day])
            lake.replace_days("features.feat_item", self.toolbox.features(day), [day])
            seen = rows.select(["day", "exposure_id", "ts", "item_ctr"])
            lake.replace_days("features.teacher_inputs_tiny", seen, [day])
            label_days(lake, self.settings, "tiny", contract, [day])

    def kind(self, partition: date) -> str:
        return manifest_of(find(self.settings, self.surface, "onnx", partition)).kind

    def days(self, partition: date) -> list[int]:
        manifest = manifest_of(find(self.settings, self.surface, "onnx", partition))
        return [(day - partition).days for day in manifest.eval_days]


@pytest.fixture(scope="module")
def started() -> dict[str, GuardResult]:
    """What the serving guard said of each model."""
    return {}


@pytest.fixture(autouse=True)
def one_server_per_model(started: dict[str, GuardResult], monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a server once for each model: it sees the same bytes on every night."""
    real = gate.ask

    def ask(guard: Guard, subject: Subject) -> GuardResult:
        if guard.name != "serving":
            return real(guard, subject)
        model = subject.manifest.onnx_sha256
        return started[model] if model in started else started.setdefault(model, real(guard, subject))

    monkeypatch.setattr(gate, "ask", ask)


@pytest.fixture(scope="module")
def trained(world, toolbox, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the home that has a candidate of the day before its own, of the same recipe and seed."""
    home = Path(shutil.copytree(world.settings.home, tmp_path_factory.mktemp("nights") / "home"))
    _nights(world, toolbox, home).train(world.partition - timedelta(days=1))
    return home


@pytest.fixture
def nights(trained: Path, world, toolbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
    """That home with the candidate as champion."""
    made = _nights(world, toolbox, Path(shutil.copytree(trained, tmp_path / "home")))
    # Which of two tiny rankers a few hundred rows prefer is chance.
    monkeypatch.setattr(quality, "choose_candidate", lambda evaluation, surface: made.kind(evaluation.partition))
    made.judge(world.partition - timedelta(days=1))
    promote_candidate(made.settings, made.surface, world.partition - timedelta(days=1), by="test")
    made.export(world.partition)
    return made


def _nights(world, toolbox, home: Path) -> Nights:
    places = {"home": home, "artifacts_dir": home / "artifacts", "surfaces_dir": home / "surfaces", "last_day": None}
    gate = world.surface.gate
    # Outputs of rankers that learnt from two thousand rows shift by chance from one night to the next.
    lax = gate.model_copy(update={"shift": gate.shift.model_copy(update={"max_psi": 100.0, "min_overlap": 0.0})})
    surface = world.surface.model_copy(update={"gate": lax})
    return Nights(world.settings.model_copy(update=places), surface, toolbox)


def test_an_undecided_candidate_widens_day_by_day_until_it_is_promoted(nights: Nights, world) -> None:
    settings, surface, day = nights.settings, nights.surface, world.partition
    assert widening.open_candidate(settings, surface) is None, "nothing is undecided"
    model = find(settings, surface, "onnx", day).files["model.onnx"]
    nights.undecided(day)
    with pytest.raises(PromotionRefused, match=Refusal.VERDICT_INCONCLUSIVE):
        promote_candidate(settings, surface, day, by="test")
    found = widening.open_candidate(settings, surface)
    assert found == widening.OpenCandidate(day, day - timedelta(days=1), day)
    assert str(found) == f"the candidate of {day} is undecided: its evaluation widens to {day}"

    # A run that is killed after its evaluation is repeated on the same rows, also when another day came meanwhile.
    evaluate_models(settings, surface, day)
    assert nights.days(day) == [-2, -1], "no candidate of it was exported yet"
    nights.land(day + timedelta(days=1))
    nights.export(day)
    assert nights.days(day) == [-2, -1, 0]
    candidate = find(settings, surface, "onnx", day)
    assert candidate.files["model.onnx"] == model, "the same model, on more days"
    manifest = manifest_of(candidate)
    # Killed before its verdict, it stays open: no newer student comes between, and what its gate reads is kept.
    assert widening.open_candidate(settings, surface) == widening.OpenCandidate(day, day, day + timedelta(days=1))
    assert widening.open_snapshots(settings, surface) == {manifest.snapshot, manifest.evaluated_at}
    assert widening.rows_to_evaluate(settings, surface, day).eval_days == manifest.eval_days
    verdict = nights.judge(day).verdict
    assert {g.name: g.outcome for g in verdict.guards if g.name in ("provenance", "soft_labels")} == {
        "provenance": Outcome.PASS,
        "soft_labels": Outcome.PASS,
    }, verdict.failures()
    assert verdict.key.eval_days == manifest.eval_days and manifest.evaluated_at > manifest.snapshot

    nights.undecided(day)
    told = tidy(settings.model_copy(update={"keep_snapshots_days": 0}))
    assert {manifest.snapshot, manifest.evaluated_at} <= set(told.snapshots_of_releases), "its gate reads them again"
    found = widening.open_candidate(settings, surface)
    assert found is not None and found.due == day + timedelta(days=1)
    nights.export(day)
    verdict = nights.judge(day).verdict
    assert verdict.decision == "pass", verdict.failures()
    release = promote_candidate(settings, surface, day, by="test")
    shown = nights.store.release("tiny", release.id)
    assert len(shown.manifest.eval_days) == 4
    assert nights.store.pinned_snapshots(["tiny"]) >= {shown.manifest.snapshot, shown.manifest.evaluated_at}
    assert widening.open_candidate(settings, surface) is None, "it is decided"


def test_a_candidate_stays_open_until_its_last_day_another_champion_or_a_decision(nights: Nights, world) -> None:
    settings, surface, day = nights.settings, nights.surface, world.partition
    nights.undecided(day)

    def until(e_max: int) -> Surface:
        return surface.model_copy(update={"window": surface.window.model_copy(update={"e_max": e_max})})

    assert widening.open_candidate(settings, until(2)) is None, "a surface that never widens"
    nights.export(day)
    assert nights.days(day) == [-2, -1, 0]
    nights.undecided(day)
    found = widening.open_candidate(settings, surface)
    assert found is not None and found.due is None and str(found).endswith(f"it waits for the day after {day}")
    assert widening.open_candidate(settings, until(3)) is None, "all its days are used"
    nights.land(day + timedelta(days=1))
    nights.land(day + timedelta(days=2))
    assert widening.open_candidate(settings, until(5)) == widening.OpenCandidate(day, day, day + timedelta(days=2))
    assert widening.open_candidate(settings, until(4)) is None, "its last day has passed: newer ones are made"
    assert widening.rows_to_evaluate(settings, until(4), day).eval_days[-1] == day + timedelta(days=1), "by hand"
    other = settings.model_copy(update={"teacher": _another_teacher(settings)})
    assert widening.open_candidate(other, surface) is None, "another teacher labels its further days"
    champion = present(nights.store.pointer("tiny"))
    nights.store.champions.append(
        champion.model_copy(update={"action": "override", "release": "another", "version": champion.version + 1}),
        nights.store.champions.state("tiny"),
    )
    assert widening.open_candidate(settings, surface) is None, "its verdict is about another champion"


def _another_teacher(settings: Settings) -> Path:
    folder = Path(shutil.copytree(present(settings.teacher).parent, settings.home / "next"))
    contract = folder / "contract.yaml"
    contract.write_text(contract.read_text().replace("version: '1'", "version: '2'"))
    return contract
