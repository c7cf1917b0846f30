"""Worlds in parallel, a process per core or on the nodes of a Ray cluster; what they say is heard while they run."""

import multiprocessing as mp
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from queue import Empty, Queue
from types import ModuleType
from typing import Any, Protocol

from ml.foundation.cluster import ClusterError, connected
from ml.foundation.code import code_hash
from ml.lab.study.design import World

_POLL_S = 0.5
_NODES_LOST = 3
"""A world that loses its node so often, and once more, fails."""
_CODE = ["ml"]
"""What a node must have in the same version."""


class Messages(Protocol):
    """A queue, of this machine or of a cluster, that a worker says things into."""

    def put(self, item: object) -> None:
        """Say something."""


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
    jobs: Mapping[World, tuple[object, ...]],
    workers: int,
    hear: Callable[[Any], None],
    failed: Callable[[str], None],
    ray_address: str | None = None,
) -> None:
    """Call ``work`` once per world, each in a process that has one core.

    Args:
        work: A function of a module; its last argument is a queue for what it has to say.
        jobs: {world: the other arguments}.
        workers: Processes of this machine; on a cluster there is one per CPU.
        hear: Called in this process with everything that was put into the queue, in order. A world that was begun again
            on another node, because its own was lost, says everything again.
        failed: Called with the reason when a world fails; the others go on.
        ray_address: Cluster whose nodes work, as ``Settings.ray_address``; they see the files that the arguments name.

    Raises:
        RuntimeError: A world failed; the message names each.
        ClusterError: The cluster cannot be used.
    """
    run = partial(_on_nodes, ray_address) if ray_address else partial(_on_cores, workers)
    reasons: list[str] = []
    for message, world, error in run(work, jobs):
        if world is None:
            hear(message)
        elif error:
            reasons.append(f"{world.name}: {error}")
            failed(f"{world.name} failed: {error}")
    if reasons:
        raise RuntimeError("; ".join(reasons))


Happened = tuple[object, World | None, BaseException | None]
"""(message, None, None), or (None, world that ended, why it failed)."""


def _on_cores(workers: int, work: Callable[..., None], jobs: Mapping[World, tuple[object, ...]]) -> Iterator[Happened]:
    context = mp.get_context("spawn")
    with (
        context.Manager() as manager,
        ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(os.getpid(),)) as pool,
    ):
        messages: Queue[object] = manager.Queue()
        running = {pool.submit(work, *arguments, messages): world for world, arguments in jobs.items()}
        while running:
            finished, _ = wait(running, timeout=_POLL_S, return_when=FIRST_COMPLETED)
            # A world's messages are in the queue before its future is done, so none is left after the last one.
            yield from ((message, None, None) for message in _drain(messages))
            for future in finished:
                yield None, running.pop(future), future.exception()


def _on_nodes(address: str, work: Callable[..., None], jobs: Mapping[World, tuple[object, ...]]) -> Iterator[Happened]:
    with connected(address) as ray:
        from ray.util.queue import Queue as RayQueue

        messages = RayQueue(actor_options={"num_cpus": 0})
        task = ray.remote(num_cpus=1, scheduling_strategy="SPREAD", max_retries=_NODES_LOST)(_on_node)
        code = code_hash(_CODE)
        running = {task.remote(code, work, arguments, messages): world for world, arguments in jobs.items()}
        try:
            while running:
                finished, _ = ray.wait(list(running), timeout=_POLL_S)
                yield from ((message, None, None) for message in messages.get_nowait_batch(messages.qsize()))
                for reference in finished:
                    yield None, running.pop(reference), _failure(ray, reference)
        except ray.exceptions.RayError as error:
            raise ClusterError(f"CROSSFADE_RAY_ADDRESS={address}: {error}") from error


def _on_node(code: str, work: Callable[..., None], arguments: tuple[object, ...], messages: Messages) -> None:
    """Do a world's work in a worker of a node."""
    import torch
    from threadpoolctl import threadpool_limits

    if code != code_hash(_CODE):
        raise ClusterError(f"{socket.gethostname()} has another version of Crossfade than the study")
    os.environ.pop("CROSSFADE_RAY_ADDRESS", None)  # what a world does stays within its process
    torch.set_num_threads(1)
    threadpool_limits(1)
    work(*arguments, messages)


def _failure(ray: ModuleType, reference: object) -> BaseException | None:
    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        return error.cause
    except ray.exceptions.RayError as error:
        return error
    return None


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


def _drain(messages: "Queue[object]") -> list[object]:
    found: list[object] = []
    while True:
        try:
            found.append(messages.get_nowait())
        except Empty:
            return found
