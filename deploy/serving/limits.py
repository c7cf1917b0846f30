"""What one client may ask for, and what all of them together may hold."""

import resource
from dataclasses import dataclass, replace

_KEPT_DESCRIPTORS = 256
"""File descriptors that stay for models, features and logs, and for connections that are accepted before one is ended:
asyncio takes up to ``ACCEPTED_AT_ONCE`` in each of three turns of its loop."""

ACCEPTED_AT_ONCE = 16


@dataclass(frozen=True)
class Limits:
    """What one request may ask for.

    Attributes:
        max_body_bytes: Longer bodies, compressed or not, get 413.
        max_rows: Most candidates or rows.
        timeout_s: Seconds to receive and answer a request, once its head is there.
        max_head_bytes: A longer request line and headers get 431; so do trailers and what frames a chunk.
        max_headers: More headers get 431.
        max_url_bytes: A longer address gets 414.
        head_s: Seconds for a head to arrive, from the connection or from its first byte; then 408.
        receive_s: Seconds for a body to arrive, answered or not; then the connection ends.
        idle_s: Seconds that a connection stays open between requests.
        unread_s: Seconds in which a client must read some of its answer.
        max_connections: Connections at once, fewer where descriptors are fewer; the next one takes the place of
            the one that has kept its request back for longest.
        max_call_connections: The same for gRPC, where the next one is closed.
        max_pipelined: Requests of one connection that may wait for the answer of the one before.
        max_held_bytes: Bodies of all requests together; a large one that comes on top gets 503.
        max_depth: Lists and objects within each other in JSON.
        max_values: Values in the JSON of one request; a quarter of it in one of /rank.
    """

    max_body_bytes: int = 8 * 1024 * 1024
    max_rows: int = 1000
    timeout_s: float = 10.0
    max_head_bytes: int = 32 * 1024
    max_headers: int = 100
    max_url_bytes: int = 8 * 1024
    head_s: float = 10.0
    receive_s: float = 20.0
    idle_s: float = 5.0
    unread_s: float = 10.0
    max_connections: int = 4096
    max_call_connections: int = 1024
    max_pipelined: int = 16
    max_held_bytes: int = 128 * 1024 * 1024
    max_depth: int = 32
    max_values: int = 1_000_000


def fitted(limits: Limits, *, calls: bool) -> Limits:
    """Return limits with as many connections as this process may have file descriptors for.

    Args:
        limits: What is wanted.
        calls: Whether gRPC is answered too, whose connections need some.
    """
    wanted = limits.max_connections + (limits.max_call_connections if calls else 0)
    share = _descriptors_for(wanted) / wanted
    most, most_calls = (max(1, int(share * one)) for one in (limits.max_connections, limits.max_call_connections))
    return replace(limits, max_connections=most, max_call_connections=most_calls)


def _descriptors_for(connections: int) -> int:
    """Raise this process's limit of file descriptors, as far as the system lets it; return how many connections fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _KEPT_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return connections
    return max(8, min(connections, soft - min(_KEPT_DESCRIPTORS, soft // 2)))
