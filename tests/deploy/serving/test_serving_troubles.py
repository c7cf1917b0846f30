"""What is damaged or gone is told once and shown; what is loaded serves on, and every champion is followed."""

import logging
import shutil
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from deploy.serving.engine import Engine
from deploy.serving.metrics import Metrics
from deploy.serving.run import serving
from tests.support.tiny_home import DAY, Home, rank_body, tiny_settings, wait_until


def first_release(home: Home) -> Path:
    [path] = (home.settings.home / "artifacts/releases/homepage").iterdir()
    return path


def entry(home: Home) -> Path:
    [path] = (home.settings.home / "artifacts/champion/homepage").glob("*.json")
    return path


def pointer(home: Home) -> Path:
    return home.settings.home / "serving/features/current.json"


def features(home: Home) -> Path:
    [path] = (home.settings.home / "serving/features").glob("*/feat_item.arrow")
    return path


def overwrite(path: Path, content: bytes) -> None:
    path.parent.chmod(0o755)
    changed = path.with_name("changed")
    changed.write_bytes(content)
    changed.replace(path)


def remove(path: Path) -> None:
    path.parent.chmod(0o755)
    shutil.rmtree(path) if path.is_dir() else path.unlink()


DAMAGE: dict[str, tuple[Callable[[Home], None], str]] = {
    "champion log is no JSON": (lambda home: overwrite(entry(home), b"{"), "champion of homepage"),
    "champion log is empty": (lambda home: overwrite(entry(home), b""), "champion of homepage"),
    "champion log is gone": (lambda home: remove(entry(home).parent), "champion of homepage"),
    "release is gone": (lambda home: remove(first_release(home)), "release of homepage"),
    "model is cut off": (lambda home: overwrite(first_release(home) / "model.onnx", b""), "release of homepage"),
    "feature pointer is no JSON": (lambda home: overwrite(pointer(home), b"\xff{"), "feature pointer"),
    "feature pointer is a list": (lambda home: overwrite(pointer(home), b"[]"), "feature pointer"),
    "feature pointer names nothing": (lambda home: overwrite(pointer(home), b'{"id": "2026-01-21-0"}'), "features"),
    "feature pointer is gone": (lambda home: remove(pointer(home)), "features"),
    "features are cut off": (lambda home: overwrite(features(home), b""), "features"),
    "features are gone": (lambda home: remove(features(home).parent), "features"),
}


@pytest.mark.parametrize("case", DAMAGE)
@pytest.mark.slow
def test_a_damage_is_told_once_and_stops_nothing_and_is_over_when_mended(
    home: Home, tmp_path: Path, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    damage, about = DAMAGE[case]
    home.publish()
    first = home.promote("homepage", 1).release
    home.promote("radio", 1)
    shutil.copytree(home.settings.home, tmp_path / "whole")
    with serving(home.settings, poll_s=0.01) as url, httpx.Client(base_url=url, timeout=20) as client:
        damage(home)
        wait_until(lambda: about in client.get("/v2/health/ready").json().get("details", {}))
        radio = home.promote("radio", 2).release
        wait_until(lambda: client.post("/rank", json=rank_body("radio")).json()["release"] == radio)
        answer = client.get("/v2/health/ready")
        assert answer.status_code == 200, "what is loaded serves on"
        assert client.post("/rank", json=rank_body()).json()["release"] == first
        assert f'crossfade_trouble{{about="{about}"}} 1.0' in client.get("/metrics").text
        time.sleep(0.2)
        told = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
        assert len(told) == len(set(told)) and answer.json()["details"][about] in told
        for part in ("artifacts/champion/homepage", "artifacts/releases/homepage", "serving"):
            shutil.rmtree(home.settings.home / part, ignore_errors=True)
            shutil.copytree(tmp_path / "whole" / part, home.settings.home / part)
        wait_until(lambda: "details" not in client.get("/v2/health/ready").json())
        second = home.promote("homepage", 2).release
        wait_until(lambda: client.post("/rank", json=rank_body()).json()["release"] == second)


def test_a_new_day_is_followed_after_a_damaged_pointer(home: Home) -> None:
    home.publish()
    home.promote("homepage", 1)
    engine = Engine(home.settings, Metrics())
    engine.refresh()
    overwrite(pointer(home), b"null")
    engine.refresh()
    assert list(engine.details()) == ["feature pointer"]
    home.publish(DAY + timedelta(days=1))
    engine.refresh()
    bound = engine.served["homepage"].features
    assert engine.details() == {} and bound is not None and bound.day == DAY + timedelta(days=1)


def test_without_the_token_ready_names_troubles_but_no_files(home: Home) -> None:
    home.publish()
    home.promote("homepage", 1)
    overwrite(pointer(home), b"[]")
    guarded = tiny_settings(home.settings.home, serve_token="s3cret")
    with serving(guarded) as url:
        anybody, known = (
            httpx.get(f"{url}/v2/health/ready", headers=headers).json()["details"]["feature pointer"]
            for headers in ({}, {"Authorization": "Bearer s3cret"})
        )
    assert anybody == "the log says more" and "feature pointer" in known


@pytest.mark.slow
def test_a_server_that_shall_end_says_so_before_it_closes(ready_home: Home) -> None:
    stop, urls = threading.Event(), []

    def run() -> None:
        with serving(ready_home.settings, drain_s=2) as url:
            urls.append(url)
            stop.wait()

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: bool(urls))
    [url] = urls
    with httpx.Client(base_url=url) as client:
        assert client.get("/v2/health/ready").status_code == 200
        stop.set()
        wait_until(lambda: client.get("/v2/health/ready").status_code == 503)
        assert "about to end" in client.get("/v2/health/ready").json()["error"]
        assert client.get("/v2/health/live").status_code == 200
        answer = client.post("/rank", json=rank_body())
        assert answer.status_code == 200 and answer.headers["connection"] == "close", "the next one goes elsewhere"
    thread.join()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/v2/health/live")
