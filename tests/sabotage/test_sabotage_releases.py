"""Sabotage between verdict and champion: whoever asks for a promotion, it reads the verdict about these bytes."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from ml.evaluation.outcome import Outcome
from ml.export.files import MODEL, SCHEMA
from ml.foundation.sealed import DamagedError, seal
from ml.releases.promotion import Proposal
from ml.releases.refusals import PromotionRefused, Refusal
from ml.releases.release import MANIFEST
from ml.releases.verdicts import GuardResult, Override, decide
from ml.stages.release import promote_candidate
from tests.support import changes
from tests.support.bench import GATE, SURFACES, Bench, Case, each
from tests.support.known import present, the

BYPASS = Override(by="test", reason="to have another champion")


@dataclass(frozen=True)
class Asked:
    """A promotion that must be refused: what happens before it is asked for, and the reason it is told."""

    name: str
    before: Callable[[Bench], Bench | None]
    refusal: Refusal


def _verdict_file(bench: Bench) -> Path:
    folder = the(Path, bench.settings.artifacts_dir) / "verdicts" / bench.surface.name / bench.candidate.digest
    return max(folder.iterdir())


def never_judged(bench: Bench) -> None:
    shutil.rmtree(_verdict_file(bench).parent)


def judged_and_failed(bench: Bench) -> None:
    changes.graph(changes.coarse_weights)(bench)
    assert bench.go_on(GATE)[0] == "homepage_gate"


def failed_once_more(bench: Bench) -> None:
    contract = present(bench.settings.teacher)
    teacher = contract.read_text()
    changes.teacher(version="another")(bench)
    bench.go_on(GATE)
    contract.write_text(teacher)


def other_bytes_after_the_verdict(bench: Bench) -> None:
    changes.graph(changes.other_constants)(bench)


def verdict_of_another_candidate(bench: Bench) -> None:
    passed = _verdict_file(bench)
    changes.graph(changes.other_constants)(bench)
    folder = passed.parent.parent / bench.candidate.digest
    folder.mkdir()
    shutil.copy(passed, folder)


def verdict_that_claims_other_bytes(bench: Bench) -> None:
    verdict = bench.verdict
    changes.graph(changes.other_constants)(bench)
    key = verdict.key.model_copy(update={"candidate": bench.candidate.digest})
    folder = the(Path, bench.settings.artifacts_dir) / "verdicts" / bench.surface.name / bench.candidate.digest
    folder.mkdir()
    (folder / "000001.json").write_bytes(seal(verdict.model_copy(update={"key": key}).model_dump(mode="json")))


def edited_verdict(bench: Bench) -> None:
    judged_and_failed(bench)
    file = _verdict_file(bench)
    file.write_text(file.read_text().replace('"fail"', '"pass"'))


def verdict_against_its_guards(bench: Bench) -> None:
    judged_and_failed(bench)
    verdict = bench.verdict.model_copy(update={"decision": "pass"})
    _verdict_file(bench).write_bytes(seal(verdict.model_dump(mode="json")))


def verdict_without_guards(bench: Bench) -> None:
    verdict = bench.verdict
    guards = tuple(GuardResult(number=g.number, name=g.name, outcome=Outcome.NOT_EVALUATED) for g in verdict.guards)
    silent = verdict.model_copy(update={"guards": guards, "decision": decide(guards)})
    _verdict_file(bench).write_bytes(seal(silent.model_dump(mode="json")))


def verdict_of_one_guard(bench: Bench) -> None:
    judged_and_failed(bench)
    alone = bench.verdict.model_copy(update={"guards": (bench.verdict.guard("rollback"),), "decision": "pass"})
    _verdict_file(bench).write_bytes(seal(alone.model_dump(mode="json")))


def edited(name: str) -> Callable[[Bench], None]:
    def change(bench: Bench) -> None:
        path = bench.candidate.path / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.unlink()
        path.write_bytes(content)

    return change


def looser_thresholds(bench: Bench) -> Bench:
    """The verdict fails; then somebody edits the thresholds."""
    judged_and_failed(bench)
    loose = bench.settings.home / "loose"
    loose.mkdir()
    text = f"extends: {SURFACES}/homepage.yaml\ngate: {{onnx: {{tolerance: 1}}}}\n"
    (loose / "homepage.yaml").write_text(text)
    return replace(bench, settings=bench.settings.model_copy(update={"surfaces_dir": loose}))


def another_champion(bench: Bench) -> None:
    """Another candidate of the same day is promoted by hand after the verdict."""
    mine = {name: bench.candidate.read(name) for name in bench.candidate.files}
    changes.graph(changes.coarse_weights)(bench)
    bench.go_on(GATE)
    promote_candidate(bench.settings, bench.surface, bench.partition, by="test", override=BYPASS)
    bench.put("onnx", mine)


def rolled_back(bench: Bench) -> None:
    assert bench.go_on("release") == []
    bench.store.rollback(bench.surface.name, by="test", reason="people complained")


def rolled_back_under_another_name(bench: Bench) -> None:
    rolled_back(bench)
    changes.story(git_commit="another")(bench)
    assert bench.go_on(GATE) == ["homepage__release", "homepage__release"], "the gate alone has nothing against it"


OFTEN = [
    Asked("a candidate that nobody judged", never_judged, Refusal.NO_VERDICT),
    Asked("a verdict that claims other bytes", verdict_that_claims_other_bytes, Refusal.OTHER_BYTES),
    Asked("an edited verdict", edited_verdict, Refusal.VERDICT_EDITED),
    Asked("a model edited after the verdict", edited(MODEL), Refusal.CANDIDATE_DAMAGED),
    Asked("thresholds loosened after the verdict", looser_thresholds, Refusal.VERDICT_FAILED),
    Asked("a rolled-back release", rolled_back, Refusal.BARRED),
]
LONG = [
    Asked("a check that failed in an earlier run", judged_and_failed, Refusal.VERDICT_FAILED),
    Asked("a second verdict that failed", failed_once_more, Refusal.VERDICT_FAILED),
    Asked("another model after the verdict", other_bytes_after_the_verdict, Refusal.NO_VERDICT),
    Asked("a verdict copied from another candidate", verdict_of_another_candidate, Refusal.VERDICT_EDITED),
    Asked("a verdict against its own guards", verdict_against_its_guards, Refusal.VERDICT_EDITED),
    Asked("a verdict whose guards measured nothing", verdict_without_guards, Refusal.VERDICT_INCOMPLETE),
    Asked("a verdict of one guard alone", verdict_of_one_guard, Refusal.VERDICT_INCOMPLETE),
    Asked("a manifest edited after the verdict", edited(MANIFEST), Refusal.CANDIDATE_DAMAGED),
    Asked("a schema edited after the verdict", edited(SCHEMA), Refusal.CANDIDATE_DAMAGED),
    Asked("a champion that changed after the verdict", another_champion, Refusal.SUPERSEDED),
    Asked("a rolled-back model under another name", rolled_back_under_another_name, Refusal.BARRED),
]


@pytest.fixture(scope="module")
def promoted_twin(healthy: Bench, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing happens to the twin before its promotion is asked for: it is the same whatever the case."""
    twin = healthy.copy(tmp_path_factory.mktemp("twin") / "home")
    first = twin.pointer
    assert first is not None and twin.go_on("release") == []
    assert twin.pointer is not None and twin.pointer.number == first.number + 1


@each(OFTEN, LONG)
@pytest.mark.usefixtures("promoted_twin")
def test_sabotage_of_a_promotion_is_refused_with_its_reason_and_its_twin_is_promoted(
    case: Asked, healthy: Bench, tmp_path: Path, told: Callable[[Case, str], None]
):
    spoilt = healthy.copy(tmp_path / "spoilt")
    spoilt = case.before(spoilt) or spoilt
    before = spoilt.pointer
    assert spoilt.go_on("release") == ["homepage__release", "homepage__release"]
    with pytest.raises((PromotionRefused, DamagedError)) as refused:
        promote_candidate(spoilt.settings, spoilt.surface, spoilt.partition, by="test")
    assert str(refused.value).startswith(case.refusal) or case.refusal is Refusal.CANDIDATE_DAMAGED
    assert spoilt.pointer == before, "the champion moved"
    told(Case(case.name, "release", lambda bench: None, "promotion"), case.refusal.value)


def test_sabotage_by_two_promotions_at_once_moves_the_champion_once(healthy: Bench, tmp_path: Path):
    bench = healthy.copy(tmp_path / "home")
    before = bench.pointer
    assert before is not None
    candidates = [bench.candidate]
    changes.story(git_commit="another")(bench)
    key = bench.store.verdict_key(bench.surface, bench.candidate)
    bench.store.verdicts.write(healthy.verdict.model_copy(update={"key": key, "judged": dict(bench.candidate.files)}))
    candidates.append(bench.candidate)

    def promote(place: int) -> str:
        candidate = candidates[place % 2]
        try:
            key = bench.store.verdict_key(bench.surface, candidate)
            bench.store.promote("homepage", Proposal(candidate, key, bench.partition, str(place), "race"))
        except PromotionRefused as error:
            return error.code.value
        return "promoted"

    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(promote, range(8)))
    after = bench.pointer
    assert after is not None and after.number == before.number + 1
    assert set(told) <= {"promoted", Refusal.SUPERSEDED, Refusal.NOT_NEWER} and "promoted" in told


@pytest.mark.long
def test_sabotage_by_a_backfill_of_an_old_day_never_overtakes_the_champion(healthy: Bench, tmp_path: Path):
    bench = healthy.copy(tmp_path / "home")
    assert bench.go_on("release") == []
    before = bench.pointer
    old = bench.partition - timedelta(days=1)
    # Whatever the guards say of an older student: even without those that compare it with the champion.
    failed = bench.go_on("training_set", partition=old, without=(3, 4, 6))
    assert failed == ["homepage__release", "homepage__release"]
    with pytest.raises(PromotionRefused) as refused:
        promote_candidate(bench.settings, bench.surface, old, by="test")
    assert refused.value.code is Refusal.NOT_NEWER
    assert bench.pointer == before
    stored = bench.store.verdicts.of_candidate("homepage", replace(bench, partition=old).candidate.digest)
    assert json.loads(stored[-1].path.read_text()), "it was judged and recorded"
