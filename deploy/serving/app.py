"""The server: Open Inference Protocol v2, /rank, health and metrics for every surface that has a champion."""

import asyncio
import hmac
import itertools
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypedDict, TypeVar, Unpack

import numpy as np
import orjson
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from deploy.elsewhere.traces import Trace, Traces, traces_of
from deploy.serving import rank, repository
from deploy.serving.answering import INLINE_ROWS, infer_by, run
from deploy.serving.engine import Engine, Served, Store
from deploy.serving.interleaving import ranked_together
from deploy.serving.limits import Limits
from deploy.serving.metrics import Metrics, Rarely, log
from deploy.serving.protocol import (
    EXTENSIONS,
    HEADER,
    BadRequest,
    parse_object,
)
from deploy.serving.served_log import Scored, ServedLog
from deploy.serving.work import INLINE_BYTES, Work
from deploy.serving.workers import Siblings
from ml.foundation.settings import Settings
from ml.inference.request import show

JSON = "application/json"
Handler = TypeVar("Handler", bound=Callable[..., Awaitable[Response]])


_OPEN_PATHS = frozenset({"/v2/health/live", "/v2/health/ready"})
"""Paths that need no token, for probes."""


def create_app(
    settings: Settings,
    *,
    limits: Limits | None = None,
    metrics: Metrics | None = None,
    poll_s: float = 1.0,
    store: Store | None = None,
    siblings: Siblings | None = None,
) -> FastAPI:
    """Return the server as an ASGI application; it loads what is served when it starts up.

    Args:
        settings: Names the home, the token and the greatest age of features.
        limits: Bounds of one request.
        metrics: Where to count.
        poll_s: Seconds between looks at the champion pointers and the feature pointer.
        store: Where models come from, in place of the home's champions.
        siblings: The workers that answer on the same port, if there are several.
    """
    limits = limits or Limits()
    metrics = metrics or Metrics()
    engine = Engine(settings, metrics, poll_s=poll_s, store=store)
    work, traces = Work(limits), traces_of(os.environ)
    served_log = ServedLog(settings, metrics) if settings.serve_log_share else None
    token = settings.serve_token.get_secret_value().strip() if settings.serve_token else None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(engine.start)
        async with AsyncExitStack() as stack:
            if served_log is not None:
                served_log.start()
                stack.push_async_callback(asyncio.to_thread, served_log.close)
            if siblings is not None:
                await stack.enter_async_context(siblings.answering(metrics))
            if settings.serve_grpc_port is not None:
                from deploy.serving.calls import answering_calls  # only where the messages are installed

                address = f"{settings.serve_grpc_host}:{settings.serve_grpc_port}"
                many = siblings is not None
                calls = answering_calls(engine, work, limits, address=address, token=token or None, shared=many)
                app.state.grpc_port = await stack.enter_async_context(calls)
            yield
        await asyncio.to_thread(engine.stop)
        await asyncio.to_thread(traces.close)

    app = FastAPI(title="Crossfade", version=_version(), description=__doc__ or "", lifespan=lifespan, redoc_url=None)
    app.router.redirect_slashes = False  # it would lead to the host that a request names, with its body and token
    app.state.engine = engine
    app.add_middleware(_Edge, engine=engine, token=token or None)
    app.add_exception_handler(BadRequest, _refused)
    app.add_exception_handler(HTTPException, _refused)
    app.openapi = partial(_openapi, app)
    _add_rank(app, engine, limits, work, traces, served_log)  # first: routes are tried in turn
    _add_repository(app, engine, limits, work)
    _add_models(app, engine, metrics, limits, work)
    _add_health(app, engine, metrics, siblings)
    return app


def _add_health(app: FastAPI, engine: Engine, metrics: Metrics, siblings: Siblings | None) -> None:
    @app.get("/v2", tags=["protocol v2"], summary="Server metadata")
    async def server() -> Response:
        return _json({"name": "crossfade", "version": app.version, "extensions": EXTENSIONS})

    @app.get("/v2/health/live", tags=["health"], summary="The process answers")
    async def live() -> Response:
        return _json({"live": True})

    @app.get("/v2/health/ready", tags=["health"], summary="Every champion is loaded and its features are fresh")
    async def ready(request: Request) -> Response:
        reasons, troubles = engine.not_ready(), engine.details()
        answer: dict[str, object] = {"ready": not reasons, **({"error": "; ".join(reasons)} if reasons else {})}
        if troubles:  # their texts name files: without the token, only what they are about
            answer["details"] = troubles if request.scope["allowed"] else dict.fromkeys(troubles, "the log says more")
        return _json(answer, 503 if reasons else 200)

    @app.get("/metrics", tags=["health"], summary="Prometheus metrics")
    async def prometheus() -> Response:
        content = metrics.render() if siblings is None else await siblings.render(metrics)
        return Response(content, media_type="text/plain; version=0.0.4")


def _add_repository(app: FastAPI, engine: Engine, limits: Limits, work: Work) -> None:
    @app.get("/v2/models/stats", tags=["protocol v2"], summary="What all models have answered")
    async def all_statistics() -> Response:
        return _json(repository.statistics(engine.served.values()))

    @app.post("/v2/repository/index", tags=["protocol v2"], summary="The models that there are")
    async def index(request: Request) -> Response:
        async with asyncio.timeout(limits.timeout_s), work.body(request) as body:
            asked = parse_object(body, limits.max_depth, limits.max_values) if body else {}
        missing = [] if asked.get("ready") else engine.missing()
        return _json(repository.index(engine.served.values(), missing))

    @app.post("/v2/repository/models/{model}/{action}", tags=["protocol v2"], summary="Refused: the champion decides")
    async def load(request: Request) -> Response:
        model = show(request.path_params["model"])
        raise BadRequest(f"what serves {model} is its champion: crossfade release promote or rollback changes it")


def _add_models(app: FastAPI, engine: Engine, metrics: Metrics, limits: Limits, work: Work) -> None:
    def routes(
        method: Callable[..., Callable[[Handler], Handler]], path: str, summary: str, **more: Unpack[_Described]
    ) -> Callable[[Handler], Handler]:
        """Register a handler with and without the version in the path."""

        def register(handler: Handler) -> Handler:
            for prefix in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
                method(prefix + path, tags=["protocol v2"], summary=summary, **more)(handler)
            return handler

        return register

    @routes(app.get, "/config", "Configuration, as Triton's tools read it")
    async def config(request: Request) -> Response:
        return _json(repository.config(_find(engine, request)))

    @routes(app.get, "/stats", "What a surface's champion has answered")
    async def statistics(request: Request) -> Response:
        return _json(repository.statistics([_find(engine, request)]))

    @routes(app.get, "", "Inputs and outputs of a surface's champion")
    async def metadata(request: Request) -> Response:
        served = _find(engine, request)
        return _json(repository.metadata(served))

    @routes(app.get, "/ready", "The surface's champion is loaded")
    async def ready(request: Request) -> Response:
        served = _find(engine, request)
        return _json({"name": served.released.surface, "ready": True})

    @routes(
        app.post,
        "/infer",
        "Score rows of ready-made inputs",
        description=f"JSON tensors, or the binary tensor data extension with `{HEADER}`.",
        responses={status: {"model": rank.ErrorResponse} for status in (400, 404, 408, 413, 415)},
    )
    async def infer(request: Request) -> Response:
        served, began = _find(engine, request), time.perf_counter()
        try:
            async with asyncio.timeout(limits.timeout_s), work.body(request) as body:
                answer = await infer_by(served, body, request.headers.get(HEADER), work, metrics, limits)
        except (BadRequest, TimeoutError):
            served.released.counts.failed(time.perf_counter() - began)
            raise
        content, headers = answer.encoded()
        served.released.counts.answered(answer.asked.rows, time.perf_counter() - began, answer.run_seconds)
        return Response(content, headers=headers)


def _add_rank(
    app: FastAPI, engine: Engine, limits: Limits, work: Work, traces: Traces, served_log: ServedLog | None
) -> None:
    metrics = engine.metrics
    body = {"content": {JSON: {"schema": {"$ref": "#/components/schemas/RankRequest"}}}, "required": True}
    requests = itertools.count()

    @app.post(
        "/rank",
        tags=["ranking"],
        summary="Rank candidate items for a user",
        response_model=None,
        responses={
            200: {"model": rank.RankResponse},
            **{status: {"model": rank.ErrorResponse} for status in (400, 404, 408, 413, 415, 422, 503)},
        },
        openapi_extra={"requestBody": body},
    )
    async def rank_candidates(request: Request) -> Response:
        with traces.rank(request.headers) as trace:
            async with asyncio.timeout(limits.timeout_s), work.body(request) as body:
                trace.part("receive")
                asked = await work.read(body, lambda: rank.read_request(body, limits))
                trace.part("read")
                served = engine.answering(asked.surface, asked.user_id)
                if served is None:
                    raise BadRequest(f"no surface {show(asked.surface)} is served; {_those(engine)}", status=404)
                many = len(asked.candidates) > INLINE_ROWS or len(body) > INLINE_BYTES
                rival = engine.interleaved(asked.surface, asked.user_id, served)
                label = {**served.label, **({"interleaved_with": rival.released.release} if rival else {})}
                trace.answered_by(asked.surface, served.released.path, label, len(asked.candidates))
                values, answer = await work.do(
                    lambda: (
                        ranked_together(asked, body, (served, rival), engine, metrics, served_log)
                        if rival
                        else _ranked(asked, served, engine, trace, served_log)
                    ),
                    aside=many,
                )
                if rival:
                    trace.part("interleave")
        metrics.ranked.labels(asked.surface, served.released.release).inc()
        shadow = engine.shadow(asked.surface, next(requests))
        later = BackgroundTask(rank.compare, asked, values, shadow, engine, metrics) if shadow else None
        return Response(answer, media_type=JSON, background=later)


def _ranked(
    asked: rank.RankRequest, served: Served, engine: Engine, trace: Trace, served_log: ServedLog | None
) -> tuple[dict[str, np.ndarray], bytes]:
    """Return what the model gives, and the answer."""
    metrics = engine.metrics
    feeds = rank.prepare(asked, served, engine, metrics)
    trace.part("features")
    values = run(served, feeds, served.released.model.outputs, metrics)
    trace.part("model")
    answer = rank.render(asked, served, values, metrics)
    trace.part("render")
    if served_log is not None:
        served_log.offer(asked, [Scored(served, feeds, values)])
    return values, answer


def _those(engine: Engine) -> str:
    return f"served are {', '.join(sorted(engine.served)) or 'none'}"


def _find(engine: Engine, request: Request) -> Served:
    """Return what serves the model (and version) of the path."""
    model, asked = request.path_params["model"], request.path_params.get("version")
    served = engine.served.get(model)
    if served is None:
        raise BadRequest(f"no model {show(model)} is served; {_those(engine)}", status=404)
    if asked is not None and asked != served.version:
        raise BadRequest(f"model {model!r} is served in version {served.version}, not {show(asked)}", status=404)
    return served


class _Described(TypedDict, total=False):
    """What the OpenAPI description says of a route beyond its summary."""

    description: str
    responses: dict[int | str, dict[str, object]]


class _Edge:
    """Outermost layer: checks the token, counts and times requests, and turns what nobody caught into JSON.

    Args:
        app: The application.
        engine: Says where to count, and whether the server is about to end.
        token: Bearer token to ask for; ``None`` asks for none.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], engine: Engine, token: str | None) -> None:
        self.app = app
        self.engine = engine
        self.metrics = engine.metrics
        self.token = token.encode() if token is not None else None
        self._failures = Rarely(per_s=1 / 60)
        self._refusals = Rarely(per_s=10, at_once=20)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, started = 0, time.perf_counter()

        async def noting(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            if self.engine.draining and message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)

        self.metrics.in_flight.inc()
        try:
            scope["allowed"] = self._allowed(scope)
            if scope["allowed"] or scope["path"] in _OPEN_PATHS:
                await self.app(scope, receive, noting)
            else:
                refusal = _json({"error": "a valid bearer token is needed"}, 401, {"WWW-Authenticate": "Bearer"})
                await refusal(scope, receive, noting)
        except TimeoutError:
            if not status:
                await _json({"error": "the request was not received and answered in time"}, 408)(scope, receive, noting)
        except ClientDisconnect:
            status = 499
        except Exception as error:
            if (before := self._failures.due(f"{type(error).__name__} {str(error)[:80]}")) is not None:
                log(logging.ERROR, "request failed", exc_info=True, path=scope["path"][:200], not_told=before)
            if not status:
                await _json({"error": "internal error"}, 500)(scope, receive, noting)
        finally:
            self.metrics.in_flight.dec()
            self._note(scope, status, time.perf_counter() - started)

    def _allowed(self, scope: Scope) -> bool:
        if self.token is None:
            return True
        headers = dict(scope["headers"])
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(given, self.token)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        self.metrics.requests.labels(route, str(status)).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        fields = {
            "method": scope["method"],
            "path": scope["path"][:200],
            "status": status,
            "seconds": round(seconds, 5),
        }
        if status < 400:
            log(logging.DEBUG, "request", **fields)
        elif (before := self._refusals.due("")) is not None:
            log(logging.INFO, "request", **fields, not_told=before)


async def _refused(_: Request, error: Exception) -> Response:
    status = getattr(error, "status", None) or getattr(error, "status_code", 500)
    reason = error.detail if isinstance(error, HTTPException) else str(error)
    return _json({"error": reason}, status, getattr(error, "headers", None))


def _json(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, JSON)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document with the models of bodies that the handlers read by themselves."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for model in (rank.RankRequest, rank.Candidate):
            schemas[model.__name__] = model.model_json_schema()
        schemas["RankRequest"]["properties"]["candidates"]["items"] = {"$ref": "#/components/schemas/Candidate"}
        app.openapi_schema = document
    return app.openapi_schema


def _version() -> str:
    try:
        return version("crossfade")
    except PackageNotFoundError:  # run from a checkout
        return "0"
