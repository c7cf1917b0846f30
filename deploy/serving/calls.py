"""Open Inference Protocol v2 over gRPC: the same requests, bounds and answers as over REST, on a port of their own.

The messages are those of ``tritonclient``, which every stock client of the protocol speaks.
"""

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, MutableSequence, Sequence
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any, Protocol, cast

import grpc
import numpy as np
import orjson
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from grpc.aio import ServicerContext

from deploy.serving import repository
from deploy.serving.answering import Inferred, infer_by
from deploy.serving.engine import Engine, Served
from deploy.serving.limits import Limits
from deploy.serving.metrics import log
from deploy.serving.protocol import EXTENSIONS, BadRequest
from deploy.serving.work import Work
from ml.inference.request import show

_CODES = {404: grpc.StatusCode.NOT_FOUND, 413: grpc.StatusCode.RESOURCE_EXHAUSTED, 503: grpc.StatusCode.UNAVAILABLE}
_CALLS_AT_ONCE = 256
_WAITING_AT_ONCE = 128
"""Calls that may wait for a message of theirs; with one more, the one that has waited for longest makes room."""
_IDLE_S = 60.0
"""A connection without a call is closed after so long; stock clients open another with their next call."""
_OPEN = ("/ServerLive", "/ServerReady")
"""Ends of the calls that need no token, for probes."""
_CONTENTS = {
    "bool_contents": np.dtype("?"),
    "int_contents": np.dtype("<i8"),
    "int64_contents": np.dtype("<i8"),
    "uint_contents": np.dtype("<u8"),
    "uint64_contents": np.dtype("<u8"),
    "fp32_contents": np.dtype("<f4"),
    "fp64_contents": np.dtype("<f8"),
}
_NAMES = {"i": "INT64", "u": "UINT64"}


@asynccontextmanager
async def answering_calls(
    engine: Engine, work: Work, limits: Limits, *, address: str, token: str | None, shared: bool = False
) -> AsyncIterator[int]:
    """Answer calls while the block runs; yield the port.

    Args:
        engine: Holds what is served.
        work: Does the work of requests, those over REST too.
        limits: Bounds of one request.
        address: Host and port to bind to; port 0 takes a free one.
        token: Bearer token to ask for in the metadata; ``None`` asks for none.
        shared: Whether other processes of this user may bind to the address too, and take calls.

    Raises:
        RuntimeError: The address cannot be bound, or the messages are not installed.
    """
    try:
        from tritonclient.grpc import service_pb2, service_pb2_grpc
    except ImportError as error:
        raise RuntimeError(f"gRPC needs packages that are not there: make install EXTRAS=grpc ({error})") from error
    options = [
        ("grpc.max_receive_message_length", limits.max_body_bytes),
        ("grpc.max_metadata_size", limits.max_head_bytes),
        ("grpc.max_concurrent_streams", 100),
        ("grpc.max_allowed_incoming_connections", limits.max_call_connections),
        ("grpc.max_connection_idle_ms", int(1000 * _IDLE_S)),
        ("grpc.server_handshake_timeout_ms", int(1000 * limits.head_s)),
        ("grpc.so_reuseport", int(shared)),
    ]
    entrance = _Entrance(token, limits.receive_s)
    server = grpc.aio.server(interceptors=[entrance], options=options, maximum_concurrent_rpcs=_CALLS_AT_ONCE)
    service = _Service(engine, work, limits, service_pb2)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(service, server)
    port = server.add_insecure_port(address)
    await server.start()
    log(logging.INFO, "gRPC", port=port)
    try:
        yield port
    finally:
        await server.stop(grace=limits.timeout_s)


class _OfModel(Protocol):
    """A request about a model, or about all where it has no name."""

    name: str
    version: str


class _OfRepository(Protocol):
    """A request for the repository's models."""

    ready: bool


class _Named(Protocol):
    name: str


class _Tensor(Protocol):
    name: str
    datatype: str
    shape: Sequence[int]
    parameters: Collection[str]
    contents: "_Contents"


class _Contents(Protocol):
    """Numbers by the names of ``_CONTENTS``, or these."""

    bytes_contents: Sequence[bytes]


class _OfInference(Protocol):
    """A request for an inference."""

    model_name: str
    model_version: str
    id: str
    inputs: Sequence[_Tensor]
    outputs: Sequence[_Named]
    raw_input_contents: MutableSequence[bytes]


class _Entrance(grpc.aio.ServerInterceptor):
    """Asks for the token before any message is read, and lets no call wait for a message of its own for long.

    gRPC reads the message of a plain call by itself, and waits for ever. Here every call reads as a stream does.

    Args:
        token: Bearer token to ask for; ``None`` asks for none.
        receive_s: Seconds for a message to arrive.
    """

    def __init__(self, token: str | None, receive_s: float) -> None:
        self.token = token.encode() if token else None
        self.receive_s = receive_s
        self._waiting: dict[asyncio.Timeout, None] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return what answers a call."""
        if not (handler_call_details.method.endswith(_OPEN) or self._allowed(handler_call_details)):
            return grpc.stream_stream_rpc_method_handler(_refused)
        found = await continuation(handler_call_details)
        if found is None:
            return None
        coded = {"request_deserializer": found.request_deserializer, "response_serializer": found.response_serializer}
        if (one := found.unary_unary) is not None:

            async def answer(requests: AsyncIterator[Message], context: ServicerContext) -> Message | None:
                async for request in self._received(requests, context):
                    return await one(request, context)
                return await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call has no message")

            return grpc.stream_unary_rpc_method_handler(answer, **coded)
        many = found.stream_stream

        async def answers(requests: AsyncIterator[Message], context: ServicerContext) -> AsyncIterator[Message]:
            async for response in many(self._received(requests, context), context):
                yield response

        return grpc.stream_stream_rpc_method_handler(answers, **coded)

    def _allowed(self, details: grpc.HandlerCallDetails) -> bool:
        if self.token is None:
            return True
        given: dict[str, str | bytes] = dict(details.invocation_metadata or ())
        scheme, _, told = str(given.get("authorization", "")).partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(told.encode(), self.token)

    async def _received(self, requests: AsyncIterator[Message], context: ServicerContext) -> AsyncIterator[Message]:
        """Yield the messages of a call, each of which must come in time."""
        while True:
            try:
                async with asyncio.timeout(self.receive_s) as patience:
                    self._waiting[patience] = None
                    if len(self._waiting) > _WAITING_AT_ONCE:
                        self._waiting.pop(longest := next(iter(self._waiting)))
                        longest.reschedule(0)  # a time that has passed
                    try:
                        request = await anext(requests)
                    finally:
                        self._waiting.pop(patience, None)
            except StopAsyncIteration:
                return
            except TimeoutError:
                await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no message came in time")
            yield request


async def _refused(_: AsyncIterator[Message], context: ServicerContext) -> None:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "a valid bearer token is needed")


class _Service:
    """The calls of the protocol. Their names are those of its description."""

    def __init__(self, engine: Engine, work: Work, limits: Limits, messages: ModuleType) -> None:
        self.engine = engine
        self.work = work
        self.limits = limits
        self.messages = messages

    def __getattr__(self, name: str) -> Callable[[Message, ServicerContext], Awaitable[None]]:
        async def unknown(_: Message, context: ServicerContext) -> None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{name} is not answered here")

        if name[:1].isupper():
            return unknown
        raise AttributeError(name)

    async def ServerLive(self, _: Message, __: ServicerContext) -> Message:
        return self.messages.ServerLiveResponse(live=True)

    async def ServerReady(self, _: Message, __: ServicerContext) -> Message:
        return self.messages.ServerReadyResponse(ready=not self.engine.not_ready())

    async def ModelReady(self, request: _OfModel, _: ServicerContext) -> Message:
        served = self.engine.served.get(request.name)
        ready = served is not None and request.version in ("", served.version)
        return self.messages.ModelReadyResponse(ready=ready)

    async def ServerMetadata(self, _: Message, __: ServicerContext) -> Message:
        return self.messages.ServerMetadataResponse(name="crossfade", extensions=EXTENSIONS)

    async def ModelMetadata(self, request: _OfModel, context: ServicerContext) -> Message:
        served = await self._served(request.name, request.version, context)
        return ParseDict(repository.metadata(served), self.messages.ModelMetadataResponse(), ignore_unknown_fields=True)

    async def ModelConfig(self, request: _OfModel, context: ServicerContext) -> Message:
        served = await self._served(request.name, request.version, context)
        return ParseDict({"config": repository.config(served)}, self.messages.ModelConfigResponse())

    async def ModelStatistics(self, request: _OfModel, context: ServicerContext) -> Message:
        if request.name:
            asked = [await self._served(request.name, request.version, context)]
        else:
            asked = list(self.engine.served.values())
        return ParseDict(repository.statistics(asked), self.messages.ModelStatisticsResponse())

    async def RepositoryIndex(self, request: _OfRepository, _: ServicerContext) -> Message:
        found = repository.index(self.engine.served.values(), [] if request.ready else self.engine.missing())
        return ParseDict({"models": found}, self.messages.RepositoryIndexResponse())

    async def ModelInfer(self, request: _OfInference, context: ServicerContext) -> Message:
        served = await self._served(request.model_name, request.model_version, context)
        try:
            return await self._infer(served, request)
        except BadRequest as error:
            await context.abort(_CODES.get(error.status, grpc.StatusCode.INVALID_ARGUMENT), str(error))
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the request was not answered in time")

    async def ModelStreamInfer(
        self, requests: AsyncIterator[_OfInference], context: ServicerContext
    ) -> AsyncIterator[Message]:
        async for request in requests:
            served = await self._served(request.model_name, request.model_version, context)
            try:
                answer = await self._infer(served, request)
                yield self.messages.ModelStreamInferResponse(infer_response=answer)
            except (BadRequest, TimeoutError) as error:
                yield self.messages.ModelStreamInferResponse(error_message=str(error) or "not answered in time")

    async def _served(self, name: str, version: str, context: ServicerContext) -> Served:
        served = self.engine.served.get(name)
        if served is None or version not in ("", served.version):
            those = ", ".join(f"{one} in version {item.version}" for one, item in self.engine.served.items())
            told = f"no model {show(name)} in version {show(version)} is served; served are {those or 'none'}"
            await context.abort(grpc.StatusCode.NOT_FOUND, told)
        assert served is not None
        return served

    async def _infer(self, served: Served, request: _OfInference) -> Message:
        began = time.perf_counter()
        try:
            async with asyncio.timeout(self.limits.timeout_s):
                with self.work.holding(cast("Message", request).ByteSize()):
                    _check_counts(request, served, self.limits)
                    head, raw = _as_rest(request)
                    body, length = head + raw, str(len(head))
                    answer = await infer_by(served, body, length, self.work, self.engine.metrics, self.limits)
        except (BadRequest, TimeoutError):
            served.released.counts.failed(time.perf_counter() - began)
            raise
        served.released.counts.answered(answer.asked.rows, time.perf_counter() - began, answer.run_seconds)
        return self._response(answer)

    def _response(self, answer: Inferred) -> Message:
        served, response = answer.served, self.messages.ModelInferResponse()
        response.model_name, response.model_version = served.released.surface, served.version
        response.id = answer.asked.id or ""
        for key, value in served.label.items():
            response.parameters[key].string_param = str(value or "")
        for name, _ in answer.asked.outputs:
            response.outputs.add(name=name, datatype="FP32", shape=answer.values[name].shape)
            response.raw_output_contents.append(answer.values[name].astype("<f4", copy=False).tobytes())
        return response


def _check_counts(request: _OfInference, served: Served, limits: Limits) -> None:
    """Refuse what has more parts than any request, before each of them becomes an object.

    Raises:
        BadRequest: It has.
    """
    tensors, outputs = served.released.tensors, served.released.model.outputs
    if len(request.inputs) > len(tensors):
        raise BadRequest(f"{len(request.inputs)} inputs; the model takes {len(tensors)}: {', '.join(tensors)}")
    if len(request.outputs) > len(outputs):
        raise BadRequest(f"{len(request.outputs)} outputs; the model gives {len(outputs)}: {', '.join(outputs)}")
    if len(request.raw_input_contents) > len(request.inputs):
        raise BadRequest(f"{len(request.raw_input_contents)} raw contents for {len(request.inputs)} inputs")
    listed = [len(getattr(tensor.contents, name)) for tensor in request.inputs for name in _CONTENTS]
    values = sum(listed) + sum(len(tensor.shape) for tensor in request.inputs)
    if values > limits.max_values:
        raise BadRequest(f"the request holds {values} values in lists; at most {limits.max_values} are read")


def _as_rest(request: _OfInference) -> tuple[bytes, bytes]:
    """Return head and binary tensors of the same request over REST, which is checked there."""
    inputs, raw = [], list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise BadRequest(f"{len(raw)} raw contents for {len(request.inputs)} inputs")
    for i, tensor in enumerate(request.inputs):
        datatype = tensor.datatype
        if "shared_memory_region" in tensor.parameters:
            raise BadRequest(f"input {show(tensor.name)} uses shared memory, which this server has not")
        if not raw or len(raw) == i:
            filled = [name for name in _CONTENTS if len(getattr(tensor.contents, name))]
            if len(filled) != 1 or len(tensor.contents.bytes_contents):
                raise BadRequest(f"input {show(tensor.name)} has neither raw contents nor one list of numbers")
            kind = _CONTENTS[filled[0]]
            datatype = _NAMES.get(kind.kind, datatype) if datatype != "BOOL" else datatype
            content = np.array(getattr(tensor.contents, filled[0]), kind).tobytes()
            request.raw_input_contents.append(content)
        size = len(request.raw_input_contents[i])
        shape = [int(n) for n in tensor.shape]
        inputs.append(
            {"name": tensor.name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": size}}
        )
    head: dict[str, object] = {"inputs": inputs, "outputs": [{"name": output.name} for output in request.outputs]}
    if request.id:
        head["id"] = request.id
    return orjson.dumps(head), b"".join(request.raw_input_contents)
