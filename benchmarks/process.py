"""A server as a user starts it: ``crossfade serve`` in a process of its own, on a free port."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil

from ml.foundation.settings import PROJECT_ROOT, Settings

READY_S = 120
"""A server that is not ready after this time does not start."""


@contextmanager
def crossfade(
    settings: Settings, cores: set[int] | None = None, words: Sequence[str] = ("serve",)
) -> Iterator[tuple[str, psutil.Process]]:
    """Serve a home while the block runs; yield the base URL and the process, which must live to the end.

    Args:
        settings: Names the home.
        cores: Cores that the process may use; all without.
        words: The command; with several workers, the process is their parent.

    Raises:
        RuntimeError: The server ended; the message has the end of its log.
    """
    environment = {"CROSSFADE_HOME": str(settings.home), "PYTHONPATH": str(PROJECT_ROOT)}
    if settings.last_day:
        environment["CROSSFADE_LAST_DAY"] = str(settings.last_day)
    if settings.serve_grpc_port is not None:
        environment["CROSSFADE_SERVE_GRPC_PORT"] = str(settings.serve_grpc_port)
    command = [sys.executable, "-m", "deploy.cli", *words, "--port", "0"]
    with running(command, _url_in, "/v2/health/ready", environment=environment, cores=cores) as found:
        yield found


@contextmanager
def running(
    command: Sequence[str],
    url_in: Callable[[str], str | None],
    ready: str,
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path = PROJECT_ROOT,
    cores: set[int] | None = None,
) -> Iterator[tuple[str, psutil.Process]]:
    """Run a server while the block runs; yield its base URL and its process.

    Args:
        command: What starts it.
        url_in: Finds the base URL in what it printed; None while it is not there.
        ready: Path that answers 200 once the server is ready.
        environment: Variables beside those of this process.
        folder: Where it starts.
        cores: Cores that it and its children may use; all without.

    Raises:
        RuntimeError: It ended, or was not ready in time; the message has the end of its log.
    """
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "log"
        with log.open("w", encoding="utf-8") as output:
            process = subprocess.Popen(
                list(command),
                env={**os.environ, **(environment or {})},
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,
            )
        try:
            yield _wait(process, log, url_in, ready), psutil.Process(process.pid)
            if process.poll() is not None:
                raise RuntimeError(f"{command[0]} ended with {process.returncode}: {_end(log)}")
        finally:
            _kill(process)


def free_port() -> int:
    """Return a port of loopback that nobody uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _wait(process: "subprocess.Popen[bytes]", log: Path, url_in: Callable[[str], str | None], ready: str) -> str:
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}: {_end(log)}")
        url = url_in(log.read_text(encoding="utf-8"))
        with suppress(httpx.TransportError):
            if url and httpx.get(url + ready).status_code == 200:
                return url
        time.sleep(0.1)
    raise RuntimeError(f"the server was not ready after {READY_S} s: {_end(log)}")


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End it and what it started, which may have sessions of its own; it may have ended itself."""
    children: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.kill()


def _end(log: Path) -> str:
    return log.read_text(encoding="utf-8")[-3000:]


def _url_in(printed: str) -> str | None:
    found = [word for word in printed.split() if word.startswith("http://127.0.0.1:")]
    return found[0] if found else None


@contextmanager
def object_store() -> Iterator[tuple[dict[str, str], str]]:
    """Run a server of S3 on loopback while the block runs; yield the variables that name it, and an empty bucket.

    Raises:
        RuntimeError: It does not start.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    environment = {"ENDPOINT_URL": url, "ALLOW_HTTP": "true", "REGION": "us-east-1"}
    environment |= {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test"}
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        end = time.monotonic() + READY_S
        try:
            while True:
                try:
                    httpx.put(f"{url}/crossfade").raise_for_status()
                    break
                except httpx.TransportError as error:
                    if time.monotonic() > end or server.poll() is not None:
                        raise RuntimeError("the server of S3 did not start") from error
                    time.sleep(0.1)
            yield {f"AWS_{name}": value for name, value in environment.items()}, "s3://crossfade"
        finally:
            server.kill()
