"""Latency and throughput under load beside public servers with the same ONNX file, each pinned to one core.

    python -m benchmarks.servers [--home .crossfade] [--surface homepage] [--candidates 200] [--clients 1 2 4 8 16]

The home holds a champion and published features, as after `make demo`. MLServer and BentoML are installed in
environments of their own below ``--environments``, since they need other versions than Crossfade; their code is in
``benchmarks/servers/``. All servers have one process and one inference thread on core 0, the clients core 1. Closed
loop: a client asks again when it has its answer. The ways take turns, and their scores must be equal.
"""

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson

from benchmarks import record
from benchmarks.client import Client
from benchmarks.process import crossfade, free_port, running
from benchmarks.serving import Example
from ml.export.files import MODEL
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.releases.store import ReleaseStore

SERVER_CORES, CLIENT_CORES = {0}, {1}
FOLDER = PROJECT_ROOT / "benchmarks" / "servers"
JSON = {"content-type": "application/json"}


class Way(NamedTuple):
    """One way to ask one server for the scores of the same candidates."""

    name: str
    address: str
    path: str
    body: bytes
    headers: dict[str, str]
    scores: Callable[[bytes], list[float]] | None


class Load(NamedTuple):
    """What clients saw: seconds of each request, and the time that all took."""

    seconds: np.ndarray
    span: float


def main() -> None:
    """Record what each number of clients saw of each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=None)
    parser.add_argument("--surface", default="homepage")
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each run")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--turns", help=argparse.SUPPRESS)
    parser.add_argument("--environments", type=Path, default=Path.home() / ".cache" / "crossfade" / "servers")
    parser.add_argument("--quick", action="store_true", help="1 client, one run of a second; nothing recorded")
    options = parser.parse_args()
    if options.turns:
        parser.error(f"--turns {options.turns}: this option is called --runs")
    settings = Settings(**({"home": options.home.absolute()} if options.home else {}))
    champion = ReleaseStore.of(settings).champion(options.surface)
    if champion is None:
        parser.error(f"{options.surface} has no champion in {settings.home}; run `make demo`")
    model = champion.release.path / MODEL
    with ExitStack() as stack:
        url, _ = stack.enter_context(crossfade(settings, SERVER_CORES))
        example = Example.of(settings, options.surface, options.candidates)
        ways = crossfade_ways(example, options.surface, url.removeprefix("http://"))
        for start in (mlserver_way, bentoml_way):
            ways.append(start(stack, options.environments, model, example))
        os.sched_setaffinity(0, CLIENT_CORES)
        agree(ways)
        print(f"{options.surface}: {options.candidates} candidates, {len(example.feeds)} inputs")
        found: list[record.Row] = []
        for clients in [1] if options.quick else options.clients:
            runs = (1, 1.0) if options.quick else (options.runs, options.seconds)
            found += seen(loads(ways, clients, *runs), clients)
    record.keep("servers", found, None if options.quick else record.HISTORY)


def crossfade_ways(example: Example, surface: str, address: str) -> list[Way]:
    """Return the ways to ask Crossfade's server."""
    infer = f"/v2/models/{surface}/infer"
    return [
        Way("Crossfade, JSON tensors", address, infer, example.plain, JSON, v2_scores),
        Way("Crossfade, binary tensors", address, infer, example.binary, example.binary_headers, None),
        Way("Crossfade, /rank with features", address, "/rank", example.ranked, JSON, None),
    ]


def v2_scores(answer: bytes) -> list[float]:
    """Return the scores of an answer of the Open Inference Protocol v2."""
    return next(output["data"] for output in orjson.loads(answer)["outputs"] if output["name"] == "score")


def mlserver_way(stack: ExitStack, environments: Path, model: Path, example: Example) -> Way:
    """Start MLServer and return the way to ask it."""
    binaries, port = environment(environments, "mlserver"), free_port()
    ports = {"MLSERVER_HTTP_PORT": port, "MLSERVER_GRPC_PORT": free_port(), "MLSERVER_METRICS_PORT": free_port()}
    url, _ = stack.enter_context(
        running(
            [str(binaries / "mlserver"), "start", str(FOLDER / "mlserver")],
            lambda _: f"http://127.0.0.1:{port}",
            "/v2/models/ranker/ready",
            environment={"MODEL": str(model), **{name: str(value) for name, value in ports.items()}},
            folder=FOLDER / "mlserver",
            cores=SERVER_CORES,
        )
    )
    address = url.removeprefix("http://")
    return Way("MLServer, JSON tensors", address, "/v2/models/ranker/infer", example.plain, JSON, v2_scores)


def bentoml_way(stack: ExitStack, environments: Path, model: Path, example: Example) -> Way:
    """Start BentoML and return the way to ask it."""
    binaries, port = environment(environments, "bentoml"), free_port()
    url, _ = stack.enter_context(
        running(
            [str(binaries / "bentoml"), "serve", "service:Ranker", "--host", "127.0.0.1", "--port", str(port)],
            lambda _: f"http://127.0.0.1:{port}",
            "/readyz",
            environment={"MODEL": str(model), "BENTOML_DO_NOT_TRACK": "1"},
            folder=FOLDER / "bentoml",
            cores=SERVER_CORES,
        )
    )
    return Way(
        "BentoML, JSON",
        url.removeprefix("http://"),
        "/predict",
        orjson.dumps({"columns": example.feeds}, option=orjson.OPT_SERIALIZE_NUMPY),
        JSON,
        lambda answer: orjson.loads(answer)["score"],
    )


def environment(environments: Path, server: str) -> Path:
    """Return the folder of programs of a server's own environment, which is made once."""
    folder = environments / server
    done = folder / "installed"
    requirements = FOLDER / server / "requirements.txt"
    if not done.exists() or done.read_text() != requirements.read_text():
        print(f"installing {requirements.relative_to(PROJECT_ROOT)} into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", "--requirement", requirements], check=True)
        done.write_text(requirements.read_text())
    return folder / "bin"


def agree(ways: list[Way]) -> None:
    """Refuse to compare servers that do not compute the same."""
    answers = {way.name: way.scores(send(Client(way.address), way)) for way in ways if way.scores}
    (first, expected), *others = answers.items()
    for name, scores in others:
        if not np.allclose(scores, expected, rtol=1e-5, atol=1e-6):
            raise SystemExit(f"{name} and {first} give other scores")


def loads(ways: list[Way], clients: int, runs: int, seconds: float) -> dict[str, list[Load]]:
    """Load every way in turn and return what the clients saw in each run."""
    found: dict[str, list[Load]] = {way.name: [] for way in ways}
    for _ in range(runs):
        for way in ways:
            load(way, clients, seconds / 5)
            found[way.name].append(load(way, clients, seconds))
    return found


def load(way: Way, clients: int, seconds: float) -> Load:
    """Let so many clients ask for so long."""
    times: list[list[float]] = [[] for _ in range(clients)]
    end = time.perf_counter() + seconds

    def ask(mine: list[float]) -> None:
        client = Client(way.address)
        while (began := time.perf_counter()) < end:
            send(client, way)
            mine.append(time.perf_counter() - began)

    began = time.perf_counter()
    asking = [threading.Thread(target=ask, args=(mine,)) for mine in times]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    return Load(np.concatenate(times), time.perf_counter() - began)


def seen(found: dict[str, list[Load]], clients: int) -> list[record.Row]:
    """Return throughput and latencies of every way; the reference is the first, whose body the others are sent too."""
    figures: dict[str, Callable[[Load], float]] = {
        "requests/s": lambda load: len(load.seconds) / load.span,
        "ms, median": lambda load: 1e3 * float(np.median(load.seconds)),
        "ms, p99": lambda load: 1e3 * float(np.quantile(load.seconds, 0.99)),
        "ms, p99.9": lambda load: 1e3 * float(np.quantile(load.seconds, 0.999)),
    }
    return [
        row
        for unit, figure in figures.items()
        for row in record.rows(
            {name: [figure(load) for load in runs] for name, runs in found.items()},
            size=clients,
            of="clients",
            unit=unit,
            reference=next(iter(found)),
        )
    ]


def send(client: Client, way: Way) -> bytes:
    """Ask once and return the answer."""
    return client.ask("POST", way.path, way.body, way.headers)


if __name__ == "__main__":
    main()
