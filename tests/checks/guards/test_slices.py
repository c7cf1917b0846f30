"""Guard `slices`: each slice with a wider margin; doubt is a warning that is shown."""

from typing import Any

import pytest

from checks import gx
from checks.guards import slices
from ml.evaluation.outcome import Outcome
from tests.checks.spoilt import Bench, figure


def test_a_slice_without_rows_is_a_warning_that_is_shown(bench: Bench) -> None:
    result = bench.ask(slices.GUARD)
    assert result.outcome is Outcome.WARN
    assert "none_at_all" in result.reason
    assert (result.means, result.to_do) == (slices.GUARD.means, slices.GUARD.to_do)


def _only(bench: Bench, *names: str) -> Bench:
    kept = {name: bench.surface.slices[name] for name in names}
    return bench.but(surface=bench.surface.model_copy(update={"slices": kept}))


def test_a_slice_with_rows_enough_passes_and_none_declared_is_not_evaluated(bench: Bench) -> None:
    assert _only(bench, "new_releases").ask(slices.GUARD).outcome is Outcome.PASS
    result = _only(bench).ask(slices.GUARD)
    assert (result.outcome, result.reason) == (Outcome.NOT_EVALUATED, "the surface declares no slices")


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
def test_slices_have_a_wider_margin_and_doubt_is_a_warning(world, row: dict[str, Any], outcome: Outcome) -> None:
    rows = [row | {"slice": "new_releases"}]
    gate = world.surface.gate
    assert gx.worst(gx.validate(rows, slices.suite(gate.slices, gate.quality, rows))) is outcome
