"""Requests that nobody would send: `make fuzz`. The server refuses or answers; it never fails, dies or grows."""

import itertools
import json
import os
from collections import Counter
from pathlib import Path
from typing import cast

import httpx
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.core.result import Ok

from benchmarks.process import crossfade
from deploy.serving.protocol import HEADER
from tests.support.known import the
from tests.support.tiny_home import Home, binary_request, rank_body, tiny_settings

REQUESTS = int(os.environ.get("REQUESTS", "10000"))
GROWTH_MB = 64
"""What the process may grow by in the second half: more than noise, less than a leak of ten kilobytes a request."""
_TURNS = itertools.count()


def fuzz(strategy: st.SearchStrategy, send, examples: int) -> Counter[int]:
    """Send drawn requests; return how often each status came. None may be 500 or more."""
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=cast("list[HealthCheck]", list(HealthCheck)),
    )
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
    with crossfade(home.settings) as (url, process), httpx.Client(base_url=url, timeout=30) as client:
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        operations = [the(Ok, found).ok() for found in schema.get_all_operations()]
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
