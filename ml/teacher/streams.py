"""Reading ahead: the next batch is read while the present one is computed."""

import queue
import threading
from collections.abc import Generator, Iterable
from enum import Enum
from typing import TypeVar

T = TypeVar("T")


class _End(Enum):
    END = "end"


def read_ahead(items: Iterable[T], depth: int = 2) -> Generator[T, None, None]:
    """Yield ``items`` in order while a thread fetches up to ``depth`` of them ahead.

    The thread alone touches what ``items`` reads from, until the iteration ends or is closed. An exception of ``items``
    is raised at its place in the order.
    """
    ahead: queue.Queue[tuple[T | _End, BaseException | None]] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def put(entry: tuple[T | _End, BaseException | None]) -> bool:
        while not stop.is_set():
            try:
                ahead.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def fetch() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
            put((_End.END, None))
        except BaseException as error:
            put((_End.END, error))

    thread = threading.Thread(target=fetch, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ahead.get()
            if error is not None:
                raise error
            if item is _End.END:
                return
            yield item
    finally:
        stop.set()
        thread.join()
