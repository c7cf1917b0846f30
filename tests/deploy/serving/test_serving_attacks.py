"""Clients who mean harm: what they send is bounded in size, depth, number and time, and others are answered."""

import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from benchmarks.process import _url_in, running
from deploy.serving.limits import Limits
from deploy.serving.metrics import Rarely
from deploy.serving.protocol import BadRequest
from deploy.serving.rank import read_request
from deploy.serving.run import serve, serving
from tests.support import server_cases
from tests.support.server_cases import address_of
from tests.support.tiny_home import Home, rank_body, tiny_settings, wait_until

CASES = Path(__file__).parent / "cases"
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
QUICK = Limits(timeout_s=0.5, head_s=0.5, receive_s=1.0, idle_s=1, unread_s=0.5)


@pytest.fixture(scope="module")
def quick(ready_home: Home) -> Iterator[str]:
    """A server that does not wait for long."""
    with serving(ready_home.settings, limits=QUICK) as url:
        yield url


@pytest.mark.parametrize("case", ["times", "nesting", "bombs", "heads"])
@pytest.mark.slow
def test_cases(url: str, case: str) -> None:
    assert server_cases.run(CASES, url, (case,)) == {case: []}


@pytest.mark.slow
def test_what_never_ends_is_ended(quick: str) -> None:
    assert server_cases.run(CASES, quick, ("slow",)) == {"slow": []}


def closed(client: socket.socket, seconds: float = 5) -> bool:
    """Tell whether the server ends a connection in time, whatever it sends before."""
    client.settimeout(0.1)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if not client.recv(65536):
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


@pytest.mark.slow
def test_a_body_that_goes_on_after_its_answer_is_ended(quick: str) -> None:
    with socket.create_connection(address_of(quick)) as client:
        client.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
        end = time.monotonic() + 5
        with pytest.raises(OSError):
            while time.monotonic() < end:
                client.sendall(b"a" * 10)
                time.sleep(0.05)


@pytest.mark.slow
def test_who_does_not_read_is_ended(quick: str) -> None:
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(address_of(quick))
        client.setblocking(False)
        asked = LIVE.replace(b"/v2/health/live", b"/openapi.json")
        end = time.monotonic() + 20
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while time.monotonic() < end:
                try:
                    client.sendall(asked)
                except BlockingIOError:
                    time.sleep(0.05)


def test_requests_in_a_row_are_answered_and_thousands_are_not_stored(url: str) -> None:
    def ask(times: int) -> bytes:
        with socket.create_connection(address_of(url), timeout=5) as client:
            client.sendall(LIVE * times)
            came = b""
            while came.count(b'"live":true') < times and (more := client.recv(65536)):
                came += more
            return came

    assert ask(10).count(b" 200 ") == 10
    assert b" 400 " in ask(1000)


def test_trailers_are_no_headers(url: str) -> None:
    with socket.create_connection(address_of(url), timeout=5) as client:
        client.sendall(
            b"POST /rank HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2\r\n[]\r\n0\r\nContent-Encoding: br\r\n\r\n"
        )
        came = b""
        while not came.endswith(b"}"):
            came += client.recv(4096)
        assert b"must be a JSON object" in came


@pytest.mark.parametrize(
    "asked", [b"Connection: upgrade\r\nUpgrade: websocket", b"Connection: upgrade\r\nUpgrade: h2c"]
)
def test_other_protocols_are_not_spoken(url: str, asked: bytes) -> None:
    with socket.create_connection(address_of(url), timeout=5) as client:
        client.sendall(LIVE[:-2] + asked + b"\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
        assert closed(client)


def test_the_silent_make_room_and_the_asking_stay(ready_home: Home) -> None:
    with serving(ready_home.settings, limits=Limits(max_connections=20)) as url, ExitStack() as held:
        asking = held.enter_context(httpx.Client(base_url=url))
        silent = []
        for n in range(60):
            silent.append(held.enter_context(socket.create_connection(address_of(url))))
            if n % 2:
                silent[-1].sendall(b"POST /rank HTTP/1.1\r\nHost: x\r\n")
            assert asking.get("/v2/health/live").status_code == 200
        assert httpx.get(f"{url}/v2/health/live").status_code == 200
        assert asking.post("/rank", json=rank_body()).status_code == 200
        assert closed(silent[0], 1) and not closed(silent[-1], 0.2)
        assert 'connections_ended_total{reason="no room"}' in asking.get("/metrics").text


def test_bodies_together_are_bounded(ready_home: Home) -> None:
    with serving(ready_home.settings, limits=Limits(max_held_bytes=100_000)) as url, ExitStack() as held:
        for _ in range(2):
            client = held.enter_context(socket.create_connection(address_of(url)))
            client.sendall(b"POST /rank HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n" + b" " * 45_000)
        time.sleep(0.2)
        answer = httpx.post(f"{url}/rank", content=b" " * 70_000)
        assert answer.status_code == 503 and "later" in answer.json()["error"]
        held.close()
        wait_until(lambda: httpx.post(f"{url}/rank", content=b" " * 70_000).status_code == 400)


def test_who_holds_all_the_room_of_large_bodies_keeps_no_small_one_out(ready_home: Home) -> None:
    with serving(ready_home.settings, limits=Limits(max_held_bytes=100_000)) as url, ExitStack() as held:
        client = held.enter_context(socket.create_connection(address_of(url)))
        client.sendall(b"POST /rank HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + b" " * 99_990)
        time.sleep(0.2)
        assert httpx.post(f"{url}/rank", json=rank_body(items=100)).status_code == 200


@pytest.mark.parametrize(("method", "path"), [("GET", "/v2/"), ("POST", "/rank/"), ("POST", "/v2/models/radio/infer/")])
def test_a_wrong_address_leads_to_no_host_of_the_requests_own(client: httpx.Client, method: str, path: str) -> None:
    answer = client.request(method, path, headers={"host": "elsewhere.example"}, content=b"{}")
    assert answer.status_code == 404 and "location" not in answer.headers


def test_a_hundred_thousand_faults_are_told_by_the_first() -> None:
    body = b'{"surface":"homepage","candidates":[' + b"1," * 200_000 + b"1]}"
    began = time.process_time()
    with pytest.raises(BadRequest, match=r"candidates\.0"):
        read_request(body, Limits())
    assert time.process_time() - began < 0.5


@pytest.mark.slow
def test_with_few_descriptors_a_thousand_half_requests_neither_silence_health_nor_fill_the_log(
    ready_home: Home, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    served = f"ulimit -n 256; exec {sys.executable} -m deploy.cli serve --port 0 2>>{log}"
    environment = {"CROSSFADE_HOME": str(ready_home.settings.home), "CROSSFADE_LAST_DAY": "2026-01-20"}
    with (
        running(["bash", "-c", served], _url_in, "/v2/health/ready", environment=environment) as (url, _),
        ExitStack() as held,
    ):
        for n in range(1100):
            client = held.enter_context(socket.create_connection(address_of(url), timeout=10))
            client.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n")
            if n % 100 == 99:
                assert httpx.get(f"{url}/v2/health/live", timeout=5).status_code == 200
        assert httpx.post(f"{url}/rank", json=rank_body(), timeout=5).status_code == 200
    assert len(log.read_text()) < 10_000


@pytest.mark.parametrize("token", ["", " ", "\t\n"])
@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.0.2.1"])
def test_a_blank_token_on_a_public_address_is_refused_at_start(ready_home: Home, token: str, host: str) -> None:
    with pytest.raises(ValueError, match="CROSSFADE_SERVE_TOKEN is blank"):
        serve(tiny_settings(ready_home.settings.home, serve_token=token), host=host, port=0)


def test_what_happens_often_is_told_seldom_and_how_often() -> None:
    told = Rarely(per_s=1e-6, at_once=2)
    assert [told.due("a") for _ in range(4)] == [0, 0, None, None]
    assert told.due("b") == 0
    often = Rarely(per_s=1000)
    assert often.due("a") == 0
    while (silent := often.due("a")) is None:
        pass
    assert silent >= 1
