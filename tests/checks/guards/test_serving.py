"""Guard `serving`: a clean process loads, warms and answers in time."""

import json
from pathlib import Path

import onnx
import pytest

from checks import gx
from checks.guards import serving
from checks.incumbent import judge_incumbent
from ml.evaluation.outcome import Outcome
from ml.releases.promotion import Proposal
from ml.releases.verdicts import Override
from ml.stages.incumbent import propose_incumbent
from ml.surfaces.incumbent import Incumbent
from tests.checks.spoilt import Bench, blocked
from tests.support.known import present, the


def test_a_candidate_and_its_champion_are_served_in_turn(champion: Bench) -> None:
    result = champion.ask(serving.GUARD)
    assert result.outcome is Outcome.PASS
    [speed] = [check for check in result.checks if check.name == "speed_over_champions"]
    low, high = present(speed.interval)
    assert low <= the(float, speed.value) <= high


def test_the_feature_schema_of_another_surface_fails(bench: Bench) -> None:
    schema = json.loads(bench.candidate.read("schema.json"))
    schema["inputs"][0]["default"] = 7.0
    result = bench.variant({"schema.json": json.dumps(schema).encode()}).ask(serving.GUARD)
    assert (result.outcome, blocked(result)) == (Outcome.FAIL, {"feature_schema"})
    assert result.to_do == serving.GUARD.to_do


def test_a_model_that_a_clean_process_cannot_serve_blocks_with_its_reason(bench: Bench) -> None:
    result = bench.variant({"model.onnx": b"no model"}).ask(serving.GUARD)
    assert (result.outcome, result.checks) == (Outcome.FAIL, ())
    assert "a clean process ended with 1" in result.reason
    assert "onnxruntime cannot load the graph" in result.reason


@pytest.mark.parametrize(
    ("row", "failed", "warned"),
    [
        ({}, set(), set()),
        ({"ready_s": 61.0}, {"seconds_to_first_answer"}, set()),
        ({"milliseconds": 21.0}, {"milliseconds_of_200_rows"}, set()),
        ({"value": 0.3, "lo": 0.2, "hi": 0.4}, {"speed_over_champions"}, set()),
        ({"value": 0.45, "lo": 0.3, "hi": 0.6}, set(), {"speed_over_champions"}),
    ],
)
def test_a_slow_model_fails_and_one_that_may_be_slow_warns(
    bench: Bench, row: dict[str, float], failed: set[str], warned: set[str]
) -> None:
    sound = {"ready_s": 1.0, "milliseconds": 0.4, "value": 1.0, "lo": 0.9, "hi": 1.1, "n": 300}
    checks = gx.validate([sound | row], serving.suite(bench.surface.gate.serving, champion=True))
    assert {c.name for c in checks if c.outcome is Outcome.FAIL} == failed
    assert {c.name for c in checks if c.outcome is Outcome.WARN} == warned


RANKER = """
<ir_version: 9, opset_import: ["" : 17]>
ranker (float[n, 2] x, float[n] age, int32[n] half) => (float[n] shares, float[n] seconds) {
    table = Constant <value = float[2] {0.25, 0.5}> ()
    seconds = Gather (table, half)
    axis = Constant <value = int64[1] {1}> ()
    summed = ReduceSum <keepdims = 0> (x, axis)
    logit = Add (summed, age)
    shares = Sigmoid (logit)
}
"""
FILE = {
    "version": "2026-02",
    "onnx": "ranker.onnx",
    "inputs": {
        "x": ["item_ctr", "item_age_days"],
        "age": "item_age_days",
        "half": {"columns": "item_age_days", "min": 0, "max": 1},
    },
    "scores": {"ctr": "shares", "trail": "seconds", "score": "shares"},
}


def beside(bench: Bench, app: Path, **changes: object) -> Bench:
    """Return the bench where the app has a ranker already."""
    app.mkdir(exist_ok=True)
    onnx.save_model(onnx.parser.parse_model(RANKER), app / "ranker.onnx")
    incumbent = Incumbent.model_validate(FILE | changes)
    settings = bench.settings.model_copy(update={"app": app})
    return bench.but(settings=settings, surface=bench.surface.model_copy(update={"incumbent": incumbent}))


def test_a_candidate_is_timed_in_turn_with_the_file_of_the_apps_present_ranker(bench: Bench, tmp_path: Path) -> None:
    tried = beside(bench, tmp_path / "app", must_not_lose=True, scores={"ctr": "shares"})
    gate = tried.surface.gate.model_copy(
        update={"serving": tried.surface.gate.serving.model_copy(update={"min_speed": 100})}
    )
    result = tried.but(surface=tried.surface.model_copy(update={"gate": gate})).ask(serving.GUARD)
    assert blocked(result) == {serving.PRESENT}, "also a ranker that could not become a release itself"
    [speed] = [check for check in result.checks if check.name == serving.PRESENT]
    low, high = present(speed.interval)
    assert 0 < low <= the(float, speed.value) <= high


def test_where_the_present_ranker_is_the_champion_it_is_timed_as_one(bench: Bench, tmp_path: Path) -> None:
    tried = beside(bench, tmp_path / "app")
    ranker = propose_incumbent(tried.settings, tried.surface)
    judge_incumbent(tried.settings, tried.surface, ranker, tried.store)
    key, who = tried.store.verdict_key(tried.surface, ranker), Override(by="ada", reason="what serves today")
    asked = Proposal(ranker, key, tried.settings.first_day, by=who.by, reason=who.reason)
    tried.store.promote(tried.surface.name, asked, override=who)
    names = {check.name for check in tried.ask(serving.GUARD).checks}
    assert "speed_over_champions" in names and serving.PRESENT not in names


@pytest.mark.parametrize(("must_not_lose", "outcome"), [(False, Outcome.WARN), (True, Outcome.FAIL)])
def test_a_ranker_that_is_faster_or_cannot_be_timed_refuses_only_where_one_must_not_lose(
    bench: Bench, tmp_path: Path, must_not_lose: bool, outcome: Outcome
) -> None:
    tried = beside(bench, tmp_path / "app", must_not_lose=must_not_lose)
    slow = {"value": 0.1, "lo": 0.08, "hi": 0.12, "n": 300}
    [check] = gx.validate([slow], serving.present_suite(tried.surface))
    assert (check.name, check.outcome) == (serving.PRESENT, outcome)
    (tmp_path / "app" / "ranker.onnx").unlink()
    with tried.subject() as subject:
        [check] = serving.beside_present_ranker(subject)
    assert (check.outcome, check.value) == (outcome, None) and "no file" in check.detail


def test_a_surface_whose_rankers_scores_land_has_no_time_of_it(bench: Bench) -> None:
    landed = Incumbent(version="2026-02", scores={"ctr": "p_click"}, must_not_lose=True)
    with bench.but(surface=bench.surface.model_copy(update={"incumbent": landed})).subject() as subject:
        assert serving.beside_present_ranker(subject) == []
