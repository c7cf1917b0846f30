"""Backfills through the UI's own API, two at once, beside sensors and the schedule. `make backfills DAYS=30`."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import pytest

from benchmarks.process import free_port
from deploy.automation import BASE_JOB, NOT_ENDED, RANKING_JOB
from ml.lake import ALIAS, Lake
from ml.settings import PROJECT_ROOT, Settings
from ml.simulator.write import write_landing
from tests.campaigns.campaign_night import FIRST, PATIENCE_S, daemon

DAYS = int(os.environ.get("DAYS", "30"))
ALONE = 3
"""Days that are built one by one, for the ratio."""

WITH_TIMES = {"landing.ledger"}
LOCKS = ("database is locked", "conflict", "could not serialize")

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


@dataclass
class App:
    """An app's home whose landing zone is full, with a frozen teacher from elsewhere."""

    home: Path
    landing: Path
    teacher: Path

    def environment(self, **more: str) -> dict[str, str]:
        return {
            **os.environ,
            "CROSSFADE_HOME": str(self.home),
            "CROSSFADE_SOURCE": "files",
            "CROSSFADE_LANDING_DIR": str(self.landing),
            "CROSSFADE_FIRST_DAY": str(FIRST),
            "CROSSFADE_LAST_DAY": str(day(DAYS - 1)),
            "CROSSFADE_SURFACES_DIR": str(PROJECT_ROOT / "tests" / "surfaces"),
            "CROSSFADE_TEACHER": str(self.teacher),
            **more,
        }

    def settings(self) -> Settings:
        return Settings(
            home=self.home,
            source="files",
            landing_dir=self.landing,
            first_day=FIRST,
            last_day=day(DAYS - 1),
            surfaces_dir=PROJECT_ROOT / "tests" / "surfaces",
            teacher=self.teacher,
        )

    def init(self) -> None:
        run = [sys.executable, "-m", "deploy.cli", "init"]
        subprocess.run(run, env=self.environment(), cwd=PROJECT_ROOT, check=True)


@pytest.fixture(scope="module")
def make_app(built_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], App]:
    folder = tmp_path_factory.mktemp("app")
    landing = folder / "landing"
    write_landing(Settings(home=folder / "simulator", landing_dir=landing, simulator_preset="tiny"), days=DAYS)
    teacher = shutil.copytree(built_demo / "teacher", folder / "teacher")

    def make(name: str) -> App:
        app = App(folder / name, landing, teacher / "contract.yaml")
        app.init()
        return app

    return make


def day(number: int) -> date:
    return FIRST + timedelta(days=number)


def days_to_soft_labels(settings: Settings) -> list[list[str]]:
    """Keys of the assets from landing to soft labels, as the UI sends them."""
    from deploy.definitions import build_definitions

    graph = build_definitions(settings).resolve_asset_graph()
    surfaces = {key.path[0] for key in graph.materializable_asset_keys if key.path[-1] == "soft_labels"}
    wanted = [
        key
        for key in graph.materializable_asset_keys
        if key.path[0] in ("landing", "features")
        or (key.path[0] in surfaces and key.path[-1] in ("examples", "teacher_inputs", "soft_labels"))
    ]
    return [list(key.path) for key in wanted]


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

    def backfill(self, keys: list[list[str]], days: list[date]) -> str:
        params = {
            "assetSelection": [{"path": path} for path in keys],
            "partitionNames": [d.isoformat() for d in days],
            "tags": [],
        }
        answer = self.ask(LAUNCH, params=params)["launchPartitionBackfill"]
        assert answer["__typename"] == "LaunchBackfillSuccess", answer
        return answer["backfillId"]

    def status(self, backfill: str) -> str:
        answer = self.ask(STATUS, id=backfill)["partitionBackfillOrError"]
        assert answer["__typename"] == "PartitionBackfill", answer
        assert not answer["error"], answer
        return answer["status"]

    def wait(self, backfills: list[str]) -> float:
        started = time.monotonic()
        while any(not s.startswith(("COMPLETED", "FAILED", "CANCELED")) for s in map(self.status, backfills)):
            assert time.monotonic() - started < 2 * PATIENCE_S, [self.status(b) for b in backfills]
            time.sleep(2)
        assert {self.status(b) for b in backfills} == {"COMPLETED_SUCCESS"}
        return time.monotonic() - started


def answers(port: int) -> None:
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            httpx.get(f"http://127.0.0.1:{port}/server_info", timeout=5).raise_for_status()
            return
        except httpx.HTTPError:
            assert time.monotonic() < end, "the UI did not start"
            time.sleep(1)


def tables(settings: Settings) -> dict[str, tuple[int, str]]:
    with Lake(settings) as lake:
        query = "select table_schema || '.' || table_name as n from information_schema.tables where table_catalog = ?"
        names = set(lake.sql(query, [ALIAS])["n"].to_pylist()) - WITH_TIMES
        return {n: lake.content_hash(f"{ALIAS}.{n}") for n in sorted(names) if not n.startswith("ml.") or "soft" in n}


def test_overlapping_backfills_beside_sensors_and_schedule_end_as_a_serial_run(
    make_app: Callable[[str], App], tmp_path: Path
) -> None:
    serial, busy = make_app("serial"), make_app("busy")
    every = [day(number) for number in range(DAYS)]
    half = every[DAYS // 3 : 2 * DAYS // 3]

    port = free_port()
    with daemon(serial.environment(), tmp_path / "serial.log", port):
        answers(port)
        ui, keys = Ui(port), days_to_soft_labels(serial.settings())
        seconds = ui.wait([ui.backfill(keys, every)])
        print(f"one backfill of {DAYS} days: {seconds:.0f} s, {seconds / DAYS:.1f} s per day", flush=True)
        before = tables(serial.settings())
        alone = [ui.wait([ui.backfill(keys, [one])]) for one in every[-ALONE:]]
        mean = sum(alone) / ALONE
        print(f"one day alone: {mean:.0f} s; {DAYS} days cost {DAYS * mean / seconds:.1f} times as much one by one")
        assert tables(serial.settings()) == before

    port = free_port()
    nightly = {"CROSSFADE_AUTOMATION": "true", "CROSSFADE_SENSOR_SECONDS": "5", "CROSSFADE_RELEASE_CRON": "* * * * *"}
    log = tmp_path / "busy.log"
    with (
        daemon(busy.environment(**nightly), log, port),
        dg.DagsterInstance.from_config(str(busy.settings().dagster_home)) as instance,
    ):
        answers(port)
        ui = Ui(port)
        seconds = ui.wait([ui.backfill(keys, every), ui.backfill(keys, half)])
        print(f"two overlapping backfills beside sensors and schedule: {seconds:.0f} s", flush=True)
        quiet(instance)
        runs = instance.get_runs()
        jobs = {run.job_name for run in runs}
        print(f"{len(runs)} runs: {json.dumps({j: sum(r.job_name == j for r in runs) for j in sorted(jobs)})}")
        assert {BASE_JOB, RANKING_JOB} <= jobs, "both sensors were to ask for runs meanwhile"
        assert any(name.endswith("_release_job") for name in jobs), "the schedule was to ask for a release meanwhile"
        failed = [run for run in runs if run.status is not dg.DagsterRunStatus.SUCCESS]
        assert not failed, [(run.job_name, run.status, reasons(instance, run.run_id)) for run in failed]
        assert not [lock for lock in LOCKS if lock in log.read_text(encoding="utf-8").lower()]
        assert not [lock for lock in LOCKS for run in runs if lock in reasons(instance, run.run_id).lower()]
    assert tables(busy.settings()) == before


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
