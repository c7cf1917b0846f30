"""The gate as a whole, on a candidate that went through every stage."""

import json

from checks.guards import GUARDS
from ml.evaluation.outcome import Outcome
from ml.releases.promotion import Proposal
from ml.releases.store import ReleaseStore
from ml.releases.verdicts import Override
from ml.stages.evaluation import released_models
from tests.checks.spoilt import Bench, blocked
from tests.support.known import present

NEEDS_THE_TEACHER = {"soft_labels", "quality", "slices", "calibration", "onnx", "provenance", "evidence"}
"""Guards that look at the evaluation days scored again, the teacher's labels among them, or at its contract."""


def test_a_sound_candidate_passes_is_promoted_and_its_verdict_is_complete(bench: Bench) -> None:
    verdict = bench.judge()
    assert verdict.failures() == []
    assert verdict.decision == "pass"
    assert [(guard.number, guard.name) for guard in verdict.guards] == [(guard.number, guard.name) for guard in GUARDS]
    assert {g.name for g in verdict.guards if g.outcome is Outcome.NOT_EVALUATED} == {
        "score_shift",
        "rollback",
        "served",
    }
    assert verdict.judged == dict(bench.candidate.files)
    complete = ("data", "soft_labels", "calibration", "onnx", "provenance")
    assert all(c.threshold and c.value is not None for name in complete for c in verdict.guard(name).checks)
    pointer = bench.store.promote(
        "tiny",
        Proposal(
            bench.candidate,
            bench.store.verdict_key(bench.surface, bench.candidate),
            bench.manifest.partition,
            "test",
            "first",
            evaluation=json.loads(bench.evaluation.to_json()),
        ),
    )
    assert present(bench.store.champion("tiny")).release.id == pointer.release


def test_a_guard_that_raises_has_failed_and_the_error_is_in_the_verdict(no_teacher: Bench) -> None:
    verdict = no_teacher.judge()
    assert verdict.decision == "fail"
    assert {g.name for g in verdict.guards if g.outcome is Outcome.FAIL} == NEEDS_THE_TEACHER
    assert "absent.yaml" in verdict.guard("soft_labels").reason


def test_a_guard_that_warns_or_blocks_says_what_it_means_and_what_to_do(no_teacher: Bench) -> None:
    verdict = no_teacher.judge()
    stored = no_teacher.store.verdicts.of_candidate("tiny", no_teacher.candidate.digest)[-1].verdict
    assert stored == verdict
    told = {g.name: (g.means, g.to_do) for g in stored.guards if g.means or g.to_do}
    assert told == {g.name: (g.means, g.to_do) for g in GUARDS if g.name in NEEDS_THE_TEACHER}


def test_against_a_champion_the_evaluation_must_have_scored_it(champion: Bench) -> None:
    verdict = champion.judge()
    assert verdict.key.champion == present(champion.store.champion("tiny")).release.id
    assert f"before {verdict.key.champion} was champion" in verdict.guard("quality").reason
    assert "evaluated champion" in blocked(verdict.guard("provenance"))
    assert verdict.guard("rollback").outcome is Outcome.PASS
    assert verdict.guard("score_shift").outcome is Outcome.WARN


def test_a_confirmed_release_that_no_longer_serves_is_scored_and_must_have_been(champion: Bench, tmp_path) -> None:
    settings = champion.settings.model_copy(update={"home": tmp_path})
    store = ReleaseStore(settings.artifacts_dir)
    mine = champion.but(store=store)
    first = mine.promote()
    store.confirm("tiny", by="test", reason="looks right")
    assert store.past_reference("tiny") is None, "the reference serves"
    config = mine.candidate.read("config.pbtxt")
    other = mine.variant({"config.pbtxt": config + b"# another model, for the store\n"})
    other.promote(Override(by="test", reason="to have a newer champion"))
    released = released_models(store.champion("tiny"), store.past_reference("tiny"))
    assert set(released) == {"champion", "reference"}
    assert released["reference"][0] == store.release("tiny", first).manifest.onnx_sha256
    assert "evaluated reference" in blocked(mine.variant(seed=6).judge().guard("provenance"))
