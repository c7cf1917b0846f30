"""Shared fixtures: homes that are ready for use."""

import os
from pathlib import Path

import pytest

for name in [name for name in os.environ if name.startswith("CROSSFADE_") and name != "CROSSFADE_REQUIRE_BROWSER"]:
    del os.environ[name]
os.environ["GX_ANALYTICS_ENABLED"] = "false"
os.environ["DO_NOT_TRACK"] = "1"
os.environ["DAGSTER_DISABLE_TELEMETRY"] = "1"


@pytest.fixture(scope="session")
def prepared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An initialised home without data."""
    from deploy.home import prepare
    from ml.settings import Settings

    home = tmp_path_factory.mktemp("home") / "prepared"
    prepare(Settings(home=home))
    return home
