"""The project as an image has it: its copied files alone, installed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.image import Installed, install


@pytest.fixture(scope="session")
def image(once: Callable[[str, Callable[[Path], None]], Path]) -> Installed:
    """What ``deploy/Dockerfile`` makes of this checkout, but for the packages of the lock."""
    folder = once("image", install)
    return Installed(folder / "crossfade", folder / "venv" / "bin")
