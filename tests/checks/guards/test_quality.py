"""Guard `quality`: figures against bounds, baseline, champion and reference, and the choice of the candidate."""

import re
from dataclasses import replace

import pytest

from checks import gx
from checks.guards import quality
from ml.evaluation.outcome import Outcome
from ml.releases.refusals import PromotionRefused, Refusal
from ml.surfaces.gate import QualityGate
from tests.checks.spoilt import Bench, blocked, figure, of
from tests.support.shop import Shop


def trained(bench: Bench) -> Bench:
    """The bench with a control that a linear model does not beat; in its world, which is linear, one does."""
    fine = tuple(replace(gain, gain=-0.01, lo=-0.02, hi=0.01) for gain in bench.evaluation.linear)
    assert fine
    return bench.but(evaluation=replace(bench.evaluation, linear=fine))


def test_a_control_below_a_linear_model_of_its_inputs_is_a_warning(bench: Bench) -> None:
    result = bench.ask(quality.GUARD)
    assert (result.outcome, blocked(result)) == (Outcome.WARN, set())
    [check] = [check for check in result.checks if check.name == "ctr_auc_linear_minus_control"]
    assert check.outcome is Outcome.WARN and "ctr: the control is undertrained" in check.detail


def test_a_sound_candidate_passes(bench: Bench) -> None:
    result = trained(bench).ask(quality.GUARD)
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
        (-0.02, -0.03, -0.01, "pass"),
        (0.0, -0.1, 0.1, "inconclusive"),
        (-0.02, -0.06, 0.02, "inconclusive"),
    ],
)
def test_the_champion_is_compared_by_interval_and_margin(world, value, lo, hi, outcome: str) -> None:
    rows = [figure("ctr", "champion", value, lo, hi)]
    (check,) = gx.validate(rows, quality.suite(world.surface.gate.quality, rows))
    assert check.outcome == outcome


def test_the_order_that_is_served_is_compared_like_a_task_with_a_margin_of_its_own(world) -> None:
    rows = [figure("ctr", "champion", 0.0, -0.05, 0.05, metric="rank_ndcg_10"), figure("ctr", "champion", 0.1, 0, 0.2)]
    ranked, task = gx.validate(rows, quality.suite(world.surface.gate.quality, rows))
    assert (ranked.name, ranked.outcome) == ("ctr_rank_ndcg_10_minus_champion", "pass")
    assert "-0.1" in ranked.threshold and "-0.05" in task.threshold
    worse = [figure("ctr", "champion", -0.2, -0.25, -0.15, metric="rank_ndcg_10")]
    (lost,) = gx.validate(worse, quality.suite(world.surface.gate.quality, worse))
    assert lost.outcome == "fail"
    (ungated,) = gx.validate(worse, quality.suite({}, worse))
    assert ungated.outcome == "fail" and "-0.015" in ungated.threshold


def test_slow_decay_stops_at_one_margin_below_the_first_promotion(world, tmp_path) -> None:
    shop = Shop(tmp_path, world.surface)
    margin = world.surface.gate.quality["ctr"].margin
    quality_of: dict[str, float] = {}
    for day in range(10):
        champion, reference = shop.store.pointer("tiny"), shop.store.reference("tiny")
        own = quality_of[champion.release] - 0.9 * margin if champion else 0.75
        beside = {"champion": champion.release if champion else None, "reference": reference}
        if reference == beside["champion"]:
            beside.pop("reference")
        rows = [
            figure("ctr", name, own - quality_of[release], *(own - quality_of[release] + w for w in (-1e-4, 1e-4)))
            for name, release in beside.items()
            if release
        ]
        outcome = gx.worst(gx.validate(rows, quality.suite(world.surface.gate.quality, rows, world.surface.looks)))
        candidate = shop.candidate(day)
        shop.judge(candidate, Outcome.PASS if not rows else outcome)
        if day > 1:
            assert outcome is Outcome.FAIL
            with pytest.raises(PromotionRefused):
                shop.promote(candidate)
        else:
            quality_of[shop.promote(candidate).release] = own
    assert len(quality_of) == 2, "the first, and one that is worse by less than the margin"
    assert shop.store.reference("tiny") == next(iter(quality_of))


def test_against_the_reference_an_own_margin_holds_where_it_is_set(world) -> None:
    gate = {"ctr": QualityGate(margin=0.05, min=0.6, reference_margin=0.1)}
    rows = [figure("ctr", "reference", -0.07, -0.08, -0.06)]
    (check,) = gx.validate(rows, quality.suite(gate, rows))
    assert (check.name, check.outcome) == ("ctr_auc_minus_reference", Outcome.PASS)
    (check,) = gx.validate(rows, quality.suite({"ctr": QualityGate(margin=0.05, min=0.6)}, rows))
    assert check.outcome is Outcome.FAIL


def test_an_undecided_candidate_is_told_how_many_more_days_it_would_take(champion: Bench) -> None:
    open_one = dict(value=0.01, lo=-0.11, hi=0.13)
    champion = trained(champion)
    kind, told = champion.manifest.kind, champion.evaluation
    beside = [
        replace(r, model=kind, reference="champion", value=0.0, lo=-1e-3, hi=1e-3)
        for r in told.results
        if (r.model, r.reference) == ("student", "control")
    ]
    models = told.models | {"champion": champion.manifest.onnx_sha256}
    bench = champion.but(evaluation=replace(told, models=models, results=(*told.results, *beside)))
    assert bench.ask(quality.GUARD).outcome is Outcome.PASS
    result = bench.figures(of(kind, "champion"), **open_one).ask(quality.GUARD)
    assert result.outcome is Outcome.INCONCLUSIVE
    assert re.search(
        r"about \d+ more evaluation days would decide; the evaluation may widen by 12 to 14", result.reason
    )
