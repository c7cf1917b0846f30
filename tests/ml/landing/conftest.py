"""A home whose tables are all optional, and its lake."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from tests.ml.landing.rows import ALL_TABLES, DAY


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, first_day=DAY, optional_tables=ALL_TABLES, max_quarantine_share=1.0, threads=2)


@pytest.fixture
def lake(settings: Settings) -> Iterator[Lake]:
    with Lake(settings) as opened:
        yield opened
