"""Backfills through the UI's own API: one canceled and resumed, two at once. `make backfills DAYS=30`.

With SERVERS=1 the two at once work on a Postgres catalog and storage with data and artifacts in an object store, and
must leave the tables of the serial run on one machine; WRITERS=2 lets so many steps write to that lake at once.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import NamedTuple

import dagster as dg
import pytest

from benchmarks.process import free_port
from deploy.automation.days import range_tags
from deploy.automation.jobs import BASE_JOB, RANKING_JOB
from ml.foundation.settings import Settings
from ml.surfaces.files import load_surfaces
from tests.support.instance import App, Ui, answers, apps, daemon, day, keys_of, quiet, reasons, tables, wait
from tests.support.known import present

DAYS = int(os.environ.get("DAYS", "30"))
SERVERS = bool(os.environ.get("SERVERS"))
WRITERS = os.environ.get("WRITERS", "1")
EVERY = [day(number) for number in range(DAYS)]
HALF = EVERY[DAYS // 3 : 2 * DAYS // 3]
ALONE = 3
"""Days that are built one by one, for the ratio."""

LOCKS = ("database is locked", "conflict", "could not serialize")


class Serial(NamedTuple):
    """A home that one backfill filled, its UI and instance, the seconds it took, and the tables it left."""

    app: App
    ui: Ui
    instance: dg.DagsterInstance
    seconds: float
    tables: dict[str, tuple[int, str]]


@pytest.fixture(scope="module")
def make_app(built_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., App]:
    return apps(tmp_path_factory.mktemp("app"), built_demo, DAYS)


@pytest.fixture
def shared(request: pytest.FixtureRequest) -> dict[str, str]:
    """Variables that move what machines share to servers; none unless they are asked for."""
    return {**request.getfixturevalue("servers"), "CROSSFADE_LAKE_WRITERS": WRITERS} if SERVERS else {}


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
        wait(f"{job} of {one}", lambda run=run: present(instance.get_run_by_id(run)).status in ended)
        assert present(instance.get_run_by_id(run)).status is dg.DagsterRunStatus.SUCCESS, reasons(instance, run)
    return time.monotonic() - started


def under_way(instance: dg.DagsterInstance, backfill: str, step: str) -> bool:
    """Tell whether a step of a backfill's run has begun."""
    runs = instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": backfill}))
    return any(found.step_key == step for run in runs for found in instance.get_run_step_stats(run.run_id))


@pytest.fixture(scope="module")
def serial(make_app: Callable[..., App], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serial]:
    """A home whose days one backfill built."""
    app, port = make_app("serial"), free_port()
    with (
        daemon(app.environment(), tmp_path_factory.mktemp("serial") / "daemon.log", port),
        dg.DagsterInstance.from_config(str(app.settings().dagster_home)) as instance,
    ):
        wait("the UI", lambda: answers(f"http://127.0.0.1:{port}/server_info"))
        ui = Ui(port)
        seconds = ui.wait([ui.backfill(keys_of(app.settings(), up_to_soft_labels), EVERY)])
        print(f"one backfill of {DAYS} days: {seconds:.0f} s, {seconds / DAYS:.1f} s per day", flush=True)
        yield Serial(app, ui, instance, seconds, labelled(app.settings()))


@pytest.mark.skipif(SERVERS, reason="a matter of one machine")
def test_days_one_by_one_and_a_backfill_canceled_and_launched_again_leave_the_same_tables(serial: Serial) -> None:
    ui, instance, settings = serial.ui, serial.instance, serial.app.settings()
    alone = [one_by_one(ui, instance, one) for one in EVERY[-ALONE:]]
    mean = sum(alone) / ALONE
    print(f"one day alone: {mean:.0f} s; {DAYS} days cost {DAYS * mean / serial.seconds:.1f} times as much one by one")
    assert labelled(settings) == serial.tables

    keys = keys_of(settings, up_to_soft_labels)
    canceled = ui.backfill(keys, HALF)
    wait("a backfill in the middle of its run", lambda: under_way(instance, canceled, "base_tables"))
    ui.cancel(canceled)
    wait("its end", lambda: ui.status(canceled) == "CANCELED")
    quiet(instance)
    ui.wait([ui.backfill(keys, HALF)])
    assert labelled(settings) == serial.tables, "what was canceled and launched again ends as if it never was"


def test_overlapping_backfills_beside_sensors_and_schedule_end_as_a_serial_run(
    make_app: Callable[..., App],
    serial: Serial,
    shared: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    busy = make_app("busy", **shared)
    firsts = [s.first_partition(EVERY[0]) for s in load_surfaces(busy.settings()).values()]
    assert min(firsts) <= EVERY[-1], f"DAYS={DAYS} are too few: the first release can be of {min(firsts)}"
    port, log = free_port(), tmp_path / "busy.log"
    nightly = {"CROSSFADE_AUTOMATION": "true", "CROSSFADE_SENSOR_SECONDS": "5", "CROSSFADE_RELEASE_CRON": "* * * * *"}
    for name, value in shared.items():
        monkeypatch.setenv(name, value)
    with (
        daemon(busy.environment(**nightly), log, port),
        dg.DagsterInstance.from_config(str(busy.settings().dagster_home)) as instance,
    ):
        wait("the UI", lambda: answers(f"http://127.0.0.1:{port}/server_info"))
        ui, keys = Ui(port), keys_of(busy.settings(), up_to_soft_labels)
        seconds = ui.wait([ui.backfill(keys, EVERY), ui.backfill(keys, HALF)])
        print(f"two overlapping backfills beside sensors and schedule: {seconds:.0f} s", flush=True)
        quiet(instance)
        runs = instance.get_runs()
        jobs = {run.job_name for run in runs}
        print(f"{len(runs)} runs: {json.dumps({j: sum(r.job_name == j for r in runs) for j in sorted(jobs)})}")
        failed = [run for run in runs if run.status is not dg.DagsterRunStatus.SUCCESS]
        assert not failed, [(run.job_name, run.status, reasons(instance, run.run_id)) for run in failed]
        assert not [lock for lock in LOCKS if lock in log.read_text(encoding="utf-8").lower()]
        assert not [lock for lock in LOCKS for run in runs if lock in reasons(instance, run.run_id).lower()]
        assert labelled(busy.settings()) == serial.tables
        assert {BASE_JOB, RANKING_JOB} <= jobs, "both sensors were to ask for runs meanwhile"
        assert any(name.endswith("_release_job") for name in jobs), "the schedule was to ask for a release meanwhile"
