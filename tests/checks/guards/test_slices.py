"""Guard `slices`: each slice with a wider margin; doubt is a warning that is shown."""

import json

import pytest

from checks import gx
from checks.guards import slices
from checks.guards.slices import SliceRow
from ml.evaluation.outcome import Outcome
from ml.releases.model_card import render_model_card
from tests.checks.spoilt import Bench, figure
from tests.support.known import present


def test_a_slice_without_rows_is_a_warning_that_is_shown(bench: Bench) -> None:
    result = bench.ask(slices.GUARD)
    assert result.outcome is Outcome.WARN
    assert "none_at_all" in result.reason
    assert (result.means, result.to_do) == (slices.GUARD.means, slices.GUARD.to_do)


def _only(bench: Bench, *names: str) -> Bench:
    kept = {name: bench.surface.slices[name] for name in names}
    return bench.but(surface=bench.surface.model_copy(update={"slices": kept}))


def test_a_slice_with_rows_enough_passes_and_a_surface_without_any_has_the_thirds_of_its_users(bench: Bench) -> None:
    assert _only(bench, "new_releases").ask(slices.GUARD).outcome is Outcome.PASS
    result = _only(bench).ask(slices.GUARD)
    judged = {check.name.removesuffix("_ctr_auc_student_minus_control") for check in result.checks}
    assert judged > {"few_training_rows", "some_training_rows", "many_training_rows"}


@pytest.mark.parametrize("name", ["few_training_rows", "new_releases"])
def test_a_slice_that_loses_while_the_whole_gains_warns_and_is_in_verdict_and_card(bench: Bench, name: str) -> None:
    assert bench.manifest.kind == "student"
    key = ("student", "control", "auc", "ctr", "serving")
    lost = bench.figures(
        lambda r: (r.model, r.reference, r.metric, r.task, r.inputs, r.slice) == (*key, name),
        value=-0.03,
        lo=-0.05,
        hi=-0.01,
    ).figures(
        lambda r: (r.model, r.reference, r.metric, r.task, r.inputs, r.slice) == (*key, "all"),
        value=0.01,
        lo=0.005,
        hi=0.015,
    )
    verdict = lost.judge()
    guard = verdict.guard("slices")
    (check,) = [check for check in guard.checks if check.name == f"{name}_ctr_auc_student_minus_control"]
    assert (check.outcome, check.interval) == (Outcome.WARN, (-0.05, -0.01))
    assert "all rows: +0.0100 [+0.0050, +0.0150]" in check.detail
    assert check.name in guard.reason and "would lose by chance alone" in guard.reason
    results = {"evaluation": json.loads(present(lost.found).to_json())}
    card = render_model_card(lost.manifest, verdict, release="r1", **results)
    assert f"loses by its interval against the control: {name.replace('_', ' ')} ctr" in card


def test_a_slice_that_is_bad_beyond_doubt_fails(bench: Bench) -> None:
    kind = bench.manifest.kind
    bad = bench.figures(
        lambda r: (r.model, r.reference, r.metric, r.slice) == (kind, None, "auc", "new_releases"),
        value=0.3,
        lo=0.2,
        hi=0.4,
    )
    result = _only(bad, "new_releases").ask(slices.GUARD)
    assert result.outcome is Outcome.FAIL and "new_releases_ctr_auc" in result.reason


def test_a_figure_that_was_not_computed_blocks(bench: Bench) -> None:
    result = bench.without(lambda r: r.slice == "new_releases").ask(slices.GUARD)
    assert (result.outcome, result.checks) == (Outcome.FAIL, ())
    assert result.reason.startswith("could not be evaluated: ")


@pytest.mark.parametrize(
    ("row", "outcome"),
    [
        (figure("ctr", "absolute", 0.7, 0.6, 0.8), Outcome.PASS),
        (figure("ctr", "absolute", 0.3, 0.2, 0.4), Outcome.FAIL),
        (figure("ctr", "absolute", 0.4, 0.2, 0.6), Outcome.WARN),
        (figure("ctr", "absolute", 0.3, 0.2, 0.4, n=10), Outcome.WARN),
        (figure("ctr", "absolute", 0.3, 0.2, 0.4, positives=3), Outcome.WARN),
        (figure("ctr", "champion", -0.2, -0.3, -0.1), Outcome.FAIL),
        (figure("ctr", "champion", 0.0, -0.5, 0.5), Outcome.WARN),
        (figure("ctr", "champion", 0.0, -0.1, 0.1), Outcome.PASS),
    ],
)
def test_slices_have_a_wider_margin_and_doubt_is_a_warning(world, row: SliceRow, outcome: Outcome) -> None:
    rows: list[SliceRow] = [{**row, "slice": "new_releases"}]
    gate = world.surface.gate
    assert gx.worst(gx.validate(rows, slices.suite(gate.slices, gate.quality, rows))) is outcome
