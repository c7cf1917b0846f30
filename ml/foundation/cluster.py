"""A Ray cluster, as ``CROSSFADE_RAY_ADDRESS`` names it: connecting, and what can go wrong with it."""

import logging
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from urllib.parse import urlsplit

_CONNECT_S = 10
_TRIES = 3
"""Of a connection from elsewhere. The head starts a process for each, which a busy or short machine may lose."""


class ClusterError(RuntimeError):
    """A Ray cluster that cannot be used; the message names its address."""


@contextmanager
def connected(address: str) -> Iterator[ModuleType]:
    """Connect to a cluster while the block runs, and yield the module ``ray``.

    Args:
        address: As ``Settings.ray_address``.

    Raises:
        ClusterError: Ray is not installed, or the cluster cannot be reached.
    """
    try:
        import ray
    except ImportError as error:
        raise ClusterError(
            f"CROSSFADE_RAY_ADDRESS={address}, but ray is not installed here: "
            "run `.venv/bin/pip install -e '.[ray]'` in the checkout"
        ) from error
    # Ray takes SIGTERM for itself; Dagster ends a run with it.
    ours = signal.getsignal(signal.SIGTERM)
    try:
        if address != "auto":  # Ray alone would try for minutes
            host = urlsplit(address if "://" in address else f"//{address}")
            socket.create_connection((host.hostname, host.port), timeout=_CONNECT_S).close()
        _init(ray, address)
    except Exception as error:  # ray raises ConnectionError, RuntimeError, ValueError and its own
        ray.shutdown()  # what is left of a failed connection would break the next one of this process
        raise ClusterError(f"CROSSFADE_RAY_ADDRESS={address} cannot be reached: {error}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ours)
    try:
        yield ray
    finally:
        ray.shutdown()


def _init(ray: ModuleType, address: str) -> None:
    for left in reversed(range(_TRIES)):
        try:
            return ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
        except ConnectionAbortedError:  # what a client raises where the process that the head started for it has died
            if not left:
                raise
            ray.shutdown()
