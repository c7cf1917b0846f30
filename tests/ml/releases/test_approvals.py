"""Where a surface is promoted by hand, a named person says yes in time, and two to an override; else nothing moves."""

import json
import multiprocessing
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from ml.evaluation.outcome import Outcome
from ml.foundation.sealed import DamagedError
from ml.foundation.signing import Keyring, new_key
from ml.releases.promotion import Proposal
from ml.releases.recovery import recover
from ml.releases.refusals import PromotionRefused, Refusal
from ml.releases.verdicts import Override, StoredVerdict, now
from ml.surfaces.gate import Gate, PromotionGate
from tests.support.shop import Shop

MANUAL = PromotionGate(mode="manual")
TWO_NAMES = PromotionGate(override_names=2)


def _refused(code: Refusal, told: str = ""):
    return pytest.raises(PromotionRefused, match=f"^{code}: .*{told}")


def asked(shop: Shop, candidate, by: str = "Ada", policy: PromotionGate | None = None) -> Proposal:
    key = shop.store.verdict_key(shop.surface, candidate)
    asks = Proposal(candidate, key, shop.partition(candidate), by, "looked at it")
    return replace(asks, policy=policy) if policy else asks


def waiting(shop: Shop, day: int, **changes):
    candidate = shop.candidate(day)
    return candidate, shop.judge(candidate, promotion=MANUAL, **changes)


def test_a_candidate_that_passed_waits_until_a_named_person_says_yes(shop: Shop) -> None:
    first = shop.release(0)
    candidate, _ = waiting(shop, 1)
    for _ in range(2):
        with _refused(Refusal.NOT_APPROVED, "release approve homepage --partition 2026-02-02"):
            shop.promote(candidate)
    for blank in ("", "...", "\u200b"):
        with _refused(Refusal.UNNAMED):
            shop.store.approve("homepage", asked(shop, candidate, by=blank))
    assert shop.store.pointer("homepage") == first
    moved = shop.store.approve("homepage", asked(shop, candidate))
    assert (moved.number, moved.by, moved.action) == (2, "Ada", "promote")
    assert shop.store.approve("homepage", asked(shop, candidate, by="Bea")) == moved, "it serves already"


def test_nobody_says_yes_after_the_time_or_to_what_did_not_pass(shop: Shop) -> None:
    candidate, late = waiting(shop, 0, judged_at=now() - timedelta(hours=73))
    with _refused(Refusal.NOT_APPROVED, "judge it again"):
        shop.store.approve("homepage", asked(shop, candidate))
    shop.store.approvals.add(late, "approve", "Ada", "too late")
    with _refused(Refusal.NOT_APPROVED, "judge it again"):
        shop.promote(candidate)
    shop.judge(candidate, Outcome.FAIL, promotion=MANUAL)
    with _refused(Refusal.VERDICT_FAILED):
        shop.store.approve("homepage", asked(shop, candidate))
    shop.judge(candidate, promotion=MANUAL)
    with _refused(Refusal.NOT_APPROVED, "waits for a person"):
        shop.promote(candidate)  # the yes was about another verdict
    assert shop.store.approve("homepage", asked(shop, candidate)).by == "Ada"


def test_whichever_is_stricter_holds_what_was_so_when_it_was_judged_or_what_is_so_today(shop: Shop) -> None:
    candidate, _ = waiting(shop, 0)
    with _refused(Refusal.NOT_APPROVED):
        shop.store.promote("homepage", asked(shop, candidate, policy=PromotionGate()))
    plain = shop.candidate(1)
    shop.judge(plain)
    with _refused(Refusal.NOT_APPROVED):
        shop.store.promote("homepage", asked(shop, plain, policy=MANUAL))
    gate = shop.surface.gate
    assert gate.model_copy(update={"promotion": MANUAL}).digest != gate.digest
    assert Gate.model_validate(gate.model_dump()).digest == gate.digest and "promotion" not in gate.model_dump()


def test_a_yes_that_somebody_else_wrote_or_edited_counts_for_nothing(shop: Shop, tmp_path: Path) -> None:
    new_key(tmp_path / "ada.pem", tmp_path / "ada.pub")
    signed = shop.with_keys(Keyring(private_file=tmp_path / "ada.pem"))
    candidate, verdict = waiting(signed, 0)
    shop.store.approvals.add(verdict, "approve", "Eve", "fine")
    with _refused(Refusal.NOT_APPROVED):
        signed.promote(candidate)
    (path,) = (tmp_path / "artifacts/approvals/homepage" / candidate.digest).iterdir()
    path.write_text(json.dumps({**json.loads(path.read_text()), "by": "Ada"}))
    with pytest.raises(DamagedError, match="was edited"):
        signed.promote(candidate)
    path.unlink()
    assert signed.store.approve("homepage", asked(signed, candidate)).number == 1


def test_an_override_takes_two_people_where_the_surface_says_so(shop: Shop) -> None:
    shop.release(0)
    candidate = shop.candidate(1)
    shop.judge(candidate, Outcome.FAIL, promotion=TWO_NAMES)
    for name in ("Ada", "Ada", " aDA.", "A\u200bda"):
        with _refused(Refusal.SECOND_NAME, "another person"):
            shop.promote(candidate, override=Override(by=name, reason="an outage"))
    moved = shop.promote(candidate, override=Override(by="Bea", reason="I saw it too"))
    assert moved.action == "override" and moved.by.endswith(" and Bea") and "Bea: I saw it too" in moved.reason
    release = shop.store.release("homepage", moved.release)
    assert release.record.override == Override(by=moved.by, reason=moved.reason)
    shop.store.files.remove_folder(f"releases/homepage/{moved.release}")
    done = recover(shop.store, "homepage", by="Ada", reason="a disk was lost")
    assert done == [f"{moved.release} was made again from its candidate and verdict"]


def test_the_first_name_of_an_override_counts_for_its_hours_alone(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    candidate = shop.candidate(0)
    verdict: StoredVerdict = shop.judge(candidate, Outcome.FAIL, promotion=TWO_NAMES)
    with monkeypatch.context() as patch:
        patch.setattr("ml.releases.approvals.now", lambda: now() - timedelta(hours=73))
        shop.store.approvals.add(verdict, "override", "Ada", "an outage")
    with _refused(Refusal.SECOND_NAME):
        shop.promote(candidate, override=Override(by="Bea", reason="I saw it too"))


def _approve(shop: Shop, candidate, name: str) -> None:
    with suppress(PromotionRefused):
        shop.store.approve("homepage", asked(shop, candidate, by=name))


@pytest.mark.slow
def test_people_who_say_yes_at_once_move_it_once(shop: Shop) -> None:
    shop.release(0)
    context, candidates = multiprocessing.get_context("fork"), [waiting(shop, day)[0] for day in (1, 2)]
    people = [context.Process(target=_approve, args=(shop, candidates[n % 2], f"person {n}")) for n in range(6)]
    for person in people:
        person.start()
    for person in people:
        person.join()
    history = shop.store.history("homepage")
    assert len(history) == 2 and history[-1].by.startswith("person")
