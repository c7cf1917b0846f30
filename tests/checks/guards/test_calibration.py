"""Guard `calibration`: probabilities mean what they say."""

import pytest

from checks.guards import calibration
from ml.evaluation.outcome import Outcome
from tests.checks.spoilt import Bench, blocked, of


def test_probabilities_that_agree_with_the_rates_pass(bench: Bench) -> None:
    result = bench.ask(calibration.GUARD)
    assert (result.outcome, result.reason) == (Outcome.PASS, "")
    assert all(check.n and check.threshold for check in result.checks)


@pytest.mark.parametrize(
    ("metric", "value"), [("ece", 0.3), ("predicted_over_observed", 3.0), ("predicted_over_observed", 0.1)]
)
def test_bad_calibration_fails(bench: Bench, metric: str, value: float) -> None:
    result = bench.figures(of(bench.manifest.kind, None, metric=metric), value=value).ask(calibration.GUARD)
    assert (result.outcome, blocked(result)) == (Outcome.FAIL, {f"ctr_{metric}"})
    assert result.to_do == calibration.GUARD.to_do


def test_a_surface_without_a_binary_task_is_not_evaluated(bench: Bench) -> None:
    tasks = {name: task for name, task in bench.surface.tasks.items() if task.kind != "binary"}
    result = bench.but(surface=bench.surface.model_copy(update={"tasks": tasks})).ask(calibration.GUARD)
    assert (result.outcome, result.reason) == (Outcome.NOT_EVALUATED, "the surface has no binary task")


def test_a_figure_that_was_not_computed_blocks(bench: Bench) -> None:
    result = bench.without(lambda r: r.metric == "ece").ask(calibration.GUARD)
    assert (result.outcome, result.checks) == (Outcome.FAIL, ())
    assert "was not evaluated for" in result.reason
