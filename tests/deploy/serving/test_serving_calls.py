"""The protocol over gRPC: the stock client gets the same answers, and what is refused over REST is refused here."""

import queue
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http as triton_http
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from benchmarks.process import free_port
from deploy.serving.limits import Limits
from deploy.serving.run import serving
from tests.support.tiny_home import Home, feeds_of, tensors_of, tiny_settings, wait_until

OWN = [("grpc.use_local_subchannel_pool", 1)]
"""Gives a channel a connection of its own."""


@pytest.fixture(scope="module")
def both(ready_home: Home) -> Iterator[tuple[triton.InferenceServerClient, triton_http.InferenceServerClient]]:
    port = free_port()
    settings = tiny_settings(ready_home.settings.home, serve_grpc_port=port)
    with (
        serving(settings, limits=Limits(max_body_bytes=1_000_000, max_values=900_000)) as url,
        triton.InferenceServerClient(f"127.0.0.1:{port}") as calls,
        triton_http.InferenceServerClient(url.removeprefix("http://")) as rest,
    ):
        yield calls, rest


@pytest.mark.slow
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


def silent_streams(port: int, many: int, held: ExitStack) -> list[Any]:
    """Open so many streams that never ask anything."""
    streams = []
    for _ in range(0, many, 90):  # a connection takes a hundred
        channel = held.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}", OWN))
        for _ in range(min(90, many - len(streams))):
            messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
            stream = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(iter(messages.get, None))
            held.callback(messages.put, None)
            held.callback(stream.cancel)
            streams.append(stream)
    return streams


@pytest.mark.slow
def test_who_opens_calls_and_sends_nothing_keeps_nobody_out(ready_home: Home) -> None:
    port = free_port()
    settings = tiny_settings(ready_home.settings.home, serve_grpc_port=port)
    with serving(settings, limits=Limits(receive_s=600)), ExitStack() as held:
        streams = silent_streams(port, 300, held)
        wait_until(lambda: sum(not stream.is_active() for stream in streams) >= 300 - 128)
        with triton.InferenceServerClient(f"127.0.0.1:{port}", channel_args=OWN) as client:
            assert client.is_server_live() and client.is_model_ready("radio")


def test_a_message_that_does_not_come_is_not_waited_for(ready_home: Home) -> None:
    port = free_port()
    settings = tiny_settings(ready_home.settings.home, serve_grpc_port=port)
    with serving(settings, limits=Limits(receive_s=0.2)), ExitStack() as held:
        [stream] = silent_streams(port, 1, held)
        with pytest.raises(grpc.RpcError) as ended:
            next(stream)
        assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_without_the_token_no_message_is_awaited(ready_home: Home) -> None:
    port = free_port()
    guarded = tiny_settings(ready_home.settings.home, serve_grpc_port=port, serve_token="s3cret")
    with serving(guarded, limits=Limits(receive_s=20)), ExitStack() as held:
        [stream] = silent_streams(port, 1, held)
        with pytest.raises(grpc.RpcError) as ended:
            next(stream)
        assert ended.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("of", ["inputs", "outputs", "values"])
def test_a_message_of_many_parts_is_refused_by_their_number_alone(both: tuple[Any, Any], of: str) -> None:
    calls, _ = both
    messages: Any = service_pb2
    request = messages.ModelInferRequest(model_name="radio")
    if of == "inputs":
        request.inputs.extend([messages.ModelInferRequest.InferInputTensor()] * 100_000)
    elif of == "outputs":
        request.outputs.extend([messages.ModelInferRequest.InferRequestedOutputTensor()] * 100_000)
    else:
        request.inputs.add(name="hour", datatype="INT64", shape=[1] * 90_000)
        request.inputs.add(name="genre", datatype="INT64", shape=[1]).contents.int64_contents.extend([1] * 900_000)
    with pytest.raises(grpc.RpcError) as ended:
        calls._client_stub.ModelInfer(request)
    told = {"inputs": "100000 inputs; the model takes", "outputs": "100000 outputs; the model gives"}
    assert ended.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert told.get(of, "holds 990001 values in lists; at most 900000") in str(ended.value.details())


def test_large_requests_have_the_room_that_bodies_have(ready_home: Home) -> None:
    port = free_port()
    settings = tiny_settings(ready_home.settings.home, serve_grpc_port=port)
    with (
        serving(settings, limits=Limits(max_held_bytes=1000)),
        triton.InferenceServerClient(f"127.0.0.1:{port}") as calls,
    ):
        small, large = (tensors_of(feeds_of(ready_home.surfaces["radio"], rows), triton) for rows in (20, 1000))
        assert "UNAVAILABLE" in refused(lambda: calls.infer("radio", large))
        assert calls.infer("radio", small) is not None


def test_silent_connections_leave_descriptors_for_others(ready_home: Home) -> None:
    port = free_port()
    settings = tiny_settings(ready_home.settings.home, serve_grpc_port=port)
    with serving(settings, limits=Limits(max_call_connections=5)), ExitStack() as held:
        taken = 0
        for _ in range(20):
            client = held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            with suppress(OSError):
                client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
                taken += bool(client.recv(9))  # who is taken hears of the server's settings
        assert taken == 5
