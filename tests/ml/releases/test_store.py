import json
import os
from datetime import timedelta

import pytest

from ml.evaluation.outcome import Outcome
from ml.foundation.artifacts import ArtifactStore
from ml.foundation.sealed import DamagedError
from ml.releases import champions
from ml.releases import store as releases
from ml.releases.promotion import Proposal
from ml.releases.refusals import PromotionRefused, Refusal
from ml.releases.verdicts import Override
from tests.support.shop import served_version

SIGNED = Override(by="Ada", reason="the outage costs more")


def _refused(code: Refusal):
    return pytest.raises(PromotionRefused, match=f"^{code}: ")


def test_the_first_candidate_that_passes_becomes_champion_with_a_complete_release(shop) -> None:
    assert shop.store.champion("homepage") is None
    pointer = shop.release(0)
    champion = shop.store.champion("homepage")
    assert champion is not None
    assert (pointer.number, pointer.version, pointer.action) == (1, 1, "promote")
    assert champion.release.id == pointer.release
    assert {p.name for p in champion.release.path.iterdir()} == {
        "model.onnx",
        "config.pbtxt",
        "schema.json",
        "manifest.json",
        "model_card.html",
        "bom.cdx.json",
        "verdict.json",
        "release.json",
    }
    assert champion.release.model.read_bytes() == b"model of 0"
    assert shop.store.pinned_snapshots(["homepage"]) == {100}


def test_promoting_the_champion_again_changes_nothing(shop) -> None:
    pointer = shop.release(0)
    candidate = shop.candidate(0)
    assert shop.promote(candidate) == pointer
    assert len(shop.store.history("homepage")) == 1


def test_a_run_that_makes_the_champion_again_changes_nothing(shop) -> None:
    pointer = shop.release(0)
    again = shop.candidate(0, tamper=lambda manifest: manifest.update(run_ids={"onnx": "another run"}))
    assert again.digest != shop.candidate(0).digest
    shop.judge(again)
    assert shop.promote(again) == pointer
    assert len(shop.store.history("homepage")) == 1
    # Other bytes of that day are another model, and the same bytes of another day another release.
    other = shop.candidate(0, model=b"another model")
    shop.judge(other)
    with _refused(Refusal.NOT_NEWER):
        shop.promote(other)
    next_day = shop.candidate(1, model=b"model of 0")
    shop.judge(next_day)
    assert shop.promote(next_day).number == 2


def test_no_verdict_means_no_promotion(shop) -> None:
    with _refused(Refusal.NO_VERDICT):
        shop.promote(shop.candidate(0))
    assert shop.store.champion("homepage") is None
    assert shop.store.releases("homepage") == []


@pytest.mark.parametrize(
    ("outcome", "code"),
    [(Outcome.FAIL, Refusal.VERDICT_FAILED), (Outcome.INCONCLUSIVE, Refusal.VERDICT_INCONCLUSIVE)],
)
def test_a_verdict_that_does_not_pass_means_no_promotion(shop, outcome: Outcome, code: Refusal) -> None:
    candidate = shop.candidate(0)
    shop.judge(candidate, outcome)
    with _refused(code) as refused:
        shop.promote(candidate)
    assert refused.value.code is code
    assert "guard 3 (quality)" in str(refused.value)


def test_a_later_failure_of_the_same_candidate_outweighs_an_earlier_pass(shop) -> None:
    candidate = shop.candidate(0)
    shop.judge(candidate, Outcome.PASS)
    shop.judge(candidate, Outcome.FAIL)
    with _refused(Refusal.VERDICT_FAILED):
        shop.promote(candidate)


def test_a_verdict_about_other_bytes_is_refused(shop) -> None:
    candidate, other = shop.candidate(0), shop.candidate(0, b"retrained")
    shop.judge(candidate)
    with _refused(Refusal.OTHER_BYTES):
        shop.promote(other, shop.store.verdict_key(shop.surface, candidate))
    with _refused(Refusal.NO_VERDICT):
        shop.promote(other)
    third = shop.candidate(0, b"third")
    shop.judge(third, judged=dict(candidate.files))
    with _refused(Refusal.OTHER_BYTES):
        shop.promote(third)


def test_an_edited_verdict_is_refused(shop) -> None:
    candidate = shop.candidate(0)
    stored = shop.judge(candidate, Outcome.FAIL)
    stored.path.write_text(stored.path.read_text().replace('"fail"', '"pass"'))
    with _refused(Refusal.VERDICT_EDITED):
        shop.promote(candidate)
    with _refused(Refusal.VERDICT_EDITED):
        shop.promote(candidate, override=SIGNED)


def test_a_champion_that_changed_after_the_verdict_supersedes_it(shop) -> None:
    candidate = shop.candidate(5)
    shop.judge(candidate)
    key = shop.store.verdict_key(shop.surface, candidate)
    shop.release(1)
    for asked in (key, None):
        with _refused(Refusal.SUPERSEDED):
            shop.promote(candidate, asked)
    shop.judge(candidate)
    assert shop.promote(candidate).version == 2


def test_a_verdict_by_other_thresholds_is_refused(shop) -> None:
    candidate = shop.candidate(0)
    shop.judge(candidate, key={"gate_digest": "yesterday's"})
    with _refused(Refusal.GATE_CHANGED):
        shop.promote(candidate)


@pytest.mark.parametrize("day", [3, 2])
def test_a_partition_not_newer_than_the_champions_is_refused(shop, day: int) -> None:
    shop.release(3)
    candidate = shop.candidate(day, b"another model")
    shop.judge(candidate)
    with _refused(Refusal.NOT_NEWER):
        shop.promote(candidate)


def test_a_model_that_was_rolled_back_stays_barred_under_any_name(shop) -> None:
    shop.release(0)
    bad = shop.release(1)
    back = shop.store.rollback("homepage", by="test", reason="it skips")
    assert (back.version, back.barred) == (3, (bad.release,))
    same_bytes = shop.candidate(2, b"model of 1")
    shop.judge(same_bytes)
    with _refused(Refusal.BARRED):
        shop.promote(same_bytes)
    with _refused(Refusal.BARRED):
        shop.store.rollback("homepage", to=bad.release, by="test", reason="again")
    assert shop.promote(same_bytes, override=SIGNED).action == "override"


def test_a_damaged_candidate_is_refused(shop) -> None:
    candidate = shop.candidate(0)
    shop.judge(candidate)
    key = shop.store.verdict_key(shop.surface, candidate)
    (candidate.path / "model.onnx").write_bytes(b"swapped")
    with _refused(Refusal.CANDIDATE_DAMAGED):
        shop.promote(candidate, key, override=SIGNED)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"onnx_sha256": "0" * 64}, Refusal.MANIFEST_MISMATCH),
        ({"surface": "radio"}, Refusal.MANIFEST_MISMATCH),
        ({"feature_schema_hash": "0" * 64}, Refusal.SCHEMA_MISMATCH),
    ],
)
def test_a_manifest_about_something_else_is_refused(shop, change, code: Refusal) -> None:
    candidate = shop.candidate(0, tamper=lambda content: content.update(change))
    shop.judge(candidate)
    with _refused(code):
        shop.promote(candidate)


def test_another_partition_snapshot_or_day_than_the_manifests_is_refused(shop) -> None:
    candidate = shop.candidate(0)
    shop.judge(candidate)
    with _refused(Refusal.MANIFEST_MISMATCH):
        shop.promote(candidate, partition=shop.partition(candidate) + timedelta(days=9))
    key = shop.store.verdict_key(shop.surface, candidate)
    with _refused(Refusal.MANIFEST_MISMATCH):
        shop.promote(candidate, key.model_copy(update={"snapshot": 7}))


def test_an_override_needs_a_name_and_a_reason_and_is_recorded_in_the_release(shop) -> None:
    candidate = shop.candidate(0)
    shop.judge(candidate, Outcome.FAIL)
    for unsigned in (Override(by=" ", reason="x"), Override(by="Ada", reason="")):
        with _refused(Refusal.UNNAMED):
            shop.promote(candidate, override=unsigned)
    pointer = shop.promote(candidate, override=SIGNED)
    record = shop.store.release("homepage", pointer.release).record
    assert (pointer.action, pointer.by, pointer.reason) == ("override", "Ada", "the outage costs more")
    assert (record.override, record.overruled) == (SIGNED, ("verdict_failed",))
    card = shop.root / f"releases/homepage/{pointer.release}/model_card.html"
    assert "Promoted against the gate" in card.read_text()


def test_an_override_replaces_no_verdict_and_leaves_no_trace_where_none_is_needed(shop) -> None:
    candidate = shop.candidate(0)
    with _refused(Refusal.NO_VERDICT):
        shop.promote(candidate, override=SIGNED)
    shop.judge(candidate)
    pointer = shop.promote(candidate, override=SIGNED)
    assert pointer.action == "promote"
    assert shop.store.release("homepage", pointer.release).record.override is None


def test_rollback_returns_to_the_previous_good_release_step_by_step(shop) -> None:
    with _refused(Refusal.NO_CHAMPION):
        shop.store.rollback("homepage", by="test", reason="none")
    releases = [shop.release(day).release for day in range(3)]
    with _refused(Refusal.NO_PREVIOUS):
        shop.store.rollback("homepage", to=releases[2], by="test", reason="it serves")
    assert shop.store.rollback("homepage", by="test", reason="1").release == releases[1]
    assert shop.store.rollback("homepage", by="test", reason="2").release == releases[0]
    with _refused(Refusal.NO_PREVIOUS):
        shop.store.rollback("homepage", by="test", reason="3")
    with _refused(Refusal.UNKNOWN_RELEASE):
        shop.store.rollback("homepage", to="never", by="test", reason="4")
    assert [p.version for p in shop.store.history("homepage")] == [1, 2, 3, 4, 5]
    assert shop.release(4).version == 6


def test_rollback_to_a_named_release(shop) -> None:
    releases = [shop.release(day).release for day in range(3)]
    assert shop.store.rollback("homepage", to=releases[0], by="test", reason="x").release == releases[0]
    assert shop.store.barred("homepage") == {releases[2]}


def test_rollback_passes_over_a_damaged_release_and_works_from_a_damaged_champion(shop) -> None:
    releases = [shop.release(day).release for day in range(3)]
    for damaged in releases[1:]:
        (shop.root / f"releases/homepage/{damaged}/model.onnx").write_bytes(b"rot")
    with pytest.raises(DamagedError):
        shop.store.champion("homepage")
    assert shop.store.rollback("homepage", by="test", reason="x").release == releases[0]


def test_a_folder_that_lost_its_record_is_damaged_and_an_absent_one_is_named(shop) -> None:
    pointer, candidate = shop.release(0), shop.candidate(0)
    (shop.root / f"releases/homepage/{pointer.release}/release.json").unlink()
    with pytest.raises(DamagedError, match=r"release\.json is missing"):
        shop.store.release("homepage", pointer.release)
    with pytest.raises(FileNotFoundError, match="no release 'none' of homepage"):
        shop.store.release("homepage", "none")
    (candidate.path / "artifact.json").unlink()
    with pytest.raises(DamagedError, match=r"artifact\.json is missing"):
        ArtifactStore(shop.root).latest("models/homepage/onnx", candidate.partition)


def test_a_note_between_reading_and_writing_does_not_stop_a_promotion(shop, monkeypatch) -> None:
    shop.release(0)
    candidate = shop.candidate(1)
    shop.judge(candidate)
    store = shop.store
    publish = releases.publish

    def publish_while_confirmed(*arguments):
        shop.store.confirm("homepage", by="Ada", reason="looks right")
        return publish(*arguments)

    monkeypatch.setattr(releases, "publish", publish_while_confirmed)
    key = store.verdict_key(shop.surface, candidate)
    pointer = store.promote("homepage", Proposal(candidate, key, shop.partition(candidate), "test", "r"))
    assert (pointer.number, pointer.version) == (3, 2)
    assert store.history("homepage")[-1] == pointer


def test_the_repository_follows_the_pointer_in_triton_layout(shop) -> None:
    folder = shop.root / "repository/homepage"
    shop.release(0)
    for day in (1, 2):
        shop.release(day)
        config = (folder / "config.pbtxt").read_text()
        assert served_version(config) == day + 1
        assert (folder / str(day + 1) / "model.onnx").read_bytes() == f"model of {day}".encode()
    assert sorted(p.name for p in folder.iterdir()) == ["2", "3", "config.pbtxt"]
    assert 'name: "homepage"' in config
    assert "max_batch_size: 0" in config
    shop.store.rollback("homepage", by="test", reason="x")
    assert served_version((folder / "config.pbtxt").read_text()) == 4
    assert (folder / "4/model.onnx").read_bytes() == b"model of 1"


def test_sync_repairs_a_repository_that_was_left_behind_and_repeats_without_writing(shop) -> None:
    assert not shop.store.sync_repository("homepage")
    shop.release(0)
    folder = shop.root / "repository/homepage"
    (folder / "config.pbtxt").unlink()
    (folder / "1/model.onnx").write_bytes(b"half")
    shop.store.sync_repository("homepage")
    assert (folder / "1/model.onnx").read_bytes() == b"model of 0"
    before = [(folder / name).stat().st_mtime_ns for name in ("config.pbtxt", "1")]
    shop.store.sync_repository("homepage")
    assert [(folder / name).stat().st_mtime_ns for name in ("config.pbtxt", "1")] == before


def test_retention_keeps_champion_reference_and_what_a_rollback_needs(shop) -> None:
    with pytest.raises(ValueError, match="at least 3"):
        shop.store.retire("homepage", keep=2)
    assert shop.store.retire("homepage", keep=3) == []
    releases = [shop.release(0).release]
    shop.store.confirm("homepage", by="Ada", reason="checked by hand")
    releases += [shop.release(day).release for day in range(1, 7)]
    assert sorted(shop.store.retire("homepage", keep=3)) == sorted(releases[1:4])
    assert set(shop.store.releases("homepage")) == {releases[0], *releases[4:]}
    assert shop.store.reference("homepage") == releases[0]
    assert shop.store.retire("homepage", keep=3) == []
    with _refused(Refusal.UNKNOWN_RELEASE):
        shop.store.rollback("homepage", to=releases[1], by="test", reason="gone")
    assert shop.store.champion("homepage").release.id == releases[6]


def test_retention_removes_old_orphans_only(shop) -> None:
    shop.release(0)
    for name, age in (("orphan-old", 2 * 86400), ("orphan-new", 0)):
        folder = shop.root / "releases/homepage" / name
        folder.mkdir()
        stamp = folder.stat().st_mtime - age
        os.utime(folder, (stamp, stamp))
    shop.store.retire("homepage", keep=3)
    assert "orphan-new" in shop.store.releases("homepage")
    assert "orphan-old" not in shop.store.releases("homepage")


def test_a_release_is_traceable_to_candidate_and_verdict(shop) -> None:
    candidate = shop.candidate(0)
    stored = shop.judge(candidate)
    release = shop.store.release("homepage", shop.promote(candidate).release)
    assert release.record.candidate == candidate.digest
    assert release.record.verdict_hash == stored.content_hash
    assert release.verdict == stored.verdict
    assert (release.path / "verdict.json").read_bytes() == stored.path.read_bytes()
    assert release.schema["inputs"][0]["name"] == "user_id"
    (release.path / "manifest.json").write_text(json.dumps({"surface": "x"}))
    with pytest.raises(DamagedError):
        shop.store.release("homepage", release.id)


def test_the_first_promotion_is_the_reference_until_a_person_confirms_another(shop) -> None:
    assert shop.store.reference("homepage") is None
    releases = [shop.release(day).release for day in range(3)]
    assert shop.store.reference("homepage") == releases[0]
    shop.store.retire("homepage", keep=3)
    shop.store.confirm("homepage", by="Ada", reason="looked at by hand")
    assert shop.store.reference("homepage") == releases[2]
    shop.store.rollback("homepage", by="Ada", reason="it was not looked at well")
    assert shop.store.reference("homepage") == releases[0], "a barred release is no measure"


def test_a_reference_that_an_earlier_version_deleted_is_followed_by_the_oldest_that_is_left(shop, monkeypatch) -> None:
    monkeypatch.setattr(champions, "_require_kept", lambda entry, state: None)
    releases = [shop.release(day).release for day in range(3)]
    state = shop.store.champions.state("homepage")
    shop.store.champions.note(state, "homepage", "retire", "test", "as before", retired=(releases[0],))
    assert shop.store.reference("homepage") == releases[1]
