"""Where a key is set, what no trusted key signed is neither promoted, served, nor rolled back to."""

import json
import multiprocessing
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from deploy.serving.engine import Engine
from deploy.serving.metrics import Metrics
from ml.evaluation.outcome import Outcome
from ml.foundation.files import sha256_bytes
from ml.foundation.sealed import DamagedError, seal, unseal
from ml.foundation.settings import Settings
from ml.foundation.signing import Keyring, UntrustedError, UnusableKey, new_key
from ml.operations.release_page import entries, standing
from ml.operations.reproduce import NotReproducible, reproduce
from ml.releases.champions import _after
from ml.releases.refusals import PromotionRefused, Refusal
from ml.releases.release import Release
from ml.releases.verdicts import Override
from tests.support.shop import Shop

BY = {"by": "Ada", "reason": "the keys came"}
AGAINST = Override(by="Ada", reason="we know better")


@pytest.fixture
def trusted(tmp_path: Path) -> Path:
    return tmp_path / "trusted"


@pytest.fixture
def signed(shop: Shop, tmp_path: Path, trusted: Path) -> Shop:
    """A shop with a key."""
    new_key(tmp_path / "ada.pem", trusted / "ada.pub")
    return shop.with_keys(Keyring(private_file=tmp_path / "ada.pem", trusted=trusted))


def stranger(shop: Shop, tmp_path: Path) -> Shop:
    """The same folder in the hands of somebody whose key nobody trusts."""
    new_key(tmp_path / "eve.pem", tmp_path / "eve.pub")
    return shop.with_keys(Keyring(private_file=tmp_path / "eve.pem"))


def served(shop: Shop) -> Release:
    """The champion."""
    found = shop.store.champion("homepage")
    assert found is not None
    return found.release


def _root(shop: Shop) -> Path:
    assert isinstance(shop.root, Path)
    return shop.root


def _refused(shop: Shop, candidate, told: str) -> None:
    before = shop.with_keys(None).store.pointer("homepage")
    for override in (None, AGAINST):
        with pytest.raises(PromotionRefused, match=f"^{Refusal.UNTRUSTED}: .*{told}.*Judge again"):
            shop.promote(candidate, override=override)
    assert shop.with_keys(None).store.pointer("homepage") == before


def test_a_verdict_whose_every_hash_was_made_again_is_refused(signed: Shop) -> None:
    """Without a key it is promoted: nothing in it is wrong but who wrote it."""
    signed.release(0)
    candidate = signed.candidate(1)
    signed.judge(candidate, Outcome.FAIL)
    unsigned = signed.with_keys(None)
    unsigned.judge(candidate, Outcome.PASS)
    _refused(signed, candidate, "unsigned")
    signed.judge(candidate, Outcome.PASS)
    release = signed.promote(candidate).release
    assert served(signed).id == release


def test_a_verdict_without_its_signature_or_with_that_of_another_is_refused(signed: Shop, tmp_path: Path) -> None:
    signed.release(0)
    first, second = (signed.candidate(day) for day in (1, 2))
    failed, other = signed.judge(first, Outcome.FAIL), signed.judge(second)
    passed = signed.judge(first)
    whole = passed.path.read_bytes()
    content = json.loads(whole)
    passed.path.write_text(json.dumps({key: value for key, value in content.items() if key != "signature"}))
    _refused(signed, first, "unsigned")
    foreign = json.loads(other.path.read_bytes())["signature"]
    passed.path.write_text(json.dumps({**content, "signature": foreign}))
    _refused(signed, first, "is not of this content")
    passed.path.write_bytes(whole)
    later = signed.judge(first, Outcome.FAIL)
    later.path.write_bytes(whole)  # an earlier verdict in the place of the one that holds
    _refused(signed, first, "is not of this content")
    later.path.unlink()
    stranger(signed, tmp_path).store.verdicts.write(passed.verdict)
    _refused(signed, first, "no trusted key")
    assert not failed.signed.fault


def _rewritten(shop: Shop, changes: dict[int, dict], entries: int) -> None:
    """Write the log anew with changed entries, as whoever can write to the folder can: every hash and seal fits."""
    folder, head = _root(shop) / "champion/homepage", _root(shop) / "heads/homepage.json"
    running, sign = "", shop.store.keys.sign_document
    for number in range(1, entries + 1):
        path = folder / f"{number:06d}.json"
        content, _ = unseal(path.read_bytes(), path.name)
        content |= {"predecessor": running or None, **changes.get(number, {})}
        path.write_bytes(seal(content, lambda h, n=number: sign(f"champion/homepage/{n:06d}.json", h)))
        running = _after(running, sha256_bytes(path.read_bytes()))
    for path in folder.iterdir():
        if int(path.stem) > entries:
            path.unlink()
    head.write_bytes(seal({"number": entries, "hash": running}, lambda h: sign("heads/homepage.json", h)))


def _stripped(shop: Shop) -> None:
    """Every signature is gone, and all else is as it was."""
    _rewritten(shop.with_keys(None), {}, 4)


def _end_lost(shop: Shop) -> None:
    """The rollback is gone, and the head says that it never was."""
    folder, head = _root(shop) / "champion/homepage", _root(shop) / "heads/homepage.json"
    last, _ = unseal((folder / "000004.json").read_bytes(), "")
    (folder / "000004.json").unlink()
    head.write_bytes(seal({"number": 3, "hash": last["predecessor"]}))


def _head_gone(shop: Shop) -> None:
    (_root(shop) / "champion/homepage/000004.json").unlink()
    (_root(shop) / "heads/homepage.json").unlink()


def _swapped(shop: Shop) -> None:
    folder = _root(shop) / "champion/homepage"
    two, three = (folder / f"{number:06d}.json" for number in (2, 3))
    contents = two.read_bytes(), three.read_bytes()
    two.write_bytes(contents[1])
    three.write_bytes(contents[0])


LOGS: dict[str, Callable[[Shop], None]] = {
    "stripped": _stripped,
    "the end lost": _end_lost,
    "the head gone": _head_gone,
    "swapped": _swapped,
    "no rollback": lambda shop: _rewritten(shop.with_keys(None), {4: {"barred": []}}, 4),
    "missing": lambda shop: (_root(shop) / "champion/homepage/000002.json").unlink(),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", [*LOGS, "signed by another"])
def test_a_log_that_somebody_wrote_again_moves_and_serves_nothing(signed: Shop, tmp_path: Path, change: str) -> None:
    for day in range(3):
        signed.release(day)
    signed.store.rollback("homepage", by="Ada", reason="clicks fell")
    before = served(signed).id
    candidate = signed.candidate(9)
    signed.judge(candidate)
    attack = LOGS.get(change) or (lambda shop: _rewritten(stranger(shop, tmp_path), {4: {"barred": []}}, 4))
    engine = Engine(Settings(home=tmp_path), Metrics(), store=signed.store)
    attack(signed)
    for act in (
        lambda: signed.promote(candidate),
        lambda: signed.store.rollback("homepage", by="Ada", reason="back"),
        lambda: signed.store.champion("homepage"),
        lambda: signed.store.sync_repository("homepage"),
    ):
        with pytest.raises(DamagedError, match=r"release sign homepage|release recover homepage"):
            act()
    engine.refresh()
    assert engine.not_ready() and not engine.served
    assert "champion log of homepage is not" in engine.details()["champion of homepage"]
    if change in ("stripped", "no rollback"):  # it is whole: without a key nobody sees it
        assert served(signed.with_keys(None)).id == before
        assert {row["signature"] for row in entries(signed.store, "homepage")} == {"unsigned"}


def test_a_release_that_was_changed_or_lost_its_signature_is_not_served(signed: Shop, tmp_path: Path) -> None:
    first, second = signed.release(0), signed.release(1)
    folder = _root(signed) / "releases/homepage" / second.release
    assert {"model.sig", "model_card.html"} <= {path.name for path in folder.iterdir()}
    assert standing(signed.store, served(signed))["signature"].startswith("signed by ada")
    kept = shutil.copytree(folder, tmp_path / "kept")

    def card() -> None:
        """The record of its files fits, and the model is the same: but nobody signed this card."""
        (folder / "model_card.html").write_text("all is well")
        content, _ = unseal((folder / "release.json").read_bytes(), "")
        content["files"]["model_card.html"] = sha256_bytes(b"all is well")
        (folder / "release.json").write_bytes(seal(content))

    def other() -> None:
        shutil.copy(folder.with_name(first.release) / "model.sig", folder / "model.sig")

    for attack in (card, other, (folder / "model.sig").unlink):
        attack()
        for act in (lambda: signed.store.champion("homepage"), lambda: signed.store.sync_repository("homepage")):
            with pytest.raises(UntrustedError, match=f"{second.release}.*release sign homepage"):
                act()
        assert signed.store.release("homepage", second.release).signed.fault
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
    assert served(signed).id == second.release
    (folder.with_name(first.release) / "model.sig").unlink()
    with pytest.raises(PromotionRefused, match=Refusal.NO_PREVIOUS):
        signed.store.rollback("homepage", by="Ada", reason="back")
    with pytest.raises(PromotionRefused, match="unsigned"):
        signed.store.rollback("homepage", by="Ada", reason="back", to=first.release)


def test_what_was_made_before_there_was_a_key_counts_once_somebody_signed_it(
    shop: Shop, signed: Shop, tmp_path: Path, trusted: Path
) -> None:
    releases = [shop.release(day).release for day in range(2)]
    assert served(shop).signed.fault == "unsigned"
    candidate, home = signed.candidate(5), Settings(home=tmp_path, trusted_keys=trusted)
    with pytest.raises(UntrustedError, match="unsigned"):
        reproduce(home, served(shop))
    for act in (lambda: signed.judge(candidate), lambda: signed.store.rollback("homepage", **BY)):
        with pytest.raises(UntrustedError, match=r"unsigned.*release sign homepage"):
            act()
    with pytest.raises(PromotionRefused, match=Refusal.UNNAMED):
        signed.store.sign("homepage", by=" ", reason="x")
    with pytest.raises(UnusableKey):
        shop.store.sign("homepage", **BY)
    done = signed.store.sign("homepage", **BY)
    assert [f"releases/homepage/{name} was unsigned" in done for name in releases] == [True, True]
    assert "champion/homepage/000001.json was unsigned" in done and signed.store.sign("homepage", **BY) == []
    assert served(signed).id == releases[1]
    assert [entry.action for entry in signed.store.history("homepage")] == ["promote", "promote", "sign"]
    with pytest.raises(NotReproducible, match="checkpoint"):
        reproduce(home, served(signed))
    signed.judge(candidate)
    assert signed.promote(candidate).number == 4 and served(signed).record.signing_key == signed.store.keys.signer
    assert signed.store.rollback("homepage", to=releases[0], **BY).release == releases[0]
    path = _root(signed) / "champion/homepage/000001.json"
    content, _ = unseal(path.read_bytes(), "")
    path.write_bytes(seal({**content, "by": "Eve"}))
    with pytest.raises(DamagedError, match="000001"):
        signed.store.champion("homepage")


def test_another_key_takes_over_and_one_that_leaked_counts_no_more(signed: Shop, tmp_path: Path, trusted: Path) -> None:
    old = signed.release(0).release
    new_key(tmp_path / "bea.pem", trusted / "bea.pub")
    both = signed.with_keys(Keyring(private_file=tmp_path / "bea.pem", trusted=trusted))
    new = both.release(1).release
    assert both.store.rollback("homepage", **BY).release == old, "both are trusted"
    (trusted / "ada.pub").unlink()
    without = signed.with_keys(Keyring(private_file=tmp_path / "bea.pem", trusted=trusted))
    with pytest.raises(UntrustedError, match=r"000001.json: signed by .* which is no trusted key"):
        without.store.champion("homepage")
    with pytest.raises(UnusableKey, match="is not among those of"):
        signed.with_keys(Keyring(private_file=tmp_path / "ada.pem", trusted=trusted)).store.sign("homepage", **BY)
    done = without.store.sign("homepage", by="Bea", reason="looked at each entry")
    assert any(f"releases/homepage/{old} was signed by" in told for told in done)
    assert not any(new in told for told in done), "it is barred: nobody needs it"
    assert served(without).id == old
    without.release(4)


def test_a_store_that_only_reads_serves_and_moves_nothing(signed: Shop, trusted: Path) -> None:
    release = signed.release(0).release
    reader = signed.with_keys(Keyring(trusted=trusted))
    assert served(reader).id == release
    for act in (lambda: reader.judge(reader.candidate(1)), lambda: reader.store.confirm("homepage", **BY)):
        with pytest.raises(UnusableKey, match="nothing can be signed here"):
            act()
    assert len(reader.store.history("homepage")) == 1


def _move(shop: Shop, day: int) -> None:
    with suppress(PromotionRefused):
        shop.release(day)


@pytest.mark.slow
def test_movers_at_once_leave_a_log_that_is_signed_throughout(signed: Shop) -> None:
    context = multiprocessing.get_context("fork")
    movers = [context.Process(target=_move, args=(signed, day)) for day in range(4)]
    for mover in movers:
        mover.start()
    for mover in movers:
        mover.join()
    state = signed.store.champions.state("homepage")
    assert state.entries and state.untrusted == {}
    assert signed.store.champion("homepage") is not None
