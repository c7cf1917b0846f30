"""The commands that move champions and stand on pages: each does what its page says, with the page's own words."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.cli.main import app
from ml.evaluation.outcome import Outcome
from ml.foundation.artifacts import ArtifactStore
from ml.foundation.lake import lake_id
from ml.foundation.settings import EXAMPLES, Settings
from ml.releases.champions import Pointer
from ml.releases.ownership import adopt, owner_of
from ml.releases.store import ReleaseStore
from ml.surfaces.files import load_surface
from tests.support.known import present
from tests.support.pages import as_shown
from tests.support.shop import Shop

Call = Callable[[list[str]], str]


@pytest.fixture
def settings(prepared_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home whose homepage has candidates of 1 to 3 February, all judged: the first failed, the others passed."""
    home = shutil.copytree(prepared_home, tmp_path / "home")
    monkeypatch.setenv("CROSSFADE_HOME", str(home))
    monkeypatch.setenv("USER", "ann")
    monkeypatch.setenv("COLUMNS", "200")
    return Settings()


@pytest.fixture
def shop(settings: Settings) -> Shop:
    surface = load_surface(EXAMPLES / "simulator/surfaces/homepage.yaml")
    made = Shop(settings.home / "artifacts", surface, lake=lake_id(settings))
    for day in range(3):
        candidate = made.candidate(day)
        made.judge(candidate, Outcome.FAIL if day == 0 else Outcome.PASS)
        ArtifactStore(made.root).put("models/homepage/evaluation", candidate.partition, {"evaluation.json": b"{}"})
    return made


@pytest.fixture
def call(settings: Settings) -> Call:
    """A function that runs a command, which must succeed, and returns what it printed."""

    def made(words: list[str]) -> str:
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, (words, done.output, done.exception)
        return " ".join(done.output.split())

    return made


def pointer(settings: Settings) -> Pointer:
    return present(ReleaseStore.of(settings).pointer("homepage"))


def test_a_refused_candidate_serves_by_a_name_and_a_reason_and_is_confirmed(
    settings: Settings, shop: Shop, call: Call
) -> None:
    words = as_shown(
        'crossfade release override homepage --partition 2026-02-01 --reason "holiday, see the incident of today"'
    )
    assert "against the gate: holiday, see the incident of today" in call(words)
    assert (pointer(settings).action, pointer(settings).by) == ("override", "ann")
    call(as_shown('crossfade release confirm homepage --reason "its ranking was looked at on three accounts"'))
    call(as_shown('crossfade release confirm homepage --reason "its ranking was looked at"'))
    assert [entry.action for entry in ReleaseStore.of(settings).history("homepage")][1:] == ["reference"] * 2
    log = call(as_shown("crossfade release list homepage"))
    assert "override" in log and "its ranking was looked at on three accounts" in log


def test_a_challenger_gets_its_share_in_each_mode_and_is_barred_in_the_end(
    settings: Settings, shop: Shop, call: Call
) -> None:
    champion = shop.release(0).release
    shop.judge(shop.candidate(1))
    for words, mode, share in (
        (
            as_shown("crossfade release challenge homepage --partition 2026-02-02 --mode canary --share 0.05"),
            "canary",
            0.05,
        ),
        (
            as_shown("crossfade release challenge homepage --partition 2026-02-02 --mode interleave --share 0.2"),
            "interleave",
            0.2,
        ),
        (
            as_shown("crossfade release challenge homepage --partition 2026-02-02 --mode shadow --share 0.2"),
            "shadow",
            0.2,
        ),
    ):
        assert f"as {mode}, share {share:g}" in call(words)
        challenger = present(pointer(settings).challenger)
        assert (challenger.mode, challenger.share) == (mode, share) and challenger.release.startswith("2026-02-02")
    assert f"served by {champion} alone" in call(
        as_shown('crossfade release end-challenge homepage --reason "p99 doubled" --bar')
    )
    assert pointer(settings).challenger is None
    again = CliRunner().invoke(
        app, as_shown("crossfade release challenge homepage --partition 2026-02-02 --mode canary --share 0.05")
    )
    assert "barred" in str(again.exception)


def test_a_champion_is_rolled_back_and_told_apart_from_the_one_before(
    settings: Settings, shop: Shop, call: Call
) -> None:
    old, new = shop.release(0).release, shop.release(1).release
    told = call(as_shown("crossfade release diff OLD NEW", {"OLD": old, "NEW": new}))
    assert f"{old} and {new}" in told and "onnx_sha256" in told
    words = as_shown('crossfade release rollback homepage --reason "clicks fell at noon"')
    assert f"homepage now serves {old}" in call(words)
    assert "clicks fell at noon" in call(as_shown("crossfade release list homepage"))


def test_a_log_that_lost_its_end_is_made_usable_by_a_persons_word(settings: Settings, shop: Shop, call: Call) -> None:
    releases = [shop.release(0).release, shop.release(1).release]
    newest = max((settings.home / "artifacts" / "champion" / "homepage").glob("*.json"))
    newest.unlink()
    words = as_shown(
        'crossfade release recover homepage --to 2026-02-01-29c4cfe407c9 --reason "the disk of Monday"',
        {"2026-02-01-29c4cfe407c9": releases[0]},
    )
    told = call(words)
    assert releases[0] in told
    assert pointer(settings).release == releases[0] and "the disk of Monday" in pointer(settings).reason


def test_artifacts_are_handed_over_to_the_lake_that_is_there(settings: Settings, shop: Shop, call: Call) -> None:
    adopt(ReleaseStore.of(settings).files, "another lake", by="Ada")
    mine = lake_id(settings)
    told = call(as_shown("crossfade release adopt"))
    assert f"these artifacts belong to lake {mine}; before: " in told and "another lake" in told
    assert present(owner_of(ReleaseStore.of(settings).files)).lake == mine
