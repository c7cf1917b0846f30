"""An app's home at work: its settings, its webserver and daemon as processes, the API that its UI uses."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import httpx

from deploy.automation.jobs import NOT_ENDED
from ml.foundation.lake import ALIAS, Lake
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.lab.simulator.write import write_landing
from tests.support.image import SERVICES

FIRST = date(2026, 1, 1)
PATIENCE_S = 900.0

CANCEL = """
mutation Cancel($id: String!) {
  cancelPartitionBackfill(backfillId: $id) { __typename }
}"""
LAUNCH = """
mutation Backfill($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message stack }
    ... on UnauthorizedError { message }
  }
}"""
STATUS = """
query Status($id: String!) {
  partitionBackfillOrError(backfillId: $id) {
    __typename
    ... on PartitionBackfill { status error { message } }
    ... on PythonError { message }
  }
}"""
RUN = """
mutation Run($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message stack }
  }
}"""
AGAIN = """
mutation Again($params: ReexecutionParams!) {
  launchRunReexecution(reexecutionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message stack }
  }
}"""


def day(number: int) -> date:
    return FIRST + timedelta(days=number)


@dataclass
class App:
    """An app's home whose landing zone is full, with a frozen teacher from elsewhere; ``servers`` are variables."""

    home: Path
    landing: Path
    teacher: Path
    days: int
    servers: dict[str, str] = field(default_factory=dict)

    def environment(self, **more: str) -> dict[str, str]:
        return {
            **os.environ,
            "CROSSFADE_HOME": str(self.home),
            "CROSSFADE_SOURCE": "files",
            "CROSSFADE_LANDING_DIR": str(self.landing),
            "CROSSFADE_FIRST_DAY": str(FIRST),
            "CROSSFADE_LAST_DAY": str(day(self.days - 1)),
            "CROSSFADE_SURFACES_DIR": str(PROJECT_ROOT / "tests" / "surfaces"),
            "CROSSFADE_TEACHER": str(self.teacher),
            **self.servers,
            **more,
        }

    def settings(self) -> Settings:
        given: dict[str, Any] = {name.removeprefix("CROSSFADE_").lower(): to for name, to in self.servers.items()}
        return Settings(
            home=self.home,
            source="files",
            landing_dir=self.landing,
            first_day=FIRST,
            last_day=day(self.days - 1),
            surfaces_dir=PROJECT_ROOT / "tests" / "surfaces",
            teacher=self.teacher,
            **given,
        )

    def init(self) -> None:
        run = [sys.executable, "-m", "deploy.cli", "init"]
        subprocess.run(run, env=self.environment(), cwd=PROJECT_ROOT, check=True)


def apps(folder: Path, demo: Path, days: int) -> Callable[..., App]:
    """Write the landing zone of ``days`` days and return a function that makes a home on it by name."""
    landing = folder / "landing"
    write_landing(Settings(home=folder / "simulator", landing_dir=landing, simulator_preset="tiny"), days=days)
    teacher = shutil.copytree(demo / "teacher", folder / "teacher")

    def make(name: str, **servers: str) -> App:
        app = App(folder / name, landing, teacher / "contract.yaml", days, servers)
        app.init()
        return app

    return make


def keys_of(settings: Settings, wanted: Callable[[dg.AssetKey], bool]) -> list[list[str]]:
    """Return the keys of the assets that are wanted, as the UI sends them."""
    from deploy.definitions import build_definitions

    graph = build_definitions(settings).resolve_asset_graph()
    return [list(key.path) for key in graph.materializable_asset_keys if wanted(key)]


class Ui:
    """The GraphQL API that the UI uses."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/graphql"

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        answer = httpx.post(self.url, json={"query": query, "variables": variables}, timeout=60)
        answer.raise_for_status()
        content = answer.json()
        assert "errors" not in content, content["errors"]
        return content["data"]

    def backfill(self, keys: list[list[str]], days: Sequence[date]) -> str:
        params = {
            "assetSelection": [{"path": path} for path in keys],
            "partitionNames": [d.isoformat() for d in days],
            "tags": [],
        }
        answer = self.ask(LAUNCH, params=params)["launchPartitionBackfill"]
        assert answer["__typename"] == "LaunchBackfillSuccess", answer
        return answer["backfillId"]

    def run(self, job: str, tags: Mapping[str, str]) -> str:
        selector = {"repositoryLocationName": "crossfade", "repositoryName": "__repository__", "jobName": job}
        listed = [{"key": key, "value": value} for key, value in tags.items()]
        params = {"selector": selector, "runConfigData": {}, "executionMetadata": {"tags": listed}}
        answer = self.ask(RUN, params=params)["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return answer["run"]["runId"]

    def run_again(self, run_id: str) -> str:
        """Execute a failed run again from its failure."""
        params = {"parentRunId": run_id, "strategy": "FROM_FAILURE"}
        answer = self.ask(AGAIN, params=params)["launchRunReexecution"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return answer["run"]["runId"]

    def cancel(self, backfill: str) -> None:
        answer = self.ask(CANCEL, id=backfill)["cancelPartitionBackfill"]
        assert answer["__typename"] == "CancelBackfillSuccess", answer

    def status(self, backfill: str) -> str:
        answer = self.ask(STATUS, id=backfill)["partitionBackfillOrError"]
        assert answer["__typename"] == "PartitionBackfill", answer
        assert not answer["error"] or answer["status"] == "FAILED", answer
        return answer["status"]

    def wait(self, backfills: list[str]) -> float:
        started = time.monotonic()
        while any(not s.startswith(("COMPLETED", "FAILED", "CANCELED")) for s in map(self.status, backfills)):
            assert time.monotonic() - started < 2 * PATIENCE_S, [self.status(b) for b in backfills]
            time.sleep(2)
        assert {self.status(b) for b in backfills} == {"COMPLETED_SUCCESS"}
        return time.monotonic() - started


def start(command: Sequence[str], environment: Mapping[str, str], log: Path | None = None) -> "subprocess.Popen[bytes]":
    """Start a process with a session of its own; what it prints is added to ``log``."""
    with (log or Path(os.devnull)).open("a") as file:
        output = file if log else None
        return subprocess.Popen(
            command, env=environment, cwd=PROJECT_ROOT, stdout=output, stderr=output, start_new_session=True
        )


@contextmanager
def process(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a process while the block runs, and interrupt it and what it started."""
    started = start(command, environment, log)
    try:
        yield started
    finally:
        os.killpg(started.pid, signal.SIGINT)
        started.wait(60)


def daemon(
    environment: Mapping[str, str], log: Path, port: int = 0
) -> AbstractContextManager["subprocess.Popen[bytes]"]:
    """Run the UI and its daemon while the block runs."""
    return process([sys.executable, "-m", "deploy.cli", "ui", "--port", str(port)], environment, log)


def service(name: str, port: int) -> list[str]:
    """Return the command of a service of deploy/compose.yaml, for a port of this machine's loopback."""
    words = [str(word) for word in SERVICES[name]["command"]]
    words = [{"0.0.0.0": "127.0.0.1", "3000": str(port), "8080": str(port)}.get(word, word) for word in words]
    return [str(Path(sys.executable).parent / words[0]), *words[1:]]


def wait(what: str, done: Callable[[], bool], patience: float = PATIENCE_S, told: Callable[[], str] = str) -> None:
    end = time.monotonic() + patience
    while not done():
        assert time.monotonic() < end, f"waited {patience:g} s for {what}: {told()}"
        time.sleep(1)
    print(f"{what}: seen", flush=True)


def answers(url: str) -> bool:
    """Tell whether an address answers 200."""
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def quiet(instance: dg.DagsterInstance) -> None:
    """Wait until no run has been under way for a while."""
    end, still = time.monotonic() + 2 * PATIENCE_S, 0
    while still < 5:
        assert time.monotonic() < end, "runs never end"
        time.sleep(3)
        still = 0 if instance.get_runs(dg.RunsFilter(statuses=NOT_ENDED)) else still + 1


def reasons(instance: dg.DagsterInstance, run_id: str) -> str:
    """Return what the failures of a run said."""
    kinds = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE}
    return "\n".join(
        str(record.event_log_entry) for record in instance.get_records_for_run(run_id, of_type=kinds).records
    )


def tables(settings: Settings, but: Sequence[str] = ("landed_at",)) -> dict[str, tuple[int, str]]:
    """Return the rows and the content hash of every table without some columns; when a day was landed is no content."""
    with Lake(settings) as lake:
        query = "select table_schema || '.' || table_name as n from information_schema.tables where table_catalog = ?"
        relations = {}
        for name in sorted(lake.sql(query, [ALIAS])["n"].to_pylist()):
            columns = ", ".join(f'"{column}"' for column in lake.columns(name) if column not in but)
            relations[name] = f"(select {columns} from {ALIAS}.{name})"
        return {name: lake.content_hash(relation) for name, relation in relations.items()}
