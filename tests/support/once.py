"""The type of the fixture ``once``."""

from collections.abc import Callable
from pathlib import Path

Once = Callable[[str, Callable[[Path], None]], Path]
"""Makes a folder by name, once for all workers; nobody may change what is in it."""
