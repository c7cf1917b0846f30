import json
from pathlib import Path

import pytest

from ml.evaluation.outcome import Outcome
from ml.foundation.sealed import DamagedError, seal
from ml.releases.refusals import PromotionRefused
from ml.releases.verdicts import Check, GuardResult, Verdict, decide


def _guards(*outcomes: Outcome) -> tuple[GuardResult, ...]:
    return tuple(GuardResult(number=i + 1, name=f"g{i}", outcome=o) for i, o in enumerate(outcomes))


@pytest.mark.parametrize(
    ("outcomes", "decision"),
    [
        ((Outcome.PASS, Outcome.WARN, Outcome.NOT_EVALUATED), "pass"),
        ((Outcome.PASS, Outcome.INCONCLUSIVE), "inconclusive"),
        ((Outcome.FAIL, Outcome.INCONCLUSIVE), "fail"),
        ((Outcome.NOT_EVALUATED,), "fail"),
        ((), "fail"),
    ],
)
def test_the_decision_follows_from_the_guards(outcomes: tuple[Outcome, ...], decision: str) -> None:
    assert decide(_guards(*outcomes)) == decision


def test_a_verdict_reads_back_and_a_second_judgement_leaves_the_first(shop) -> None:
    candidate = shop.candidate(0)
    first = shop.judge(candidate, Outcome.FAIL)
    before = first.path.read_bytes()
    second = shop.judge(candidate, Outcome.PASS)
    assert first.path.read_bytes() == before
    stored = shop.store.verdicts.of_candidate("homepage", candidate.digest)
    assert [s.verdict.decision for s in stored] == ["fail", "pass"]
    assert stored[-1].content_hash == second.content_hash


def test_a_verdict_about_another_key_promotes_nothing(shop) -> None:
    candidate = shop.candidate(0)
    shop.judge(candidate)
    key = shop.store.verdict_key(shop.surface, candidate)
    for change in ({"champion": "other"}, {"snapshot": 1}, {"gate_digest": "x"}, {"eval_days": ()}):
        with pytest.raises(PromotionRefused):
            shop.promote(candidate, key.model_copy(update=change))
    assert shop.store.champion("homepage") is None


def _edit(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


@pytest.mark.parametrize(
    ("before", "after"),
    [('"fail"', '"pass"'), ('"value": 0.8', '"value": 0.9'), ('"content_hash": "', '"content_hash": "0'), ("{", "[")],
)
def test_an_edited_verdict_is_detected(shop, before: str, after: str) -> None:
    stored = shop.judge(shop.candidate(0), Outcome.FAIL)
    _edit(stored.path, before, after)
    with pytest.raises(DamagedError):
        shop.store.verdicts.of_candidate("homepage", stored.verdict.key.candidate)


def test_a_decision_that_its_guards_do_not_support_is_refused_even_when_sealed(shop) -> None:
    with pytest.raises(DamagedError, match="guards say"):
        shop.judge(shop.candidate(0), Outcome.FAIL, decision="pass")


def test_a_verdict_copied_under_another_candidate_is_refused(shop) -> None:
    stored = shop.judge(shop.candidate(0))
    other = shop.candidate(1)
    folder = stored.path.parent.with_name(other.digest)
    folder.mkdir()
    (folder / "000001.json").write_bytes(stored.path.read_bytes())
    with pytest.raises(DamagedError, match="holds a verdict about"):
        shop.store.verdicts.of_candidate("homepage", other.digest)


def test_values_that_are_no_numbers_are_shown_and_stay_json(shop) -> None:
    check = Check(name="auc", outcome=Outcome.FAIL, value=float("nan"), interval=(float("nan"), 1.0))
    assert (check.value, check.interval) == ("nan", None)
    guards = (GuardResult(number=3, name="quality", outcome=Outcome.FAIL, checks=(check,)),)
    stored = shop.judge(shop.candidate(0), guards=guards, decision="fail")
    assert json.loads(stored.path.read_text())["guards"][0]["checks"][0]["value"] == "nan"
    assert isinstance(stored.verdict, Verdict)


def test_a_verdict_of_before_guards_said_what_to_do_is_read(shop) -> None:
    stored = shop.judge(shop.candidate(0))
    content = stored.verdict.model_dump(mode="json")
    for guard in content["guards"]:
        del guard["means"], guard["to_do"]
    stored.path.write_bytes(seal(content))
    (read,) = shop.store.verdicts.of_candidate("homepage", stored.verdict.key.candidate)
    assert read.verdict == stored.verdict
    assert (read.verdict.guard("quality").means, read.verdict.guard("quality").to_do) == ("", "")
