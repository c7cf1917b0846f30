"""Shared fixtures: homes that are ready for use."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

for name in [name for name in os.environ if name.startswith("CROSSFADE_")]:
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


@pytest.fixture(scope="session")
def tiny_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which the command `crossfade demo` ran to its end on the tiny world."""
    home = tmp_path_factory.mktemp("demo") / "home"
    run_crossfade(home, "demo", "--preset", "tiny", timeout=600)
    return home


def run_crossfade(home: Path, *arguments: str, timeout: float = 120, **environment: str) -> str:
    """Run the command line in its own process on the test surfaces and return what it printed."""
    command = [sys.executable, "-W", "ignore", "-m", "deploy.cli", *arguments]
    result = subprocess.run(
        command, env=home_environment(home, **environment), cwd=ROOT, capture_output=True, text=True, timeout=timeout
    )
    assert result.returncode == 0, f"{' '.join(arguments)}\n{result.stdout[-3000:]}\n{result.stderr[-5000:]}"
    return result.stdout + result.stderr


@pytest.fixture(scope="session")
def run_command() -> Callable[..., str]:
    """The function ``run_crossfade``."""
    return run_crossfade


def home_environment(home: Path, **more: str) -> dict[str, str]:
    """Return the environment of a process that works on ``home``."""
    return {
        **os.environ,
        "CROSSFADE_HOME": str(home),
        "CROSSFADE_SURFACES_DIR": str(ROOT / "tests" / "surfaces"),
        "DAGSTER_HOME": str(home / "dagster"),
        "PYTHONPATH": str(ROOT),
        **more,
    }
