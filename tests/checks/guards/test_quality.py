"""Guard `quality`: figures against bounds, baseline, champion and reference, and the choice of the candidate."""

import pytest

from checks import gx
from checks.guards import quality
from ml.evaluation.outcome import Outcome
from ml.releases.refusals import PromotionRefused, Refusal
from tests.checks.spoilt import Bench, blocked, figure, of


def test_a_sound_candidate_passes(bench: Bench) -> None:
    result = bench.ask(quality.GUARD)
    assert (result.outcome, result.means, result.to_do) == (Outcome.PASS, "", "")
    assert result.reason == "the first candidate: no champion to compare with"
    assert result.checks[-1].outcome is Outcome.NOT_EVALUATED, "no reference"


@pytest.mark.parametrize(
    ("reference", "values", "check"),
    [
        (None, {"value": 0.55}, "ctr_auc"),
        (None, {"value": float("nan")}, "ctr_auc"),
        ("baseline", {"value": -0.001, "lo": -0.1, "hi": 0.1}, "ctr_auc_minus_baseline"),
    ],
)
def test_quality_below_its_bounds_fails(bench: Bench, reference: str | None, values: dict[str, float], check: str):
    result = bench.figures(of(bench.manifest.kind, reference), **values).ask(quality.GUARD)
    assert (result.outcome, blocked(result)) == (Outcome.FAIL, {check})
    assert result.to_do == quality.GUARD.to_do


def test_an_improvement_that_may_be_none_warns_and_says_what_to_do(bench: Bench) -> None:
    doubt = bench.figures(of(bench.manifest.kind, "baseline"), value=0.01, lo=-0.01, hi=0.03)
    result = doubt.ask(quality.GUARD)
    assert (result.outcome, blocked(result)) == (Outcome.WARN, set())
    assert "the interval reaches 0" in result.reason
    assert (result.means, result.to_do) == (quality.GUARD.means, quality.GUARD.to_do)


def test_what_fails_here_is_not_promoted(bench: Bench) -> None:
    spoilt = bench.figures(of(bench.manifest.kind, None), value=0.55)
    with pytest.raises(PromotionRefused) as refused:
        spoilt.promote()
    assert refused.value.code is Refusal.VERDICT_FAILED


def test_the_wrong_one_of_student_and_control_fails(bench: Bench) -> None:
    sign = 1 if bench.manifest.kind == "control" else -1
    turned = bench.figures(
        lambda r: (r.model, r.reference, r.slice) == ("student", "control", "all") and r.metric in ("auc", "r2"),
        value=sign * 0.2,
        lo=min(sign * 0.1, sign * 0.3),
        hi=max(sign * 0.1, sign * 0.3),
    )
    assert "candidate" in blocked(turned.ask(quality.GUARD))


def test_a_figure_that_was_not_computed_blocks(bench: Bench) -> None:
    result = bench.without(of(bench.manifest.kind, "baseline")).ask(quality.GUARD)
    assert (result.outcome, result.checks) == (Outcome.FAIL, ())
    assert result.reason.startswith("could not be evaluated: ")


def test_a_champion_that_the_evaluation_does_not_know_blocks(champion: Bench) -> None:
    result = champion.ask(quality.GUARD)
    assert result.outcome is Outcome.FAIL
    assert "was champion: materialize `evaluation` again" in result.reason


@pytest.mark.parametrize(
    ("value", "lo", "hi", "outcome"),
    [
        (0.01, -0.01, 0.03, "pass"),
        (-0.06, -0.1, -0.01, "fail"),
        (-0.06, -0.2, 0.1, "inconclusive"),
        (-0.02, -0.03, -0.01, "inconclusive"),
        (0.0, -0.1, 0.1, "inconclusive"),
        (-0.02, -0.06, 0.02, "warn"),
    ],
)
def test_the_champion_is_compared_by_interval_and_margin(world, value, lo, hi, outcome: str) -> None:
    rows = [figure("ctr", "champion", value, lo, hi)]
    (check,) = gx.validate(rows, quality.suite(world.surface.gate.quality, rows))
    assert check.outcome == outcome


@pytest.mark.parametrize(
    ("value", "lo", "hi", "outcome"),
    [
        (0.0, -0.05, 0.05, "pass"),
        (-0.07, -0.11, 0.01, "warn"),
        (-0.12, -0.3, 0.1, "inconclusive"),
        (-0.12, -0.2, -0.1, "fail"),
        (-0.02, -0.03, -0.01, "inconclusive"),
        (0.0, -0.4, 0.4, "warn"),
    ],
)
def test_slow_decay_is_bounded_by_a_cumulative_margin_against_the_reference(world, value, lo, hi, outcome: str) -> None:
    rows = [figure("ctr", "reference", value, lo, hi)]
    (check,) = gx.validate(rows, quality.suite(world.surface.gate.quality, rows))
    assert (check.name, check.outcome) == ("ctr_auc_minus_reference", outcome)
    assert ">= -0.1" in check.threshold, "two margins of 0.05"
