"""Several processes behind one port: a parent that holds the socket, and workers that accept from it.

The parent answers nothing. It starts a worker again that died, and ends all of them when it is told to. What waits to
be accepted stays with the socket, so that a dead worker takes only the requests along that it was answering.
"""

import asyncio
import logging
import multiprocessing as mp
import os
import signal
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from socket import socket
from types import FrameType

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from uvicorn.config import STARTUP_FAILURE

from deploy.serving.metrics import Metrics, log

_SETTLED_S = 10.0
"""A worker that lived so long is started again at once; one that died earlier, after a pause that doubles."""
_MOST_PAUSE_S = 30.0
_ASK_S = 1.0
"""Time for another worker to give its metrics."""


@dataclass(frozen=True)
class Siblings:
    """The workers of one port, each of which gives its metrics to the others over a socket in a private folder.

    Attributes:
        folder: The folder; nobody else may enter it.
        index: This worker, from 0.
        count: Workers in all.
    """

    folder: Path
    index: int
    count: int

    @asynccontextmanager
    async def answering(self, metrics: Metrics) -> AsyncIterator[None]:
        """Give this worker's metrics to whoever asks while the block runs."""

        async def give(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                writer.write(metrics.render())
                await writer.drain()
            writer.close()

        path = self._socket(self.index)
        path.unlink(missing_ok=True)  # of the worker that was here before, and died
        async with await asyncio.start_unix_server(give, path):
            yield

    async def render(self, metrics: Metrics) -> bytes:
        """Return the metrics of all workers, each with the label ``worker``; one that gives none is not up."""
        others = [index for index in range(self.count) if index != self.index]
        given = dict(zip(others, await asyncio.gather(*map(self._ask, others)), strict=True))
        given[self.index] = metrics.render()
        return merged(dict(sorted(given.items())))

    async def _ask(self, index: int) -> bytes | None:
        try:
            async with asyncio.timeout(_ASK_S):
                reader, writer = await asyncio.open_unix_connection(self._socket(index))
                try:
                    return await reader.read()
                finally:
                    writer.close()
        except OSError:  # a timeout is one too
            return None

    def _socket(self, index: int) -> Path:
        return self.folder / f"{index}.sock"


class _Collected(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self.families = list(families)

    def collect(self) -> Iterable[Metric]:
        """Return the families."""
        return self.families


def merged(texts: dict[int, bytes | None]) -> bytes:
    """Return the metrics of several workers as one text.

    Args:
        texts: {worker: its metrics in Prometheus' text format, or None where it gave none}.

    Returns:
        All samples with the label ``worker``, and ``crossfade_worker_up``.
    """
    up = GaugeMetricFamily("crossfade_worker_up", "Whether the worker gave its metrics", labels=["worker"])
    families: dict[str, Metric] = {up.name: up}
    for index, text in texts.items():
        up.add_metric([str(index)], float(text is not None))
        for family in text_string_to_metric_families((text or b"").decode()):
            samples = [one._replace(labels={**one.labels, "worker": str(index)}) for one in family.samples]
            families.setdefault(family.name, Metric(family.name, family.documentation, family.type)).samples += samples
    registry = CollectorRegistry()
    registry.register(_Collected(families.values()))
    return generate_latest(registry)


Work = Callable[[Siblings], None]
"""Serves until a signal ends it. Picklable: it is called in a process of its own."""


def run_workers(work: Work, count: int, bound: socket) -> None:
    """Run ``work`` in so many processes until a signal ends them; a second signal ends them at once.

    Args:
        work: What a worker does.
        count: Workers.
        bound: What the workers accept from; closed here once they are told to end.

    Raises:
        RuntimeError: A worker could not begin to answer when it was first started.
    """
    with tempfile.TemporaryDirectory(prefix="crossfade-") as folder:
        parent = _Parent([_Worker(work, Siblings(Path(folder), index, count)) for index in range(count)], bound)
        told = parent.run()
    signal.raise_signal(told)  # to end as a server without workers does


class _Worker:
    """One place among the workers, whose process may change.

    Attributes:
        index: Which it is.
        starts: How often it was started.
        due: When it is to be started, by the monotonic clock; None while it runs.
        process: What runs.
    """

    def __init__(self, work: Work, siblings: Siblings) -> None:
        self._work, self._siblings = work, siblings
        self._begun = 0.0
        self._early_deaths = 0
        self._ours: Connection | None = None
        self.index = siblings.index
        self.starts = 0
        self.due: float | None = 0.0
        self.process: SpawnProcess | None = None

    def start(self) -> None:
        """Start a process."""
        context = mp.get_context("spawn")
        self._ours, theirs = context.Pipe()
        name = f"crossfade-worker-{self.index}"
        self.process = context.Process(target=_worker, args=(self._work, self._siblings, theirs), name=name)
        self.process.start()
        theirs.close()
        self.due, self._begun = None, time.monotonic()
        self.starts += 1

    def end(self) -> None:
        """Ask the process to end."""
        if self.process is not None and self.process.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGTERM)

    def died(self) -> int | None:
        """Note that the process has ended, and when the next is due; return its exit status."""
        assert self.process is not None and self._ours is not None
        self.process.join()
        status, lived = self.process.exitcode, time.monotonic() - self._begun
        self._ours.close()
        self.process = None
        self._early_deaths = 0 if lived >= _SETTLED_S else self._early_deaths + 1
        pause = min(2.0 ** (self._early_deaths - 1), _MOST_PAUSE_S) if self._early_deaths > 1 else 0.0
        self.due = time.monotonic() + pause
        return status


class _Parent:
    """Starts workers, and starts again those that die, until it is told to end them."""

    def __init__(self, workers: list[_Worker], bound: socket) -> None:
        self._workers = workers
        self._bound = bound
        self._told: list[int] = []
        self._failed = ""
        self._woken, self._wake = mp.Pipe(duplex=False)

    def run(self) -> int:
        """Run until every worker has ended; return the signal that was the reason."""
        old = {number: signal.signal(number, self._end) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            while living := self._living():
                due = [] if self._told else [one.due for one in self._workers if one.due is not None]
                pause = max(0.0, min(due) - time.monotonic()) if due else None
                for ready in wait([*living, self._woken], timeout=pause):
                    if isinstance(ready, int):
                        self._died(living[ready])
                    else:
                        self._woken.recv_bytes()
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
        if self._failed:
            raise RuntimeError(self._failed)
        return self._told[0]

    def _living(self) -> dict[int, _Worker]:
        """Start what is due, and return the workers that run; none runs or will where all have ended."""
        if self._told:
            self._bound.close()  # else clients would go on to queue where nobody accepts
        for one in self._workers:
            if not self._told and one.due is not None and one.due <= time.monotonic():
                one.start()
                if self._told:
                    one.end()
        return {one.process.sentinel: one for one in self._workers if one.process is not None}

    def _died(self, one: _Worker) -> None:
        status = one.died()
        if self._told:
            return
        log(logging.ERROR, "worker died", worker=one.index, status=status)
        if status == STARTUP_FAILURE and one.starts == 1:
            self._failed = f"worker {one.index} could not begin to answer; the log says why"
            self._end(signal.SIGTERM)

    def _end(self, number: int, _: FrameType | None = None) -> None:
        self._told.append(number)
        for one in self._workers:
            one.end()
        self._wake.send_bytes(b"told")


def _worker(work: Work, siblings: Siblings, parent: Connection) -> None:
    """Do the work of one worker, which ends as by a signal when the parent is gone."""
    os.setpgid(0, 0)  # Ctrl-C of a terminal reaches the parent alone, which tells each worker once

    def watch() -> None:
        with suppress(OSError):
            parent.poll(None)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="crossfade-parent", daemon=True).start()
    work(siblings)
