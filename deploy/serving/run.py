"""Starts the server: in the foreground, or beside other work; and makes an example request for it."""

import asyncio
import gc
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from ipaddress import ip_address
from socket import IPPROTO_TCP, TCP_NODELAY, socket
from typing import cast

import httpx
import numpy as np
import uvicorn

from deploy.serving.app import create_app
from deploy.serving.connections import Door, Server, connections_of
from deploy.serving.engine import Engine, Store
from deploy.serving.limits import ACCEPTED_AT_ONCE, Limits, fitted
from deploy.serving.metrics import Metrics, configure_logging, log
from deploy.serving.workers import Siblings, run_workers
from ml.export.files import SCHEMA
from ml.foundation.ids import id63_array
from ml.foundation.lake import ALIAS, LANDING, Lake
from ml.foundation.settings import Settings
from ml.inference.schema import FeatureSchema
from ml.inference.snapshot import FeatureSnapshot, current_snapshot
from ml.releases.store import ReleaseStore

_SWITCH_S = 0.0005
"""A thread that loads a champion or writes a log lets the event loop go on after so long: it asks at every socket."""


def serve(settings: Settings, host: str | None = None, port: int | None = None, workers: int = 1) -> None:
    """Serve until a signal ends it; prints the address.

    Args:
        settings: Names the home, and host and port where these are not given.
        host: Address to bind to.
        port: Port; 0 takes a free one.
        workers: Processes that answer; 1 is this one.

    Raises:
        RuntimeError: A worker could not begin to answer.
        ValueError: A blank token is all that an address that others reach asks for, or the port of gRPC is to be any
            free one, which several workers cannot share.
    """
    configure_logging()
    host = settings.serve_host if host is None else host
    _require_token(settings, host)
    if settings.serve_grpc_port is not None:
        _require_token(settings, settings.serve_grpc_host)
    if settings.serve_token is None and not _is_loopback(host):
        log(logging.WARNING, "anybody who reaches this address may ask: CROSSFADE_SERVE_TOKEN is not set", host=host)
    if workers > 1 and settings.serve_grpc_port == 0:
        raise ValueError(f"CROSSFADE_SERVE_GRPC_PORT is 0, a free port for each of {workers} workers: name one for all")
    bound = _bind(host, settings.serve_port if port is None else port)
    print(f"Crossfade serves on {_url(bound)} (documentation: {_url(bound)}/docs)", flush=True)
    if workers > 1:
        run_workers(partial(_work, settings, bound), workers, bound)
    else:
        _work(settings, bound)


def _work(settings: Settings, bound: socket, siblings: Siblings | None = None) -> None:
    """Serve in this process until a signal ends it, alone or as one of several workers."""
    configure_logging()
    # What is imported and loaded stays: the collector would walk through all of it, for 0.1 s, while requests wait.
    server = _server(settings, bound, Limits(), drain_s=settings.serve_drain_s, siblings=siblings, on_start=gc.freeze)
    sys.setswitchinterval(_SWITCH_S)
    gc.freeze()
    gc.set_threshold(700, 10, 100)  # a full pass over a thousand connections takes 0.07 s: a tenth of them will do
    server.run(sockets=[bound])


@contextmanager
def serving(
    settings: Settings,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    limits: Limits | None = None,
    poll_s: float = 1.0,
    store: Store | None = None,
    drain_s: float = 0,
) -> Iterator[str]:
    """Serve in a thread while the block runs, and yield the base URL; models come from ``store`` if it is given.

    After the block it answers on for ``drain_s``.

    Raises:
        RuntimeError: The server did not start.
    """
    bound = _bind(host, port)
    server = _server(settings, bound, limits or Limits(), poll_s, store, drain_s)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, name="crossfade-serve", daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError(f"the server on {_url(bound)} did not start")
        time.sleep(0.005)
    try:
        yield _url(bound)
    finally:
        server.should_exit = True
        thread.join()
        bound.close()


def request_example(settings: Settings, surface: str, candidates: int = 20) -> dict[str, object]:
    """Return a /rank request of a user whom the current feature snapshot knows, with items that the surface showed.

    Args:
        settings: Names the home.
        surface: A surface with a champion.
        candidates: Number of candidates.

    Raises:
        LookupError: No champion, no feature snapshot, or no landed exposure of a known user.
    """
    champion, path = ReleaseStore.of(settings).champion(surface), current_snapshot(settings)
    if champion is None or path is None:
        raise LookupError(f"{surface} has no {'champion' if champion is None else 'published features'}")
    inputs = FeatureSchema.parse((champion.release.path / SCHEMA).read_bytes()).inputs
    features = FeatureSnapshot.load(path).bind({})
    shown = f"from {ALIAS}.{LANDING}.exposures where surface = ? and day <= ? qualify row_number() over"
    with Lake(settings) as lake:
        columns = lake.columns(f"{LANDING}.exposures")
        asked = [name for name, item in inputs.items() if item.kind == "request" and name in columns]
        each = ["item_id", *(name for name in asked if inputs[name].per_candidate and name != "item_id")]
        shared = ["user_id", *(name for name in asked if not inputs[name].per_candidate and name != "user_id")]
        users = lake.sql(
            f"select {_listed(shared)} {shown} (partition by user_id order by ts, exposure_id) = 1"
            " order by count(*) over (partition by user_id) desc, user_id limit 100",
            [surface, features.day],
        ).to_pylist()
        items = lake.sql(
            f"select {_listed(each)} {shown} (partition by item_id order by ts, exposure_id) = 1"
            " order by count(*) over (partition by item_id) desc, item_id limit ?",
            [surface, features.day, candidates],
        ).to_pylist()
    known = np.flatnonzero(features.knows("feat_user", id63_array(user["user_id"] for user in users)))
    if not len(known) or not items:
        raise LookupError(f"no exposure of {surface} up to {features.day} is of a user whom the features know")
    request = {"surface": surface, **_filled(users[known[0]])}
    if "session_outcomes" in inputs:
        request["session"] = {"outcomes": ["completed", "skipped"]}
    return {**request, "candidates": [_filled(item) for item in items]}


def example_answer(settings: Settings, surface: str) -> dict[str, object]:
    """Serve on a free port, send the example request of ``surface`` over HTTP and return the answer.

    Raises:
        LookupError: There is no example; see ``request_example``.
        httpx.HTTPStatusError: The server refused it.
    """
    request = request_example(settings, surface)
    token = settings.serve_token
    headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
    with serving(settings) as url:
        return httpx.post(f"{url}/rank", json=request, headers=headers, timeout=30).raise_for_status().json()


def _bind(host: str, port: int) -> socket:
    bound = uvicorn.Config("", host=host, port=port, log_config=None).bind_socket()
    bound.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)  # else an answer waits 40 ms for the client to confirm its head
    return bound


def _server(
    settings: Settings,
    bound: socket,
    limits: Limits,
    poll_s: float = 1.0,
    store: Store | None = None,
    drain_s: float = 0,
    siblings: Siblings | None = None,
    on_start: Callable[[], None] = lambda: None,
) -> Server:
    metrics = Metrics()
    limits = fitted(limits, calls=settings.serve_grpc_port is not None)
    door = Door(limits, metrics)
    app = create_app(settings, limits=limits, metrics=metrics, poll_s=poll_s, store=store, siblings=siblings)
    engine: Engine = app.state.engine
    host, port = bound.getsockname()[:2]
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="asyncio",  # uvloop sends what a turn of the loop has answered at its end: twice the median under load
        http=cast("type[asyncio.Protocol]", connections_of(door)),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        # One worker that takes many connections at once would leave none for the others.
        backlog=1 if siblings else ACCEPTED_AT_ONCE,
        timeout_keep_alive=cast("int", limits.idle_s),
        timeout_graceful_shutdown=10,
    )
    return Server(config, door, drain_s=drain_s, on_drain=engine.drain, on_start=on_start)


def _require_token(settings: Settings, host: str) -> None:
    """Refuse a token that nobody has to know."""
    token = settings.serve_token
    if token is not None and not token.get_secret_value().strip() and not _is_loopback(host):
        raise ValueError(
            f"CROSSFADE_SERVE_TOKEN is blank and {host or 'every address'} is reachable from elsewhere:"
            " anybody could ask. Set a token, or unset it to serve without one"
        )


def _url(bound: socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listed(columns: list[str]) -> str:
    return ", ".join(f'"{column}"' for column in columns)


def _filled(row: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in row.items() if value is not None}
