"""Worlds in parallel, a process per core; what they report reaches the parent while they run."""

import multiprocessing as mp
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from queue import Empty, Queue
from typing import Any

from ml.study.design import World

_POLL_S = 0.5


@dataclass(frozen=True)
class Progress:
    """How far a study or an experiment is.

    Attributes:
        what: What was just finished, begun, or is under way.
        done: Units done (trials, requests), those of earlier runs included.
        total: Units in all.
        seconds_left: Estimate, None before anything was done.
    """

    what: str
    done: int
    total: int
    seconds_left: float | None


def run_worlds(
    work: Callable[..., None],
    jobs: Mapping[World, tuple[Any, ...]],
    workers: int,
    hear: Callable[[Any], None],
    failed: Callable[[str], None],
) -> None:
    """Call ``work`` once per world, each in a process that has one core.

    Args:
        work: A function of a module; its last argument is a queue for what it has to say.
        jobs: {world: the other arguments}.
        workers: Processes.
        hear: Called in this process with everything that was put into the queue, in order.
        failed: Called with the reason when a world fails; the others go on.

    Raises:
        RuntimeError: A world failed; the message names each.
    """
    context = mp.get_context("spawn")
    reasons: list[str] = []
    with (
        context.Manager() as manager,
        ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(os.getpid(),)) as pool,
    ):
        messages: Queue[Any] = manager.Queue()
        running = {pool.submit(work, *arguments, messages): world for world, arguments in jobs.items()}
        while running:
            finished, _ = wait(running, timeout=_POLL_S, return_when=FIRST_COMPLETED)
            # A world's messages are in the queue before its future is done, so none is left after the last one.
            for message in _drain(messages):
                hear(message)
            for future in finished:
                world = running.pop(future)
                if error := future.exception():
                    reasons.append(f"{world.name}: {error}")
                    failed(f"{world.name} failed: {error}")
    if reasons:
        raise RuntimeError("; ".join(reasons))


def _start(parent: int) -> None:
    """Keep a worker to one core, and end it when its parent is killed: an orphan would go on beside the rerun."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    threadpool_limits(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _drain(messages: "Queue[Any]") -> list[Any]:
    found: list[Any] = []
    while True:
        try:
            found.append(messages.get_nowait())
        except Empty:
            return found
