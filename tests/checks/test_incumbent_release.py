"""The app's present ranker as the first champion: its own graph behind the surface's inputs, by a person's word."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from typer.testing import CliRunner

from checks.incumbent import judge_incumbent
from deploy.cli.main import app as cli
from ml.export.files import MODEL, SCHEMA
from ml.export.incumbent import NotServable
from ml.foundation.artifacts import Artifact
from ml.foundation.settings import EXAMPLES, Settings
from ml.inference.model import Model
from ml.releases.promotion import Proposal
from ml.releases.refusals import PromotionRefused
from ml.releases.store import ReleaseStore
from ml.releases.verdicts import Override
from ml.stages.evaluation import released_models
from ml.stages.incumbent import propose_incumbent
from ml.surfaces.incumbent import Incumbent
from ml.surfaces.spec import Surface
from tests.ml.evaluation.conftest import build_world
from tests.support.known import present
from tests.support.pages import as_shown

RANKER = """
<ir_version: 9, opset_import: ["" : 17]>
ranker (float[n, 2] x, float[n, 1] age) => (float[n, 2] shares, float[n] seconds, double[n, 1] order) {
    weights = Constant <value = float[2, 2] {-1.0, 1.0, -0.01, 0.01}> ()
    logits = MatMul (x, weights)
    shares = Softmax <axis = 1> (logits)
    axis = Constant <value = int64[1] {1}> ()
    seconds = ReduceSum <keepdims = 0> (x, axis)
    order = Cast <to = 11> (age)
}
"""
FILE = {
    "version": "2026-02",
    "onnx": "ranker.onnx",
    "inputs": {"x": ["item_ctr", "user_tenure_days"], "age": {"columns": "item_age_days", "max": 400}},
    "scores": {"ctr": "shares[1]", "trail": "seconds", "discovery": "shares[0]", "score": "order"},
}
WHO = Override(by="ada", reason="what serves today")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Surface]:
    """A home with examples, and an app with a ranker's file."""
    folder = tmp_path_factory.mktemp("incumbent")
    lake, surface = build_world(folder / "home", rows=300, users=20)
    app = folder / "app"
    app.mkdir()
    onnx.save_model(onnx.parser.parse_model(RANKER), app / "ranker.onnx")
    settings = lake.settings.model_copy(update={"app": app})
    lake.close()
    return settings, surface.model_copy(update={"incumbent": Incumbent.model_validate(FILE)})


def proposal(settings: Settings, surface: Surface, store: ReleaseStore, candidate: Artifact) -> Proposal:
    key = store.verdict_key(surface, candidate)
    return Proposal(candidate, key, settings.first_day, by=WHO.by, reason=WHO.reason)


def test_the_present_ranker_serves_after_a_persons_word_and_answers_as_it_was_evaluated(
    home: tuple[Settings, Surface],
) -> None:
    settings, surface = home
    store = ReleaseStore.of(settings)
    candidate = propose_incumbent(settings, surface)
    stored = judge_incumbent(settings, surface, candidate, store)
    asked = proposal(settings, surface, store, candidate)
    assert propose_incumbent(settings, surface).digest == candidate.digest
    assert judge_incumbent(settings, surface, candidate, store) == stored, "a second person is asked about the same"
    checks = {check.name: check for check in stored.verdict.guard("onnx").checks}
    assert {f"{name}_as_evaluated" for name in FILE["scores"]} < set(checks)
    assert {str(check.outcome) for check in checks.values()} == {"pass"}
    assert stored.verdict.decision == "fail", "what was not measured is not passed"
    with pytest.raises(PromotionRefused, match="verdict_failed"):
        store.promote(surface.name, asked)
    pointer = store.promote(surface.name, asked, override=WHO)
    champion = store.champion(surface.name)
    assert champion is not None and (pointer.action, pointer.partition) == ("override", settings.first_day)
    manifest = champion.release.manifest
    assert (manifest.kind, manifest.train_days, manifest.onnx_sha256) == ("incumbent", (), candidate.files[MODEL])
    assert "not known: it was trained elsewhere" in (champion.release.path / "model_card.html").read_text()
    assert store.promote(surface.name, asked, override=WHO).number == pointer.number

    release = champion.release.path
    model = Model((release / MODEL).read_bytes(), (release / SCHEMA).read_bytes())
    rows = {n: np.zeros((3, *item.shape), dtype=item.dtype) for n, item in model.schema.inputs.items()}
    rows["item_ctr"] = np.array([0.1, np.nan, 0.3], np.float32)
    rows["item_age_days"] = np.array([5, 401, np.nan], np.float32)
    answer = model.run(rows)
    ctr, age = surface.inputs["item_ctr"].default, surface.inputs["item_age_days"].default
    np.testing.assert_allclose(answer["ctr"], [0.2, 2 * ctr, 0.6], atol=1e-6)
    np.testing.assert_allclose(answer["discovery"], -answer["ctr"], atol=1e-6)
    assert answer["score"].tolist() == [5, age, age] and model.outputs[-1] == "score"
    _, score = released_models(champion, None)["champion"]
    assert np.array_equal(score(rows)["ctr"], answer["ctr"]), "a candidate is evaluated against it"


def test_the_command_of_the_page_makes_it_the_champion_that_candidates_must_not_lose_against(
    home: tuple[Settings, Surface], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, surface = home
    copy = shutil.copytree(settings.home, tmp_path / "home")
    for name in ("champion", "heads", "releases", "repository"):
        shutil.rmtree(copy / "artifacts" / name, ignore_errors=True)
    declared = yaml.safe_dump({"extends": f"{EXAMPLES}/simulator/surfaces/homepage.yaml", "incumbent": FILE})
    app = shutil.copytree(present(settings.app), tmp_path / "app")
    (app / "surfaces").mkdir()
    (app / "surfaces" / "homepage.yaml").write_text(declared, encoding="utf-8")
    environment = {"HOME": copy, "APP": app, "FIRST_DAY": settings.first_day}
    for name, value in environment.items():
        monkeypatch.setenv(f"CROSSFADE_{name}", str(value))
    words = as_shown('crossfade release incumbent homepage --reason "what serves today"')
    done = CliRunner().invoke(cli, [*words, "--by", "ada"])
    assert done.exit_code == 0, done.exception
    pointer = present(ReleaseStore.of(Settings()).pointer(surface.name))
    assert (pointer.action, pointer.by, pointer.reason) == ("override", "ada", "what serves today")
    assert f"homepage now serves {pointer.release}, the app's present ranker" in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": {"ctr": "shares[1]", "score": "order"}}, r"says nothing of trail, discovery, .*must_not_lose"),
        ({"inputs": {**FILE["inputs"], "age": "item_age"}}, r"inputs\.age: 'item_age' is no input .*'item_age_days'"),
        (
            {"inputs": {**FILE["inputs"], "age": {"columns": "item_age_days", "default": 1}}},
            r"sends the default of 'item_age_days', 365,",
        ),
        ({"inputs": {**FILE["inputs"], "age": {"columns": "item_ctr", "keep_nan": True}}}, r"no other and no NaN"),
    ],
    ids=["tasks without a score", "no input of the surface", "another default", "NaN"],
)
def test_what_a_server_cannot_send_or_give_is_told(
    home: tuple[Settings, Surface], changes: dict[str, object], message: str
) -> None:
    settings, surface = home
    other = surface.model_copy(update={"incumbent": Incumbent.model_validate({**FILE, **changes})})
    with pytest.raises(NotServable, match=message):
        propose_incumbent(settings, other)
