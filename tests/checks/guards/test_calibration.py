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


@pytest.mark.parametrize(
    ("ece", "ends", "outcome"),
    [(0.05, (0.04, 0.06), "pass"), (0.17, (0.11, 0.195), "warn"), (0.19, (0.17, 0.195), "fail")],
)
def test_calibration_error_is_held_against_the_base_rate(bench: Bench, ece: float, ends, outcome: str) -> None:
    rate = {"positives": 400, "n": 1000}
    moved = bench.figures(of(bench.manifest.kind, None, metric="ece"), value=ece, lo=ends[0], hi=ends[1], **rate)
    (check,) = [c for c in moved.ask(calibration.GUARD).checks if c.name == "ctr_relative_ece"]
    assert (check.outcome, check.value) == (outcome, pytest.approx(ece / 0.4))


def test_overconfident_logits_are_refused_by_their_log_loss(bench: Bench) -> None:
    from ml.evaluation.evaluate import compute_evaluation
    from ml.evaluation.predictions import write_predictions
    from ml.foundation.lake import Lake

    kind = bench.manifest.kind
    assert kind == "student"
    with Lake(bench.settings) as lake:
        where = f"where partition = date '{bench.manifest.partition}' and model = 'student'"
        kept = lake.sql(f"select * from lake.ml.predictions_tiny {where}")
        mean = "avg(score) over (partition by task, inputs)"
        sharper = lake.sql(
            f"select * replace (if(task = 'ctr', {mean} + 5 * (score - {mean}), score) as score) "
            f"from lake.ml.predictions_tiny {where}"
        )
        try:
            write_predictions(lake, "tiny", bench.manifest.partition, sharper)
            found = compute_evaluation(
                lake, bench.surface, bench.manifest.partition, teacher_outputs={}, seed=1, replicates=100
            )
        finally:
            write_predictions(lake, "tiny", bench.manifest.partition, kept)
    own, before = found.result("student", "ctr"), bench.evaluation.result("student", "ctr")
    assert own.value == pytest.approx(before.value), "the order is the same"
    result = bench.but(found=found).ask(calibration.GUARD)
    (check,) = [c for c in result.checks if c.name == "ctr_log_loss_minus_control"]
    assert check.outcome is Outcome.FAIL


def test_a_surface_without_a_binary_task_is_not_evaluated(bench: Bench) -> None:
    tasks = {name: task for name, task in bench.surface.tasks.items() if task.kind != "binary"}
    result = bench.but(surface=bench.surface.model_copy(update={"tasks": tasks})).ask(calibration.GUARD)
    assert (result.outcome, result.reason) == (Outcome.NOT_EVALUATED, "the surface has no binary task")


def test_a_figure_that_was_not_computed_blocks(bench: Bench) -> None:
    result = bench.without(lambda r: r.metric == "ece").ask(calibration.GUARD)
    assert (result.outcome, result.checks) == (Outcome.FAIL, ())
    assert "was not evaluated for" in result.reason
