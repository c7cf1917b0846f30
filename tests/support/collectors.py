"""Servers on loopback that lineage, figures and traces are sent to; each insists on the shape of what it stands for."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

Answer = tuple[int, bytes]
Takes = Callable[[str, dict[str, str], bytes], Answer]
"""What answers a path, headers in lower case and a body."""


@contextmanager
def answering(takes: Takes) -> Iterator[str]:
    """Run a server; yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, answer = takes(self.path, headers, self.rfile.read(int(headers.get("content-length", 0))))
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@dataclass
class MlflowServer:
    """The tracking API of MLflow (https://mlflow.org/docs/latest/rest-api.html), as far as candidates need it.

    Attributes:
        experiments: Id by name.
        runs: By id: experiment, name, status, tags, parameters, and (value, timestamp, step) by metric.
        down: Answer 503 to everything.
    """

    experiments: dict[str, str] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    down: bool = False
    asked: list[str] = field(default_factory=list)

    def take(self, path: str, headers: dict[str, str], body: bytes) -> Answer:
        parts = urlsplit(path)
        name = parts.path.removeprefix("/api/2.0/mlflow/")
        self.asked.append(name)
        if self.down:
            return 503, b"down"
        content = json.loads(body) if body else dict(parse_qsl(parts.query))
        answer = getattr(self, "_" + re.sub(r"\W", "_", name))(content)
        if answer is None:
            return 404, json.dumps({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "not there"}).encode()
        return 200, json.dumps(answer).encode()

    def _experiments_get_by_name(self, asked: dict[str, Any]) -> dict[str, Any] | None:
        name = asked["experiment_name"]
        if name not in self.experiments:
            return None
        return {"experiment": {"experiment_id": self.experiments[name], "name": name, "lifecycle_stage": "active"}}

    def _experiments_create(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert asked["name"] not in self.experiments
        return {"experiment_id": self.experiments.setdefault(asked["name"], str(1 + len(self.experiments)))}

    def _runs_create(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert asked["experiment_id"] in self.experiments.values() and int(asked["start_time"]) > 0
        run = f"{len(self.runs):032x}"
        tags = {tag["key"]: tag["value"] for tag in asked["tags"]}
        self.runs[run] = {"experiment": asked["experiment_id"], "name": asked["run_name"], "status": "RUNNING"}
        self.runs[run] |= {"tags": tags, "params": {}, "metrics": {}}
        return {"run": self._shown(run)}

    def _runs_search(self, asked: dict[str, Any]) -> dict[str, Any]:
        found = re.fullmatch(r"tags\.`([\w.]+)` = '(\w+)'", asked["filter"])
        assert found, asked["filter"]
        runs = [
            run
            for run, kept in self.runs.items()
            if kept["experiment"] in asked["experiment_ids"] and kept["tags"].get(found[1]) == found[2]
        ]
        return {"runs": [self._shown(run) for run in runs[: int(asked["max_results"])]]}

    def _runs_log_batch(self, asked: dict[str, Any]) -> dict[str, Any]:
        run = self.runs[asked["run_id"]]
        batch = [len(asked.get(part, ())) for part in ("metrics", "params", "tags")]
        assert sum(batch) <= 1000 and batch[1] <= 100 and batch[2] <= 100, batch
        for param in asked.get("params", ()):
            assert len(param["value"]) <= 6000
            assert run["params"].setdefault(param["key"], param["value"]) == param["value"], "a parameter never changes"
        run["tags"] |= {tag["key"]: tag["value"] for tag in asked.get("tags", ())}
        for metric in asked.get("metrics", ()):
            assert re.fullmatch(r"[\w\-. /:]{1,250}", metric["key"]), metric["key"]
            points = run["metrics"].setdefault(metric["key"], set())
            points.add((float(metric["value"]), int(metric["timestamp"]), int(metric.get("step", 0))))
        return {}

    def _runs_set_tag(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.runs[asked["run_id"]]["tags"][asked["key"]] = asked["value"]
        return {}

    def _runs_update(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.runs[asked["run_id"]]["status"] = asked["status"]
        return {"run_info": self._shown(asked["run_id"])["info"]}

    def _runs_get(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"run": self._shown(asked["run_id"])}

    def _shown(self, run: str) -> dict[str, Any]:
        kept = self.runs[run]
        info = {"run_id": run, "run_uuid": run, "experiment_id": kept["experiment"], "status": kept["status"]}
        info |= {"run_name": kept["name"], "lifecycle_stage": "active", "start_time": 1, "artifact_uri": ""}
        return {"info": info, "data": {"tags": [{"key": k, "value": v} for k, v in kept["tags"].items()]}}


@dataclass
class LineageServer:
    """A server of OpenLineage: it takes what the specification allows (https://openlineage.io/spec/2-0-2/OpenLineage.json).

    Attributes:
        key: What a sender has to bring.
        events: What was taken.
    """

    key: str
    events: list[dict[str, Any]] = field(default_factory=list)

    def take(self, path: str, headers: dict[str, str], body: bytes) -> Answer:
        if path != "/api/v1/lineage" or headers.get("content-type") != "application/json":
            return 404, b""
        if headers.get("authorization") != f"Bearer {self.key}":
            return 401, b""
        event = json.loads(body)
        if faults := [*_faults(event)]:
            return 422, "; ".join(faults).encode()
        self.events.append(event)
        return 201, b""

    def of(self, job: str, *kinds: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e["job"]["name"] == job and (not kinds or e["eventType"] in kinds)]


def _faults(event: dict[str, Any]) -> Iterator[str]:
    if not {"eventTime", "producer", "schemaURL", "run", "job"} <= event.keys():
        yield f"an event has only {sorted(event)}"
        return
    if event["eventType"] not in ("START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"):
        yield f"eventType {event['eventType']}"
    if datetime.fromisoformat(event["eventTime"]).tzinfo is None:
        yield f"eventTime {event['eventTime']}"
    if not event["schemaURL"].endswith("/OpenLineage.json#/$defs/RunEvent"):
        yield f"schemaURL {event['schemaURL']}"
    if str(UUID(event["run"]["runId"])) != event["run"]["runId"]:
        yield f"runId {event['run']['runId']}"
    parts = [event["run"], event["job"], *event.get("inputs", []), *event.get("outputs", [])]
    for part in parts[1:]:
        if not all(isinstance(part.get(key), str) and part[key] for key in ("namespace", "name")):
            yield f"{part} has no name"
    for part in parts:
        for kind in ("facets", "inputFacets", "outputFacets"):
            for name, facet in part.get(kind, {}).items():
                if not all(urlsplit(facet.get(key, "")).scheme for key in ("_producer", "_schemaURL")):
                    yield f"facet {name} is {facet}"
