"""Jobs, sensors and schedules: the parts of the graph that people ask for by name, and what asks for them at night.

Files that arrive or change become their days' base tables (`landing_sensor`; `landed_days_sensor` for the days beside
one that did not land), those the ranking tables and soft labels of every day that can see them (`ranking_sensor`).
Another teacher relabels what students train on (`teacher_sensor`). Once a day each surface gets a student of its
newest final day (`<surface>_release_schedule`), where the declared conditions (`deploy/conditions.py`) made none as
soon as its data was there. Failed checks leave a run green, so `failed_check_sensor` tells of them;
`serving_health_sensor` takes back a champion that the server does not load. All are off until somebody turns them on.
"""

import json
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg

from assets.names import surface_key
from deploy.housekeeping import housekeeping_job, housekeeping_schedule
from ml.settings import Settings
from ml.store.sealed import digest
from ml.surfaces.spec import Surface

RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
PARTITION = "dagster/partition"
RELEASE_CHAIN = ("training_set", "control", "student", "evaluation", "onnx", "release")
BASE_JOB, RANKING_JOB, LABELS_JOB = "base_tables_job", "ranking_tables_job", "soft_labels_job"

_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
NOT_ENDED = [status for status in dg.DagsterRunStatus if status not in _ENDED]
_LOOK_BACK = timedelta(minutes=10)


def release_chain(surface: Surface) -> list[dg.AssetKey]:
    """Return the assets that make one release, in order."""
    return [surface_key(surface.name, name) for name in RELEASE_CHAIN]


def range_tags(first: date, last: date) -> dict[str, str]:
    """Return the tags of one run over the days [first, last]."""
    return {RANGE_START: first.isoformat(), RANGE_END: last.isoformat()}


def span_of(tags: Mapping[str, str]) -> tuple[date, date] | None:
    """Return the first and last day of a run by its tags, of a range or of one partition; None without either."""
    one = tags.get(PARTITION)
    first, last = tags.get(RANGE_START, one), tags.get(RANGE_END, one)
    return (date.fromisoformat(first), date.fromisoformat(last)) if first and last else None


def ranges(days: Sequence[date]) -> list[tuple[date, date]]:
    """Return the runs of consecutive days among ``days``, each as (first, last), oldest first."""
    found: list[tuple[date, date]] = []
    for day in sorted(set(days)):
        if found and day == found[-1][1] + timedelta(days=1):
            found[-1] = (found[-1][0], day)
        else:
            found.append((day, day))
    return found


def affected(settings: Settings, first: date, last: date, landed: date) -> tuple[date, date] | None:
    """Return the days whose ranking tables can see base tables of [first, last]; None where none is final yet.

    The day before sees them through its label window, the ``feature_window_days`` after through trailing features. The
    newest landed day has no day after it yet, so its labels are not final, unless the source ends with it.

    Args:
        settings: First and last day, and the feature window.
        first: First changed day.
        last: Last changed day.
        landed: Newest landed day.
    """
    final = landed if landed == settings.last_day else landed - timedelta(days=1)
    start = max(first - timedelta(days=1), settings.first_day)
    end = min(last + timedelta(days=settings.feature_window_days), final)
    return (start, end) if start <= end else None


def build_jobs(surfaces: Mapping[str, Surface], features: Sequence[dg.AssetsDefinition]) -> list[Any]:
    """Return the jobs of a home: base tables, ranking tables and soft labels of days, releases, and the way back.

    Args:
        surfaces: The home's surfaces.
        features: Those of ``build_features``: base tables first, then what sees them through windows.
    """
    labels = dg.AssetSelection.assets(*(surface_key(name, "soft_labels") for name in surfaces))
    days = [
        dg.define_asset_job(
            BASE_JOB,
            selection=dg.AssetSelection.groups("landing") | dg.AssetSelection.assets(features[0]),
            description="Landing and base tables of the days asked for.",
        ),
        dg.define_asset_job(
            RANKING_JOB,
            selection=dg.AssetSelection.assets(*features[1:]) | labels,
            description="Features, examples, teacher inputs and soft labels of the days asked for.",
        ),
        dg.define_asset_job(LABELS_JOB, selection=labels, description="Soft labels of the days asked for."),
    ]
    releases = [
        dg.define_asset_job(
            release_job_name(surface),
            selection=dg.AssetSelection.assets(*release_chain(surface)),
            description=f"Training set to release of {surface.name} for one day.",
        )
        for surface in surfaces.values()
    ]
    return [*days, *releases, rollback_job, housekeeping_job]


def release_job_name(surface: Surface) -> str:
    """Return the name of the job that makes a release of one surface."""
    return f"{surface.name}_release_job"


def build_sensors(
    settings: Settings, surfaces: Mapping[str, Surface], jobs: Sequence[Any]
) -> list[dg.SensorDefinition]:
    """Return the sensors of a home; ``jobs`` are those of ``build_jobs``."""
    status = dg.DefaultSensorStatus.RUNNING if settings.automation else dg.DefaultSensorStatus.STOPPED
    base, ranking, labels = (_named(jobs, name) for name in (BASE_JOB, RANKING_JOB, LABELS_JOB))
    window = max(s.window.train_days + s.window.eval_days for s in surfaces.values())

    @dg.sensor(
        job=base,
        minimum_interval_seconds=settings.sensor_seconds,
        default_status=status,
        description="Days of the landing zone that are complete and new or changed: one run per range of days.",
    )
    def landing_sensor(
        context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]
    ) -> dg.SensorResult | dg.SkipReason:
        from ml.landing.changes import changed_days

        changes, busy = changed_days(settings), _days_under_way(settings, context.instance, BASE_JOB)
        too_old = _beyond_horizon(settings, changes.ready)
        ready = {day: files for day, files in changes.ready.items() if day not in busy | too_old}
        if not ready:
            told = [f"{day} waits: {'; '.join(reasons)}" for day, reasons in list(changes.waiting.items())[:3]]
            told += [
                f"{first} to {last} changed more than {settings.late_horizon_days} days late: its tables are stale "
                f"until somebody materializes {BASE_JOB} and {RANKING_JOB} for it"
                for first, last in ranges(list(too_old))
            ]
            if landing := busy.intersection(changes.ready):
                told.append(f"{len(landing)} days are being landed")
            return dg.SkipReason("; ".join(told) or "every complete day is landed as it is")
        requests = []
        for first, last in ranges(list(ready)):
            hashes = [h for day, h in ready.items() if first <= day <= last]
            # The same bytes are asked for once: a day that failed waits for other files, or for a person.
            key = f"{first} to {last} {digest(hashes)[:16]}"
            requests.append(dg.RunRequest(run_key=key, tags=range_tags(first, last)))
        return dg.SensorResult(run_requests=requests)

    @dg.run_status_sensor(
        run_status=dg.DagsterRunStatus.FAILURE,
        monitored_jobs=[base],
        request_job=base,
        minimum_interval_seconds=settings.sensor_seconds,
        default_status=status,
        description="After a range in which days did not land: base tables of the days that did.",
    )
    def landed_days_sensor(
        context: dg.RunStatusSensorContext, settings: dg.ResourceParam[Settings]
    ) -> dg.SensorResult | dg.SkipReason:
        from ml.landing.changes import changed_days

        run, changes = context.dagster_run.run_id, changed_days(settings)
        span = span_of(context.dagster_run.tags)
        asked = settings.days(*span) if span else []
        bad = {*changes.ready, *changes.waiting}.intersection(asked)
        landed = _landed(settings).intersection(asked) - bad
        if not bad or not landed:
            return dg.SkipReason(f"run {run} did not fail by some of its days: see its message")
        requests = [
            dg.RunRequest(run_key=f"{run} {first}", tags=range_tags(first, last))
            for first, last in ranges(list(landed))
        ]
        return dg.SensorResult(run_requests=requests)

    @dg.run_status_sensor(
        run_status=dg.DagsterRunStatus.SUCCESS,
        monitored_jobs=[base],
        request_job=ranking,
        minimum_interval_seconds=settings.sensor_seconds,
        default_status=status,
        description="After base tables: the ranking tables and soft labels of every final day that can see them.",
    )
    def ranking_sensor(
        context: dg.RunStatusSensorContext, settings: dg.ResourceParam[Settings]
    ) -> dg.RunRequest | dg.SkipReason:
        changed, landed = span_of(context.dagster_run.tags), max(_landed(settings), default=None)
        if changed is None:
            return dg.SkipReason(f"run {context.dagster_run.run_id} names no day")
        span = affected(settings, *changed, landed) if landed else None
        if span is None:
            return dg.SkipReason(f"labels of {changed[0]} are not final before the day after it has landed")
        return dg.RunRequest(run_key=context.dagster_run.run_id, tags=range_tags(*span))

    @dg.sensor(
        job=labels,
        minimum_interval_seconds=settings.sensor_seconds,
        default_status=status,
        description="Another pinned teacher: relabel the days that students train and are judged on.",
    )
    def teacher_sensor(
        context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]
    ) -> dg.RunRequest | dg.SkipReason:
        from ml.teacher.contract import ContractError, teacher_contract
        from ml.teacher.labels import unlabelled_days

        landed = max(_landed(settings), default=None)
        if landed is None:
            return dg.SkipReason("nothing has landed")
        try:
            contract = teacher_contract(settings)
        except (ContractError, FileNotFoundError) as error:
            return dg.SkipReason(f"no teacher yet: {error}")
        first = max(landed - timedelta(days=window), settings.first_day)
        # Days whose ranking tables are being built get their soft labels in the same run.
        busy = _days_under_way(settings, context.instance, RANKING_JOB, LABELS_JOB)
        days = [d for d in unlabelled_days(settings, list(surfaces), contract, first, landed) if d not in busy]
        if not days and busy:
            return dg.SkipReason(f"{len(busy)} days are being labelled")
        if not days:
            return dg.SkipReason(f"{contract.name} {contract.version} has labelled every day from {first} on")
        key = f"{contract.contract_hash} {days[0]} to {days[-1]}"
        return dg.RunRequest(run_key=key, tags=range_tags(days[0], days[-1]))

    @dg.sensor(
        minimum_interval_seconds=settings.sensor_seconds,
        default_status=status,
        description="Failed checks of runs that have ended: into reports/alerts.jsonl, and to CROSSFADE_ALERT_URL.",
    )
    def failed_check_sensor(context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]) -> dg.SkipReason:
        from ml.alerts import send

        alerts, cursor = _failed_checks(context.instance, context.cursor)
        send(settings, alerts)
        context.update_cursor(cursor)
        return dg.SkipReason(f"{len(alerts)} failed checks were told" if alerts else "no check failed")

    @dg.sensor(
        job=_named(jobs, rollback_job.name),
        minimum_interval_seconds=settings.sensor_seconds,
        default_status=status,
        description="Rolls back a champion that the server at CROSSFADE_SERVE_URL does not take up.",
    )
    def serving_health_sensor(
        context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]
    ) -> dg.SensorResult | dg.SkipReason:
        from deploy.health import overdue, unserved

        if settings.serve_url is None:
            return dg.SkipReason("CROSSFADE_SERVE_URL is not set")
        missing = unserved(settings)
        late, cursor = overdue(missing, context.cursor, time.time(), 60 * settings.unserved_minutes)
        # A server that serves nothing at all is down: an earlier release would not be served either.
        rolled = [item for item in late if item.serves and item.pointer.action != "rollback"]
        requests = [
            dg.RunRequest(
                run_key=f"{item.surface} {item.pointer.number}",
                run_config=_rollback_config(item.surface, f"the server did not take it up: {item.reason}"),
            )
            for item in rolled
        ]
        told = "; ".join(f"{item.surface}: {item.pointer.release} is not served, {item.reason}" for item in missing)
        skipped = None if requests else dg.SkipReason(told or "every champion is served")
        return dg.SensorResult(run_requests=requests, skip_reason=skipped, cursor=cursor)

    return [
        landing_sensor,
        landed_days_sensor,
        ranking_sensor,
        teacher_sensor,
        failed_check_sensor,
        serving_health_sensor,
    ]


def build_schedules(
    settings: Settings, surfaces: Mapping[str, Surface], jobs: Sequence[Any]
) -> list[dg.ScheduleDefinition]:
    """Return one schedule per surface, the release of its newest final day, and that of housekeeping."""
    releases = [_release_schedule(settings, s, _named(jobs, release_job_name(s))) for s in surfaces.values()]
    return [*releases, housekeeping_schedule(settings)]


def _named(jobs: Sequence[Any], name: str) -> Any:
    return next(job for job in jobs if job.name == name)


def _release_schedule(settings: Settings, surface: Surface, job: Any) -> dg.ScheduleDefinition:
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

        # A schedule's run keys hold for one tick: a release that is being made would be asked for again.
        if _being_made(context.instance, surface, job.name):
            return dg.SkipReason(f"a release of {surface.name} is being made")
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


def _days_under_way(settings: Settings, instance: dg.DagsterInstance, *jobs: str) -> set[date]:
    """Return the days of the runs of jobs that have not ended: what they will leave is not known yet."""
    runs = [run for job in jobs for run in instance.get_runs(dg.RunsFilter(job_name=job, statuses=NOT_ENDED))]
    return {day for run in runs if (span := span_of(run.tags)) for day in settings.days(*span)}


def _rollback_config(surface: str, reason: str) -> dict[str, Any]:
    config = {"surface": surface, "reason": reason, "by": "serving_health_sensor"}
    return {"ops": {move_pointer_back.name: {"config": config}}}


def _landed(settings: Settings) -> set[date]:
    from ml.lake import Lake
    from ml.landing.ledger import LABEL_TABLE, landed_days

    with Lake(settings) as lake:
        return set(landed_days(lake, LABEL_TABLE))


def _beyond_horizon(settings: Settings, changed: Collection[date]) -> set[date]:
    """Return the landed days among ``changed`` that lie so far back that nothing is built again without a command."""
    landed = _landed(settings) if changed else set()  # most looks find nothing: they need not open the lake again
    if not landed:
        return set()
    horizon = max(landed) - timedelta(days=settings.late_horizon_days)
    return {day for day in changed if day in landed and day < horizon}


def _failed_checks(instance: dg.DagsterInstance, cursor: str | None) -> tuple[list[dict[str, Any]], str]:
    """Return the failed checks of the runs that ended since the last look, and the cursor to go on from.

    The first look tells of nothing old. Runs are asked for, not events: event ids have no order across runs in the
    embedded storage. Ended runs are looked for a little further back than the last look, since several machines write.
    """
    seen = json.loads(cursor) if cursor else None
    since = datetime.fromisoformat(seen["looked"]) if seen else datetime.now(UTC)
    looked = datetime.now(UTC)
    ended = dg.RunsFilter(statuses=_ENDED, updated_after=since - _LOOK_BACK)
    runs = [r.dagster_run.run_id for r in instance.get_run_records(ended, order_by="update_timestamp", ascending=True)]
    alerts = [alert for run in runs if seen and run not in seen["told"] for alert in _alerts(instance, run)]
    return alerts, json.dumps({"looked": looked.isoformat(), "told": runs})


def _alerts(instance: dg.DagsterInstance, run_id: str) -> list[dict[str, Any]]:
    """Return the failed checks of one run, in the order in which they failed."""
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
    found = []
    for record in records:
        evaluation = record.event_log_entry.get_dagster_event().asset_check_evaluation_data
        if not evaluation.passed and evaluation.severity is dg.AssetCheckSeverity.ERROR:
            found.append(
                {
                    "at": record.event_log_entry.timestamp,
                    "asset": evaluation.asset_key.to_user_string(),
                    "check": evaluation.check_name,
                    "partition": evaluation.partition,
                    "reason": evaluation.description,
                    "run_id": run_id,
                }
            )
    return found


class RollbackConfig(dg.Config):
    """Which surface goes back, and why."""

    surface: str
    reason: str
    by: str
    to: str | None = None


@dg.op
def move_pointer_back(
    context: dg.OpExecutionContext, config: RollbackConfig, settings: dg.ResourceParam[Settings]
) -> None:
    """Move the champion pointer to an earlier release and bar the one that it leaves."""
    from ml.store.releases import ReleaseStore

    pointer = ReleaseStore(settings.artifacts_dir).rollback(
        config.surface, to=config.to, by=config.by, reason=config.reason
    )
    context.log.info(f"{config.surface} now serves {pointer.release}")


@dg.job(description="Serve an earlier release again; the release left behind is barred.")
def rollback_job() -> None:
    """Roll one surface back."""
    move_pointer_back()
