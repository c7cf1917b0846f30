"""The command line and other processes on a home, as the tests start them."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run_crossfade(
    home: Path, *arguments: str, timeout: float = 120, under: Sequence[str] = (), **environment: str
) -> str:
    """Run the command line in its own process on the test surfaces and return what it printed.

    What goes before the command, such as what watches it, is ``under``.
    """
    command = [*under, sys.executable, "-W", "ignore", "-m", "deploy.cli", *arguments]
    result = subprocess.run(
        command, env=home_environment(home, **environment), cwd=ROOT, capture_output=True, text=True, timeout=timeout
    )
    assert result.returncode == 0, f"{' '.join(arguments)}\n{result.stdout[-3000:]}\n{result.stderr[-5000:]}"
    return result.stdout + result.stderr


def home_environment(home: Path, **more: str) -> dict[str, str]:
    """Return the environment of a process that works on ``home``."""
    return {
        **os.environ,
        "CROSSFADE_HOME": str(home),
        "CROSSFADE_SURFACES_DIR": str(ROOT / "tests" / "surfaces"),
        "CROSSFADE_THREADS": "1",
        "DAGSTER_HOME": str(home / "dagster"),
        "PYTHONPATH": str(ROOT),
        **more,
    }
