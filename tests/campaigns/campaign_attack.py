"""Connections held open, clients and new champions at once: `make attack`. Health answers quickly, nobody is failed."""

import multiprocessing
import os
import socket
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import httpx
import numpy as np

from benchmarks.process import crossfade
from tests.support.server_cases import address_of, ready_home
from tests.support.tiny_home import number_of, rank_body, wait_until

HALF_OPEN = int(os.environ.get("HALF_OPEN", "1000"))
CLIENTS = 50
PER_SECOND = 2
"""Requests per second of one client."""
SECONDS = 20
SWAPS = (5, 10, 15)
"""Seconds at which another champion comes."""
HEALTH_MS = 100


def hold(url: str, stop: threading.Event) -> None:
    """Keep so many connections open, each with half a request; who is sent away comes back."""
    halves = (
        b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n",
        b"POST /rank HTTP/1.1\r\nContent-Length: 900\r\n\r\n{",
        b"",
    )
    held: list[socket.socket] = []
    while not stop.is_set():
        while len(held) < HALF_OPEN:
            held.append(socket.create_connection(address_of(url), timeout=10))
            held[-1].sendall(halves[len(held) % len(halves)])
            held[-1].setblocking(False)
        time.sleep(0.2)
        held = [one for one in held if _open(one)]
    for one in held:
        one.close()


def _open(one: socket.socket) -> bool:
    try:
        one.recv(4096)
    except BlockingIOError:
        return True
    except OSError:
        pass
    one.close()
    return False


def ask(url: str, stop: threading.Event, statuses: list[int], numbers: set[int]) -> None:
    """Rank at a steady rate; keep every status and which releases answered."""
    with httpx.Client(base_url=url, timeout=30) as client:
        while not stop.is_set():
            try:
                answer = client.post("/rank", json=rank_body())
                statuses.append(answer.status_code)
                numbers.add(number_of(answer.json()["release"]))
            except (httpx.HTTPError, KeyError, ValueError):
                statuses.append(0)
            stop.wait(1 / PER_SECOND)


def load(url: str, told: Connection) -> None:
    """Hold connections and ask until told to stop; then send statuses and releases."""
    stop, statuses, numbers = threading.Event(), list[int](), set[int]()
    threads = [threading.Thread(target=hold, args=(url, stop))]
    threads += [threading.Thread(target=ask, args=(url, stop, statuses, numbers)) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    told.poll(None)
    stop.set()
    for thread in threads:
        thread.join()
    told.send((statuses, numbers))


def test_health_is_quick_and_nobody_failed_while_connections_are_held_and_champions_come(tmp_path: Path):
    home, context = ready_home(tmp_path / "home"), multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    waits: list[float] = []
    moments: list[float] = []
    with crossfade(home.settings) as (url, server):
        others = context.Process(target=load, args=(url, there))
        others.start()
        try:
            wait_until(lambda: server.num_fds() > HALF_OPEN, 60)
            began, due = time.monotonic(), list(SWAPS)
            with socket.create_connection(address_of(url), timeout=10) as probe:
                while (at := time.monotonic() - began) < SECONDS:
                    if due and at > due[0]:
                        due.pop(0)
                        home.promote("homepage", 1 + len(SWAPS) - len(due))
                    asked = time.perf_counter()
                    probe.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
                    while b"true" not in probe.recv(4096):
                        pass
                    waits.append(1e3 * (time.perf_counter() - asked))
                    moments.append(at)
                    time.sleep(0.02)
            held = server.num_fds()
            here.send("stop")
            assert here.poll(60), "the clients ended"
            statuses, numbers = here.recv()
        finally:
            others.kill()
            others.join()
    p50, p99, most = np.quantile(waits, [0.5, 0.99, 1])
    failed = sum(status != 200 for status in statuses)
    print(f"health: {len(waits)} probes, p50 {p50:.1f} ms, p99 {p99:.1f} ms, most {most:.1f} ms", flush=True)
    slowest = sorted(zip(waits, moments, strict=True), reverse=True)[:5]
    print(f"slowest: {', '.join(f'{wait:.0f} ms at {at:.1f} s' for wait, at in slowest)}")
    print(f"clients: {len(statuses)} answers, {failed} failed, releases {sorted(numbers)}; {held} descriptors")
    assert held > HALF_OPEN * 0.9, "the connections are not held"
    assert failed == 0 and numbers == set(range(1, 2 + len(SWAPS)))
    assert most < HEALTH_MS
