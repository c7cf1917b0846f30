"""The champion log is read whole or not at all, and whoever cannot read it is told the way out."""

import os
import shutil
from pathlib import Path

import pytest

from ml.evaluation.outcome import Outcome
from ml.foundation.artifacts import ArtifactStore
from ml.foundation.sealed import DamagedError, seal, unseal
from ml.releases import retention
from ml.releases import store as releases
from ml.releases.ownership import adopt
from ml.releases.promotion import Proposal
from ml.releases.recovery import recover
from ml.releases.refusals import PromotionRefused, Refusal
from ml.releases.store import ReleaseStore
from ml.releases.verdicts import Override
from tests.support.shop import Shop, killed_movers

BY = {"by": "Ada", "reason": "a disk was lost"}


def entry(shop: Shop, number: int) -> Path:
    assert isinstance(shop.root, Path)
    return shop.root / f"champion/homepage/{number:06d}.json"


def rolled_back(shop: Shop) -> list[str]:
    """Three releases, of which the last was rolled back."""
    names = [shop.release(day).release for day in range(3)]
    shop.store.rollback("homepage", **BY)
    return names


def flip(path: Path, place: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 4
    path.write_bytes(content)


def foreign(path: Path) -> None:
    """An entry that is sealed as it should be, but of another history."""
    content, _ = unseal(path.read_bytes(), path.name)
    path.write_bytes(seal({**content, "barred": [], "reason": "nothing happened"}))


def pipe(path: Path) -> None:
    """What is waited for without end where it is opened."""
    path.unlink()
    os.mkfifo(path)


def device(path: Path) -> None:
    """What is read without end."""
    path.unlink()
    path.symlink_to("/dev/zero")


DAMAGES = {
    "garbage": lambda path: path.write_bytes(b"garbage"),
    "empty": lambda path: path.write_bytes(b""),
    "deep": lambda path: path.write_bytes(b"[" * 100_000),
    "flipped": flip,
    "missing": Path.unlink,
    "sealed anew": foreign,
    "no number": lambda path: path.write_text('{"a": NaN, "content_hash": "x"}'),
    "half a character": lambda path: path.write_text('{"a": "\\ud800", "content_hash": "x"}'),
}


@pytest.mark.slow
@pytest.mark.parametrize(("damage", "number"), [("missing", 1), *((name, n) for name in DAMAGES for n in (3, 4))])
def test_a_log_that_lost_an_entry_refuses_every_move_and_revives_nothing(shop, damage: str, number: int) -> None:
    names = rolled_back(shop)
    assert shop.store.pointer("homepage").release == names[1]
    DAMAGES[damage](entry(shop, number))
    candidate = shop.candidate(9)
    for move in (
        lambda: shop.store.history("homepage"),
        lambda: shop.store.confirm("homepage", **BY),
        lambda: shop.store.rollback("homepage", **BY),
        lambda: shop.store.retire("homepage"),
        lambda: shop.judge(candidate) and shop.promote(candidate),
    ):
        with pytest.raises(DamagedError, match=r"champion/homepage/00000\d"):
            move()
    if number == 4:
        with pytest.raises(DamagedError):
            shop.store.pointer("homepage")
    with pytest.raises(PromotionRefused, match="--to"):
        recover(shop.store, "homepage", **BY)
    done = recover(shop.store, "homepage", to=names[1], **BY)
    assert f"{names[1]} serves" in done[-1]
    assert shop.store.pointer("homepage").release == names[1]
    assert names[2] in shop.store.barred("homepage"), "what the lost entry may have barred"
    assert shop.store.history("homepage")[-1].replaced.keys() >= {number}
    assert recover(shop.store, "homepage", **BY) == []
    assert shop.release(10).version > 5
    if damage != "missing":
        entry(shop, number).write_bytes(b"once more")
        with pytest.raises(DamagedError, match="changed after it was given up"):
            shop.store.history("homepage")


def test_a_log_whose_folder_is_gone_is_not_taken_for_a_surface_without_a_champion(shop) -> None:
    shop.release(0)
    entry(shop, 1).unlink()
    entry(shop, 1).parent.rmdir()
    assert shop.store.surfaces() == ["homepage"]
    with pytest.raises(DamagedError, match=r"000001\.json is missing"):
        shop.release(1)


@pytest.mark.parametrize("name", ["999999.json", "1000000.json", "000007.json"])
def test_a_file_that_is_no_entry_stops_everybody_at_once_and_nobody_for_ever(shop, name: str) -> None:
    shop.release(0)
    stray = entry(shop, 1).with_name(name)
    stray.write_bytes(b"garbage")
    for _ in range(2):
        with pytest.raises(DamagedError, match="not whole"):
            shop.store.confirm("homepage", **BY)
    stray.unlink()
    assert shop.store.confirm("homepage", **BY).number == 2


def test_a_log_of_version_0_1_is_chained_by_its_next_entry(shop) -> None:
    """Entries without a hash of those before them are read; the next one carries the hash of them all."""
    rolled_back(shop)
    for number in range(1, 5):
        content, _ = unseal(entry(shop, number).read_bytes(), "entry")
        for added in ("predecessor", "vacant", "replaced"):
            del content[added]
        entry(shop, number).write_bytes(seal(content))
    (shop.root / "heads/homepage.json").unlink()
    assert shop.store.confirm("homepage", **BY).number == 5
    assert [e.number for e in shop.store.history("homepage")] == [1, 2, 3, 4, 5]
    foreign(entry(shop, 4))
    with pytest.raises(DamagedError, match="is not the entry that champion/homepage/000005"):
        shop.store.barred("homepage")


def test_an_old_entry_of_another_history_cannot_take_the_place_of_a_chained_one(shop) -> None:
    rolled_back(shop)
    content, _ = unseal(entry(shop, 4).read_bytes(), "entry")
    entry(shop, 4).write_bytes(seal({**content, "barred": [], "predecessor": None}))
    with pytest.raises(DamagedError, match="does not carry the hash"):
        shop.store.barred("homepage")


def test_a_damaged_head_is_refused_and_written_again_by_the_entry_that_answers_for_it(shop) -> None:
    name = shop.release(0).release
    head = shop.root / "heads/homepage.json"
    for content in (b"{}", seal({"number": 1, "hash": "other"}), seal({"number": "x"})):
        head.write_bytes(content)
        with pytest.raises(DamagedError, match="not whole"):
            shop.store.history("homepage")
        recover(shop.store, "homepage", to=name, **BY)
        assert shop.store.pointer("homepage").release == name


def test_a_release_that_may_have_been_barred_does_not_serve_after_a_recovery(shop) -> None:
    names = rolled_back(shop)
    entry(shop, 4).unlink()
    for to in ("never", None):
        with pytest.raises(PromotionRefused) as refused:
            recover(shop.store, "homepage", to=to, **BY)
        assert refused.value.code is Refusal.UNKNOWN_RELEASE
    # Somebody who knows that it was not rolled back may say so, by name.
    recover(shop.store, "homepage", to=names[2], **BY)
    assert shop.store.pointer("homepage").release == names[2]


def lose(shop: Shop, release: str) -> None:
    ReleaseStore(shop.root).files.remove_folder(f"releases/homepage/{release}")


@pytest.mark.parametrize("signed", [None, Override(by="Bo", reason="the outage costs more")])
def test_a_lost_champion_is_made_again_from_its_candidate_and_verdict(shop, signed: Override | None) -> None:
    candidate = shop.candidate(0)
    shop.judge(candidate, Outcome.FAIL if signed else Outcome.PASS)
    release = shop.promote(candidate, override=signed).release
    before = shop.store.release("homepage", release)
    lose(shop, release)
    with pytest.raises(DamagedError, match="crossfade release recover homepage"):
        shop.store.champion("homepage")
    assert recover(shop.store, "homepage", **BY) == [f"{release} was made again from its candidate and verdict"]
    champion = shop.store.champion("homepage")
    assert champion.release.manifest == before.manifest and champion.release.verdict == before.verdict
    assert champion.release.record.override == signed


def without_candidates(shop: Shop) -> None:
    artifacts = ArtifactStore(shop.root)
    for partition in artifacts.files.names("models/homepage/onnx"):
        artifacts.files.remove_folder(f"models/homepage/onnx/{partition}")


def test_a_lost_champion_that_cannot_be_made_again_is_rolled_back_or_gives_up_its_place(shop) -> None:
    first, second = (shop.release(day).release for day in range(2))
    without_candidates(shop)
    lose(shop, second)
    assert "rolled back to" in recover(shop.store, "homepage", **BY)[0]
    assert shop.store.champion("homepage").release.id == first
    lose(shop, first)
    assert "has no champion" in recover(shop.store, "homepage", **BY)[0]
    assert shop.store.champion("homepage") is None and shop.store.surfaces() == ["homepage"]
    candidate = shop.candidate(0, b"trained again")
    shop.judge(candidate)
    assert shop.store.verdict_key(shop.surface, candidate).champion is None
    again = shop.promote(candidate)
    assert shop.store.champion("homepage").release.id == again.release
    assert second in shop.store.barred("homepage")


def test_lost_reference_challenger_and_bystander_stop_nobody(shop) -> None:
    names = [shop.release(0).release]
    shop.store.confirm("homepage", **BY)
    names += [shop.release(day).release for day in (1, 2)]
    without_candidates(shop)
    lose(shop, names[0])
    (shop.root / f"releases/homepage/{names[1]}/model.onnx").write_bytes(b"rot")
    with pytest.raises(DamagedError):
        shop.store.pinned_snapshots(["homepage"])
    done = recover(shop.store, "homepage", **BY)
    assert len(done) == 2
    assert shop.store.reference("homepage") == shop.store.pointer("homepage").release == names[2]
    assert shop.store.pinned_snapshots(["homepage"]) == {102}
    assert recover(shop.store, "homepage", **BY) == []


def test_a_retirement_between_publishing_and_pointing_refuses_the_promotion(shop, monkeypatch) -> None:
    """The release lies there from an attempt that was killed, old enough for a retirement to take it away."""
    shop.release(0)
    candidate = shop.candidate(1)
    stored = shop.judge(candidate)
    monkeypatch.setattr(retention, "_ORPHAN_AGE_S", -1.0)
    publish = releases.publish

    def publish_while_tidied(*arguments):
        release = publish(*arguments)
        assert shop.store.retire("homepage", keep=3) == [release]
        return release

    monkeypatch.setattr(releases, "publish", publish_while_tidied)
    with pytest.raises(PromotionRefused) as refused:
        shop.promote(candidate)
    assert refused.value.code is Refusal.RETIRED
    assert shop.store.champion("homepage").release.id == shop.store.pointer("homepage").release
    monkeypatch.undo()
    with pytest.raises(PromotionRefused) as refused:
        shop.promote(candidate)
    assert refused.value.code is Refusal.RETIRED, "its files may go at any moment"
    assert shop.judge(candidate).content_hash != stored.content_hash
    assert shop.promote(candidate).number == 3


def test_a_retirement_gives_up_no_release_that_was_made_a_challenger_meanwhile(shop, monkeypatch) -> None:
    shop.release(0)
    candidate = shop.candidate(1)
    shop.judge(candidate)
    monkeypatch.setattr(retention, "_ORPHAN_AGE_S", -1.0)
    published = publish_only(shop, candidate, monkeypatch)
    note, challenged = shop.store.champions.note, []

    def note_while_challenged(self, state, surface, action, *arguments, **options):
        if action == "retire" and not challenged:
            challenged.append(challenge(shop, candidate))
        return note.__func__(self, state, surface, action, *arguments, **options)

    monkeypatch.setattr(type(shop.store.champions), "note", note_while_challenged)
    assert shop.store.retire("homepage", keep=3) == []
    assert challenged[0].challenger.release == published
    assert shop.store.release("homepage", published).id == published


def challenge(shop: Shop, candidate):
    key = shop.store.verdict_key(shop.surface, candidate)
    asked = Proposal(candidate, key, shop.partition(candidate), "test", "r")
    return shop.store.challenge("homepage", asked, mode="shadow", share=1)


def publish_only(shop: Shop, candidate, monkeypatch) -> str:
    """Publish a release as a promotion that is killed before it moves the pointer."""
    published: list[str] = []
    publish = releases.publish

    def killed(*arguments):
        published.append(publish(*arguments))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(releases, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            shop.promote(candidate)
    return published[0]


def test_artifacts_belong_to_the_lake_that_used_them_first(shop) -> None:
    here = shop.of_lake("this lake")
    release = here.release(0).release
    machine = shop.of_lake("this lake")
    machine.release(1)
    there = shop.of_lake("another lake")
    candidate = there.candidate(2)
    there.judge(candidate)
    for move in (
        lambda: there.promote(candidate),
        lambda: there.store.rollback("homepage", **BY),
        lambda: there.store.confirm("homepage", **BY),
        lambda: there.store.retire("homepage"),
        lambda: recover(there.store, "homepage", **BY),
        lambda: challenge(there, candidate),
        lambda: shop.store.rollback("homepage", **BY),
    ):
        with pytest.raises(PromotionRefused) as refused:
            move()
        assert refused.value.code is Refusal.OTHER_LAKE
    assert there.store.champion("homepage").release.id != release, "who reads is asked for no lake"
    owner = adopt(shop.store.files, "another lake", by="Ada")
    assert (owner.lake, owner.before) == ("another lake", ("this lake",))
    assert there.promote(candidate).number == 3
    with pytest.raises(PromotionRefused, match="crossfade release adopt"):
        here.release(3)


@pytest.mark.slow
def test_movers_and_tidiers_killed_at_random_instants_never_point_to_a_removed_folder(shop) -> None:
    killed_movers(shop, 6)


def endless(path: Path) -> None:
    """What no memory holds."""
    os.truncate(path, 2**40)


@pytest.mark.slow
@pytest.mark.parametrize("place", [pipe, device, endless], ids=lambda place: place.__name__)
@pytest.mark.parametrize("number", [1, 2])
def test_what_is_no_file_in_place_of_an_entry_is_told_at_once(shop, place, number: int) -> None:
    names = [shop.release(day).release for day in range(2)]
    place(entry(shop, number))
    for look in (shop.store.history, shop.store.retire):
        with pytest.raises(DamagedError, match=rf"champion/homepage/00000{number}\.json is .*; move it away"):
            look("homepage")
    entry(shop, number).unlink()
    recover(shop.store, "homepage", to=names[1], **BY)
    assert shop.store.champion("homepage").release.id == names[1]


@pytest.mark.parametrize("place", [pipe, device], ids=lambda place: place.__name__)
@pytest.mark.parametrize("name", ["release.json", "model.sig", "model.onnx"])
def test_a_release_in_which_something_is_no_file_is_damaged_at_once(shop, place, name: str) -> None:
    release = shop.root / "releases/homepage" / shop.release(0).release
    (release / name).touch()
    place(release / name)
    with pytest.raises(DamagedError, match=name.replace(".", r"\.")):
        shop.store.champion("homepage")


def test_a_record_that_names_less_than_a_release_holds_is_damaged(shop) -> None:
    path = shop.root / "releases/homepage" / shop.release(0).release / "release.json"
    content, _ = unseal(path.read_bytes(), "")
    path.write_bytes(seal({**content, "files": {}}))
    with pytest.raises(DamagedError, match=r"release\.json names no model\.onnx"):
        shop.store.champion("homepage")


def test_a_file_beside_verdicts_that_is_none_is_told_by_its_name(shop) -> None:
    shop.release(0)
    candidate = shop.candidate(1)
    verdict = shop.judge(candidate)
    verdict.path.with_name("note.txt").touch()
    with pytest.raises(DamagedError, match=r"note\.txt is no document of this folder; move it away"):
        shop.judge(candidate)


def test_a_log_that_was_copied_from_another_surface_moves_nobody(shop) -> None:
    rolled_back(shop)
    for name in ("champion", "heads", "releases"):
        for path in (shop.root / name).glob("homepage*"):
            copy = path.with_name(path.name.replace("homepage", "radio"))
            shutil.copytree(path, copy) if path.is_dir() else shutil.copy(path, copy)
    with pytest.raises(DamagedError, match="homepage"):
        shop.store.champion("radio")
    with pytest.raises(DamagedError, match="homepage"):
        shop.store.rollback("radio", **BY)
    assert shop.store.champion("homepage") is not None
