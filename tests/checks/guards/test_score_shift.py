"""Guard `score_shift`: scores and rankings do not jump against the champion."""

import pytest

from checks import gx
from checks.guards import score_shift
from ml.evaluation.outcome import Outcome
from ml.foundation.lake import Lake
from ml.inference.model import Model
from tests.checks.graphs import edited, scaled
from tests.checks.spoilt import Bench


def test_the_first_candidate_is_not_evaluated(bench: Bench) -> None:
    result = bench.ask(score_shift.GUARD)
    assert (result.outcome, result.to_do) == (Outcome.NOT_EVALUATED, "")
    assert result.reason == "the first candidate: no champion to compare with"


def test_the_same_scores_of_too_few_users_warn(champion: Bench) -> None:
    result = champion.ask(score_shift.GUARD)
    assert result.outcome is Outcome.WARN, "the same scores, but too few users for their rankings"
    values = {check.name: check.value for check in result.checks}
    assert values["psi_ctr"] == 0 and values["users_with_enough_rows"] < 50
    assert (result.means, result.to_do) == (score_shift.GUARD.means, score_shift.GUARD.to_do)


def test_a_champion_that_cannot_be_read_blocks(champion: Bench) -> None:
    release = champion.store.champion("tiny").release.id
    (champion.store.files.root / f"releases/tiny/{release}/model.onnx").write_bytes(b"rot")
    result = champion.ask(score_shift.GUARD)
    assert (result.outcome, result.checks) == (Outcome.FAIL, ())
    assert result.reason.startswith("could not be evaluated: ")


@pytest.mark.parametrize(
    ("factor", "offset", "failed"),
    [
        (1.0, 0.0, set()),
        (1.0, 2.0, {"psi_ctr", "psi_score"}),
        (0.0, 0.3, {"psi_ctr", "psi_score"}),
        (-1.0, 0.0, {"psi_ctr", "psi_score", "top_2_overlap"}),
    ],
)
def test_scores_that_jump_against_the_champion_fail(bench: Bench, factor: float, offset: float, failed: set[str]):
    schema = bench.candidate.read("schema.json")
    champion = Model(bench.candidate.read("model.onnx"), schema)
    candidate = Model(edited(bench.candidate, scaled(factor, offset)), schema)
    gate = bench.surface.gate.shift.model_copy(update={"top": 2, "min_users": 10})
    with Lake(bench.settings) as lake:
        days = bench.manifest.eval_days
        rows = score_shift.measure(lake, bench.surface, candidate, champion, days, top=gate.top)
    checks = gx.validate(rows, score_shift.suite(gate, rows))
    assert failed <= {c.name for c in checks if c.outcome is Outcome.FAIL} if failed else gx.worst(checks) == "pass"
    assert {c.n for c in checks if c.name.startswith("psi")} == {800}


@pytest.mark.parametrize(("measured", "outcome"), [(0.05, "pass"), (0.15, "warn"), (0.3, "fail")])
def test_a_moderate_shift_warns(bench: Bench, measured: float, outcome: str) -> None:
    rows = [{"measure": "psi", "output": "ctr", "measured": measured, "n": 900}]
    assert gx.worst(gx.validate(rows, score_shift.suite(bench.surface.gate.shift, rows))) == outcome
