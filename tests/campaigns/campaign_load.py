"""Swaps under load: `make load`. Four clients ask without pause while champions come, fail to load and go."""

import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np

from benchmarks.process import crossfade
from tests.support.tiny_home import BROKEN, DAY, ITEMS, Home, number_of, rank_body, tiny_settings, wait_until

SWAPS = int(os.environ.get("SWAPS", "200"))
CLIENTS = 4
CANDIDATES = 200
PER_SECOND = 20
"""Requests per second of one client."""

FAIL_EVERY, PUBLISH_EVERY, RETIRE_EVERY = 5, 25, 20
GROWTH_MB = 32
"""What the process may grow by from the first quarter of the swaps to the last: noise, not 0.2 MB a swap."""


class Answers(NamedTuple):
    """What one client saw, one entry per request: when it asked, how long it waited, what came."""

    asked: np.ndarray
    seconds: np.ndarray
    status: np.ndarray
    number: np.ndarray
    mixed: np.ndarray


def ask(url: str, user: int, told: Connection) -> None:
    """Ask at a steady rate until told to stop; then send ``Answers``."""
    rows: list[tuple[float, float, int, int, bool]] = []
    body = rank_body(user=f"u{user}", items=ITEMS)
    body["candidates"] = [body["candidates"][n % ITEMS] for n in range(CANDIDATES)]
    with httpx.Client(base_url=url, timeout=30) as client:
        due = time.time()
        while not told.poll():
            time.sleep(max(0.0, due - time.time()))
            due = max(due + 1 / PER_SECOND, time.time())
            began = time.time()
            answer = client.post("/rank", json=body)
            waited = time.time() - began
            if answer.status_code != 200:
                rows.append((began, waited, answer.status_code, -1, True))
                continue
            content = answer.json()
            number = number_of(content["release"])
            scores = {int(v // 1000) for item in content["items"] for k, v in item.items() if k in ("score", "ctr")}
            whole = scores == {number} and len(content["items"]) == CANDIDATES
            rows.append((began, waited, answer.status_code, number, not whole))
    told.send(Answers(*(np.array(column) for column in zip(*rows, strict=True))))


@contextmanager
def clients(url: str) -> Iterator[list[Answers]]:
    """Run the clients while the block runs; their answers are in the list after it."""
    context, found = multiprocessing.get_context("spawn"), []
    pipes = [context.Pipe() for _ in range(CLIENTS)]
    running = [context.Process(target=ask, args=(url, n, pipe[1])) for n, pipe in enumerate(pipes)]
    for process in running:
        process.start()
    try:
        yield found
        for (here, _), process in zip(pipes, running, strict=True):
            here.send("stop")
            assert here.poll(60), f"a client ended with {process.exitcode}"
            found.append(here.recv())
    finally:
        for process in running:
            process.kill()
            process.join()


def test_swaps_under_load_fail_no_request_mix_no_answer_and_leave_memory_flat(tmp_path: Path):
    home = Home(tiny_settings(tmp_path / "home"))
    home.publish()
    home.promote("homepage", 1)
    spec, broken = home.surfaces["homepage"], list(BROKEN)
    moments: list[float] = []
    resident: list[float] = []
    number, failed, bad = 1, 0, set()
    with crossfade(home.settings) as (url, process), clients(url) as answers, httpx.Client(base_url=url) as watcher:

        def serves(wanted: int) -> bool:
            return number_of(watcher.post("/rank", json=rank_body()).json()["release"]) == wanted

        for swap in range(1, SWAPS + 1):
            if swap % FAIL_EVERY == 0:
                number, failed = number + 1, failed + 1
                bad.add(number)
                home.promote("homepage", number, **BROKEN[broken[failed % len(broken)]](home, spec))
                wait_until(lambda failed=failed: failures(watcher) == failed)
            number += 1
            home.promote("homepage", number)
            promoted = time.time()
            wait_until(lambda number=number: serves(number))
            moments.append(promoted)
            resident.append(process.memory_info().rss / 1e6)
            if swap % PUBLISH_EVERY == 0:
                home.publish(DAY + timedelta(days=swap // PUBLISH_EVERY))
            if swap % RETIRE_EVERY == 0:
                home.store.retire("homepage", keep=3)
                print(f"swap {swap} of {SWAPS}, {failed} failed to load: {resident[-1]:.0f} MB", flush=True)
        assert process.num_threads() < 100
    report(answers, moments, resident)
    assert all((one.status == 200).all() for one in answers), "a request failed"
    assert not any(one.mixed.any() for one in answers), "an answer of two releases, or not of all candidates"
    seen = {int(n) for one in answers for n in one.number}
    assert not seen & bad, "a release that does not load has answered"
    assert len(seen) > SWAPS / 2, "the clients did not see the swaps"
    quarter = max(1, SWAPS // 4)
    assert np.median(resident[-quarter:]) < np.median(resident[:quarter]) + GROWTH_MB


def failures(watcher: httpx.Client) -> int:
    """Return how many releases the server could not load."""
    for line in watcher.get("/metrics").text.splitlines():
        if line.startswith('crossfade_loads_total{outcome="failed",what="release"}'):
            return int(float(line.split()[-1]))
    return 0


def report(answers: list[Answers], moments: list[float], resident: list[float]) -> None:
    """Print what the clients saw, beside a swap and away from one."""
    asked, seconds = (np.concatenate([getattr(one, name) for one in answers]) for name in ("asked", "seconds"))
    gaps = np.abs(asked[:, None] - np.array(moments)[None, :]).min(axis=1)
    span = asked.max() - asked.min()
    print(f"{len(asked):,} requests of {CANDIDATES} candidates in {span:.0f} s, {len(moments)} swaps; milliseconds:")
    for name, chosen in (("within 1 s of a swap", gaps < 1), ("elsewhere", gaps >= 1)):
        if chosen.any():
            p50, p99, p999, most = 1e3 * np.quantile(seconds[chosen], [0.5, 0.99, 0.999, 1])
            print(f"  {name:22}{chosen.sum():8,}  p50 {p50:.1f}  p99 {p99:.1f}  p99.9 {p999:.1f}  most {most:.1f}")
    slope = np.polyfit(np.arange(len(resident)), resident, 1)[0] if len(resident) > 1 else 0.0
    print(f"resident: {resident[0]:.0f} MB first, {resident[-1]:.0f} MB last, {1e3 * slope:+.0f} kB a swap")
    print(f"every tenth: {', '.join(str(round(r)) for r in resident[::10])} MB")
