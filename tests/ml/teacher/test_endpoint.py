"""A teacher behind the Open Inference Protocol v2 labels like the same teacher in a file."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI, Request, Response

from ml.foundation.settings import Settings
from ml.teacher.contract import Contract, load_contract
from ml.teacher.refused import TeacherRefused
from ml.teacher.runtime import open_teacher

NUMPY = {"INT64": "<i8", "FP32": "<f4"}


@dataclass
class Platform:
    """A sister platform's server: click = sin(user / 1000) + age + sum(taste), and its probability."""

    url: str = ""
    age_type: str = "FP32"
    age_shape: list[int] = field(default_factory=lambda: [-1, 1])
    busy: int = 0
    token: str | None = None
    unasked: bool = False
    nulls: bool = False
    seen: list[str] = field(default_factory=list)

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/v2/models/ranker")
        def metadata() -> dict[str, Any]:
            return {
                "name": "ranker",
                "versions": ["1"],
                "platform": "test",
                "inputs": [
                    {"name": "user", "datatype": "INT64", "shape": [-1]},
                    {"name": "age", "datatype": self.age_type, "shape": self.age_shape},
                    {"name": "taste", "datatype": "FP32", "shape": [-1, 3]},
                ],
                "outputs": [
                    {"name": "click", "datatype": "FP32", "shape": [-1]},
                    {"name": "shares", "datatype": "FP32", "shape": [-1, 2]},
                ],
            }

        @app.post("/v2/models/ranker/infer")
        async def infer(request: Request) -> Response:
            if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
                return Response("who are you?", status_code=401)
            if self.busy:
                self.busy -= 1
                return Response("busy", status_code=503)
            return self._infer(await request.body(), request.headers.get("inference-header-content-length"))

        return app

    def _infer(self, body: bytes, header: str | None) -> Response:
        length = int(header or len(body))
        message, offset, arrays = json.loads(body[:length]), length, {}
        for entry in message["inputs"]:
            if header:
                size = entry["parameters"]["binary_data_size"]
                values = np.frombuffer(body[offset : offset + size], dtype=NUMPY[entry["datatype"]])
                offset += size
            else:
                values = np.array(entry["data"], dtype=NUMPY[entry["datatype"]])
            arrays[entry["name"]] = values.reshape(entry["shape"])
        self.seen.append("binary" if header else "json")
        click = np.sin(arrays["user"] / 1000) + arrays["age"][:, 0] + arrays["taste"].sum(axis=1)
        share = 1 / (1 + np.exp(-click))
        outputs = {"click": click.astype("<f4"), "shares": np.stack([1 - share, share], axis=1).astype("<f4")}
        entries: list[dict[str, Any]] = []
        blobs: list[bytes] = []
        if self.unasked:  # words, which a teacher of numbers could not read, before what was asked for
            words = ["why", None]
            blobs += [b"\3\0\0\0why"] if header else []
            told = {"parameters": {"binary_data_size": len(blobs[0])}} if header else {"data": words}
            entries.append({"name": "reasons", "datatype": "BYTES", "shape": [2], **told})
        for name in (item["name"] for item in message["outputs"]):
            entry: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": list(outputs[name].shape)}
            if header:
                blobs.append(outputs[name].tobytes())
                entry["parameters"] = {"binary_data_size": len(blobs[-1])}
            else:
                entry["data"] = outputs[name].reshape(-1).tolist()
                entry["data"][-1:] = [None] if self.nulls else entry["data"][-1:]
            entries.append(entry)
        head = json.dumps({"model_name": "ranker", "outputs": entries}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))} if header else {}
        return Response(head + b"".join(blobs), headers=headers, media_type="application/octet-stream")


@pytest.fixture
def platform() -> Iterator[Platform]:
    served = Platform()
    server = uvicorn.Server(uvicorn.Config(served.app(), host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    served.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    yield served
    server.should_exit = True
    thread.join()


@pytest.fixture
def contract_of(teacher_folder: Callable[..., Path]) -> Callable[..., Contract]:
    def build(platform: Platform, **endpoint: Any) -> Contract:
        place = {"url": platform.url, "model": "ranker"} | endpoint
        return load_contract(teacher_folder(model=None, endpoint=place, folder="endpoint"))

    return build


@pytest.mark.slow
@pytest.mark.parametrize("binary", [True, False])
def test_an_endpoint_scores_like_the_file(
    binary: bool,
    platform: Platform,
    contract_of: Callable[..., Contract],
    teacher_folder: Callable[..., Path],
    settings: Settings,
) -> None:
    remote = open_teacher(contract_of(platform, binary=binary))
    local = open_teacher(load_contract(teacher_folder()))
    rng = np.random.default_rng(0)
    batch = {
        "user": rng.integers(0, 5_000, 65),
        "age": rng.random(65, dtype=np.float32),
        "taste": rng.normal(size=(65, 3)).astype(np.float32),
    }
    np.testing.assert_allclose(remote.score(batch), local.score(batch), atol=1e-4)
    assert set(platform.seen) == {"binary" if binary else "json"}
    assert remote.parameters is None
    remote.close()


@pytest.mark.parametrize("binary", [True, False])
def test_outputs_that_nobody_asked_for_are_passed_over(
    binary: bool, platform: Platform, contract_of: Callable[..., Contract]
) -> None:
    batch = {"user": np.zeros(2, dtype=np.int64), "age": np.ones(2, np.float32), "taste": np.zeros((2, 3), np.float32)}
    with closing(open_teacher(contract_of(platform, binary=binary))) as plain:
        wanted = plain.score(batch)
    platform.unasked = True
    with closing(open_teacher(contract_of(platform, binary=binary))) as model:
        np.testing.assert_array_equal(model.score(batch), wanted)


def test_a_null_among_the_scores_is_refused_with_its_place(
    platform: Platform, contract_of: Callable[..., Contract]
) -> None:
    platform.nulls = True
    with pytest.raises(TeacherRefused, match=r"value \d+ of output 'click' is null; a teacher has a score"):
        open_teacher(contract_of(platform, binary=False))


@pytest.mark.slow
def test_a_busy_endpoint_is_asked_again_and_a_dead_one_is_named(
    platform: Platform, contract_of: Callable[..., Contract], settings: Settings
) -> None:
    model = open_teacher(contract_of(platform))
    platform.busy = 2
    batch = {
        "user": np.zeros(1, dtype=np.int64),
        "age": np.ones(1, dtype=np.float32),
        "taste": np.zeros((1, 3), dtype=np.float32),
    }
    assert model.score(batch)[0, 0] == 1.0
    dead = contract_of(Platform(url="http://127.0.0.1:9"))
    with pytest.raises(TeacherRefused, match=r"http://127\.0\.0\.1:9/v2/models/ranker: ConnectError"):
        open_teacher(dead)


def test_an_endpoint_that_breaks_the_contract_is_refused_by_input(
    platform: Platform, contract_of: Callable[..., Contract], settings: Settings
) -> None:
    platform.age_type = "FP64"
    with pytest.raises(TeacherRefused, match="input 'age' is FP64, the contract says float32"):
        open_teacher(contract_of(platform))
    platform.age_type, platform.age_shape = "FP32", [8, 1]
    with pytest.raises(TeacherRefused, match="input 'age' has the fixed batch size 8"):
        open_teacher(contract_of(platform))
    with pytest.raises(TeacherRefused, match="HTTP 404"):
        open_teacher(contract_of(platform, model="other"))


def test_the_token_comes_from_the_environment(
    platform: Platform, contract_of: Callable[..., Contract], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.token = "sesame"
    with pytest.raises(TeacherRefused, match="HTTP 401: who are you"):
        open_teacher(contract_of(platform))
    contract = contract_of(platform, token_env="TEACHER_TOKEN")
    monkeypatch.delenv("TEACHER_TOKEN", raising=False)
    with pytest.raises(TeacherRefused, match="environment variable TEACHER_TOKEN holds no token"):
        open_teacher(contract)
    monkeypatch.setenv("TEACHER_TOKEN", "sesame")
    open_teacher(contract).close()
