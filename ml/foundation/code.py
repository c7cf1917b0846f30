"""Which code made a thing: hashes of source files and of values, and the commit of the checkout."""

import hashlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ml.foundation.documents import digest
from ml.foundation.settings import PROJECT_ROOT


def code_hash(places: Sequence[str]) -> str:
    """Return a hash of source files, given as files and folders of the project."""
    files: list[Path] = []
    for place in places:
        path = PROJECT_ROOT / place
        files += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return digest([[str(f.relative_to(PROJECT_ROOT)), hashlib.sha256(f.read_bytes()).hexdigest()] for f in files])


def git_commit() -> str | None:
    """Return the commit of the checkout, with ``-dirty`` where it was edited; None outside of git."""
    try:
        command = ["git", "-C", str(PROJECT_ROOT), "describe", "--always", "--abbrev=40", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None
