"""Bodies, and the work that they ask for, taken in portions: no request keeps the loop, or the memory, to itself."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

from starlette.requests import Request

from deploy.serving.limits import Limits
from deploy.serving.protocol import BadRequest, decompress

_TURN_S = 0.005
"""Work that one turn of the loop may do before it looks at other connections again: a probe waits for some turns."""
INLINE_BYTES = 64 * 1024
"""Up to so many bytes are read on the event loop: handing them to a thread costs more."""

T = TypeVar("T")


class Work:
    """Does the work of requests.

    Args:
        limits: Bounds of one request and of all bodies together.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held = 0
        self._spent = 0.0
        self._reading = asyncio.Semaphore(1)  # JSON is read under the interpreter's lock: two would only wait longer
        self._threads = asyncio.Semaphore(2)

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """Receive the body and undo its encoding, but never more of it than the limit; it counts while the block runs.

        Raises:
            BadRequest: It is too long, or its encoding is not known; or other bodies leave no room for it.
        """
        limit = self._limits.max_body_bytes
        stated = request.headers.get("content-length", "")
        if stated.isdigit() and int(stated) > limit:
            raise BadRequest(f"the body has {stated[:20]} bytes; at most {limit} are read", status=413)
        chunks, size = [], 0
        try:
            async for chunk in request.stream():
                size += len(chunk)
                self._held += len(chunk)
                if size > limit:
                    raise BadRequest(f"the body is longer than {limit} bytes", status=413)
                self._require_room(size)
                chunks.append(chunk)
            raw, encoding = b"".join(chunks), ", ".join(request.headers.getlist("content-encoding"))
            yield await self.do(lambda: decompress(raw, encoding, limit), aside=True) if encoding else raw
        finally:
            self._held -= size

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Count a request that came as a whole while the block runs.

        Raises:
            BadRequest: It is large, and others leave no room for it.
        """
        self._held += size
        try:
            self._require_room(size)
            yield
        finally:
            self._held -= size

    def _require_room(self, size: int) -> None:
        """Refuse a large body where there is no room; a small one always has some, whatever others hold."""
        if size > INLINE_BYTES and self._held > self._limits.max_held_bytes:
            raise BadRequest("too many large bodies at once; send it again later", status=503)

    async def read(self, body: bytes, read: Callable[[], T]) -> T:
        """Do what takes the longer the longer ``body`` is."""
        if len(body) <= INLINE_BYTES:
            return await self.do(read, aside=False)
        async with self._reading:
            return await asyncio.to_thread(read)

    async def do(self, work: Callable[[], T], *, aside: bool) -> T:
        """Do some work: ``aside`` in one of few threads, else on the loop once this turn of it has time left."""
        if aside:
            async with self._threads:
                return await asyncio.to_thread(work)
        while self._spent > _TURN_S:
            await asyncio.sleep(0)
        if not self._spent:
            asyncio.get_running_loop().call_soon(self._next_turn)
        began = time.perf_counter()
        try:
            return work()
        finally:
            self._spent += time.perf_counter() - began

    def _next_turn(self) -> None:
        self._spent = 0.0
