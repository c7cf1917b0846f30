"""The server follows champion and features: nothing fails or mixes meanwhile, the bad never replaces the good."""

import threading
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from deploy.serving.engine import Engine
from deploy.serving.metrics import Metrics
from deploy.serving.run import serving
from ml.inference.snapshot import current_snapshot
from tests.support.known import the
from tests.support.tiny_home import BROKEN, DAY, Home, rank_body, wait_until


def engine_of(home: Home) -> Engine:
    engine = Engine(home.settings, Metrics())
    engine.refresh()
    return engine


def test_a_log_that_is_not_whole_leaves_what_serves_and_stops_no_other_surface(home: Home) -> None:
    home.publish()
    first, bad = (home.promote("homepage", number).release for number in (1, 2))
    home.promote("radio", 1)
    home.store.rollback("homepage", by="test", reason="it skips")
    engine = engine_of(home)
    (home.settings.home / "artifacts/champion/homepage/000003.json").unlink()
    newer = home.promote("radio", 2).release
    engine.refresh()
    assert {name: item.released.release for name, item in engine.served.items()} == {"homepage": first, "radio": newer}
    restarted = engine_of(home)
    assert set(restarted.served) == {"radio"}, f"{bad} was rolled back"
    assert restarted.not_ready() == ["the champion of homepage is not loaded"]


@pytest.mark.slow
def test_swaps_under_requests_lose_none_and_mix_none(home: Home) -> None:
    """Every answer is from one release: the model writes its number into every score."""
    home.publish()
    numbers = {home.promote("homepage", 1).release: 1}
    answers: list[tuple[int, str, str, set[int]]] = []
    stop = threading.Event()

    def ask(url: str) -> None:
        with httpx.Client(base_url=url, timeout=30) as client:
            while not stop.is_set():
                answer = client.post("/rank", json=rank_body())
                content = answer.json()
                made_by = {
                    int(v // 1000) for item in content["items"] for k, v in item.items() if k in ("score", "ctr")
                }
                answers.append((answer.status_code, content["release"], content["feature_day"], made_by))

    with serving(home.settings, poll_s=0.02) as url:
        threads = [threading.Thread(target=ask, args=(url,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        wait_until(lambda: bool(answers))
        for number in range(2, 6):
            release = home.promote("homepage", number).release
            numbers[release] = number
            wait_until(lambda release=release: answers[-1][1] == release)
            if number == 3:
                home.publish(DAY + timedelta(days=1))
                wait_until(lambda: answers[-1][2] == str(DAY + timedelta(days=1)))
        home.store.rollback("homepage", by="test", reason="test")
        wait_until(lambda: numbers[answers[-1][1]] == 4)
        stop.set()
        for thread in threads:
            thread.join()
        text = httpx.get(f"{url}/metrics").text
    assert all(status == 200 for status, *_ in answers)
    assert all(made_by == {numbers[release]} for _, release, _, made_by in answers)
    assert {numbers[release] for _, release, *_ in answers} == {1, 2, 3, 4, 5}
    assert "crossfade_drained_models_total 5.0" in text


@pytest.mark.slow
@pytest.mark.parametrize("case", BROKEN)
def test_a_champion_that_cannot_be_served_leaves_the_old_one(
    home: Home, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    home.publish()
    first = home.promote("homepage", 1).release
    engine = engine_of(home)
    broken = home.promote("homepage", 2, **BROKEN[case](home, home.surfaces["homepage"])).release
    engine.refresh()
    assert engine.served["homepage"].released.release == first and engine.not_ready() == []
    assert "release not loaded, the old one stays" in caplog.text
    assert b'loads_total{outcome="failed",what="release"} 1.0' in engine.metrics.render()
    engine.refresh()
    assert b'loads_total{outcome="failed",what="release"} 1.0' in engine.metrics.render(), "no pause before the retry"
    home.publish(DAY + timedelta(days=1))
    engine.refresh()
    served = engine.served["homepage"]
    assert served.released.release == first and served.features is not None
    assert served.features.day == DAY + timedelta(days=1), "a bad release must not make features old"
    good = home.promote("homepage", 3).release
    engine.refresh()
    assert engine.served["homepage"].released.release == good != broken


def test_a_changed_release_is_not_loaded(home: Home) -> None:
    home.publish()
    first = home.promote("radio", 1).release
    engine = engine_of(home)
    second = home.promote("radio", 2).release
    model = the(Path, home.settings.artifacts_dir) / "releases" / "radio" / second / "model.onnx"
    model.chmod(0o644)
    model.write_bytes(model.read_bytes() + b"x")
    engine.refresh()
    assert engine.served["radio"].released.release == first


def test_changed_features_leave_the_old_ones(home: Home) -> None:
    home.publish()
    home.promote("radio", 1)
    engine = engine_of(home)
    published = home.publish(DAY + timedelta(days=1))
    file = published / "feat_item.arrow"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    engine.refresh()
    features = engine.served["radio"].features
    assert features is not None and features.day == DAY
    assert current_snapshot(home.settings) == published


def test_a_broken_first_release_does_not_keep_the_other_surface_from_serving(home: Home) -> None:
    home.publish()
    home.promote("homepage", 1, model=b"not a model")
    home.promote("radio", 1)
    engine = engine_of(home)
    assert set(engine.served) == {"radio"}
    assert engine.not_ready() == ["the champion of homepage is not loaded"]


@pytest.mark.slow
def test_many_swaps_keep_memory_flat(home: Home) -> None:
    import psutil

    home.publish()
    home.promote("homepage", 1)
    engine = engine_of(home)
    pointer = home.store.pointer("homepage")
    assert pointer is not None

    def swap(times: int) -> int:
        for _ in range(times):
            engine.served = {}
            engine._refresh_surface(pointer)
        return psutil.Process().memory_info().rss

    before = swap(20)
    assert swap(60) < before + 20 * 2**20
