"""A home whose student the gate refuses serves popularity, where its surface says so, and says why and for how long."""

import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
from typer.testing import CliRunner

from checks.guard import Subject
from checks.popularity import judge_model
from deploy.cli.main import app
from deploy.popularity import release_popularity
from deploy.serving.run import example_answer
from ml.evaluation.outcome import Outcome
from ml.foundation.artifacts import ArtifactStore
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.releases.refusals import PromotionRefused, Refusal
from ml.releases.release import CARD, MANIFEST, manifest_of
from ml.releases.store import ReleaseStore
from ml.releases.verdicts import Check, decide, now
from ml.stages.artifacts import find
from ml.stages.evaluation import read_evaluation
from ml.stages.popularity import export_in_place
from ml.surfaces.files import load_surfaces
from ml.surfaces.spec import Surface
from tests.support.commands import home_environment
from tests.support.known import present
from tests.support.pages import as_shown

FEW = Check(name="engagement_users_with_a_positive", outcome=Outcome.INCONCLUSIVE, value=51.0, threshold=">= 100")


@pytest.fixture(scope="module")
def settings(tiny_demo: Path) -> Settings:
    """A home in which nothing was released, and the gate refused the radio's student for want of users."""
    settings = Settings(home=tiny_demo, surfaces_dir=PROJECT_ROOT / "tests" / "surfaces", threads=1)
    for name in ("champion", "heads", "releases", "repository"):
        shutil.rmtree(tiny_demo / "artifacts" / name, ignore_errors=True)
    store, surface = ReleaseStore.of(settings), load_surfaces(settings)["radio"]
    candidate = find(settings, surface, "onnx", present(settings.last_day))
    verdict = store.verdicts.of_candidate("radio", candidate.digest)[-1].verdict
    guards = tuple(
        guard.model_copy(update={"outcome": FEW.outcome, "checks": (FEW,)}) if guard.name == "evidence" else guard
        for guard in verdict.guards
    )
    refused = {"key": store.verdict_key(surface, candidate), "guards": guards, "judged_at": now()}
    store.verdicts.write(verdict.model_copy(update={**refused, "decision": decide(guards)}))
    return settings


@pytest.fixture(scope="module")
def radio(settings: Settings) -> Surface:
    return load_surfaces(settings)["radio"]


def test_a_surface_that_does_not_say_so_is_not_served_by_popularity(settings: Settings, radio: Surface) -> None:
    silent = radio.model_copy(update={"first_release": None})
    assert (silent.digest, silent.ranker_digest) == (radio.digest, radio.ranker_digest)
    with pytest.raises(PromotionRefused, match="first_release") as refused:
        release_popularity(settings, silent, present(settings.last_day), by="test")
    assert refused.value.code is Refusal.NOT_FIRST


def test_a_model_that_is_not_the_surfaces_popularity_is_refused(settings: Settings, radio: Surface) -> None:
    day = present(settings.last_day)
    true, student = export_in_place(settings, radio, day), find(settings, radio, "onnx", day)
    files = {name: true.read(name) for name in true.files} | {"model.onnx": student.read("model.onnx")}
    files["config.pbtxt"] = student.read("config.pbtxt")
    stated = manifest_of(true).model_copy(update={"onnx_sha256": student.files["model.onnx"]})
    files[MANIFEST] = stated.to_bytes()
    other = ArtifactStore(settings.artifacts_dir).put("models/radio/popularity", str(day), files, {})
    store, stated = ReleaseStore.of(settings), read_evaluation(settings, radio, day)
    with ExitStack() as lakes:
        subject = Subject(settings, radio, other, stated, store, store.verdict_key(radio, other), None, lakes)
        checks, _ = judge_model(subject)
    assert [check.name for check in checks if check.outcome is Outcome.FAIL] == ["exported_again"]


def test_popularity_serves_says_why_and_whom_it_lacks(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in home_environment(settings.home).items():
        monkeypatch.setenv(name, value)
    of_page = {"homepage": "radio", "2026-02-01": str(settings.last_day)}
    words = as_shown("crossfade release popularity homepage --partition 2026-02-01", of_page)
    done = CliRunner().invoke(app, [*words, "--by", "test", "--reason", "to see it serve"])
    released = present(ReleaseStore.of(settings).champion("radio")).release
    assert f"radio now serves {released.id}, which ranks by popularity" in " ".join(done.output.split())
    pointer = present(ReleaseStore.of(settings).pointer("radio"))
    assert pointer.action == "popularity" and "engagement 51 of 100" in pointer.reason
    assert "popularity, not a student" in (released.path / CARD).read_text(encoding="utf-8")
    answer = example_answer(settings, "radio")
    scores = [item["score"] for item in answer["items"]]  # type: ignore[union-attr, index, attr-defined]
    assert answer["release"] == released.id and scores == sorted(scores, reverse=True) and len(set(scores)) > 1
