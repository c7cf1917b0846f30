"""The store in an object store: a real process that speaks S3 over HTTP, real conditional writes, real kills."""

import json
import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import obstore
import pytest
from obstore.store import from_url

from deploy.serving.run import serving
from ml.foundation.file_stores import open_files
from ml.foundation.files import MAX_AGE_S, Bucket, FileStore, sha256_bytes
from ml.foundation.objects import ObjectFiles
from ml.foundation.sealed import DamagedError
from ml.foundation.settings import PROJECT_ROOT
from ml.foundation.signing import Keyring, UntrustedError, new_key
from ml.releases.recovery import recover
from ml.releases.refusals import PromotionRefused, Refusal
from ml.releases.store import ReleaseStore
from ml.surfaces.files import load_surface
from tests.support.shop import Shop, opens_valid, served_version, synced
from tests.support.tiny_home import Home, rank_body, tiny_settings

pytestmark = pytest.mark.slow

SURFACE = PROJECT_ROOT / "examples" / "simulator" / "surfaces" / "homepage.yaml"


@pytest.fixture
def bucket(s3: str, tmp_path: Path) -> Bucket:
    return Bucket(f"{s3}/{tmp_path.name}", tmp_path / "cache")


@pytest.fixture
def shop(bucket: Bucket) -> Shop:
    return Shop(bucket, load_surface(SURFACE))


@pytest.fixture(params=["folder", "bucket"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> FileStore:
    return open_files(tmp_path / "local" if request.param == "folder" else request.getfixturevalue("bucket"))


def test_a_folder_and_a_bucket_behave_alike(files: FileStore, tmp_path: Path) -> None:
    assert files.create("log/a/000001.json", b"1") and not files.create("log/a/000001.json", b"2")
    assert files.read("log/a/000001.json") == b"1"
    files.replace("log/a/000001.json", b"3")
    files.replace("log/b.txt", b"x")
    assert (files.read("log/a/000001.json"), files.names("log"), files.names("log/a")) == (
        b"3",
        ["a", "b.txt"],
        ["000001.json"],
    )
    (tmp_path / "model").write_bytes(b"model")
    content = {"model.onnx": tmp_path / "model", "record.json": b"{}"}
    assert files.create_folder("releases/x/r1", content) and not files.create_folder("releases/x/r1", {"other": b""})
    assert files.names("releases/x") == ["r1"] and files.names("releases/x/r1") == ["model.onnx", "record.json"]
    assert files.read("releases/x/r1/model.onnx") == b"model"
    assert (files.path("releases/x/r1") / "model.onnx").read_bytes() == b"model"
    assert abs(files.modified("releases/x/r1") - time.time()) < 60
    present = {key: files.exists(key) for key in ("log", "log/b.txt", "releases/x/r1", "releases/x/r1/record.json")}
    assert all(present.values()), present
    assert not any(files.exists(key) for key in ("none", "log/c.txt", "releases/x/r1/none"))
    for absent in ("none", "releases/x/r1/none"):
        with pytest.raises(FileNotFoundError):
            files.read(absent)
    files.remove_folder("releases/x/r1")
    files.remove_folder("releases/x/r1")
    assert files.names("releases/x") == [] and not files.exists("releases/x/r1")
    assert files.create_folder("releases/x/r1", content), "a removed folder may come back"
    files.remove_folder("log")
    assert files.names("log") == []
    files.sweep()
    for key in ("../x", "a//b", ".hidden", "a/../b", ""):
        with pytest.raises(ValueError, match="no valid store key"):
            files.read(key)


def test_releases_live_in_a_bucket_and_triton_finds_the_champion_there(shop: Shop, bucket: Bucket) -> None:
    first, second = shop.release(0), shop.release(1)
    elsewhere = ReleaseStore(Bucket(bucket.url, bucket.cache / "of another machine"))
    champion = elsewhere.champion("homepage")
    assert champion is not None and champion.release.id == second.release
    assert champion.release.verdict.decision == "pass" and champion.release.model.read_bytes() == b"model of 1"
    elsewhere.rollback("homepage", by="test", reason="test")
    champion = shop.store.champion("homepage")
    assert champion is not None and champion.release.id == first.release
    assert elsewhere.barred("homepage") == {second.release}
    plain = from_url(bucket.url)
    config = bytes(obstore.get(plain, "repository/homepage/config.pbtxt").bytes()).decode()
    version = served_version(config)
    model = bytes(obstore.get(plain, f"repository/homepage/{version}/model.onnx").bytes())
    assert version == champion.pointer.version and sha256_bytes(model) == champion.pointer.onnx_sha256
    for day in range(2, 8):
        shop.release(day)
    shop.store.retire("homepage", keep=3)
    assert len(shop.store.releases("homepage")) == 4, "three, and the reference"
    assert len(elsewhere.files.names("repository/homepage")) == 3, "config, the version and the one before"


def test_an_object_that_was_changed_is_refused_and_a_changed_copy_is_fetched_again(shop: Shop, bucket: Bucket) -> None:
    pointer = shop.release(0)
    copy = shop.store.release("homepage", pointer.release).model
    copy.write_bytes(b"rot")
    assert shop.store.release("homepage", pointer.release).model.read_bytes() == b"model of 0"
    plain = from_url(bucket.url)
    key = f"releases/homepage/{pointer.release}.folder"
    parts = json.loads(bytes(obstore.get(plain, key).bytes()))
    obstore.put(plain, parts["model.onnx"]["object"], b"other")
    other = ReleaseStore(Bucket(bucket.url, bucket.cache / "new"))
    with pytest.raises(DamagedError, match="was changed"):
        other.release("homepage", pointer.release)


def test_a_lost_part_and_half_a_folder_are_damage_with_a_name_and_can_be_recovered_from(
    shop: Shop, bucket: Bucket
) -> None:
    pointer, plain = shop.release(0), from_url(bucket.url)
    key = f"releases/homepage/{pointer.release}.folder"
    whole = bytes(obstore.get(plain, key).bytes())
    part = json.loads(whole)["model.onnx"]["object"]
    model = bytes(obstore.get(plain, part).bytes())
    damages = {
        "names no files": lambda: obstore.put(plain, key, whole[: len(whole) // 2]),
        "names no files: Field required": lambda: obstore.put(plain, key, b'{"model.onnx": {}}'),
        "model.onnx is missing": lambda: obstore.delete(plain, part),
        "model.onnx was changed": lambda: obstore.put(plain, part, model[:-1]),
    }
    for n, (told, damage) in enumerate(damages.items()):
        damage()
        other = ReleaseStore(Bucket(bucket.url, bucket.cache / f"machine {n}"))
        with pytest.raises(DamagedError, match=told):
            other.champion("homepage")
        obstore.put(plain, key, whole)
        obstore.put(plain, part, model)
    obstore.put(plain, key, b"half")
    shop.store.files.sweep()
    assert recover(shop.store, "homepage", by="t", reason="r") == [
        f"{pointer.release} was made again from its candidate and verdict"
    ]
    champion = ReleaseStore(Bucket(bucket.url, bucket.cache / "new")).champion("homepage")
    assert champion is not None and champion.release.model.read_bytes() == model


def test_of_eight_promotions_at_once_one_wins(shop: Shop) -> None:
    shop.release(0)
    candidates = [shop.candidate(day) for day in range(1, 9)]
    for candidate in candidates:
        shop.judge(candidate)

    def promote(candidate) -> str:
        try:
            shop.promote(candidate)
        except PromotionRefused as refused:
            return refused.code.value
        return "won"

    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(promote, candidates))
    assert told.count("won") >= 1 and set(told) <= {"won", Refusal.SUPERSEDED, Refusal.NOT_NEWER}
    history = shop.store.history("homepage")
    assert [entry.number for entry in history] == list(range(1, len(history) + 1))
    assert len(history) == 1 + told.count("won"), "a later one may win against the champion that it was judged with"


def churn(bucket: Bucket, first: int) -> None:
    """Promote and roll back until killed."""
    shop, day = Shop(bucket, load_surface(SURFACE)), first
    while True:
        day += 1
        shop.release(day)
        if day % 3 == 0:
            shop.store.rollback("homepage", by="churn", reason="x")


def test_writers_killed_at_random_moments_leave_a_valid_champion_and_no_half_folder(
    shop: Shop, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.release(0)
    context = multiprocessing.get_context("spawn")
    for kill in range(3):
        process = context.Process(target=churn, args=(bucket, 100 * kill))
        before = len(shop.store.history("homepage"))
        process.start()
        end = time.monotonic() + 60
        while len(shop.store.history("homepage")) < before + 2 + kill:
            assert time.monotonic() < end and process.is_alive(), "nothing was promoted"
            time.sleep(0.2)  # a look reads the whole log, from the server that the writer waits for
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert opens_valid(shop.store) is not None
        for release in shop.store.releases("homepage"):
            assert shop.store.release("homepage", release).id == release
        synced(shop.store)
    files = shop.store.files
    assert isinstance(files, ObjectFiles)
    plain = from_url(bucket.url)
    obstore.put(plain, ".parts/killed/model.onnx", b"half")
    files.sweep()
    assert obstore.head(plain, ".parts/killed/model.onnx"), "a writer may still be at it"
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + MAX_AGE_S + 60)
    files.sweep()
    with pytest.raises(FileNotFoundError):
        obstore.head(plain, ".parts/killed/model.onnx")
    assert shop.store.champion("homepage") is not None


def test_a_server_follows_the_champion_in_a_bucket(s3: str, tmp_path: Path) -> None:
    home = Home(tiny_settings(tmp_path / "home", artifacts_url=f"{s3}/served"))
    home.publish()
    first = home.promote("homepage", 1).release
    with serving(home.settings, poll_s=0.05) as url, httpx.Client(base_url=url, timeout=30) as client:
        assert client.post("/rank", json=rank_body()).json()["release"] == first
        second = home.promote("homepage", 2).release
        end = time.monotonic() + 20
        while (told := client.post("/rank", json=rank_body()).json()["release"]) != second:
            assert told == first and time.monotonic() < end
            time.sleep(0.05)
    assert not (home.settings.home / "artifacts").exists()
    assert os.environ["AWS_ENDPOINT_URL"].startswith("http://127.0.0.1")


def test_a_release_in_a_bucket_is_signed_when_it_is_made_and_by_another_key_afterwards(
    shop: Shop, tmp_path: Path
) -> None:
    for name in ("ada", "bea"):
        new_key(tmp_path / f"{name}.pem", tmp_path / name / f"{name}.pub")
    ada, bea = (
        shop.with_keys(Keyring(private_file=tmp_path / f"{n}.pem", trusted=tmp_path / n)) for n in ("ada", "bea")
    )
    made = ada.release(0).release
    with pytest.raises(UntrustedError, match="no trusted key"):
        bea.store.champion("homepage")
    assert len(bea.store.sign("homepage", by="Bea", reason="that key leaked")) == 3
    champion = opens_valid(bea.store)
    assert champion is not None and champion.release.signed.name == "bea"
    synced(bea.store)
    shop.store.files.remove_folder(f"releases/homepage/{made}")
    assert not shop.store.files.exists(f"releases/homepage/{made}/model.sig")
