"""What remains when a process is killed, and who wins when several act at once; children are really killed."""

import multiprocessing
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from datetime import date

import pytest

from ml.releases.champions import Pointer
from ml.releases.promotion import Proposal
from ml.releases.refusals import PromotionRefused, Refusal
from ml.surfaces.gate import PromotionGate
from tests.support.shop import opens_valid, synced

pytestmark = pytest.mark.slow

FIRST = date(2026, 2, 1)
_CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir"}


def _fork(action: Callable[[], None], kill_at: int | None = None) -> int:
    """Run ``action`` in a forked child that kills itself before its ``kill_at``-th change of files; return its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        if kill_at is not None:
            left = kill_at

            def hook(event: str, arguments: tuple) -> None:
                nonlocal left
                if event in _CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
                    left -= 1
                    if left == 0:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(hook)
        action()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _wait(pid: int) -> int:
    """Return the exit code of a child; negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _check(shop, allowed: set[str | None]) -> None:
    """The store opens with a valid champion, and what the repository serves is a whole release of its history."""
    champion = opens_valid(shop.store)
    assert (champion.release.id if champion else None) in allowed
    synced(shop.store)


def test_an_approval_killed_at_any_file_operation_leaves_the_old_or_the_new_champion(shop) -> None:
    manual, old, step = PromotionGate(mode="manual"), shop.release(0).release, 0
    for step in range(1, 1000, 3):
        candidate = shop.candidate(step)
        verdict = shop.judge(candidate, promotion=manual)
        key = shop.store.verdict_key(shop.surface, candidate)
        asked = Proposal(candidate, key, shop.partition(candidate), "Ada", "looked at it")
        code = _wait(_fork(lambda p=asked: shop.store.approve("homepage", p), kill_at=step))
        champion = shop.store.champion("homepage").release
        assert champion.id == old or champion.record.candidate == candidate.digest
        if code == 0:
            break
        if champion.id == old:  # the next promotion goes on where the person's yes was recorded, and only there
            said = bool(shop.store.approvals.about(verdict, "approve"))
            with nullcontext() if said else pytest.raises(PromotionRefused, match=Refusal.NOT_APPROVED):
                champion = shop.store.release("homepage", shop.promote(candidate).release)
        old = champion.id
        _check(shop, {old})
    assert step > 15 and shop.store.pointer("homepage").by == "Ada"


def test_a_promotion_killed_at_any_file_operation_leaves_the_old_or_the_new_champion(shop) -> None:
    old = shop.release(0)
    kills = 0
    for step in range(1, 1000):
        day = step
        candidate = shop.candidate(day)
        shop.judge(candidate)
        code = _wait(_fork(lambda c=candidate: shop.promote(c), kill_at=step))
        champion = shop.store.champion("homepage")
        assert champion is not None
        new = champion.release if champion.release.record.candidate == candidate.digest else None
        _check(shop, {new.id} if new else {old.release})
        if code == 0:
            assert new is not None
            break
        assert code == -signal.SIGKILL
        kills += 1
        old = shop.store.pointer("homepage")
    assert kills > 15


def test_a_rollback_killed_at_any_file_operation_leaves_the_old_or_the_new_champion(shop) -> None:
    day = step = 0
    good, bad = shop.release(0), None
    for step in range(1, 1000):
        if bad is None or shop.store.pointer("homepage").release != bad.release:
            good = shop.store.pointer("homepage")
            day += 1
            bad = shop.release(day)
        code = _wait(_fork(lambda: shop.store.rollback("homepage", by="t", reason="r"), kill_at=step))
        _check(shop, {bad.release, good.release})
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert step > 5
    assert shop.store.pointer("homepage").release == good.release


def test_a_retirement_killed_at_any_file_operation_never_takes_the_champion(shop) -> None:
    for day in range(6):
        shop.release(day)
    newest = shop.store.pointer("homepage").release
    for step in range(1, 1000):
        code = _wait(_fork(lambda: shop.store.retire("homepage", keep=3), kill_at=step))
        _check(shop, {newest})
        if code == 0:
            break
    shop.store.retire("homepage", keep=3)
    assert len(shop.store.releases("homepage")) == 4, "three, and the reference"
    assert shop.store.rollback("homepage", by="t", reason="still possible").release in shop.store.releases("homepage")


def test_the_store_opens_after_kills_at_random_instants(shop) -> None:
    dice = random.Random(7)
    shop.release(0)

    def churn() -> None:
        day = max((p.partition - FIRST).days for p in shop.store.history("homepage"))
        while True:
            day += 1
            shop.release(day)
            if day % 3 == 0:
                shop.store.rollback("homepage", by="churn", reason="x")
                day += 1
                shop.release(day)
            if day % 5 == 0:
                shop.store.retire("homepage", keep=3)

    for _ in range(15):
        before = len(shop.store.history("homepage"))
        pid = _fork(churn)
        time.sleep(dice.uniform(0.1, 0.6))
        os.kill(pid, signal.SIGKILL)
        assert _wait(pid) == -signal.SIGKILL
        champion = shop.store.champion("homepage")
        assert champion is not None
        _check(shop, {champion.release.id})
        assert len(shop.store.history("homepage")) >= before
    assert len(shop.store.history("homepage")) > 1


def _race(actions: list[Callable[[], Pointer]]) -> list[str]:
    """Run all actions at once in processes of their own; return each one's outcome: ``won`` or the refusal's code."""
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(len(actions)), context.Queue()

    def run(action: Callable[[], Pointer]) -> None:
        barrier.wait()
        try:
            action()
            queue.put("won")
        except PromotionRefused as refused:
            queue.put(str(refused.code))

    processes = [context.Process(target=run, args=(action,)) for action in actions]
    for process in processes:
        process.start()
    outcomes = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    return sorted(outcomes)


@pytest.mark.parametrize("with_champion", [False, True])
def test_of_eight_promotions_at_once_exactly_one_wins(shop, with_champion: bool) -> None:
    if with_champion:
        shop.release(0)
    moves = int(with_champion)
    for turn in range(3):
        candidates = [shop.candidate(1 + turn * 10 + i) for i in range(8)]
        for candidate in candidates:
            shop.judge(candidate)
        keys = [shop.store.verdict_key(shop.surface, c) for c in candidates]
        outcomes = _race([lambda c=c, k=k: shop.promote(c, k) for c, k in zip(candidates, keys, strict=True)])
        moves += 1
        assert outcomes == sorted([Refusal.SUPERSEDED] * 7 + ["won"])
        assert shop.store.pointer("homepage").version == moves
        _check(shop, {shop.store.pointer("homepage").release})


def test_of_eight_rollbacks_at_once_exactly_one_wins(shop) -> None:
    releases = [shop.release(day).release for day in range(9)]
    outcomes = _race([lambda: shop.store.rollback("homepage", by="t", reason="r")] * 8)
    wins = outcomes.count("won")
    assert wins + outcomes.count(str(Refusal.SUPERSEDED)) == 8
    assert wins >= 1
    assert shop.store.pointer("homepage").release == releases[8 - wins]


def test_promotion_rollback_and_retirement_at_once_leave_a_valid_champion(shop) -> None:
    for day in range(6):
        shop.release(day)
    candidate = shop.candidate(9)
    shop.judge(candidate)
    key = shop.store.verdict_key(shop.surface, candidate)
    store = shop.store
    _race(
        [
            lambda: shop.promote(candidate, key),
            lambda: store.rollback("homepage", by="t", reason="r"),
            lambda: store.retire("homepage", keep=3),
            lambda: store.confirm("homepage", by="t", reason="r"),
        ]
    )
    _check(shop, {shop.store.pointer("homepage").release})
