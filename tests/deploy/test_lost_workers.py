"""Runs whose worker was killed: found, failed, asked for again, and their places in pools given back."""

import json
import logging
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.events import EngineEventData, JobFailureData, RunFailureReason
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster._daemon.monitoring.concurrency import execute_concurrency_slots_iteration
from dagster._daemon.monitoring.run_monitoring import execute_run_monitoring_iteration

from assets.names import LAKE_WRITER
from deploy.home import prepare_instance
from ml.foundation.settings import Settings

LOG = logging.getLogger("test")


@dg.job
def some_job() -> None: ...


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    settings = Settings(home=tmp_path)
    prepare_instance(settings)
    with dg.DagsterInstance.from_config(str(settings.dagster_home)) as opened:
        yield opened


@pytest.fixture
def worker() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def started_run(instance: dg.DagsterInstance, pid: int) -> dg.DagsterRun:
    """Return a run as the code server leaves it once its worker has begun."""
    run = instance.create_run_for_job(
        some_job,
        status=dg.DagsterRunStatus.STARTED,
        tags={".dagster/grpc_info": json.dumps({"host": "localhost", "socket": "/gone"})},
    )
    instance.report_engine_event("Started process for run", run, EngineEventData.in_process(pid))
    return run


def look(instance: dg.DagsterInstance) -> None:
    """Let the daemon's monitoring look once."""
    with WorkspaceProcessContext(instance, EmptyWorkspaceTarget()) as context:
        assert not [error for error in execute_run_monitoring_iteration(context, LOG) if error]
        list(execute_concurrency_slots_iteration(context, LOG))


def status(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRun:
    found = instance.get_run_by_id(run.run_id)
    assert found
    return found


@pytest.mark.parametrize("reaped", [True, False])
def test_a_run_whose_worker_was_killed_fails_and_is_executed_again(
    instance: dg.DagsterInstance, worker: "subprocess.Popen[bytes]", reaped: bool
) -> None:
    run = started_run(instance, worker.pid)
    look(instance)
    assert status(instance, run).status is dg.DagsterRunStatus.STARTED, "its worker is alive"
    worker.kill()
    if reaped:
        worker.wait()
    else:
        wait_for_death(worker.pid)
    look(instance)
    ended = status(instance, run)
    assert ended.status is dg.DagsterRunStatus.FAILURE
    assert ended.tags["dagster/will_retry"] == "true"
    assert instance.run_monitoring_poll_interval_seconds == 15, "docs/how-to/operate.md says how long this takes"


def wait_for_death(pid: int) -> None:
    end = time.monotonic() + 60
    while Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
        assert time.monotonic() < end


def test_another_process_with_the_workers_number_is_not_the_worker(
    instance: dg.DagsterInstance, worker: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: now - 3_600)  # when the worker said that it had begun
        run = started_run(instance, worker.pid)
    look(instance)
    assert status(instance, run).status is dg.DagsterRunStatus.FAILURE


def test_a_step_that_failed_is_not_executed_again_by_itself(instance: dg.DagsterInstance) -> None:
    run = started_run(instance, 1)
    instance.report_run_failed(run, "", JobFailureData(error=None, failure_reason=RunFailureReason.STEP_FAILURE))
    assert status(instance, run).tags["dagster/will_retry"] == "false"


def test_a_run_that_no_code_server_launched_is_left_alone(instance: dg.DagsterInstance) -> None:
    run = instance.create_run_for_job(some_job, status=dg.DagsterRunStatus.STARTED)
    instance.report_engine_event("Executing steps in process", run, EngineEventData.in_process(2**22))
    look(instance)
    assert status(instance, run).status is dg.DagsterRunStatus.STARTED


def test_the_place_that_a_killed_worker_held_in_a_pool_is_given_back(
    instance: dg.DagsterInstance, worker: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    run, storage = started_run(instance, worker.pid), instance.event_log_storage
    assert storage.claim_concurrency_slot(LAKE_WRITER, run.run_id, "landing").is_claimed
    assert not storage.claim_concurrency_slot(LAKE_WRITER, "another run", "landing").is_claimed
    worker.kill()
    worker.wait()
    look(instance)
    assert storage.get_concurrency_info(LAKE_WRITER).active_slot_count == 1, "what the worker started may still write"
    monkeypatch.setitem(instance.run_monitoring_settings, "free_slots_after_run_end_seconds", 0.01)
    time.sleep(0.05)
    look(instance)
    assert storage.claim_concurrency_slot(LAKE_WRITER, "another run", "landing").is_claimed
