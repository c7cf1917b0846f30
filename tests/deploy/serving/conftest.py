"""Homes that serve."""

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from deploy.serving.run import serving
from tests.support.tiny_home import DAY, Home, tiny_settings


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The feature snapshots after one and after two published days, by last day."""
    folder = tmp_path_factory.mktemp("published")
    home = Home(tiny_settings(folder / "home"))
    for day in (DAY, DAY + timedelta(days=1)):
        home.publish(day)
        shutil.copytree(home.settings.home / "serving", folder / str(day))
    return folder


@pytest.fixture
def home(tmp_path: Path, published: Path) -> Home:
    """A home that holds nothing yet."""
    return Home(tiny_settings(tmp_path / "home"), published)


@pytest.fixture(scope="session")
def ready_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with features and a champion per surface; tests that share it must not change it."""
    ready = Home(tiny_settings(tmp_path_factory.mktemp("serving") / "home"))
    ready.publish()
    ready.promote("homepage", 1)
    ready.promote("radio", 1)
    return ready


@pytest.fixture(scope="session")
def url(ready_home: Home) -> Iterator[str]:
    """A running server of ``ready_home``."""
    with serving(ready_home.settings, poll_s=0.1) as base:
        yield base


@pytest.fixture(scope="session")
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30) as http:
        yield http
