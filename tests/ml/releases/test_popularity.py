"""Popularity serves only where nothing does, is no measure for what follows, and gives way to the first student."""

from typing import Any

import pytest

from ml.evaluation.outcome import Outcome
from ml.releases.gate import OF_POPULARITY
from ml.releases.refusals import PromotionRefused, Refusal
from ml.releases.verdicts import Check, GuardResult, missing_traffic
from tests.support.shop import Shop
from tests.support.verdicts import guards


def of_popularity(content: dict[str, Any]) -> None:
    content |= {"kind": "popularity", "technique": "none", "parameters": 0, "train_days": ()}


def silenced() -> tuple[GuardResult, ...]:
    silent = {"outcome": Outcome.NOT_EVALUATED, "checks": (), "reason": "learnt nothing"}
    return tuple(g if g.name in OF_POPULARITY else g.model_copy(update=silent) for g in guards())


def popularity(shop: Shop, day: int, **changes: Any):
    candidate = shop.candidate(day, b"popularity", of_popularity)
    shop.judge(candidate, **({"about": "popularity", "guards": silenced(), "decision": "pass"} | changes))
    return candidate


def test_popularity_gives_way_to_the_first_student_of_its_own_day_and_is_no_reference(shop: Shop) -> None:
    first = shop.promote(popularity(shop, 3))
    assert first.action == "popularity" and shop.store.reference("homepage") is None
    student = shop.release(3)
    assert student.action == "promote" and shop.store.reference("homepage") == student.release
    back = shop.store.rollback("homepage", by="test", reason="the student was no good")
    assert back.release == first.release and shop.store.reference("homepage") is None
    again = shop.release(4)
    assert shop.store.reference("homepage") == again.release


def test_popularity_never_replaces_what_serves(shop: Shop) -> None:
    shop.release(1)
    with pytest.raises(PromotionRefused) as refused:
        shop.promote(popularity(shop, 2))
    assert refused.value.code is Refusal.NOT_FIRST


def test_a_student_older_than_popularity_is_refused(shop: Shop) -> None:
    shop.promote(popularity(shop, 3))
    with pytest.raises(PromotionRefused) as refused:
        shop.release(2)
    assert refused.value.code is Refusal.NOT_NEWER


@pytest.mark.parametrize("kind", ["student", "popularity"])
def test_a_verdict_about_one_kind_lets_no_candidate_of_the_other_serve(shop: Shop, kind: str) -> None:
    if kind == "student":
        candidate = shop.candidate(1)
        shop.judge(candidate, about="popularity", guards=silenced(), decision="pass")
    else:
        candidate = popularity(shop, 1, about="ranker", guards=guards())
    with pytest.raises(PromotionRefused) as refused:
        shop.promote(candidate)
    assert refused.value.code is Refusal.OTHER_BYTES


def test_a_guard_of_popularity_that_measured_nothing_and_one_that_cannot_look_but_did_are_refused(shop: Shop) -> None:
    blind = tuple(
        g.model_copy(update={"outcome": Outcome.NOT_EVALUATED, "checks": ()}) if g.name == "onnx" else g
        for g in silenced()
    )
    for told in (blind, guards()):
        with pytest.raises(PromotionRefused) as refused:
            shop.promote(popularity(shop, 1, guards=told))
        assert refused.value.code is Refusal.VERDICT_INCOMPLETE


def test_missing_traffic_names_each_task_with_users_now_and_users_needed() -> None:
    few = Check(name="ctr_users_with_a_positive", outcome=Outcome.INCONCLUSIVE, value=42.0, threshold=">= 100")
    enough = few.model_copy(update={"name": "trail_users_with_a_positive", "outcome": Outcome.PASS})
    evidence = GuardResult(number=11, name="evidence", outcome=Outcome.INCONCLUSIVE, checks=(few, enough))
    assert missing_traffic([evidence]) == "users with a positive: ctr 42 of 100"
    assert missing_traffic(guards()) == ""
