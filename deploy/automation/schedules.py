"""The schedules of a home: a release of each surface, and housekeeping."""

from collections.abc import Mapping, Sequence

import dagster as dg

from assets.names import surface_key
from deploy.automation.housekeeping import housekeeping_schedule, verify_schedule
from deploy.automation.jobs import NOT_ENDED, RELEASE_CHAIN, Job, named, release_job_name
from ml.foundation.settings import Settings
from ml.surfaces.spec import Surface


def build_schedules(
    settings: Settings, surfaces: Mapping[str, Surface], jobs: Sequence[Job]
) -> list[dg.ScheduleDefinition]:
    """Return one schedule per surface, the release of its newest final day, and that of housekeeping."""
    releases = [_release_schedule(settings, s, named(jobs, release_job_name(s))) for s in surfaces.values()]
    return [*releases, housekeeping_schedule(settings), verify_schedule(settings)]


def _release_schedule(settings: Settings, surface: Surface, job: Job) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=f"{surface.name}_release_schedule",
        cron_schedule=settings.release_cron,
        execution_timezone=settings.release_timezone,
        job=job,
        default_status=dg.DefaultScheduleStatus.RUNNING if settings.automation else dg.DefaultScheduleStatus.STOPPED,
        description=f"A release of {surface.name} for the newest day whose examples and soft labels are there.",
    )
    def schedule(
        context: dg.ScheduleEvaluationContext, settings: dg.ResourceParam[Settings]
    ) -> dg.RunRequest | dg.SkipReason:
        from ml.stages.training_set import newest_partition
        from ml.stages.widening import open_candidate

        # A schedule's run keys hold for one tick: a release that is being made would be asked for again.
        if _being_made(context.instance, surface, job.name):
            return dg.SkipReason(f"a release of {surface.name} is being made")
        if (found := open_candidate(settings, surface)) is not None:
            return dg.SkipReason(str(found))
        day, why = newest_partition(settings, surface)
        if day is None:
            return dg.SkipReason(why)
        return dg.RunRequest(run_key=f"{surface.name} {day}", partition_key=day.isoformat())

    return schedule


def _being_made(instance: dg.DagsterInstance, surface: Surface, job: str) -> bool:
    """Return whether a release is under way, in its job or in a run that a condition asked for."""
    first = surface_key(surface.name, RELEASE_CHAIN[0])
    runs = instance.get_runs(dg.RunsFilter(statuses=NOT_ENDED))
    return any(run.job_name == job or first in (run.asset_selection or ()) for run in runs)
