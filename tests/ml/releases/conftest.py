"""A release store with tiny but real candidates."""

from pathlib import Path

import pytest

from ml.foundation.settings import EXAMPLES
from ml.surfaces.spec import load_surface
from tests.support.shop import Shop


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "artifacts", load_surface(EXAMPLES / "simulator" / "surfaces" / "homepage.yaml"))
