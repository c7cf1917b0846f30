"""Homes that serve."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from deploy.serving.run import serving
from tests.deploy.serving.tiny_home import Home, tiny_settings


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty home."""
    return Home(tiny_settings(tmp_path / "home"))


@pytest.fixture(scope="module")
def ready_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with features and a champion per surface; tests that share it must not change it."""
    ready = Home(tiny_settings(tmp_path_factory.mktemp("serving") / "home"))
    ready.publish()
    ready.promote("homepage", 1)
    ready.promote("radio", 1)
    return ready


@pytest.fixture(scope="module")
def url(ready_home: Home) -> Iterator[str]:
    """A running server of ``ready_home``."""
    with serving(ready_home.settings, poll_s=0.1) as base:
        yield base


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30) as http:
        yield http
