"""The protocol over gRPC: the stock client gets the same answers, and what is refused over REST is refused here."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http as triton_http
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from benchmarks.process import free_port
from deploy.serving.limits import Limits
from deploy.serving.run import serving
from tests.support.tiny_home import Home, feeds_of, tensors_of, tiny_settings


@pytest.fixture(scope="module")
def both(ready_home: Home) -> Iterator[tuple[triton.InferenceServerClient, triton_http.InferenceServerClient]]:
    port = free_port()
    settings = tiny_settings(ready_home.settings.home, serve_grpc_port=port)
    with (
        serving(settings, limits=Limits(max_body_bytes=1_000_000)) as url,
        triton.InferenceServerClient(f"127.0.0.1:{port}") as calls,
        triton_http.InferenceServerClient(url.removeprefix("http://")) as rest,
    ):
        yield calls, rest


def test_the_stock_client_gets_what_it_gets_over_rest(both: tuple[Any, Any], ready_home: Home) -> None:
    calls, rest = both
    feeds = feeds_of(ready_home.surfaces["homepage"], 7)
    answer = calls.infer("homepage", tensors_of(feeds, triton), request_id="r-1", model_version="1")
    same = rest.infer("homepage", tensors_of(feeds, triton_http))
    for output in answer.get_response().outputs:
        assert answer.as_numpy(output.name).tobytes() == same.as_numpy(output.name).tobytes()
    response = answer.get_response()
    assert (response.id, response.model_name, response.model_version) == ("r-1", "homepage", "1")
    assert response.parameters["feature_day"].string_param == "2026-01-20"
    asked = [triton.InferRequestedOutput("score")]
    assert [
        o.name for o in calls.infer("homepage", tensors_of(feeds, triton), outputs=asked).get_response().outputs
    ] == ["score"]


def test_the_stock_client_reads_the_same_descriptions(both: tuple[Any, Any]) -> None:
    calls, rest = both
    assert calls.is_server_live() and calls.is_server_ready() and calls.is_model_ready("homepage", "1")
    assert not calls.is_model_ready("video") and not calls.is_model_ready("homepage", "9")
    config = calls.get_model_config("homepage", as_json=True)["config"]
    told = rest.get_model_config("homepage")
    assert [i["name"] for i in config["input"]] == [i["name"] for i in told["input"]]
    metadata = calls.get_model_metadata("homepage", as_json=True)
    assert [o["name"] for o in metadata["outputs"]] == [
        o["name"] for o in rest.get_model_metadata("homepage")["outputs"]
    ]
    stats = calls.get_inference_statistics("homepage").model_stats[0]
    assert stats.inference_count == rest.get_inference_statistics("homepage")["model_stats"][0]["inference_count"]
    assert {one.name for one in calls.get_model_repository_index().models} == {"homepage", "radio"}


def test_numbers_in_lists_are_read_as_raw_ones(both: tuple[Any, Any], ready_home: Home) -> None:
    calls, _ = both
    feeds = feeds_of(ready_home.surfaces["radio"], 3)
    raw = calls.infer("radio", tensors_of(feeds, triton)).as_numpy("score")
    messages: Any = service_pb2
    request = messages.ModelInferRequest(model_name="radio")
    for name, value in feeds.items():
        whole = value.dtype == np.int64
        tensor = request.inputs.add(name=name, datatype="INT64" if whole else "FP32", shape=value.shape)
        listed = tensor.contents.int64_contents if whole else tensor.contents.fp32_contents
        listed.extend(value.reshape(-1).tolist())
    response = calls._client_stub.ModelInfer(request)
    place = [output.name for output in response.outputs].index("score")
    assert response.raw_output_contents[place] == raw.tobytes()


def refused(call: Any) -> str:
    with pytest.raises(InferenceServerException) as raised:
        call()
    return str(raised.value)


def test_what_is_wrong_is_refused_with_the_reason(both: tuple[Any, Any], ready_home: Home) -> None:
    calls, _ = both
    feeds = feeds_of(ready_home.surfaces["homepage"], 3)
    assert "missing input" in refused(lambda: calls.infer("homepage", tensors_of(feeds, triton)[1:]))
    assert "NOT_FOUND" in refused(lambda: calls.infer("video", tensors_of(feeds, triton)))
    many = feeds_of(ready_home.surfaces["homepage"], 1001)
    assert "1 to 1000" in refused(lambda: calls.infer("homepage", tensors_of(many, triton)))
    huge = feeds_of(ready_home.surfaces["homepage"], 20_000)
    assert "RESOURCE_EXHAUSTED" in refused(lambda: calls.infer("homepage", tensors_of(huge, triton)))
    assert "UNIMPLEMENTED" in refused(lambda: calls.get_system_shared_memory_status())


def test_the_token_is_asked_for(ready_home: Home) -> None:
    port = free_port()
    guarded = tiny_settings(ready_home.settings.home, serve_grpc_port=port, serve_token="s3cret")
    feeds = feeds_of(ready_home.surfaces["radio"], 2)
    with serving(guarded), triton.InferenceServerClient(f"127.0.0.1:{port}") as calls:
        assert calls.is_server_live()
        assert "UNAUTHENTICATED" in refused(lambda: calls.infer("radio", tensors_of(feeds, triton)))
        right = {"authorization": "Bearer s3cret"}
        answer: Any = calls.infer("radio", tensors_of(feeds, triton), headers=right)
        assert answer.as_numpy("score").shape == (2,)
