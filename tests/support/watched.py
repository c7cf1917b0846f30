"""A process tree that has no network and may not write into the checkout: whom it calls and what it leaves is recorded.

The kernel takes the network away and refuses the writes, in namespaces of the tree's own; strace records each
connection that any of its processes asks for, whatever language asked.
"""

import ipaddress
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.support.commands import ROOT

ALONE = ["unshare", "--map-root-user", "--net", "--mount", "sh", "-c"]
LOOPBACK = "ip link set lo up && "
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && cd "$0" && '
STRACE = ["strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=connect", "-e", "signal=none", "-o"]
_ADDRESS = re.compile(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"')


@dataclass(frozen=True)
class Watch:
    """What a tree did, in a folder of its own: ``home`` and ``tmp`` are its HOME and TMPDIR."""

    folder: Path

    def prepare(self) -> None:
        for name in ("home", "tmp"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        own = {"HOME": str(self.folder / "home"), "TMPDIR": str(self.folder / "tmp")}
        return {**own, **{f"XDG_{kind}_HOME": "" for kind in ("CACHE", "CONFIG", "DATA", "STATE")}}

    @property
    def seen(self) -> list[str]:
        """What goes before a command, so that its connections are recorded."""
        return [*STRACE, str(self.folder / "connects")]

    @property
    def alone(self) -> list[str]:
        """The same, without a network and with a checkout that is read only."""
        return [*ALONE, f'{LOOPBACK}{READ_ONLY}exec "$@"', str(ROOT), *self.seen]

    def called(self) -> list[str]:
        """The addresses that somebody asked to connect to, each once."""
        lines = (self.folder / "connects").read_text(encoding="utf-8", errors="replace").splitlines()
        found = [address for line in lines for address in _ADDRESS.findall(line)]
        return sorted({four or six for four, six in found})

    def called_others(self) -> list[str]:
        """Those that are not this machine itself."""
        return [address for address in self.called() if not ipaddress.ip_address(address).is_loopback]

    def left(self) -> list[str]:
        """The files that lie in HOME and TMPDIR."""
        folders = (self.folder / name for name in ("home", "tmp"))
        return sorted(
            str(path.relative_to(self.folder)) for root in folders for path in root.rglob("*") if path.is_file()
        )


def watch_of(home: Path) -> Watch:
    """Return the watch of what makes a home, beside it."""
    return Watch(home.with_name(f"{home.name}.watch"))


@cache
def why_not() -> str:
    """Say why a tree cannot be watched here; empty where it can."""
    if lacking := [name for name in ("unshare", "strace", "ip", "mount") if shutil.which(name) is None]:
        return f"{', '.join(lacking)} is not on the PATH"
    if any(name.startswith("COVERAGE_") for name in os.environ):
        return "what is measured is written into the checkout"
    command = [*ALONE, f'{LOOPBACK}{READ_ONLY}exec "$@"', str(ROOT), *STRACE, "/dev/null", "true"]
    done = subprocess.run(command, capture_output=True, text=True)
    return "" if done.returncode == 0 else f"no namespaces or no tracing: {done.stderr.strip()[-200:]}"
