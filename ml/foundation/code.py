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
def locked_packages(extras: tuple[str, ...] = (), machine: tuple[tuple[str, str], ...] = ()) -> dict[str, str]:
    """Read from the lock what the runtime needs, with versions; with what extras of packages bring.

    Args:
        extras: Extras of Crossfade that are installed too.
        machine: What markers ask of the machine, where it is not this one: ``("sys_platform", "linux")``, ...
    """
    packages = [
        package
        for package in tomllib.loads(LOCK.read_text(encoding="utf-8"))["package"]
        if any(_holds(marker, machine) for marker in package.get("resolution-markers", [""]))
    ]
    found = {package["name"]: package for package in packages}
    needed, waiting = set[tuple[str, str]](), [("crossfade", extra) for extra in ("", *extras)]
    while waiting:
        name, extra = one = waiting.pop()
        if one in needed:
            continue
        needed.add(one)
        asked = found[name].get("optional-dependencies", {})[extra] if extra else found[name].get("dependencies", ())
        for dependency in asked:
            if _holds(dependency.get("marker", ""), machine):
                waiting += [(dependency["name"], of) for of in ("", *dependency.get("extra", ()))]
    return {name: found[name]["version"] for name in sorted({name for name, _ in needed} - {"crossfade"})}


def _holds(marker: str, machine: tuple[tuple[str, str], ...]) -> bool:
    return not marker or Marker(marker).evaluate(dict(machine))
