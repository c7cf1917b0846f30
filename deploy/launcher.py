"""Where runs are launched: Dagster's default launcher, whose lost workers are found."""

from contextlib import suppress
from typing import Any

import psutil
from dagster import DagsterEventType, DagsterRun, DefaultRunLauncher
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus

_LAUNCHED = ".dagster/grpc_info"
"""Tag of runs that a code server of this machine launched; others are not ours to judge."""
_SLACK_S = 60
"""A process that is younger than its run by more than this has taken over a worker's process id."""


class WatchedRunLauncher(DefaultRunLauncher):
    """Launches runs as processes of the code server, and tells run monitoring which of them are alive.

    The default launcher leaves that to the code server. Where that dies with its workers (a machine that restarts, a
    container that is out of memory), their runs stay started for ever and keep their places in pools.
    """

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Run monitoring asks for the health of workers."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Look for the process that said it works on the run; a run of which none did so yet is left alone."""
        started = self._worker(run.run_id) if _LAUNCHED in run.tags else None
        if started is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        pid, since = started
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            # One that nobody reaped is dead: the code server stops looking after an outage of its storage.
            if process.status() != psutil.STATUS_ZOMBIE and process.create_time() < since + _SLACK_S:
                return CheckRunHealthResult(WorkerStatus.RUNNING, run_worker_id=str(pid))
        return CheckRunHealthResult(WorkerStatus.FAILED, msg=f"process {pid} is gone", run_worker_id=str(pid))

    def _worker(self, run_id: str) -> tuple[int, float] | None:
        """Return the process of a run and when it said so."""
        found: Any = self._instance.get_records_for_run(run_id, of_type=DagsterEventType.ENGINE_EVENT).records
        for record in found:
            event = record.event_log_entry.dagster_event
            pid = event.engine_event_data.metadata.get("pid")
            if pid is not None:
                return int(pid.value), record.event_log_entry.timestamp
        return None
