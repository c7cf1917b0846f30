"""A folder of server cases (YAML: ``requests``, ``raw``, ``burden``), sent to a server of a home with a champion.

``python -m tests.support.server_cases FOLDER`` starts ``crossfade serve`` over such a home, prints what each case lacks
and fails where one lacks anything.
"""

import gzip
import json
import re
import socket
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.process import crossfade
from tests.support.tiny_home import Home, tiny_settings


def faults(case: dict[str, Any], url: str) -> Iterator[str]:
    """Send what a case asks for and say what did not come back as it must."""
    for request in case.get("requests", ()):
        answer = httpx.post(url + request["path"], content=body_of(request), headers=headers_of(request), timeout=60)
        wanted = request["status"] if isinstance(request["status"], list) else [request["status"]]
        if answer.status_code not in wanted:
            yield f"{request['name']}: {answer.status_code}, not {wanted}: {answer.text[:200]}"
        elif not re.search(request.get("says", ""), answer.text):
            yield f"{request['name']}: does not say {request['says']}: {answer.text[:200]}"
    for raw in case.get("raw", ()):
        yield from _raw(raw, url)
    if "burden" in case:
        yield from _burden(case["burden"], url)


def body_of(request: dict[str, Any]) -> bytes:
    """Return the body that a request describes."""
    if "recipe" in request:
        told = {"before": "", "piece": "", "between": "", "middle": "", "close": "", "after": "", **request["recipe"]}
        many = told["between"].join([told["piece"]] * told["times"])
        text = told["before"] + many + told["middle"] + told["close"] * told["times"] + told["after"]
    else:
        text = request["text"] if "text" in request else json.dumps(request["json"])
    body = text.encode()
    for encoding in request.get("encodings", ["gzip"] if request.get("gzip") else []):
        body = gzip.compress(body, mtime=0) if encoding == "gzip" else zlib.compress(body)
    return body


def headers_of(request: dict[str, Any]) -> dict[str, str]:
    """Return the headers that a request describes."""
    encodings = request.get("encodings", ["gzip"] if request.get("gzip") else [])
    found = {"content-type": "application/json", **request.get("headers", {})}
    return found | ({"content-encoding": ", ".join(encodings)} if encodings else {})


def address_of(url: str) -> tuple[str, int]:
    """Return host and port of a URL."""
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


def _raw(raw: dict[str, Any], url: str) -> Iterator[str]:
    """Send bytes: a status that may come, or an end of the connection, in time."""
    piece = raw["piece"] if "piece" in raw else raw["piece_of"]["text"] * raw["piece_of"]["times"]
    began, came = time.monotonic(), b""
    with socket.create_connection(address_of(url), timeout=raw["seconds"]) as client:
        try:
            client.sendall(raw["before"].encode())
            for n in range(raw["times"]):
                client.sendall(piece.replace("{n}", str(n)).encode())
                if pause := raw.get("pause_s"):
                    client.settimeout(pause)
                    try:
                        came = client.recv(65536)
                        break
                    except TimeoutError:
                        client.settimeout(raw["seconds"])
                if time.monotonic() - began > raw["seconds"]:
                    break
            else:
                client.sendall(raw["after"].encode())
            client.settimeout(max(0.1, began + raw["seconds"] - time.monotonic()))
            came = came or client.recv(65536)
        except (BrokenPipeError, ConnectionResetError):
            came = came or _rest(client)
        except TimeoutError:
            yield f"{raw['name']}: neither an answer nor an end within {raw['seconds']} s"
            return
    found = re.match(rb"HTTP/1\.1 (\d+)", came)
    if found and int(found[1]) not in raw["status"]:
        yield f"{raw['name']}: {int(found[1])}, not {raw['status']}"


def _rest(client: socket.socket) -> bytes:
    try:
        return client.recv(65536)
    except OSError:
        return b""


def _burden(burden: dict[str, Any], url: str) -> Iterator[str]:
    """Send one request, while another client asks for health: nobody waits."""
    body, headers = body_of(burden), headers_of(burden)
    answers: list[httpx.Response] = []

    def send() -> None:
        answers.append(httpx.post(url + burden["path"], content=body, headers=headers, timeout=60))

    waits = []
    with httpx.Client(base_url=url, timeout=60) as other:
        other.get("/v2/health/live")
        sender = threading.Thread(target=send)
        sender.start()
        while sender.is_alive() or len(waits) < 5:
            began = time.perf_counter()
            other.get("/v2/health/live").raise_for_status()
            waits.append(time.perf_counter() - began)
        sender.join()
    if not answers or answers[0].status_code not in burden["status"]:
        yield f"burden: {answers[0].status_code if answers else 'no answer'}, not {burden['status']}"
    if max(waits) > burden["others_s"]:
        yield f"burden: others waited {max(waits):.2f} s, more than {burden['others_s']} s"


def run(folder: Path, url: str, names: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """Send all cases of a folder, or some, to a server; return {case: what is not as it must be}."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.yaml")):
        if names and path.stem not in names:
            continue
        case = yaml.safe_load(path.read_text(encoding="utf-8"))
        try:
            found[path.stem] = list(faults(case, url))
            if httpx.get(f"{url}/v2/health/live", timeout=10).status_code != 200:
                found[path.stem].append("the server does not live any more")
        except (httpx.HTTPError, OSError) as error:
            found[path.stem] = [f"{type(error).__name__}: {error}"]
    return found


def ready_home(at: Path) -> Home:
    """Return a new home with features and a champion per surface."""
    home = Home(tiny_settings(at))
    home.publish()
    home.promote("homepage", 1)
    home.promote("radio", 1)
    return home


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        ready = ready_home(Path(scratch) / "home")
        with crossfade(ready.settings) as (base, _):
            told = run(Path(sys.argv[1]), base, tuple(sys.argv[2:]))
    for name, lacks in told.items():
        print(f"{'ok  ' if not lacks else 'BAD '} {name}", *(f"      {line}" for line in lacks), sep="\n")
    sys.exit(any(told.values()))
