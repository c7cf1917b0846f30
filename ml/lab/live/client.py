"""Asks a server to rank, over HTTP, from a few threads with a connection each."""

import http.client
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NotRequired, TypedDict
from urllib.parse import urlsplit

import numpy as np
import orjson

THREADS = 2
"""Enough to keep one server busy: while one thread reads an answer, the other's request is ranked."""

_TIMEOUT_S = 60.0
_TELL_EVERY = 200


class ServerError(RuntimeError):
    """A server that answered something else than the ranking asked for; the message says what."""


class Ranked(TypedDict):
    """An item of an answer: its place in the request's candidates, and in an interleaved one whose pick it is."""

    index: int
    arm: NotRequired[str]


class Interleaved(TypedDict):
    """How a challenger took part in an answer, as far as it is read here."""

    release: str


class Ranking(TypedDict):
    """What a server answers to a request to rank, as far as it is read here."""

    release: str
    feature_day: str
    items: list[Ranked]
    interleaved: NotRequired[Interleaved]


class Metadata(TypedDict):
    """What a server says of a model, as far as it is read here."""

    parameters: dict[str, str]


class Client:
    """A server's ``/rank``.

    Args:
        url: Base URL of the server.
        token: Bearer token, where it asks for one.
        threads: Connections.
    """

    def __init__(self, url: str, token: str | None = None, threads: int = THREADS) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"{url!r} is no http:// URL")
        self._host, self._port, self._threads = parts.hostname, parts.port, threads
        self._headers = {"Content-Type": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"

    def metadata(self, surface: str) -> Metadata:
        """Return what the server says of a surface's model.

        Raises:
            ServerError: Any other status than 200.
        """
        return orjson.loads(self._ask(self._connection(), "GET", f"/v2/models/{surface}", None))

    def ask(self, body: Mapping[str, object]) -> Ranking:
        """Return the answer to one request to rank.

        Raises:
            ServerError: Any other status than 200.
        """
        return orjson.loads(self._ask(self._connection(), "POST", "/rank", orjson.dumps(body)))

    def rank(
        self,
        bodies: Callable[[int], Mapping[str, object]],
        rows: Sequence[int],
        shown: int,
        check: Callable[[Ranking, int], None],
        tell: Callable[[int], None] = lambda done: None,
    ) -> np.ndarray:
        """Ask for rankings.

        Args:
            bodies: Gives the request of a row.
            rows: Which requests to send, n of them.
            shown: Items wanted of each answer.
            check: Looks at each answer, and at its number among ``rows``, before it counts.
            tell: Told how many more were answered, now and then, from several threads.

        Returns:
            Places in the request's candidates, best first, int64 [n, shown].

        Raises:
            ServerError: A request was refused, or ``check`` raised it.
        """
        found = np.empty((len(rows), shown), dtype=np.int64)
        with ThreadPoolExecutor(self._threads) as pool:
            parts = [
                pool.submit(self._rank_part, bodies, rows, range(k, len(rows), self._threads), found, check, tell)
                for k in range(self._threads)
            ]
            for part in parts:
                part.result()
        return found

    def _rank_part(
        self,
        bodies: Callable[[int], Mapping[str, object]],
        rows: Sequence[int],
        mine: range,
        found: np.ndarray,
        check: Callable[[Ranking, int], None],
        tell: Callable[[int], None],
    ) -> None:
        connection, told = self._connection(), 0
        shown = found.shape[1]
        try:
            for done, place in enumerate(mine, start=1):
                body = orjson.dumps(bodies(rows[place]))
                answer: Ranking = orjson.loads(self._ask(connection, "POST", "/rank", body))
                check(answer, place)
                found[place] = [item["index"] for item in answer["items"][:shown]]
                if done - told >= _TELL_EVERY:
                    tell(done - told)
                    told = done
            tell(len(mine) - told)
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT_S)

    def _ask(self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None) -> bytes:
        connection.request(method, path, body=body, headers=self._headers)
        response = connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise ServerError(f"{method} {path} answered {response.status}: {content[:300].decode(errors='replace')}")
        return content
