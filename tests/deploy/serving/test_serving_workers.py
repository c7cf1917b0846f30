"""Several workers behind one port: all answer, one that dies is replaced, metrics are of all, all end in order."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import httpx
import psutil
import pytest
import tritonclient.grpc as triton
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.process import crossfade, free_port
from deploy.cli import serve as commands
from deploy.serving.metrics import Metrics
from deploy.serving.run import serve
from deploy.serving.workers import merged
from tests.support.known import present
from tests.support.pages import as_shown
from tests.support.tiny_home import Home, feeds_of, tensors_of, tiny_settings

LONGEST_S = 60.0
Server = tuple[str, psutil.Process, int]


@pytest.fixture(scope="module")
def two(ready_home: Home) -> Iterator[Server]:
    """A server of two workers, ready: its address, its parent, and its port of gRPC."""
    port = free_port()
    settings = ready_home.settings.model_copy(update={"serve_grpc_port": port})
    words = as_shown("crossfade serve --workers 4", {"4": "2"})
    with suppress(RuntimeError), crossfade(settings, words=words) as (url, parent):  # the last test ends it
        until(lambda: up(url) == {"0": 1.0, "1": 1.0})
        yield url, parent, port


def until(holds: Callable[[], bool]) -> None:
    """Wait for something to hold."""
    end = time.monotonic() + LONGEST_S
    while not holds():
        assert time.monotonic() < end, f"not within {LONGEST_S:g} s"
        time.sleep(0.02)


def samples(url: str, name: str) -> list[tuple[dict[str, str], float]]:
    """What all workers count under a name: (labels, value) each."""
    text = httpx.get(f"{url}/metrics", timeout=10).raise_for_status().text
    families = text_string_to_metric_families(text)
    return [(sample.labels, sample.value) for family in families for sample in family.samples if sample.name == name]


def up(url: str) -> dict[str, float]:
    """Whether each worker is up."""
    return {labels["worker"]: value for labels, value in samples(url, "crossfade_worker_up")}


def answered(url: str) -> dict[str, float]:
    """How many answers of /v2/health/live each worker has given."""
    route = "/v2/health/live"
    return {one["worker"]: n for one, n in samples(url, "crossfade_requests_total") if one["route"] == route}


def workers_of(parent: psutil.Process) -> set[int]:
    """The processes that answer; the other child of the parent is what tracks its resources."""
    return {one.pid for one in parent.children() if "multiprocessing.spawn" in " ".join(one.cmdline())}


@pytest.mark.slow
def test_all_workers_answer_and_their_metrics_add_up(two: Server) -> None:
    url, parent, _ = two
    assert len(workers_of(parent)) == 2 and answered(url) == {}
    asked = 0

    def both() -> bool:
        nonlocal asked
        asked += 1
        assert httpx.get(f"{url}/v2/health/live").json() == {"live": True}  # each on a connection of its own
        return len(answered(url)) == 2

    until(both)
    assert sum(answered(url).values()) == asked
    assert {labels["worker"] for labels, value in samples(url, "crossfade_serving") if value == 1} == {"0", "1"}
    assert httpx.get(f"{url}/v2/health/ready").status_code == 200


@pytest.mark.slow
def test_every_worker_answers_the_stock_client_of_grpc_on_one_port(two: Server, ready_home: Home) -> None:
    _, parent, port = two
    tensors = tensors_of(feeds_of(ready_home.surfaces["homepage"], 7), triton)
    own_connection, answers, took = [("grpc.use_local_subchannel_pool", 1)], set[bytes](), set[int]()

    def both() -> bool:
        with triton.InferenceServerClient(f"127.0.0.1:{port}", channel_args=own_connection) as client:
            answers.add(present(present(client.infer("homepage", tensors)).as_numpy("score")).tobytes())
            for pid in workers_of(parent):
                found = psutil.Process(pid).net_connections("tcp")
                took.update([pid] if any(c.laddr.port == port and c.raddr for c in found) else [])
        return len(took) == 2

    until(both)
    assert len(answers) == 1, "whichever worker answers"


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_while_the_other_answers(two: Server) -> None:
    url, parent, _ = two
    before = workers_of(parent)
    killed = min(before)
    os.kill(killed, signal.SIGKILL)
    until(lambda: not psutil.pid_exists(killed))
    for _ in range(20):
        assert httpx.get(f"{url}/v2/health/live", timeout=10).status_code == 200
    until(lambda: len(workers_of(parent)) == 2 and up(url) == {"0": 1.0, "1": 1.0})
    assert killed not in workers_of(parent) and len(workers_of(parent) & before) == 1


@pytest.mark.slow
def test_a_signal_drains_all_workers_and_then_the_parent_ends(two: Server) -> None:
    url, parent, _ = two
    workers = workers_of(parent)
    parent.send_signal(signal.SIGTERM)
    with httpx.Client(base_url=url, timeout=10) as client:
        until(lambda: client.get("/v2/health/ready").status_code == 503)  # it answers on while it drains
    until(lambda: not any(psutil.pid_exists(pid) for pid in workers))
    until(lambda: not parent.is_running() or parent.status() == psutil.STATUS_ZOMBIE)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/v2/health/live")


def test_metrics_of_workers_are_told_apart_and_one_without_is_not_up() -> None:
    one, other = Metrics(), Metrics()
    one.requests.labels("/rank", "200").inc(2)
    other.requests.labels("/rank", "200").inc(3)
    other.seconds.labels("/rank").observe(0.004)
    lines = merged({0: one.render(), 1: other.render(), 2: None}).decode().splitlines()
    assert 'crossfade_requests_total{route="/rank",status="200",worker="0"} 2.0' in lines
    assert 'crossfade_requests_total{route="/rank",status="200",worker="1"} 3.0' in lines
    assert 'crossfade_request_seconds_bucket{le="0.005",route="/rank",worker="1"} 1.0' in lines
    assert 'crossfade_worker_up{worker="2"} 0.0' in lines and "# TYPE crossfade_requests_total counter" in lines
    kinds = [line for line in lines if line.startswith("# TYPE")]
    assert len(kinds) == len(set(kinds))


@pytest.mark.slow
def test_a_port_of_grpc_that_another_server_shares_is_refused(
    ready_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setenv("CROSSFADE_HOME", str(ready_home.settings.home))
        monkeypatch.setenv("CROSSFADE_SERVE_GRPC_PORT", str(port))
        with pytest.raises(ValueError, match=rf"port {port} of .* is in use.*CROSSFADE_SERVE_GRPC_PORT"):
            commands.serve(host="127.0.0.1", port=0, workers=2)


@pytest.mark.slow
def test_workers_cannot_each_have_a_free_port_for_grpc(tmp_path) -> None:
    with pytest.raises(ValueError, match="a free port for each of 2 workers"):
        serve(tiny_settings(tmp_path, serve_grpc_port=0), port=0, workers=2)
