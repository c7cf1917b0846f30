"""Reading ahead keeps the order, the errors and the end."""

import threading
from collections.abc import Iterator

import pytest

from ml.teacher.streams import read_ahead


def test_items_come_in_order_from_another_thread() -> None:
    threads = set()

    def items() -> Iterator[int]:
        for i in range(50):
            threads.add(threading.current_thread().name)
            yield i

    assert list(read_ahead(items())) == list(range(50))
    assert threads == {"read-ahead"}


def test_an_error_is_raised_at_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    stream = read_ahead(items())
    assert next(stream) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(stream)


def test_a_consumer_that_stops_early_leaves_no_thread() -> None:
    before = threading.active_count()
    stream = read_ahead(iter(range(1_000_000)))
    assert next(stream) == 0
    stream.close()
    assert threading.active_count() == before
