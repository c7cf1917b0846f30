"""Latency of one client on loopback, against a bare ``session.run`` of the same rows, interleaved in one run.

    python -m benchmarks.serving [--home .crossfade] [--surface homepage] [--candidates 10 50 100 200 500]

The home holds a champion and published features, as after `make demo`. The server is a process of its own.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson

from benchmarks.client import Client
from benchmarks.process import crossfade
from benchmarks.record import HISTORY, Row, keep, rows
from deploy.serving.engine import Engine, Served
from deploy.serving.limits import Limits
from deploy.serving.metrics import Metrics
from deploy.serving.protocol import HEADER, TensorSpec
from deploy.serving.rank import prepare, read_request, render
from deploy.serving.run import request_example
from ml.foundation.settings import Settings

_WARM_UP = 100
BARE = "bare session.run"
TAIL_REQUESTS = 1000
"""With fewer a 99th percentile is one or two requests."""


def main() -> None:
    """Print one row per way to ask."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, default=None)
    parser.add_argument("--surface", default="homepage")
    parser.add_argument("--candidates", type=int, nargs="+", default=[10, 50, 100, 200, 500])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--quick", action="store_true", help="100 requests of 10 candidates, nothing recorded")
    options = parser.parse_args()
    settings = Settings(**({"home": options.home} if options.home else {}))
    sizes, requests = ([10], 100) if options.quick else (options.candidates, options.requests)
    found: list[Row] = []
    with crossfade(settings) as (url, _):
        for candidates in sizes:
            example = Example.of(settings, options.surface, candidates)
            client = Client(url.removeprefix("http://"))
            times = measure(ways(example, client, options.surface), requests)
            found += latencies(times, candidates)
            found += by_part(example, requests)
    keep("serving", found, None if options.quick else HISTORY)


def ways(example: "Example", client: Client, surface: str) -> dict[str, Callable[[], object]]:
    """Return the ways to ask; the first is the reference."""
    infer = f"/v2/models/{surface}/infer"
    return {
        BARE: lambda: example.served.released.model.run(example.feeds),
        "/rank": lambda: client.ask("POST", "/rank", example.ranked),
        "infer, binary tensors": lambda: client.ask("POST", infer, example.binary, example.binary_headers),
        "infer, JSON tensors": lambda: client.ask("POST", infer, example.plain),
        "GET /v2/health/live": lambda: client.ask("GET", "/v2/health/live"),
    }


def by_part(example: "Example", requests: int) -> list[Row]:
    """Return medians of what the server does for one ``/rank``, called in this process, beside the sum of all."""
    metrics, engine, served = Metrics(), example.engine, example.served
    request = read_request(example.ranked, Limits())
    scores = served.released.model.run(example.feeds)
    parts: dict[str, Callable[[], object]] = {
        "reading the request": lambda: read_request(example.ranked, Limits()),
        "ids and features": lambda: prepare(request, served, engine, metrics),
        BARE: lambda: served.released.model.run(example.feeds),
        "writing the answer": lambda: render(request, served, scores, metrics),
    }
    times = measure(parts, requests)
    fifths = {name: [1e3 * float(np.median(part)) for part in np.array_split(times[name], 5)] for name in parts}
    whole = "all but HTTP"
    fifths = {whole: [sum(values) for values in zip(*fifths.values(), strict=True)], **fifths}
    return rows(fifths, size=len(example.candidates), of="candidates by part", unit="ms, median", reference=whole)


def latencies(times: dict[str, list[float]], candidates: int) -> list[Row]:
    """Return medians and 99th percentiles; the range of a ratio is over fifths of the requests."""
    found = []
    units = {50: "ms, median", 99: "ms, p99"}
    if len(times[BARE]) < TAIL_REQUESTS:
        del units[99]
    for percentile, unit in units.items():
        parts = {name: [np.percentile(p, percentile) for p in np.array_split(v, 5)] for name, v in times.items()}
        whole = {name: float(np.percentile(values, percentile)) for name, values in times.items()}
        for name in times:
            ratios = [float(a / b) for a, b in zip(parts[name], parts[BARE], strict=True)]
            middle = float(np.median(ratios))
            value = 1e3 * whole[name]
            found.append(Row(name, candidates, "candidates", value, unit, middle, BARE, min(ratios), max(ratios)))
    return found


class Example(NamedTuple):
    """One request for a surface's champion, in each way to ask.

    Attributes:
        engine: Holds it, in this process.
        served: The champion with its features.
        candidates: Items of the request.
        feeds: The model's inputs, {name: [candidates] or [candidates, length]}.
        ranked: Body for ``/rank``.
        binary: Body of the inference request with binary tensors.
        binary_headers: Its headers.
        plain: Body of the inference request with JSON tensors.
    """

    engine: Engine
    served: Served
    candidates: list[dict[str, Any]]
    feeds: dict[str, np.ndarray]
    ranked: bytes
    binary: bytes
    binary_headers: dict[str, str]
    plain: bytes

    @classmethod
    def of(cls, settings: Settings, surface: str, candidates: int) -> "Example":
        """Return the example request of a surface, its items repeated to so many candidates."""
        request = request_example(settings, surface)
        shown = request["candidates"]
        assert isinstance(shown, list)
        request["candidates"] = [shown[i % len(shown)] for i in range(candidates)]
        ranked = orjson.dumps(request)
        engine = Engine(settings, Metrics())
        engine.refresh()
        served = engine.served[surface]
        feeds = prepare(read_request(ranked, Limits()), served, engine, Metrics())
        tensors = served.released.tensors
        items = request["candidates"]
        return cls(engine, served, items, feeds, ranked, *binary_request(tensors, feeds), json_request(tensors, feeds))


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


def json_request(tensors: dict[str, TensorSpec], feeds: dict[str, np.ndarray]) -> bytes:
    """Return the body of an inference request with JSON tensors."""
    inputs = [
        {"name": name, "shape": value.shape, "datatype": tensors[name].datatype, "data": value.ravel()}
        for name, value in feeds.items()
    ]
    return orjson.dumps({"inputs": inputs}, option=orjson.OPT_SERIALIZE_NUMPY)


if __name__ == "__main__":
    main()
