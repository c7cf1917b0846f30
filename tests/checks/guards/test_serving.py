"""Guard `serving`: a clean process loads, warms and answers in time."""

import json

import pytest

from checks import gx
from checks.guards import serving
from ml.evaluation.outcome import Outcome
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
