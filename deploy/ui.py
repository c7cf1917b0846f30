"""``dagster dev`` with our webserver: ``python -m deploy.ui`` takes its arguments; `crossfade ui` runs it."""

import subprocess
from collections.abc import Sequence
from typing import Any

from dagster._cli import dev

_launch = dev.open_ipc_subprocess  # pyright: ignore[reportPrivateImportUsage]


def _with_our_webserver(command: Sequence[str], **options: Any) -> "subprocess.Popen[bytes]":
    """Start a process of `dagster dev`; it has no option for another webserver."""
    return _launch(["deploy.webserver" if word == "dagster_webserver" else word for word in command], **options)


def main() -> None:
    """Run the webserver and the daemon until interrupted."""
    dev.open_ipc_subprocess = _with_our_webserver  # pyright: ignore[reportPrivateImportUsage]
    dev.dev_command(auto_envvar_prefix="DAGSTER_CLI_DEV")  # as `dagster dev` reads its environment


if __name__ == "__main__":
    main()
