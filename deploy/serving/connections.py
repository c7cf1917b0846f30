"""Connections that nobody can hold for nothing: bounded heads, deadlines, and room for one more client.

uvicorn bounds neither heads nor the time that they take, and its ``limit_concurrency`` counts silent connections too
and then refuses everybody, health included. Here the connection that has kept its request back for longest makes room.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from itertools import islice
from socket import socket
from typing import Any, cast

import httptools
import orjson
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from deploy.serving.limits import Limits
from deploy.serving.metrics import Metrics, Rarely, log

_SWEEP_S = 0.1
_ENDED_AT_ONCE = 16
"""Connections that one turn of the loop ends: a thousand that came together would keep others waiting."""
_LINGER_S = 1.0
"""A refused client may send for so long after the answer, unread: a reset would take the answer away from it."""
_SLOW_S = 1.0
"""A body that takes longer may be ended for another connection."""
_WAITING_TO_BE_ACCEPTED = 1024


class Phase(Enum):
    """What a connection is waiting for."""

    HEAD = "head"
    BODY = "body"
    ANSWER = "answer"
    IDLE = "idle"
    LINGER = "linger"


class _Refused(Exception):
    """A head that is not read further."""


class Door:
    """Which connections are open, how long each may go on, and which one makes room for the next.

    Args:
        limits: Bounds of one connection, and how many may be open at once.
        metrics: Counts connections, and those that the server ended.
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self.limits = limits
        self.metrics = metrics
        self.seconds = {
            Phase.HEAD: limits.head_s,
            Phase.BODY: limits.receive_s,
            Phase.ANSWER: float("inf"),
            Phase.IDLE: limits.idle_s + _LINGER_S,
            Phase.LINGER: _LINGER_S,
        }
        self._open: dict[Connection, None] = {}
        self._waiting: dict[Phase, dict[Connection, None]] = {phase: {} for phase in Phase}
        self._swept = 0.0
        self._told = Rarely(per_s=1 / 60)

    def enter(self, connection: "Connection") -> None:
        """Count a new connection in; where there is no room, end the one that has kept its request back for longest."""
        self._open[connection] = None
        if len(self._open) > self.limits.max_connections:
            one = next(self._in_the_way(connection), connection)
            self.leave(one)  # its descriptor is free by the next turn of the loop
            one.abort("no room")
        self.metrics.connections.set(len(self._open))

    def leave(self, connection: "Connection") -> None:
        """Count a connection out."""
        self._open.pop(connection, None)
        self._waiting[connection.phase].pop(connection, None)
        self.metrics.connections.set(len(self._open))

    def moved(self, connection: "Connection", phase: Phase) -> None:
        """Note that a connection waits for something else from now on."""
        self._waiting[connection.phase].pop(connection, None)
        self._waiting[phase][connection] = None

    def _in_the_way(self, newcomer: "Connection") -> Iterator["Connection"]:
        """Yield who may go: the refused, the silent, who sends a body slowly, who asks nothing now."""
        yield from self._waiting[Phase.LINGER]
        yield from (one for one in self._waiting[Phase.HEAD] if one is not newcomer)
        slow = time.monotonic() + self.limits.receive_s - _SLOW_S
        yield from (one for one in self._waiting[Phase.BODY] if one.due < slow)
        yield from self._waiting[Phase.IDLE]

    def ended(self, reason: str) -> None:
        """Count a connection that the server ended, and say so now and then."""
        self.metrics.ended.labels(reason).inc()
        if (before := self._told.due(reason)) is not None:
            log(logging.WARNING, "connection ended", reason=reason, open=len(self._open), not_told=before)

    def sweep(self) -> None:
        """End what is overdue."""
        now = time.monotonic()
        if now - self._swept < _SWEEP_S:
            return
        self._swept = now
        for connection in islice([one for one in self._open if one.due < now], _ENDED_AT_ONCE):
            connection.overdue()


class Connection(HttpToolsProtocol):
    """One connection of uvicorn, bounded by a ``Door``."""

    def __init__(self, door: Door, **uvicorn_gives: Any) -> None:
        super().__init__(**uvicorn_gives)
        self.door = door
        self.limits = door.limits
        self.due = float("inf")
        self.phase = Phase.HEAD
        self._unframed = 0
        self._received = False
        self._refusal: tuple[int, str] | None = None
        self._answering: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the first head."""
        super().connection_made(cast("asyncio.Transport", transport))
        self._wait_for(Phase.HEAD)
        self.door.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the door."""
        super().connection_lost(exc)
        self.door.leave(self)

    def data_received(self, data: bytes) -> None:
        """Read in pieces of which each is small, so that no more than one of them lies beyond a bound."""
        if self.phase is Phase.LINGER or self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        if self.phase is Phase.IDLE:
            self._wait_for(Phase.HEAD)
        for start in range(0, len(data), self.limits.max_head_bytes):
            piece = data[start : start + self.limits.max_head_bytes]
            self._unframed += len(piece)
            try:
                cast("httptools.HttpRequestParser", self.parser).feed_data(piece)
            except httptools.HttpParserUpgrade:
                self._end_after_answer()  # what follows is no HTTP/1.1, and no other protocol is spoken here
                return
            except httptools.HttpParserError:
                self._refuse(*(self._refusal or (400, "this is no HTTP/1.1 request")))
                return
            if self.transport.is_closing():
                return
            if self._unframed > self.limits.max_head_bytes:
                self._refuse(431, f"more than {self.limits.max_head_bytes} bytes of headers")
                return

    def eof_received(self) -> None:
        """Let the connection go: who ends its side early is not waited for."""

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._received = False
        self._wait_for(Phase.HEAD)

    def on_url(self, url: bytes) -> None:
        """Take a part of the address."""
        super().on_url(url)
        if len(self.url) > self.limits.max_url_bytes:
            self._stop_at(414, f"the address is longer than {self.limits.max_url_bytes} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; those behind the body are nobody's."""
        if self.phase is Phase.BODY:
            return
        super().on_header(name, value)
        if len(self.headers) > self.limits.max_headers:
            self._stop_at(431, f"more than {self.limits.max_headers} headers")

    def on_headers_complete(self) -> None:
        """Let the request be answered."""
        if len(self.pipeline) >= self.limits.max_pipelined:
            self._stop_at(400, f"more than {self.limits.max_pipelined} requests wait for an answer")
        self._unframed = 0
        self._wait_for(Phase.BODY)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._unframed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for nothing but the answer."""
        self._unframed = 0
        self._received = True
        super().on_message_complete()
        self._wait_for(Phase.IDLE if self.cycle.response_complete else Phase.ANSWER)

    def on_response_complete(self) -> None:
        """Go on to the next request, or wait for one."""
        super().on_response_complete()
        if self._received and not self.pipeline and self.phase is Phase.ANSWER:
            self._wait_for(Phase.IDLE)

    def pause_writing(self) -> None:
        """Give a client that does not read its answer so long to do so."""
        super().pause_writing()
        self.due = min(self.due, time.monotonic() + self.limits.unread_s)

    def resume_writing(self) -> None:
        """It reads."""
        super().resume_writing()
        self._wait_for(self.phase)

    def overdue(self) -> None:
        """End what did not come in time; what is our own doing is waited for."""
        if self.flow.write_paused:
            self.abort("answer not read")
        elif self.flow.read_paused:
            self._wait_for(self.phase)
        elif self.phase is Phase.HEAD and self._unanswered is None and not self.transport.is_closing():
            self._refuse(408, f"the head of the request did not arrive within {self.limits.head_s:g} s")
        else:
            self.abort({Phase.HEAD: "head too slow", Phase.BODY: "body too slow"}.get(self.phase, self.phase.value))

    def abort(self, reason: str) -> None:
        """End the connection now."""
        if reason not in (Phase.IDLE.value, Phase.LINGER.value):
            self.door.ended(reason)
        self._drop_request()
        self.transport.abort()

    def _wait_for(self, phase: Phase) -> None:
        self.due = time.monotonic() + self.door.seconds[phase]
        self.door.moved(self, phase)
        self.phase = phase

    @property
    def _unanswered(self) -> RequestResponseCycle | None:
        """The request whose answer is on its way."""
        return None if self._answering is None or self._answering.response_complete else self._answering

    def _stop_at(self, status: int, reason: str) -> None:
        """Leave the parser, which knows errors only by what it was called with."""
        self._refusal = (status, reason)
        raise _Refused

    def _refuse(self, status: int, reason: str) -> None:
        """Answer what cannot be read, unless another answer is on its way, and let the connection end."""
        self.door.ended(str(status))
        if (one := self._unanswered) is None or not one.response_started:
            body = orjson.dumps({"error": reason})
            head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
            self.transport.write(STATUS_LINE[status] + head + body)
        self._drop_request()
        self._wait_for(Phase.LINGER)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()

    def _drop_request(self) -> None:
        """Tell whoever answers that nobody waits any more."""
        for cycle in (self._answering, self.cycle, *(cycle for cycle, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected, cycle.waiting_for_100_continue = True, False
                cycle.message_event.set()
        self.pipeline.clear()

    def _end_after_answer(self) -> None:
        if (one := self._unanswered) is None:
            self.transport.close()
        else:
            self.cycle.keep_alive = one.keep_alive = False

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle  # ``cycle`` of uvicorn is the last one that came, which may wait for its turn
        super()._start_asgi_task(cycle, app)


class Server(uvicorn.Server):
    """uvicorn's server with a door.

    Args:
        config: Of uvicorn; its connections are to be made by ``connections_of`` the door.
        door: Sweeps its connections.
        drain_s: Seconds to answer on once it shall end.
        on_drain: Called when these begin.
        on_start: Called when it has loaded what it serves.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        door: Door,
        *,
        drain_s: float,
        on_drain: Callable[[], None],
        on_start: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self.door = door
        self.drain_s = drain_s
        self.on_drain = on_drain
        self.on_start = on_start
        self._drained_at: float | None = None
        self._told = Rarely(per_s=1 / 60)

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Start; connections queue in the kernel, while few are accepted at once."""
        asyncio.get_running_loop().set_exception_handler(self._failed)
        await super().startup(sockets)
        self.on_start()
        for bound in sockets or ():
            bound.listen(_WAITING_TO_BE_ACCEPTED)

    async def on_tick(self, counter: int) -> bool:
        """End what is overdue; tell whether to end altogether, a while after that was asked for, at once if twice."""
        self.door.sweep()
        if not await super().on_tick(counter):
            return False
        if self._drained_at is None:
            self._drained_at = time.monotonic() + self.drain_s
            self.on_drain()
            log(logging.INFO, "draining", seconds=self.drain_s)
        return time.monotonic() >= self._drained_at or len(self._captured_signals) > 1

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Stop; who is overdue is not waited for."""
        sweeping = asyncio.create_task(self._keep_sweeping())
        try:
            await super().shutdown(sockets)
        finally:
            sweeping.cancel()

    async def _keep_sweeping(self) -> None:
        while True:
            self.door.sweep()
            await asyncio.sleep(_SWEEP_S)

    def _failed(self, _: asyncio.AbstractEventLoop, context: Mapping[str, object]) -> None:
        """Say what went wrong in the loop, once a minute: without a descriptor, each attempt to accept does."""
        told = f"{context.get('message')}: {context.get('exception')!r}"
        if (before := self._told.due(told[:120])) is not None:
            log(logging.ERROR, "event loop", error=told[:500], not_told=before)


def connections_of(door: Door) -> Callable[..., asyncio.Protocol]:
    """Return what makes a connection for uvicorn."""

    def made(**uvicorn_gives: Any) -> asyncio.Protocol:
        return Connection(door, **uvicorn_gives)

    return made
