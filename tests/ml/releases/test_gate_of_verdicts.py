"""Promotion reads a verdict against this installation's gate: a seal alone makes no verdict."""

from collections.abc import Callable

import pytest

from ml.evaluation.outcome import Outcome
from ml.foundation.files import sha256_bytes
from ml.foundation.sealed import DamagedError, seal, unseal
from ml.releases.refusals import PromotionRefused, Refusal
from ml.releases.verdicts import GuardResult, Override, Verdict

SIGNED = Override(by="Ada", reason="the outage costs more")


def _refused(code: Refusal):
    return pytest.raises(PromotionRefused, match=f"^{code}: ")


def _without(verdict: Verdict, *names: str) -> tuple[GuardResult, ...]:
    return tuple(guard for guard in verdict.guards if guard.name not in names)


def _silent(verdict: Verdict, name: str) -> tuple[GuardResult, ...]:
    told = {"outcome": Outcome.NOT_EVALUATED, "checks": ()}
    return tuple(g.model_copy(update=told) if g.name == name else g for g in verdict.guards)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("guards", "told"),
    [
        (lambda v: (v.guard("rollback"),), "guard 3 (quality) is there 0 times, not once"),
        (lambda v: _without(v, "provenance"), "guard 10 (provenance) is there 0 times, not once"),
        (lambda v: (*v.guards, v.guard("data")), "guard 1 (data) is there 2 times, not once"),
        (lambda v: (*v.guards, v.guard("data").model_copy(update={"name": "mood"})), "guard 1 (mood) is none of"),
        (lambda v: (v.guard("data").model_copy(update={"number": 9}), *_without(v, "data")), "has the number 9"),
        (lambda v: _silent(v, "quality"), "guard 3 (quality) not_evaluated, and measured nothing"),
        (lambda v: _silent(v, "rollback"), "guard 9 (rollback) not_evaluated, and measured nothing"),
        (
            lambda v: (v.guard("data").model_copy(update={"checks": ()}), *_without(v, "data")),
            "guard 1 (data) pass, and measured nothing",
        ),
    ],
)
def test_a_sealed_verdict_must_hold_every_guard_of_this_gate_once_and_what_it_measured(
    shop, guards: Callable[[Verdict], tuple[GuardResult, ...]], told: str
) -> None:
    first = shop.release(0)
    candidate = shop.candidate(1)
    whole = shop.judge(candidate).verdict
    shop.store.verdicts.write(whole.model_copy(update={"guards": guards(whole)}))
    for override in (None, SIGNED):
        with _refused(Refusal.VERDICT_INCOMPLETE) as refused:
            shop.promote(candidate, override=override)
        assert told in str(refused.value)
    assert shop.store.champion("homepage").release.id == first.release


def test_a_guard_that_says_better_than_its_checks_is_no_verdict(shop) -> None:
    candidate = shop.candidate(0)
    failed = shop.judge(candidate, Outcome.FAIL).verdict
    guards = tuple(guard.model_copy(update={"outcome": Outcome.PASS}) for guard in failed.guards)
    with pytest.raises(DamagedError, match="guard quality, its checks say"):
        shop.store.verdicts.write(failed.model_copy(update={"guards": guards, "decision": "pass"}))
    with _refused(Refusal.VERDICT_EDITED):
        shop.promote(candidate)


@pytest.mark.parametrize("name", ["model.onnx", "verdict.json"])
def test_files_exchanged_in_a_release_and_sealed_again_are_not_the_release_of_its_name(shop, name: str) -> None:
    """A champion that was made worse afterwards would let a worse candidate pass beside it."""
    first = shop.release(0)
    folder = shop.root / "releases" / "homepage" / first.release
    other = shop.judge(shop.candidate(1)).path.read_bytes() if name == "verdict.json" else b"a worse model"
    (folder / name).unlink()
    (folder / name).write_bytes(other)
    record, _ = unseal((folder / "release.json").read_bytes(), "release.json")
    files = record["files"] | {name: sha256_bytes(other)}
    (folder / "release.json").unlink()
    (folder / "release.json").write_bytes(seal(record | {"files": files}))
    with pytest.raises(DamagedError, match="exchanged after promotion"):
        shop.store.champion("homepage")
