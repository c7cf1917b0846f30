"""Latency of one client on loopback, against a bare ``session.run`` of the same rows, interleaved in one run.

    python benchmarks/serving.py [--home .crossfade] [--surface homepage] [--candidates 200] [--requests 1000]

The home holds a champion and published features, as after `make demo`. The server is a process of its own.
"""

import argparse
import http.client
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson

from benchmarks.process import crossfade
from deploy.serving.engine import Engine
from deploy.serving.metrics import Metrics
from deploy.serving.protocol import HEADER, TensorSpec
from deploy.serving.rank import prepare, read_request
from deploy.serving.run import request_example
from ml.settings import Settings

_WARM_UP = 100


def main() -> None:
    """Print one row per way to ask."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, default=None)
    parser.add_argument("--surface", default="homepage")
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--requests", type=int, default=1000)
    options = parser.parse_args()
    settings = Settings(**({"home": options.home} if options.home else {}))
    request = request_example(settings, options.surface)
    shown = request["candidates"]
    request["candidates"] = [shown[i % len(shown)] for i in range(options.candidates)]
    body = orjson.dumps(request)

    engine = Engine(settings, Metrics())
    engine.refresh()
    served = engine.served[options.surface]
    feeds = prepare(read_request(body, options.candidates), served, engine, Metrics())
    binary, headers = binary_request(served.released.tensors, feeds)
    plain = orjson.dumps(
        {
            "inputs": [
                {"name": n, "shape": v.shape, "datatype": served.released.tensors[n].datatype, "data": v}
                for n, v in feeds.items()
            ]
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )
    with crossfade(settings) as (url, _):
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
        infer = f"/v2/models/{options.surface}/infer"
        ways = {
            "bare session.run": lambda: served.released.model.run(feeds),
            "/rank": lambda: post(connection, "/rank", body, {}),
            "infer, binary tensors": lambda: post(connection, infer, binary, headers),
            "infer, JSON tensors": lambda: post(connection, infer, plain, {}),
            "GET /v2/health/live": lambda: get(connection, "/v2/health/live"),
        }
        times = measure(ways, options.requests)
    print(f"{options.surface}: {options.candidates} candidates, {len(feeds)} inputs, {options.requests} requests each")
    print(f"{'':24}{'p50 ms':>10}{'p99 ms':>10}")
    for name, values in times.items():
        median, tail = np.percentile(values, [50, 99]) * 1e3
        print(f"{name:24}{median:10.2f}{tail:10.2f}")


def measure(ways: dict[str, Callable[[], object]], requests: int) -> dict[str, list[float]]:
    """Return seconds per call; the ways take turns, so that all meet the same machine."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(_WARM_UP + requests):
        for name, ask in ways.items():
            started = time.perf_counter()
            ask()
            if number >= _WARM_UP:
                times[name].append(time.perf_counter() - started)
    return times


def binary_request(tensors: dict[str, TensorSpec], feeds: dict[str, np.ndarray]) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of an inference request whose tensors and answer are binary."""
    inputs = [
        {
            "name": name,
            "shape": value.shape,
            "datatype": tensors[name].datatype,
            "parameters": {"binary_data_size": value.nbytes},
        }
        for name, value in feeds.items()
    ]
    head = orjson.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}})
    return head + b"".join(value.tobytes() for value in feeds.values()), {HEADER: str(len(head))}


def post(connection: http.client.HTTPConnection, path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """Send one request and return the answer."""
    connection.request("POST", path, body, headers)
    return _answer(connection)


def get(connection: http.client.HTTPConnection, path: str) -> bytes:
    """Fetch one path."""
    connection.request("GET", path)
    return _answer(connection)


def _answer(connection: http.client.HTTPConnection) -> bytes:
    response = connection.getresponse()
    content = response.read()
    if response.status != 200:
        raise RuntimeError(f"{response.status}: {content[:300]!r}")
    return content


if __name__ == "__main__":
    main()
