"""Challengers: only what could be promoted is served beside the champion, and the log tells of it."""

import pytest

from ml.evaluation.outcome import Outcome
from ml.releases import store as releases
from ml.releases.promotion import Proposal
from ml.releases.refusals import PromotionRefused, Refusal


def challenge(shop, candidate, mode="canary", share=0.1, **options):
    key = shop.store.verdict_key(shop.surface, candidate)
    arguments = {"partition": shop.partition(candidate), "by": "test", "reason": "because"} | options
    return shop.store.challenge("homepage", Proposal(candidate, key, **arguments), mode=mode, share=share)


def judged(shop, day: int, outcome: Outcome = Outcome.PASS):
    candidate = shop.candidate(day)
    shop.judge(candidate, outcome)
    return candidate


def test_a_challenger_leaves_the_champion_and_is_promoted_as_the_same_release(shop) -> None:
    champion = shop.release(0)
    candidate = judged(shop, 1)
    entry = challenge(shop, candidate)
    assert entry.release == champion.release and entry.version == champion.version
    assert entry.challenger is not None and (entry.challenger.mode, entry.challenger.share) == ("canary", 0.1)
    assert shop.store.release("homepage", entry.challenger.release).verdict.decision == "pass"
    promoted = shop.promote(candidate)
    assert promoted.release == entry.challenger.release
    assert shop.store.pointer("homepage").challenger is None, "a move ends it"


def test_a_note_in_between_leaves_it_and_another_challenger_takes_its_place(shop) -> None:
    shop.release(0)
    first = challenge(shop, judged(shop, 1)).challenger
    assert shop.store.confirm("homepage", by="t", reason="r").challenger == first
    second = challenge(shop, judged(shop, 2), mode="shadow", share=1).challenger
    assert shop.store.pointer("homepage").challenger == second != first
    assert shop.store.end_challenge("homepage", by="t", reason="r").challenger is None
    with pytest.raises(PromotionRefused) as refused:
        shop.store.end_challenge("homepage", by="t", reason="r")
    assert refused.value.code is Refusal.UNKNOWN_RELEASE


def test_what_would_not_be_promoted_is_no_challenger(shop) -> None:
    with pytest.raises(PromotionRefused) as refused:
        challenge(shop, judged(shop, 0))
    assert refused.value.code is Refusal.NO_CHAMPION
    shop.release(5)
    cases = {
        Refusal.VERDICT_FAILED: lambda: judged(shop, 6, Outcome.FAIL),
        Refusal.NO_VERDICT: lambda: shop.candidate(7),
        Refusal.NOT_NEWER: lambda: judged(shop, 4),
    }
    for code, make in cases.items():
        before = shop.store.pointer("homepage")
        with pytest.raises(PromotionRefused) as refused:
            challenge(shop, make())
        assert refused.value.code is code
        assert shop.store.pointer("homepage") == before
    with pytest.raises(ValueError, match="share"):
        challenge(shop, judged(shop, 8), share=0)


def test_a_barred_challenger_is_never_promoted(shop) -> None:
    shop.release(0)
    candidate = judged(shop, 1)
    challenge(shop, candidate)
    shop.store.end_challenge("homepage", by="test", reason="people complained", bar=True)
    with pytest.raises(PromotionRefused) as refused:
        shop.promote(candidate)
    assert refused.value.code is Refusal.BARRED


def test_retention_keeps_the_challenger(shop) -> None:
    for day in range(6):
        shop.release(day)
    challenger = challenge(shop, judged(shop, 6)).challenger
    shop.store.retire("homepage", keep=3)
    assert challenger is not None and challenger.release in shop.store.releases("homepage")
    assert shop.store.pointer("homepage").challenger == challenger


def test_a_champion_that_moves_meanwhile_gets_no_challenger_that_was_judged_against_another(shop, monkeypatch) -> None:
    shop.release(0)
    store, other = shop.store, judged(shop, 1)
    candidate = judged(shop, 2)
    key = store.verdict_key(shop.surface, candidate)
    publish = releases.publish

    def slow(*arguments):
        monkeypatch.setattr(releases, "publish", publish)
        shop.promote(other)
        return publish(*arguments)

    monkeypatch.setattr(releases, "publish", slow)
    with pytest.raises(PromotionRefused) as refused:
        proposal = Proposal(candidate, key, shop.partition(candidate), "test", "because")
        store.challenge("homepage", proposal, mode="canary", share=0.1)
    assert refused.value.code is Refusal.SUPERSEDED
    assert shop.store.pointer("homepage").challenger is None
