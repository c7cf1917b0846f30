"""A release store with tiny but real candidates."""

from pathlib import Path

import pytest

from ml.foundation.settings import EXAMPLES
from ml.surfaces.files import load_surface
from tests.support.shop import Shop


def shop_at(root: Path) -> Shop:
    return Shop(root, load_surface(EXAMPLES / "simulator" / "surfaces" / "homepage.yaml"))


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return shop_at(tmp_path / "artifacts")
