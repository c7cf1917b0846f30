"""A home whose tables are all optional, and its lake."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.landing.load import init_tables
from tests.ml.landing.rows import ALL_TABLES, DAY


@pytest.fixture(scope="session")
def born(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose landing tables are empty: a copy is there in a third of the time that making one takes."""
    home = tmp_path_factory.mktemp("born")
    with Lake(Settings(home=home, threads=2)) as lake:
        init_tables(lake)
    return home


@pytest.fixture
def home(tmp_path: Path, born: Path) -> Path:
    """One of a test's own, beside whatever else is in its folder."""
    return shutil.copytree(born, tmp_path / "home")


@pytest.fixture
def settings(tmp_path: Path, born: Path) -> Settings:
    shutil.copytree(born, tmp_path, dirs_exist_ok=True)
    return Settings(home=tmp_path, first_day=DAY, optional_tables=ALL_TABLES, max_quarantine_share=1.0, threads=2)


@pytest.fixture
def lake(settings: Settings) -> Iterator[Lake]:
    with Lake(settings) as opened:
        yield opened
