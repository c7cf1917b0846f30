"""The sensors of a home: what they look at, and which runs they ask for."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial

import dagster as dg

from assets.features import labelled_name, waits
from assets.names import VECTORS, soft_label_key, surface_key
from deploy.automation.days import affected, range_tags, ranges, span_of
from deploy.automation.health import overdue, unserved
from deploy.automation.jobs import (
    ALERT_SENSOR,
    BASE_JOB,
    LABELS_JOB,
    NOT_ENDED,
    RANKING_JOB,
    Job,
    labelled_job_name,
    move_pointer_back,
    named,
    rankings_job_name,
    rollback_job,
    widening_job_name,
)
from ml.features.tables import vector_tables
from ml.foundation.lake import Lake
from ml.foundation.sealed import digest
from ml.foundation.settings import Settings
from ml.landing.ledger import LABEL_TABLE, landed_days
from ml.releases.store import ReleaseStore
from ml.surfaces.spec import Surface
from ml.teacher.contract import Contract, ContractError
from ml.teacher.teachers import contracts_of, home_contracts

Asked = dg.SensorResult | dg.RunRequest | dg.SkipReason
Decorator = Callable[..., Callable[[Callable[..., Asked]], dg.SensorDefinition]]
"""``dg.sensor`` or ``dg.run_status_sensor``, with what all sensors of a home share."""


def build_sensors(
    settings: Settings, surfaces: Mapping[str, Surface], jobs: Sequence[Job]
) -> list[dg.SensorDefinition]:
    """Return the sensors of a home; ``jobs`` are those of ``build_jobs``."""
    status = dg.DefaultSensorStatus.RUNNING if settings.automation else dg.DefaultSensorStatus.STOPPED
    base, ranking, labels = (named(jobs, name) for name in (BASE_JOB, RANKING_JOB, LABELS_JOB))
    window = max(s.reach_days for s in surfaces.values())
    seconds = settings.sensor_seconds
    sensor = partial(dg.sensor, minimum_interval_seconds=seconds, default_status=status)
    after_any = partial(dg.run_status_sensor, minimum_interval_seconds=seconds, default_status=status)
    after = partial(after_any, monitored_jobs=[base])
    return [
        _landing_sensor(sensor, base),
        _landed_days_sensor(after, base),
        _ranking_sensor(after, ranking),
        *(
            _labelled_sensor(
                partial(after_any, monitored_jobs=[ranking]), surface, named(jobs, labelled_job_name(surface))
            )
            for surface in filter(waits, surfaces.values())
        ),
        # Another teacher's vectors lie in another space: the features that hold them are built again with the labels.
        _teacher_sensor(sensor, ranking if vector_tables(settings) else labels, window, surfaces),
        _alert_sensor(sensor),
        _serving_health_sensor(sensor, jobs),
        *(_widening_sensor(sensor, surface, jobs) for surface in surfaces.values()),
        *(_rankings_sensor(sensor, surface, jobs) for surface in surfaces.values() if surface.rankings),
    ]


def _landing_sensor(sensor: Decorator, base: Job) -> dg.SensorDefinition:
    @sensor(
        job=base,
        description="Days of the landing zone that are complete and new or changed: one run per range of days.",
    )
    def landing_sensor(
        context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]
    ) -> dg.SensorResult | dg.SkipReason:
        from ml.landing.changes import changed_days

        changes, busy = changed_days(settings), _days_under_way(settings, context.instance, BASE_JOB)
        too_old = _beyond_horizon(settings, changes.ready)
        ready = {day: files for day, files in changes.ready.items() if day not in busy | too_old}
        odd = [f"{day} will not land: {'; '.join(reasons)}" for day, reasons in changes.odd.items()]
        for line in odd:
            context.log.warning(line)
        if not ready:
            told = odd[:3]
            told += [f"{day} waits: {'; '.join(reasons)}" for day, reasons in list(changes.waiting.items())[:3]]
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

    return landing_sensor


def _landed_days_sensor(after: Decorator, base: Job) -> dg.SensorDefinition:
    @after(
        run_status=dg.DagsterRunStatus.FAILURE,
        request_job=base,
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

    return landed_days_sensor


def _ranking_sensor(after: Decorator, ranking: Job) -> dg.SensorDefinition:
    @after(
        run_status=dg.DagsterRunStatus.SUCCESS,
        request_job=ranking,
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

    return ranking_sensor


def _labelled_sensor(after: Decorator, surface: Surface, job: Job) -> dg.SensorDefinition:
    window = surface.label_window_days

    @after(
        name=f"{labelled_name(surface)}_sensor",
        run_status=dg.DagsterRunStatus.SUCCESS,
        request_job=job,
        description=f"After ranking tables: examples of {surface.name} whose label window of {window} days has landed.",
    )
    def labelled_sensor(
        context: dg.RunStatusSensorContext, settings: dg.ResourceParam[Settings]
    ) -> dg.RunRequest | dg.SkipReason:
        built, landed = span_of(context.dagster_run.tags), max(_landed(settings), default=None)
        if built is None or landed is None:
            return dg.SkipReason(f"run {context.dagster_run.run_id} names no day")
        # The ranking tables of the day before saw the change: what changed is the day after the first of them.
        span = affected(settings, built[0] + timedelta(days=1), built[1], landed, window)
        if span is None:
            return dg.SkipReason(
                f"labels of {surface.name} are not final before {window} days after {built[0]} have landed"
            )
        return dg.RunRequest(run_key=context.dagster_run.run_id, tags=range_tags(span[0], min(span[1], built[1])))

    return labelled_sensor


def unlabelled(
    settings: Settings, surfaces: Mapping[str, Surface], first: date, last: date
) -> Iterator[tuple[Contract, list[dg.AssetKey], list[date]]]:
    """Yield each teacher that has not labelled some days of a surface, with the assets of its labels and the days.

    Of a teacher that labels no surface, and gives vectors that features hold, these are the days without its vectors.

    Raises:
        ContractError: A contract is not there, or cannot be used.
    """
    from ml.teacher.labels import unlabelled_days, unshown_rows
    from ml.teacher.vectors import unembedded_days

    silent = home_contracts(settings) if vector_tables(settings) else {}
    for surface in surfaces.values():
        for name, contract in contracts_of(settings, surface).items():
            silent.pop(contract.name, None)
            if days := unlabelled_days(settings, [surface.name], contract, first, last):
                yield contract, [soft_label_key(surface.name, name)], days
            if not surface.distillation.unshown:
                continue
            if days := unlabelled_days(settings, [surface.name], contract, first, last, unshown_rows):
                yield contract, [surface_key(surface.name, "unshown_labels")], days
    for contract in silent.values():
        if contract.embeddings and (days := unembedded_days(settings, surfaces, contract, first, last)):
            yield contract, [VECTORS], days


def _teacher_sensor(
    sensor: Decorator, labels: Job, window: int, surfaces: Mapping[str, Surface]
) -> dg.SensorDefinition:
    @sensor(
        job=labels,
        description="Another pinned teacher: relabel the days that students train and are judged on.",
    )
    def teacher_sensor(
        context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]
    ) -> dg.RunRequest | dg.SkipReason:
        landed = max(_landed(settings), default=None)
        if landed is None:
            return dg.SkipReason("nothing has landed")
        first = max(landed - timedelta(days=window), settings.first_day)
        # Days whose ranking tables are being built get their soft labels in the same run.
        busy = _days_under_way(settings, context.instance, RANKING_JOB, LABELS_JOB)
        try:
            stale = list(unlabelled(settings, surfaces, first, landed))
        except (ContractError, FileNotFoundError) as error:
            return dg.SkipReason(f"no teacher yet: {error}")
        days = sorted({day for _, _, found in stale for day in found} - busy)
        if not days and busy:
            return dg.SkipReason(f"{len(busy)} days are being labelled")
        if not days:
            names = ", ".join(f"{contract.name} {contract.version}" for contract in home_contracts(settings).values())
            return dg.SkipReason(f"{names}: has labelled every day from {first} on")
        whole = not settings.teachers or vector_tables(settings)  # vectors are built with all that is read of them
        hashes = sorted({contract.contract_hash for contract, _, _ in stale})
        return dg.RunRequest(
            run_key=f"{'+'.join(hashes)} {days[0]} to {days[-1]}",
            tags=range_tags(days[0], days[-1]),
            asset_selection=None if whole else sorted({key for _, keys, _ in stale for key in keys}),
        )

    return teacher_sensor


def _widening_sensor(sensor: Decorator, surface: Surface, jobs: Sequence[Job]) -> dg.SensorDefinition:
    @sensor(
        name=f"{surface.name}_widening_sensor",
        job=named(jobs, widening_job_name(surface)),
        description=f"A further final day: the undecided candidate of {surface.name} is judged on it too.",
    )
    def widening_sensor(
        context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]
    ) -> dg.RunRequest | dg.SkipReason:
        from ml.stages.widening import open_candidate

        found = open_candidate(settings, surface)
        if found is None:
            return dg.SkipReason(f"no candidate of {surface.name} is undecided and may still widen")
        if found.due is None:
            return dg.SkipReason(str(found))
        # Each further day is asked for once; what failed on it is tried again with the next.
        key = f"{surface.name} {found.partition} through {found.due}"
        return dg.RunRequest(run_key=key, partition_key=found.partition.isoformat())

    return widening_sensor


def _rankings_sensor(sensor: Decorator, surface: Surface, jobs: Sequence[Job]) -> dg.SensorDefinition:
    @sensor(
        name=f"{surface.name}_rankings_sensor",
        job=named(jobs, rankings_job_name(surface)),
        description=f"Features of a newer day, or another champion: the declared candidates of {surface.name} by it.",
    )
    def rankings_sensor(
        context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]
    ) -> dg.RunRequest | dg.SkipReason:
        from ml.inference.snapshot import current_snapshot

        pointer, features = ReleaseStore.of(settings).pointer(surface.name), current_snapshot(settings)
        if pointer is None:
            return dg.SkipReason(f"{surface.name} has no champion yet")
        if features is None:
            return dg.SkipReason("no features are published yet")
        day = features.name[:10]
        # The same features and champion are asked for once; what failed is tried again with others, or by a person.
        return dg.RunRequest(run_key=f"{surface.name} {features.name} {pointer.release}", partition_key=day)

    return rankings_sensor


def _alert_sensor(sensor: Decorator) -> dg.SensorDefinition:
    @sensor(
        name=ALERT_SENSOR,
        description="What somebody should hear of, once: into reports/alerts.jsonl, and to CROSSFADE_ALERTS.",
    )
    def alert_sensor(context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]) -> dg.SkipReason:
        from deploy.automation.alerting import look

        told, cursor = look(settings, context.instance, context.cursor, datetime.now(UTC))
        context.update_cursor(cursor)
        return dg.SkipReason(told)

    return alert_sensor


def _serving_health_sensor(sensor: Decorator, jobs: Sequence[Job]) -> dg.SensorDefinition:
    @sensor(
        job=named(jobs, rollback_job.name),
        description="Rolls back a champion that the server at CROSSFADE_SERVE_URL does not take up.",
    )
    def serving_health_sensor(
        context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]
    ) -> dg.SensorResult | dg.SkipReason:
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

    return serving_health_sensor


def _days_under_way(settings: Settings, instance: dg.DagsterInstance, *jobs: str) -> set[date]:
    """Return the days of the runs of jobs that have not ended: what they will leave is not known yet."""
    runs = [run for job in jobs for run in instance.get_runs(dg.RunsFilter(job_name=job, statuses=NOT_ENDED))]
    return {day for run in runs if (span := span_of(run.tags)) for day in settings.days(*span)}


def _rollback_config(surface: str, reason: str) -> dict[str, object]:
    config = {"surface": surface, "reason": reason, "by": "serving_health_sensor"}
    return {"ops": {move_pointer_back.name: {"config": config}}}


def _landed(settings: Settings) -> set[date]:
    with Lake(settings) as lake:
        return set(landed_days(lake, LABEL_TABLE))


def _beyond_horizon(settings: Settings, changed: Collection[date]) -> set[date]:
    """Return the landed days among ``changed`` that lie so far back that nothing is built again without a command."""
    landed = _landed(settings) if changed else set()  # most looks find nothing: they need not open the lake again
    if not landed:
        return set()
    horizon = max(landed) - timedelta(days=settings.late_horizon_days)
    return {day for day in changed if day in landed and day < horizon}
