"""What commands share: settings, surfaces, arguments, tables."""

import errno
import getpass
import os
import socket
from datetime import date
from typing import Annotated

import typer

from deploy.cli.terminal import collect_tables
from ml.foundation.settings import Settings
from ml.surfaces import spec
from ml.surfaces.files import load_surfaces

Surface = Annotated[str, typer.Argument(help="Name of the surface, such as homepage.")]
Release = Annotated[str, typer.Argument(help="Id of a release, or a surface for its champion.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TablesAsJson = Annotated[
    bool, typer.Option("--json", callback=collect_tables, help="Print the tables as JSON, by their titles.")
]
Reason = Annotated[str, typer.Option(help="Why; kept in the history.")]
Partition = Annotated[str, typer.Option(help="Day of the candidate.")]


def _login() -> str:
    """Return who is logged in; a container may know nobody."""
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:
        raise ValueError("nobody is logged in here: say who it is with --by NAME") from error


By = Annotated[str, typer.Option(help="Who; default is the login name.", default_factory=_login, show_default=False)]


def home_settings() -> Settings:
    """Return the settings of an instance directory that is there.

    Raises:
        ValueError: There is none at CROSSFADE_HOME, nor releases elsewhere.
    """
    settings = Settings()
    if not settings.home.is_dir() and not settings.artifacts_url:
        unset = "" if os.environ.get("CROSSFADE_HOME") else ", the default, since CROSSFADE_HOME is not set"
        raise ValueError(
            f"no instance directory at {settings.home}{unset}; name another with CROSSFADE_HOME, or make it: "
            "crossfade init"
        )
    return settings


def day_of(settings: Settings, text: str, option: str = "--partition") -> date:
    """Return a day of the home.

    Raises:
        ValueError: It is no day, or lies outside of those that the settings name.
    """
    try:
        day = date.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{option} must be a day such as 2026-03-01, not {text!r}") from error
    if day < settings.first_day or (settings.last_day and day > settings.last_day):
        last = settings.last_day or "today"
        raise ValueError(f"{option} {day} lies outside of the days that there are, {settings.first_day} to {last}")
    return day


def require_free(host: str, port: int, change: str) -> None:
    """Refuse an address that another process listens on.

    Args:
        host: Address.
        port: Port; 0 takes a free one.
        change: How to name another port.

    Raises:
        ValueError: Names the port, who has it, and what to do.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            taken = (
                f"is in use{_listener(port)}" if error.errno == errno.EADDRINUSE else f"cannot be had: {error.strerror}"
            )
            raise ValueError(
                f"port {port} of {host} {taken}; stop that, or choose another port with {change}"
            ) from error


def _listener(port: int) -> str:
    """Say which process listens on a port, as far as it may be known."""
    import psutil

    for process in psutil.process_iter():
        try:
            found = process.net_connections(kind="tcp")
            if any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in found):
                return f" by process {process.pid} ({' '.join(process.cmdline())[:80]})"
        except psutil.Error:
            continue
    return ""


def surface_named(settings: Settings, name: str) -> spec.Surface:
    """Return a surface of the home; one that there is not is refused with the names of those that there are."""
    surfaces = load_surfaces(settings)
    if name not in surfaces:
        raise ValueError(f"no surface {name!r}; configured are {', '.join(surfaces)}")
    return surfaces[name]
