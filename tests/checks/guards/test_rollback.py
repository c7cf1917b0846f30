"""Guard `rollback`: the present champion can be restored."""

from checks.guards import rollback
from ml.evaluation.outcome import Outcome
from ml.foundation.files import Files, sha256_bytes
from ml.releases.verdicts import Override
from tests.checks.graphs import edited, scaled
from tests.checks.spoilt import Bench, blocked
from tests.support.known import present, the


def test_the_first_candidate_has_nothing_to_return_to(bench: Bench) -> None:
    result = bench.ask(rollback.GUARD)
    assert (result.outcome, result.reason) == (Outcome.NOT_EVALUATED, "there is no champion to return to")


def test_a_champion_that_answers_passes_and_damaged_files_block(champion: Bench) -> None:
    assert champion.ask(rollback.GUARD).outcome is Outcome.PASS
    release = present(champion.store.champion("tiny")).release.id
    (the(Files, champion.store.files).root / f"releases/tiny/{release}/model.onnx").write_bytes(b"rot")
    result = champion.ask(rollback.GUARD)
    assert (result.outcome, result.checks) == (Outcome.FAIL, ())
    assert result.reason.startswith("could not be evaluated: ")
    assert (result.means, result.to_do) == (rollback.GUARD.means, rollback.GUARD.to_do)


def test_a_champion_whose_answers_are_no_numbers_fails(bench: Bench) -> None:
    lost = edited(bench.candidate, scaled(float("nan")))
    spoilt = bench.variant({"model.onnx": lost}, onnx_sha256=sha256_bytes(lost))
    spoilt.promote(Override(by="test", reason="to have a broken champion"))
    result = bench.ask(rollback.GUARD)
    assert (result.outcome, blocked(result)) == (Outcome.FAIL, {"champion_restores"})
