"""The jobs and schedules that keep a home: tidied of what nobody needs, and looked through for damage."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from assets.names import LAKE_WRITER
from ml.foundation.settings import Settings
from ml.operations.verify import require_signatures, verify

_BATCH = 100


class HousekeepingConfig(dg.Config):
    """Whether to change anything."""

    dry_run: bool = False


@dg.op(pool=LAKE_WRITER)
def tidy_home(context: dg.OpExecutionContext, config: HousekeepingConfig, settings: dg.ResourceParam[Settings]) -> None:
    """Retire releases, expire snapshots, merge and remove files; it holds the lake's pool, so nobody writes."""
    from ml.operations.housekeeping import tidy

    tidied = tidy(settings, dry_run=config.dry_run, progress=lambda step: context.log.info(str(step)))
    runs = forget_failed_runs(context.instance, settings.keep_runs_days, dry_run=config.dry_run)
    told = tidied.model_dump(mode="json") | {"failed_runs_removed": runs}
    context.add_output_metadata({"told": dg.MetadataValue.json(told)})
    context.log.info(f"{'would be' if config.dry_run else 'was'} done: {told}")


@dg.job(
    description="Retire old releases, expire old snapshots of the lake, merge small files, remove what nobody reads."
)
def housekeeping_job() -> None:
    """Tidy the home."""
    tidy_home()


def housekeeping_schedule(settings: Settings) -> dg.ScheduleDefinition:
    """Return the schedule of ``housekeeping_job``."""
    told = "Tidies the instance directory: old releases, snapshots, small files, failed runs."
    return _schedule("housekeeping_schedule", housekeeping_job, settings.housekeeping_cron, settings, told)


@dg.op
def verify_files(context: dg.OpExecutionContext, settings: dg.ResourceParam[Settings]) -> None:
    """Read the files whose turn it is tonight, compare them with their hashes, and ask who signed what serves."""
    found = verify(settings, night=datetime.now(UTC).date())
    require_signatures(settings)
    context.add_output_metadata({"files": found.files, "bytes": found.bytes, "recorded": found.recorded})


@dg.job(description="Compare a part of the lake's files with their hashes, and ask who signed what serves.")
def verify_job() -> None:
    """Look for damage before anybody learns from it."""
    verify_files()


def verify_schedule(settings: Settings) -> dg.ScheduleDefinition:
    """Return the schedule of ``verify_job``."""
    told = f"Reads each file of the lake in one of {settings.verify_nights} nights and compares its hash."
    return _schedule("verify_schedule", verify_job, settings.verify_cron, settings, told)


def _schedule(
    name: str, job: dg.JobDefinition, cron: str, settings: Settings, description: str
) -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name=name,
        job=job,
        cron_schedule=cron,
        execution_timezone=settings.release_timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING if settings.automation else dg.DefaultScheduleStatus.STOPPED,
        description=description,
    )


def forget_failed_runs(instance: dg.DagsterInstance, keep_days: float, *, dry_run: bool = False) -> int:
    """Remove the runs that failed or were canceled long ago, with their events.

    Successful runs stay: the state of each asset's partitions is read from their events.
    """
    ended = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
    old = dg.RunsFilter(statuses=ended, updated_before=datetime.now(UTC) - timedelta(days=keep_days))
    if dry_run:
        return instance.get_runs_count(old)
    removed = 0
    while runs := instance.get_runs(old, limit=_BATCH):
        for run in runs:
            instance.delete_run(run.run_id)
        removed += len(runs)
    return removed
