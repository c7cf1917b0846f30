"""Backfills through the UI's own API: one canceled and resumed, two at once. `make backfills DAYS=30`.

With SERVERS=1 the two at once work on a Postgres catalog and storage with data and artifacts in an object store, and
must leave the tables of the serial run on one machine.
"""

import json
import os
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import dagster as dg
import pytest

from benchmarks.process import free_port
from deploy.automation import BASE_JOB, RANKING_JOB, range_tags
from ml.settings import Settings
from tests.campaigns.instance import App, Ui, answers, apps, daemon, day, keys_of, quiet, reasons, tables, wait

DAYS = int(os.environ.get("DAYS", "30"))
SERVERS = bool(os.environ.get("SERVERS"))
ALONE = 3
"""Days that are built one by one, for the ratio."""

LOCKS = ("database is locked", "conflict", "could not serialize")


@pytest.fixture(scope="module")
def make_app(built_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., App]:
    return apps(tmp_path_factory.mktemp("app"), built_demo, DAYS)


@pytest.fixture
def shared(request: pytest.FixtureRequest) -> dict[str, str]:
    """Variables that move what machines share to servers; none unless they are asked for."""
    return request.getfixturevalue("servers") if SERVERS else {}


def up_to_soft_labels(key: dg.AssetKey) -> bool:
    layer, name = key.path[0], key.path[-1]
    return layer in ("landing", "features") or name in ("examples", "teacher_inputs", "soft_labels")


def labelled(settings: Settings) -> dict[str, tuple[int, str]]:
    """Return the tables up to soft labels: releases are made at times of their own."""
    return {n: content for n, content in tables(settings).items() if not n.startswith("ml.") or "soft" in n}


def one_by_one(ui: Ui, instance: dg.DagsterInstance, one: date) -> float:
    """Build one day as the nightly jobs do, landing to soft labels, and return the seconds that it took."""
    started, ended = time.monotonic(), (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE)
    for job in (BASE_JOB, RANKING_JOB):
        run = ui.run(job, range_tags(one, one))
        wait(f"{job} of {one}", lambda run=run: instance.get_run_by_id(run).status in ended)
        assert instance.get_run_by_id(run).status is dg.DagsterRunStatus.SUCCESS, reasons(instance, run)
    return time.monotonic() - started


def under_way(instance: dg.DagsterInstance, backfill: str, step: str) -> bool:
    """Tell whether a step of a backfill's run has begun."""
    runs = instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": backfill}))
    return any(found.step_key == step for run in runs for found in instance.get_run_step_stats(run.run_id))


def test_overlapping_backfills_beside_sensors_and_schedule_end_as_a_serial_run(
    make_app: Callable[..., App], shared: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serial, busy = make_app("serial"), make_app("busy", **shared)
    every = [day(number) for number in range(DAYS)]
    half = every[DAYS // 3 : 2 * DAYS // 3]

    port = free_port()
    with (
        daemon(serial.environment(), tmp_path / "serial.log", port),
        dg.DagsterInstance.from_config(str(serial.settings().dagster_home)) as instance,
    ):
        wait("the UI", lambda: answers(f"http://127.0.0.1:{port}/server_info"))
        ui, keys = Ui(port), keys_of(serial.settings(), up_to_soft_labels)
        seconds = ui.wait([ui.backfill(keys, every)])
        print(f"one backfill of {DAYS} days: {seconds:.0f} s, {seconds / DAYS:.1f} s per day", flush=True)
        before = labelled(serial.settings())
        alone = [one_by_one(ui, instance, one) for one in every[-ALONE:]]
        mean = sum(alone) / ALONE
        print(f"one day alone: {mean:.0f} s; {DAYS} days cost {DAYS * mean / seconds:.1f} times as much one by one")
        assert labelled(serial.settings()) == before

        canceled = ui.backfill(keys, half)
        wait("a backfill in the middle of its run", lambda: under_way(instance, canceled, "base_tables"))
        ui.cancel(canceled)
        wait("its end", lambda: ui.status(canceled) == "CANCELED")
        quiet(instance)
        ui.wait([ui.backfill(keys, half)])
        assert labelled(serial.settings()) == before, "what was canceled and launched again ends as if it never was"

    port = free_port()
    nightly = {"CROSSFADE_AUTOMATION": "true", "CROSSFADE_SENSOR_SECONDS": "5", "CROSSFADE_RELEASE_CRON": "* * * * *"}
    log = tmp_path / "busy.log"
    for name, value in shared.items():
        monkeypatch.setenv(name, value)
    with (
        daemon(busy.environment(**nightly), log, port),
        dg.DagsterInstance.from_config(str(busy.settings().dagster_home)) as instance,
    ):
        wait("the UI", lambda: answers(f"http://127.0.0.1:{port}/server_info"))
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
    assert labelled(busy.settings()) == before
