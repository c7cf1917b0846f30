"""Requests that nobody would send: `make fuzz`. The server refuses or answers; it never fails, dies or grows."""

import itertools
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.serving.protocol import HEADER
from ml.settings import PROJECT_ROOT
from tests.deploy.serving.tiny_home import Home, binary_request, rank_body, tiny_settings

REQUESTS = int(os.environ.get("REQUESTS", "10000"))
GROWTH_MB = 64
"""What the process may grow by in the second half: more than noise, less than a leak of ten kilobytes a request."""
_TURNS = itertools.count()


@contextmanager
def server(home: Home) -> Iterator[tuple[str, psutil.Process]]:
    """Run the server in a process of its own; yield its address and the process."""
    environment = {
        **os.environ,
        "CROSSFADE_HOME": str(home.settings.home),
        "CROSSFADE_LAST_DAY": str(home.settings.last_day),
    }
    command = [sys.executable, "-m", "deploy.cli", "serve", "--port", "0"]
    log = home.settings.home / "serve.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, cwd=PROJECT_ROOT, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield address(log, process), psutil.Process(process.pid)
        assert process.poll() is None, log.read_text()[-3000:]
    finally:
        process.kill()
        process.wait()


def address(log: Path, process: "subprocess.Popen[bytes]") -> str:
    """Return where the server listens, once it is ready."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        found = [word for word in log.read_text().replace('"', " ").split() if word.startswith("http://127.0.0.1:")]
        with suppress(httpx.TransportError):
            if found and httpx.get(f"{found[0]}/v2/health/ready").status_code == 200:
                return found[0]
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def fuzz(strategy: st.SearchStrategy, send, examples: int) -> Counter[int]:
    """Send drawn requests; return how often each status came. None may be 500 or more."""
    statuses: Counter[int] = Counter()

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(drawn=strategy)
    def run(drawn) -> None:
        answer = send(drawn)
        statuses[answer.status_code] += 1
        assert answer.status_code < 500, f"{answer.status_code}: {answer.text[:500]}"

    run()
    return statuses


def requests(home: Home) -> st.SearchStrategy:
    """Return binary tensor requests with bodies, headers, shapes, types and lengths that lie."""
    sizes = st.sampled_from([-1, 0, 1, 3, 7, 2**31, 2**63, 2**70, "3", None, 1.5])
    whole = st.integers(-(2**65), 2**65)

    @st.composite
    def build(draw) -> tuple[bytes, dict[str, str]]:
        head, raw = binary_request(home.surfaces["homepage"])
        inputs = head["inputs"]
        spoilt = draw(st.sampled_from(inputs))
        match draw(
            st.sampled_from(["shape", "size", "datatype", "name", "raw", "twice", "missing", "head", "nothing"])
        ):
            case "shape":
                spoilt["shape"] = draw(st.lists(sizes, max_size=4))
            case "size":
                spoilt["parameters"] = {"binary_data_size": draw(whole)}
            case "datatype":
                spoilt["datatype"] = draw(st.sampled_from(["FP16", "BYTES", "INT8", "BOOL", "", None, 7]))
            case "name":
                spoilt["name"] = draw(st.text(max_size=20) | st.none())
            case "raw":
                raw = draw(st.binary(max_size=400))
            case "twice":
                inputs.append(spoilt)
            case "missing":
                inputs.remove(spoilt)
            case "head":
                head = draw(st.dictionaries(st.text(max_size=5), st.lists(st.integers(), max_size=3), max_size=3))
        encoded = json.dumps(head).encode()
        length = draw(st.just(len(encoded)) | whole)
        return encoded + raw, {HEADER: str(length)}

    return build()


def known(case: schemathesis.Case) -> schemathesis.Case:
    """Return the case with names that the server knows, in two of three: else nothing lies behind them."""
    turn = next(_TURNS)
    if turn % 3:
        names = {"model": "homepage", "version": "1"}
        case.path_parameters = {name: names.get(name, value) for name, value in (case.path_parameters or {}).items()}
        if isinstance(case.body, dict):
            case.body["surface"] = ("homepage", "radio")[turn % 2]
    return case


def infer(client: httpx.Client, body: bytes, headers: dict[str, str]) -> httpx.Response:
    """Send one request with binary tensors."""
    return client.post("/v2/models/homepage/infer", content=body, headers=headers)


def test_no_request_makes_the_server_fail_die_or_grow(tmp_path: Path):
    home = Home(tiny_settings(tmp_path / "home"))
    home.publish()
    home.promote("homepage", 1)
    home.promote("radio", 1)
    with server(home) as (url, process), httpx.Client(base_url=url, timeout=30) as client:
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        operations = [found.ok() for found in schema.get_all_operations()]
        assert len(operations) > 8
        told: Counter[int] = Counter()
        resident = []
        for half in range(2):
            each = REQUESTS // 4 // len(operations)
            for operation in operations:
                statuses = fuzz(operation.as_strategy(), lambda case: known(case).call(base_url=url), each)
                print(f"{operation.label}: {dict(statuses)}", flush=True)
                told += statuses
            rest = max(100, (half + 1) * REQUESTS // 2 - told.total())
            statuses = fuzz(requests(home), lambda drawn: infer(client, *drawn), rest)
            print(f"binary tensors: {dict(statuses)}", flush=True)
            told += statuses
            resident.append(process.memory_info().rss / 1e6)
            print(f"half {half + 1}: {told.total()} requests, {resident[-1]:.0f} MB", flush=True)
        assert client.post("/rank", json=rank_body()).status_code == 200, "it still ranks"
    assert resident[1] < resident[0] + GROWTH_MB
    assert told.total() >= 0.9 * REQUESTS and told[200] > 0
