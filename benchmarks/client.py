"""An HTTP client that costs little beside what it measures: one socket that stays open, and llhttp to read answers."""

import socket
from collections.abc import Mapping

from httptools import HttpResponseParser

_CHUNK = 1 << 16


class Client:
    """One connection to ``host:port``; not for several threads.

    Args:
        address: ``host:port``.
        timeout_s: Longest wait for bytes of an answer.
    """

    def __init__(self, address: str, timeout_s: float = 60.0) -> None:
        host, _, port = address.rpartition(":")
        self._address = address
        self._socket = socket.create_connection((host, int(port)), timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
        """Send one request and return the body of its answer.

        Raises:
            RuntimeError: The answer is not 200.
            ConnectionError: The server closed the connection.
        """
        told = {"host": self._address, "content-length": str(len(body)), **(headers or {})}
        head = "".join(f"{name}: {value}\r\n" for name, value in told.items())
        self._socket.sendall(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
        answer = _Answer()
        parser = HttpResponseParser(answer)
        while not answer.whole:
            received = self._socket.recv(_CHUNK)
            if not received:
                raise ConnectionError(f"{self._address} closed the connection before it had answered {path}")
            parser.feed_data(received)
        content = b"".join(answer.parts)
        if parser.get_status_code() != 200:
            raise RuntimeError(f"{path}: {parser.get_status_code()}: {content[:300]!r}")
        return content


class _Answer:
    """What the parser has told so far; the names of its methods are the parser's."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.whole = False

    def on_body(self, part: bytes) -> None:
        self.parts.append(part)

    def on_message_complete(self) -> None:
        self.whole = True
