"""Artifacts of candidates that are no kept release go; what a release, a newest candidate or a recovery needs stays."""

import os
import time
from contextlib import suppress
from datetime import date
from pathlib import Path

import pytest

from ml.evaluation.outcome import Outcome
from ml.foundation.artifacts import ArtifactStore
from ml.foundation.files import Bucket
from ml.foundation.sealed import DamagedError
from ml.foundation.settings import EXAMPLES
from ml.operations import spent as housekeeping
from ml.operations.spent import Spent, remove, spent
from ml.releases.recovery import recover
from ml.surfaces.files import load_surface
from tests.support.shop import Shop

OLD = 30.0


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """Five days: 1 was released, 2 was refused, 3 is young, 4 was promoted after all, 5 is the newest."""
    return filled(tmp_path / "artifacts")


def filled(root: Path | Bucket) -> Shop:
    shop = Shop(root, load_surface(EXAMPLES / "simulator" / "surfaces" / "homepage.yaml"), lake="one")
    shop.release(1)
    for day in (2, 3, 4, 5):
        shop.judge(shop.candidate(day), Outcome.FAIL if day == 2 else Outcome.PASS)
        ArtifactStore(root).put("models/homepage/student", f"2026-02-0{day + 1}", {"model": b"weights" * day})
    shop.promote(shop.candidate(4))
    then = time.time() - OLD * 86_400
    if isinstance(root, Path):
        for path in root.glob("models/*/*/2026-02-0[23567]/*"):
            os.utime(path, (then, then))
    return shop


def keys(shop: Shop) -> list[str]:
    assert isinstance(shop.root, Path)
    return sorted(str(path.relative_to(shop.root)) for path in shop.root.rglob("*") if path.is_file())


def test_only_a_refused_candidates_artifacts_and_verdicts_go(shop: Shop) -> None:
    candidate, before = shop.candidate(2), keys(shop)
    [gone] = spent(shop.store, 20)
    assert (gone.surface, gone.partition) == ("homepage", date(2026, 2, 3)) and 29 < gone.age_days < 31
    assert len(gone.artifacts) == 2 and gone.judged == (f"verdicts/homepage/{candidate.digest}",)
    mine = [key for key in before if "2026-02-03" in key or candidate.digest in key]
    sizes = [Path(str(shop.root), key).stat().st_size for key in mine if not key.endswith("latest.json")]
    assert gone.bytes == sum(sizes) > 0
    assert keys(shop) == before, "looking changes nothing"
    remove(shop.store, gone)
    assert keys(shop) == [key for key in before if key not in mine] and not spent(shop.store, 20)
    store = ArtifactStore(shop.root)
    assert store.latest("models/homepage/student", "2026-02-03") is None
    assert "2026-02-03" not in store.partitions("models/homepage/onnx")
    with pytest.raises(DamagedError):
        shop.promote(candidate)


def test_what_is_young_stays_and_the_newest_partition_stays_at_any_age(shop: Shop) -> None:
    assert spent(shop.store, 60) == []
    assert [one.partition.day for one in spent(shop.store, 0)] == [3, 4], "2 and 5 are releases, 6 is the newest"


def test_a_release_whose_folder_was_lost_is_made_again_from_what_stays(shop: Shop) -> None:
    champion = shop.store.champion("homepage")
    assert champion
    shop.store.files.remove_folder(f"releases/homepage/{champion.release.id}")
    for one in spent(shop.store, 0):
        remove(shop.store, one)
    recover(shop.store, "homepage", by="test", reason="lost")
    again = shop.store.champion("homepage")
    assert again and again.release.id == champion.release.id


def test_the_artifacts_of_a_retired_release_go(shop: Shop) -> None:
    for day in range(10, 16):
        shop.release(day)
    retired = shop.store.retire("homepage", keep=3)
    assert retired
    gone = {str(one.partition) for one in spent(shop.store, 0)}
    assert {name[:10] for name in retired} <= gone


@pytest.mark.slow
def test_killed_between_any_two_removals_the_next_call_removes_the_rest(tmp_path: Path) -> None:
    for step in range(5):
        shop = filled(tmp_path / str(step))
        [gone] = spent(shop.store, 20)
        store, candidate = shop.store, gone.judged[0].rsplit("/", 1)[1]
        files, left = store.files, [step]

        def until(key: str, remove=files.remove_folder, left=left) -> None:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            remove(key)

        files.remove_folder = until
        with suppress(KeyboardInterrupt):
            remove(store, gone)
        for one in spent(shop.store, 20):
            remove(shop.store, one)
        rest = [key for key in keys(shop) if "2026-02-03" in key or candidate in key]
        assert not rest, f"killed after {step} removals"


@pytest.mark.slow
def test_a_bucket_is_tidied_alike(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = filled(Bucket(f"{s3}/spent", tmp_path / "cache"))
    later = time.time() + OLD * 86_400
    monkeypatch.setattr(housekeeping.time, "time", lambda: later)
    found: list[Spent] = spent(shop.store, 20)
    assert [one.partition.day for one in found] == [3, 4] and all(one.bytes > 100 for one in found)
    for one in found:
        remove(shop.store, one)
    assert not spent(shop.store, 20)
    assert ArtifactStore(shop.root).partitions("models/homepage/onnx") == ["2026-02-02", "2026-02-05", "2026-02-06"]
