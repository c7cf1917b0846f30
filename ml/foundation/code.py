"""Which code made a thing: hashes of source files and of values, the commit of the checkout, the locked packages."""

import hashlib
import subprocess
import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from packaging.markers import Marker

from ml.foundation.documents import digest
from ml.foundation.settings import PROJECT_ROOT

LOCK = PROJECT_ROOT / "uv.lock"


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


@cache
def locked_packages() -> dict[str, str]:
    """Read from the lock what the runtime needs on this machine, with versions."""
    packages = {package["name"]: package for package in tomllib.loads(LOCK.read_text(encoding="utf-8"))["package"]}
    needed, waiting = set[str](), ["crossfade"]
    while waiting:
        for dependency in packages[waiting.pop()].get("dependencies", ()):
            name = dependency["name"]
            if name not in needed and ("marker" not in dependency or Marker(dependency["marker"]).evaluate()):
                needed.add(name)
                waiting.append(name)
    return {name: packages[name]["version"] for name in sorted(needed)}
