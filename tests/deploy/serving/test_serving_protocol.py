"""Open Inference Protocol v2: the stock client works unchanged, and bad requests get 4xx with the reason."""

import asyncio
import gzip
import zlib
from collections.abc import Iterator
from typing import Any, cast

import httpx
import numpy as np
import onnxruntime
import orjson
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.serving.limits import Limits
from deploy.serving.protocol import HEADER, BadRequest, TensorSpec, decode_request
from deploy.serving.run import serving
from ml.surfaces.spec import Surface
from tests.support.known import present, the
from tests.support.tiny_home import (
    Home,
    binary_request,
    feeds_of,
    graph_of,
    infer_body,
    rank_body,
    tiny_settings,
)

ROWS = 33


@pytest.fixture(scope="module")
def stock(url: str) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(url.removeprefix("http://"))
    yield client
    client.close()


def stock_inputs(surface: Surface, feeds: dict[str, np.ndarray], binary: bool) -> list[triton.InferInput]:
    inputs = []
    for name, value in feeds.items():
        tensor = triton.InferInput(name, list(value.shape), "INT64" if value.dtype == np.int64 else "FP32")
        tensor.set_data_from_numpy(value, binary_data=binary)
        inputs.append(tensor)
    return inputs


def expected(surface: Surface, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(graph_of(surface, 1), providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_outputs()]
    return {name: the(np.ndarray, found) for name, found in zip(names, session.run(names, feeds), strict=True)}


def test_the_stock_client_reads_health_and_metadata(stock: triton.InferenceServerClient, ready_home: Home) -> None:
    assert stock.is_server_live() and stock.is_server_ready()
    assert "binary_tensor_data" in stock.get_server_metadata()["extensions"]
    surface = ready_home.surfaces["homepage"]
    metadata = stock.get_model_metadata("homepage")
    assert metadata["versions"] == ["1"] and stock.is_model_ready("homepage", "1")
    assert {i["name"]: i["shape"] for i in metadata["inputs"]} == {n: [-1, *i.shape] for n, i in surface.inputs.items()}
    assert [o["name"] for o in metadata["outputs"]] == [*surface.tasks, "score"]
    assert not stock.is_model_ready("homepage", "2") and not stock.is_model_ready("video")


@pytest.mark.slow
@pytest.mark.parametrize("surface", ["homepage", "radio"])
@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_the_stock_client_infers(
    stock: triton.InferenceServerClient,
    ready_home: Home,
    surface: str,
    binary_in: bool,
    binary_out: bool | None,
    compression: str | None,
) -> None:
    spec = ready_home.surfaces[surface]
    feeds = feeds_of(spec, ROWS)
    outputs = None
    if binary_out is not None:
        outputs = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in ["score", *spec.tasks]]
    result = stock.infer(
        surface,
        stock_inputs(spec, feeds, binary_in),
        outputs=outputs,
        request_id="r-1",
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    for name, value in expected(spec, feeds).items():
        answered = present(result.as_numpy(name))
        assert answered.dtype == np.float32 and answered.tobytes() == value.tobytes(), name
    response = result.get_response()
    champion = ready_home.store.champion(surface)
    assert champion is not None
    assert (response["id"], response["model_name"], response["model_version"]) == ("r-1", surface, "1")
    assert response["parameters"] == {"release": champion.release.id, "feature_day": "2026-01-20"}


def test_the_stock_asyncio_client_infers_by_version(url: str, ready_home: Home) -> None:
    spec = ready_home.surfaces["radio"]
    feeds = feeds_of(spec, 5)

    async def ask() -> np.ndarray:
        async with triton_aio.InferenceServerClient(url.removeprefix("http://")) as client:
            result = await client.infer("radio", stock_inputs(spec, feeds, True), model_version="1")
            return present(result.as_numpy("score"))

    assert asyncio.run(ask()).tobytes() == expected(spec, feeds)["score"].tobytes()


SHAPES: dict[str, tuple[dict[str, str], bool]] = {
    "FP64 for numbers": ({"item_ctr": "FP64", "content_embedding": "FP64"}, False),
    "small integers": ({"hour": "INT32", "item_impressions": "INT32", "session_outcomes": "INT32"}, False),
    "whole FP64 for ids": ({"hour": "FP64"}, False),
    "a column each": ({}, True),
    "a column each of FP64": ({"item_ctr": "FP64"}, True),
}
TYPES = {"FP64": np.float64, "INT32": np.int32}


@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize("binary", [True, False])
def test_numbers_as_stock_clients_have_them_are_the_same(
    stock: triton.InferenceServerClient, ready_home: Home, case: str, binary: bool
) -> None:
    types, columns = SHAPES[case]
    spec = ready_home.surfaces["homepage"]
    feeds = feeds_of(spec, 4)
    small = [name for name, given in types.items() if given == "INT32" or name == "hour"]
    feeds |= {name: np.floor(feeds[name] % 24).astype(feeds[name].dtype) for name in small if name in feeds}
    plain = stock.infer("homepage", stock_inputs(spec, feeds, binary)).as_numpy("score")
    inputs = []
    for name, value in feeds.items():
        given = value.astype(TYPES[types[name]]) if name in types else value
        given = given[:, np.newaxis] if columns and given.ndim == 1 else given
        kind = types.get(name, "INT64" if value.dtype == np.int64 else "FP32")
        tensor = triton.InferInput(name, list(given.shape), kind)
        tensor.set_data_from_numpy(given, binary_data=binary)
        inputs.append(tensor)
    answered = stock.infer("homepage", inputs, request_id="7").as_numpy("score")
    assert answered is not None and plain is not None and answered.tobytes() == plain.tobytes()


def test_a_number_as_the_requests_id_is_answered(client: httpx.Client, ready_home: Home) -> None:
    body = infer_body(ready_home.surfaces["radio"]) | {"id": 7}
    assert client.post("/v2/models/radio/infer", json=body).json()["id"] == "7"


def test_tools_for_triton_read_configuration_statistics_and_index(
    stock: triton.InferenceServerClient, ready_home: Home
) -> None:
    config = stock.get_model_config("homepage")
    metadata = stock.get_model_metadata("homepage")
    described = {item["name"]: (item["datatype"], item["shape"]) for item in metadata["inputs"]}
    assert {i["name"]: (i["data_type"].removeprefix("TYPE_"), i["dims"]) for i in config["input"]} == described
    assert config["max_batch_size"] == 0 and len(config["output"]) == len(metadata["outputs"])
    before = stock.get_inference_statistics("homepage", "1")["model_stats"][0]
    spec = ready_home.surfaces["homepage"]
    stock.infer("homepage", stock_inputs(spec, feeds_of(spec, 3), True))
    with pytest.raises(Exception, match="missing input"):
        stock.infer("homepage", stock_inputs(spec, feeds_of(spec, 3), True)[1:])
    after = stock.get_inference_statistics("homepage")["model_stats"][0]
    assert after["inference_count"] == before["inference_count"] + 3
    assert after["inference_stats"]["success"]["count"] == before["inference_stats"]["success"]["count"] + 1
    assert after["inference_stats"]["fail"]["count"] == before["inference_stats"]["fail"]["count"] + 1
    assert {one["name"] for one in stock.get_inference_statistics()["model_stats"]} == {"homepage", "radio"}
    index = {one["name"]: one["state"] for one in stock.get_model_repository_index()}
    assert index == {"homepage": "READY", "radio": "READY"}
    with pytest.raises(Exception, match="release promote"):
        stock.load_model("homepage")


def test_large_batches_equal_small_ones(stock: triton.InferenceServerClient, ready_home: Home) -> None:
    spec = ready_home.surfaces["homepage"]
    feeds = feeds_of(spec, 1000)
    result = stock.infer("homepage", stock_inputs(spec, feeds, True))
    assert present(result.as_numpy("score")).tobytes() == expected(spec, feeds)["score"].tobytes()


def changed(body: dict[str, Any], which: str, **changes: Any) -> dict[str, Any]:
    inputs = [{**entry, **(changes if entry["name"] == which else {})} for entry in body["inputs"]]
    return {**body, "inputs": inputs}


BAD_INFER: dict[str, tuple[Any, str]] = {
    "no json": (b"{", "no valid JSON"),
    "no utf-8": (b'{"id": "\xff"}', "no valid JSON"),
    "deep nesting": (b"[" * 100_000, "100000 deep; at most 32"),
    "no object": (b"[1]", "JSON object"),
    "empty": (b"", "no valid JSON"),
    "no inputs": ({}, "inputs must be a list"),
    "inputs no list": ({"inputs": {"user_id": 1}}, "inputs must be a list"),
    "inputs of strings": ({"inputs": ["user_id"]}, "inputs must be a list"),
    "empty inputs": ({"inputs": []}, "missing input"),
    "unknown input": (lambda b: changed(b, "hour", name="hours"), "unknown input 'hours'"),
    "name no string": (lambda b: changed(b, "hour", name=7), "unknown input 7"),
    "missing input": (lambda b: {"inputs": b["inputs"][1:]}, "missing input(s): user_id"),
    "twice": (lambda b: {"inputs": [*b["inputs"], b["inputs"][0]]}, "given twice"),
    "datatype": (lambda b: changed(b, "hour", datatype="FP32"), "must have datatype INT64, got 'FP32'"),
    "no datatype": (lambda b: changed(b, "hour", datatype=None), "must have datatype INT64"),
    "no shape": (lambda b: changed(b, "hour", shape=None), "must be a list of integers"),
    "shape of text": (lambda b: changed(b, "hour", shape=["2"]), "must be a list of integers"),
    "shape of booleans": (lambda b: changed(b, "hour", shape=[True]), "must be a list of integers"),
    "scalar shape": (lambda b: changed(b, "hour", shape=[]), "must have shape [-1]"),
    "vector length": (lambda b: changed(b, "content_embedding", shape=[2, 9]), "must have shape [-1, 8]"),
    "negative shape": (lambda b: changed(b, "hour", shape=[-1]), "has -1 rows"),
    "zero rows": (lambda b: changed(b, "user_id", shape=[0], data=[]), "has 0 rows"),
    "huge shape": (lambda b: changed(b, "user_id", shape=[2**40]), "rows; 1 to 1000"),
    "other rows": (lambda b: changed(b, "hour", shape=[1], data=[1]), "has 1 rows, the inputs before it 2"),
    "too few values": (lambda b: changed(b, "hour", data=[1]), "but 1 values"),
    "ragged": (lambda b: changed(b, "content_embedding", data=[[1.0], [1.0, 2.0]]), "ragged"),
    "no data": (lambda b: changed(b, "hour", data=None), "neither binary_data_size nor a list"),
    "fractions as ids": (lambda b: changed(b, "user_id", data=[1.5, 2]), "not all INT64"),
    "ids too large": (lambda b: changed(b, "user_id", data=[2**63, 1]), "not all INT64"),
    "text as numbers": (lambda b: changed(b, "item_ctr", data=["0.1", "0.2"]), "not all FP32"),
    "nulls": (lambda b: changed(b, "item_ctr", data=[None, 0.1]), "not all FP32"),
    "booleans": (lambda b: changed(b, "item_ctr", data=[True, False]), "not all FP32"),
    "infinite": (lambda b: changed(b, "item_ctr", data=[1e39, 0]), "not finite"),
    "id no string": (lambda b: {**b, "id": [7]}, "id must be a string"),
    "text as ids": (lambda b: changed(b, "user_id", datatype="BYTES", data=["u1", "u2"]), "hashed by /rank"),
    "rows in a row": (lambda b: changed(b, "hour", shape=[1, 2]), "must have shape [-1]"),
    "large floats as ids": (lambda b: changed(b, "user_id", datatype="FP64", data=[2.0**60, 1]), "send INT64"),
    "fractions as FP64": (lambda b: changed(b, "hour", datatype="FP64", data=[9.5, 9]), "holds fractions"),
    "parameters": (lambda b: {**b, "parameters": [1]}, "must be an object"),
    "flag": (lambda b: {**b, "parameters": {"binary_data_output": 1}}, "must be true or false"),
    "shared memory": (lambda b: changed(b, "hour", parameters={"shared_memory_region": "x"}), "shared memory"),
    "unknown output": (lambda b: {**b, "outputs": [{"name": "kd_click"}]}, "unknown output 'kd_click'"),
    "output twice": (lambda b: {**b, "outputs": [{"name": "score"}] * 2}, "asked for twice"),
    "classification": (
        lambda b: {**b, "outputs": [{"name": "score", "parameters": {"classification": 2}}]},
        "classification",
    ),
    "binary size without bytes": (lambda b: changed(b, "hour", parameters={"binary_data_size": 16}), "both data and"),
}


@pytest.mark.parametrize("case", BAD_INFER)
def test_bad_inference_requests_get_400_with_the_reason(client: httpx.Client, ready_home: Home, case: str) -> None:
    content, reason = BAD_INFER[case]
    if callable(content):
        content = content(infer_body(ready_home.surfaces["homepage"]))
    body = content if isinstance(content, bytes) else orjson.dumps(content)
    answer = client.post("/v2/models/homepage/infer", content=body)
    assert answer.status_code == 400 and reason in answer.json()["error"], answer.text


def sized(head: dict[str, Any], size: Any) -> dict[str, Any]:
    return changed(head, "hour", parameters={"binary_data_size": size})


BAD_BINARY: dict[str, tuple[Any, str]] = {
    "cut off": (lambda h, raw: (h, raw[:-1], None), "ends within the binary data"),
    "bytes left over": (lambda h, raw: (h, raw + b"x", None), "the inputs account for"),
    "wrong size": (lambda h, raw: (sized(h, 8), raw, None), "must be 16"),
    "negative size": (
        lambda h, raw: (changed(h, "hour", parameters={"binary_data_size": -16}), raw, None),
        "must be 16",
    ),
    "size of text": (
        lambda h, raw: (changed(h, "hour", parameters={"binary_data_size": "16"}), raw, None),
        "must be 16",
    ),
    "head too long": (lambda h, raw: (h, raw, "9999999"), "the body has"),
    "head of text": (lambda h, raw: (h, raw, "ten"), "count of bytes"),
    "head negative": (lambda h, raw: (h, raw, "-1"), "count of bytes"),
    "head empty": (lambda h, raw: (h, raw, "0"), "no valid JSON"),
    "head huge": (lambda h, raw: (h, raw, "9" * 400), "count of bytes"),
    "not a number": (lambda h, raw: (h, raw[: -4 * 2] + np.full(2, np.nan, "<f4").tobytes(), None), "not finite"),
}


@pytest.mark.parametrize("case", BAD_BINARY)
def test_bad_binary_requests_get_400_with_the_reason(client: httpx.Client, ready_home: Home, case: str) -> None:
    change, reason = BAD_BINARY[case]
    head, raw, length = change(*binary_request(ready_home.surfaces["homepage"]))
    encoded = orjson.dumps(head)
    headers = {HEADER: length or str(len(encoded))}
    answer = client.post("/v2/models/homepage/infer", content=encoded + raw, headers=headers)
    assert answer.status_code == 400 and reason in answer.json()["error"], answer.text


BAD_RANK: dict[str, tuple[dict[str, Any] | bytes, int, str]] = {
    "no json": (b"nope", 400, "no valid JSON"),
    "no surface": ({"candidates": [{"item_id": "i"}]}, 422, "surface: Field required"),
    "unknown surface": (rank_body("homepage") | {"surface": "video"}, 404, "no surface 'video'"),
    "surface no string": (rank_body() | {"surface": 1}, 422, "surface"),
    "no candidates": ({"surface": "homepage"}, 422, "candidates: Field required"),
    "empty candidates": (rank_body(items=0), 422, "candidates"),
    "too many": (rank_body(items=1001), 422, "1001 candidates; at most 1000"),
    "candidates of strings": (rank_body() | {"candidates": ["i1"]}, 422, "candidates.0"),
    "no item": (rank_body() | {"candidates": [{"container_id": "new"}]}, 422, "candidates[0] has no item_id"),
    "item of fraction": (rank_body() | {"candidates": [{"item_id": 1.5}]}, 422, "item_id must be a string"),
    "item of list": (rank_body() | {"candidates": [{"item_id": []}]}, 422, "item_id must be a string"),
    "long id": (rank_body() | {"candidates": [{"item_id": "i" * 257}]}, 422, "at most 256 characters"),
    "unknown key": (rank_body(colour="red"), 422, "unknown key 'colour'"),
    "unknown candidate key": (rank_body() | {"candidates": [{"item_id": "i", "x": 1}]}, 422, "candidates[0].x"),
    "daily input": (rank_body(item_ctr=0.1), 422, "the server looks it up"),
    "after ranking": (rank_body() | {"candidates": [{"item_id": "i", "row": 1}]}, 422, "known only after ranking"),
    "shared in candidate": (rank_body() | {"candidates": [{"item_id": "i", "hour": 1}]}, 422, "beside the candidates"),
    "candidate's beside": (rank_body(container_id="new"), 422, "belongs into each candidate"),
    "user of fraction": (rank_body() | {"user_id": 1.5}, 422, "user_id"),
    "user of truth": (rank_body() | {"user_id": True}, 422, "user_id"),
    "session no object": (rank_body(session=[1]), 422, "session"),
    "unknown in session": (rank_body(session={"mood": 1}), 422, "unknown key session.mood"),
    "outcomes no list": (rank_body(session={"outcomes": "skipped"}), 422, "session_outcomes must be a list"),
    "unknown outcome": (rank_body(session={"outcomes": ["paused"]}), 422, "holds 'paused'"),
    "twice": (rank_body(session_outcomes=[1]), 422, "the same input"),
    "time": (rank_body(ts="yesterday"), 422, "ts"),
    "hour": (rank_body() | {"hour": 9.5}, 422, "hour must be"),
    "hour as text": (rank_body() | {"hour": "9"}, 422, "hour must be an integer from 0 to 23, got '9'"),
    "no hour of a day": (rank_body() | {"hour": 24}, 422, "hour must be"),
    "id as a float": (rank_body() | {"candidates": [{"item_id": 7.0}]}, 422, "got 7.0: a float loses digits"),
}


@pytest.mark.parametrize("case", BAD_RANK)
def test_bad_rank_requests_get_4xx_with_the_reason(client: httpx.Client, case: str) -> None:
    content, status, reason = BAD_RANK[case]
    answer = client.post("/rank", content=content if isinstance(content, bytes) else orjson.dumps(content))
    assert answer.status_code == status and reason in answer.json()["error"], answer.text


@pytest.mark.parametrize(
    "path",
    ["nope", "%2e%2e", "..%2f..%2fetc%2fpasswd", "homepage%00", "homepage%2f..%2fradio", "a" * 5000, "%ff", "ra dio"],
)
def test_model_names_reach_no_file(client: httpx.Client, path: str) -> None:
    for method, url in (("GET", f"/v2/models/{path}"), ("POST", f"/v2/models/{path}/infer")):
        answer = client.request(method, url)
        assert answer.status_code in (404, 405) and answer.json()["error"]
        assert "root:" not in answer.text


def test_other_methods_versions_and_encodings_are_refused(client: httpx.Client, ready_home: Home) -> None:
    body = orjson.dumps(infer_body(ready_home.surfaces["homepage"]))
    infer = "/v2/models/homepage/infer"
    assert client.get(infer).status_code == 405
    assert "served in version 1" in client.post("/v2/models/homepage/versions/9/infer", content=body).json()["error"]
    answer = client.post(infer, content=body, headers={"Content-Encoding": "br"})
    assert answer.status_code == 415 and "'br'" in answer.json()["error"]
    for encoding, bad in (("gzip", body), ("gzip", gzip.compress(body)[:-9]), ("deflate", zlib.compress(body) + b"x")):
        answer = client.post(infer, content=bad, headers={"Content-Encoding": encoding})
        assert answer.status_code == 400 and encoding in answer.json()["error"]


def test_long_bodies_get_413_however_they_come(ready_home: Home) -> None:
    with (
        serving(ready_home.settings, limits=Limits(max_body_bytes=10_000)) as url,
        httpx.Client(base_url=url) as client,
    ):
        for path in ("/rank", "/v2/models/homepage/infer"):
            assert client.post(path, content=b" " * 10_001).status_code == 413
            assert client.post(path, content=(b" " * 1000 for _ in range(20))).status_code == 413
            bomb = gzip.compress(b" " * 5_000_000)
            assert len(bomb) < 10_000
            answer = client.post(path, content=bomb, headers={"Content-Encoding": "gzip"})
            assert answer.status_code == 413 and "decompressed" in answer.json()["error"]


def test_a_body_that_never_ends_gets_408(ready_home: Home) -> None:
    import socket

    with serving(ready_home.settings, limits=Limits(timeout_s=0.3)) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as raw:
            raw.sendall(b"POST /rank HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            assert b" 408 " in raw.recv(4096)


def test_the_token_is_asked_for_everywhere_but_by_probes(ready_home: Home) -> None:
    guarded = tiny_settings(ready_home.settings.home, serve_token="s3cret")
    with serving(guarded) as url, httpx.Client(base_url=url) as client:
        assert client.get("/v2/health/live").status_code == client.get("/v2/health/ready").status_code == 200
        for path in ("/v2", "/metrics", "/v2/models/homepage", "/docs", "/openapi.json", "/nope"):
            assert client.get(path).status_code == 401
        for wrong in ("Bearer s3cre", "bearer  s3cret", "Basic s3cret", "s3cret", "Bearer", "Bearer é"):
            answer = client.post("/rank", json=rank_body(), headers=[(b"Authorization", wrong.encode())])
            assert answer.status_code == 401 and "token" in answer.json()["error"]
        right = {"Authorization": "Bearer s3cret"}
        assert client.post("/rank", json=rank_body(), headers=right).status_code == 200
        stock = triton.InferenceServerClient(url.removeprefix("http://"))
        spec = ready_home.surfaces["radio"]
        inputs = stock_inputs(spec, feeds_of(spec, 3), True)
        assert present(stock.infer("radio", inputs, headers=dict(right)).as_numpy("score")).shape == (3,)
        with pytest.raises(Exception, match="token"):
            stock.infer("radio", inputs)


def test_metrics_and_openapi_tell_what_is_there(client: httpx.Client) -> None:
    client.post("/rank", json=rank_body()).raise_for_status()
    text = client.get("/metrics").text
    for line in (
        "crossfade_ready 1.0",
        "crossfade_feature_age_days 0.0",
        'route="/rank",status="200"',
        'surface="radio"',
    ):
        assert line in text
    document = client.get("/openapi.json").json()
    assert document["components"]["schemas"]["RankRequest"]["properties"]["candidates"]["description"]
    assert {"/rank", "/v2/models/{model}/infer", "/v2/health/ready", "/metrics"} <= set(document["paths"])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


numbers = st.integers(-(2**53), 2**53) | st.floats(width=32, allow_nan=False, allow_infinity=False)
few_numbers = st.lists(numbers, max_size=4)
not_flat = numbers | st.none() | st.booleans() | st.text(max_size=2) | st.integers(2**63, 2**70) | few_numbers


def read_as(spec: TensorSpec, body: bytes) -> tuple[Any, ...] | str:
    """Return what became of a request with one input, or why it was refused."""
    try:
        found = decode_request(body, None, {spec.name: spec}, ["score"], Limits(max_rows=10))
    except BadRequest as refused:
        return str(refused)
    feed = found.feeds[spec.name]
    return found.id, found.outputs, str(feed.dtype), feed.shape, feed.tobytes()


BRACKET = b', "note": "["}'
"""End of a request that is read number by number, since the bracket might be a list."""


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(["int64", "float32"]),
    st.sampled_from([(), (2,)]),
    few_numbers | st.lists(st.integers(0, 9), max_size=4) | st.lists(not_flat, max_size=3),
)
def test_flat_lists_are_read_as_any_other_json(dtype: str, shape: tuple[int, ...], values: list[Any]) -> None:
    spec = TensorSpec("x", dtype, shape)
    rows = max(1, len(values) // spec.size)
    body = dumps({"inputs": [{"name": "x", "datatype": spec.datatype, "shape": [rows, *shape], "data": values}]})
    assert read_as(spec, body) == read_as(spec, body[:-1] + BRACKET)


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(["id", "inputs", "outputs", "parameters", "other"]).map(lambda key: ("request", key))
    | st.sampled_from(["name", "datatype", "shape", "data", "parameters", "other"]).map(lambda key: ("input", key)),
    json_values,
)
@pytest.mark.slow
def test_an_odd_request_is_read_or_refused_the_same_however_lists_are_read(place: tuple[str, str], odd: Any) -> None:
    entry: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2.5]}
    request: dict[str, Any] = {"inputs": [entry]}
    where, key = place
    (request if where == "request" else entry)[key] = odd
    body = dumps(request)
    assert read_as(TensorSpec("x", "float32"), body) == read_as(TensorSpec("x", "float32"), body[:-1] + BRACKET)


@pytest.mark.parametrize("twice", [b'"data": [2]', b'"name": "y"', b'"shape": [2]'])
def test_of_two_equal_keys_the_last_counts_however_a_list_is_read(twice: bytes) -> None:
    body = b'{"inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": [1], %s}]}' % twice
    assert read_as(TensorSpec("x", "int64"), body) == read_as(TensorSpec("x", "int64"), body[:-1] + BRACKET)


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=cast("list[HealthCheck]", list(HealthCheck)))
@given(data=st.data())
def test_no_body_makes_the_server_fail(client: httpx.Client, ready_home: Home, data: st.DataObject) -> None:
    surface = ready_home.surfaces["homepage"]
    head, raw = binary_request(surface)
    kind = data.draw(st.sampled_from(["bytes", "binary", "head", "rank"]))
    headers, path = {}, "/v2/models/homepage/infer"
    if kind == "bytes":
        body = data.draw(st.binary(max_size=300))
        headers = data.draw(st.fixed_dictionaries({}, optional={HEADER: st.integers(-5, 400).map(str)}))
    elif kind == "rank":
        path = "/rank"
        request = rank_body(items=2)
        key = data.draw(st.sampled_from([*request, "ts", "other"]))
        request[key] = data.draw(json_values)
        body = dumps(request)
    else:
        if kind == "head":
            entry = data.draw(st.sampled_from(head["inputs"]))
            entry[data.draw(st.sampled_from([*entry, "data", "other"]))] = data.draw(json_values)
        else:
            raw = data.draw(st.binary(min_size=len(raw) - 3, max_size=len(raw) + 3))
        encoded = dumps(head)
        body, headers = encoded + raw, {HEADER: str(len(encoded))}
    answer = client.post(path, content=body, headers=headers)
    assert answer.status_code < 500, answer.text
    if answer.status_code != 200:
        assert answer.json()["error"]


def dumps(content: Any) -> bytes:
    import json

    return json.dumps(content).encode()
