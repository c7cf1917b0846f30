"""What ``alert_sensor`` looks at: runs and checks that ended, ticks, days, features, the server, releases."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from time import monotonic

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorStatus, InstigatorType, TickStatus
from dagster._core.storage.tags import WILL_RETRY_TAG
from dagster_shared.error import SerializableErrorInfo
from pydantic import BaseModel

from deploy.automation.days import span_of
from deploy.automation.health import unready, unserved
from deploy.automation.jobs import ALERT_SENSOR, ENDED
from ml.foundation.lake import Lake
from ml.foundation.sealed import DamagedError
from ml.foundation.settings import Settings
from ml.landing.ledger import LABEL_TABLE, landed_days
from ml.operations.alerts import Alert, Book, Desk, deliver
from ml.operations.causes import (
    CANNOT_LOOK,
    CHECK_FAILED,
    DAMAGED,
    DAY_LATE,
    FEATURES_OLD,
    GATE_REFUSED,
    RELEASE_LOST,
    ROLLED_BACK,
    RUN_FAILED,
    SERVED_SKEWED,
    SERVER_TROUBLED,
    TICK_FAILED,
    UNSERVED,
    WAITS,
    Cause,
)
from ml.releases.release import SERVED
from ml.releases.store import ReleaseStore
from ml.stages.release import waiting_candidate
from ml.surfaces.files import load_surfaces

LOCATION = "crossfade"
_LOOK_BACK = timedelta(minutes=10)
_BUDGET_S = 45.0
"""A look that takes a minute is ended before its cursor is kept: what it sent would be sent again by the next one."""
_LOOKED_AT = [TickStatus.SUCCESS, TickStatus.SKIPPED, TickStatus.FAILURE]
_CAUSES = {"onnx": GATE_REFUSED, "release": GATE_REFUSED, "served_skew": SERVED_SKEWED}
"""Of checks that failed, by the last part of their asset's key."""
_BACK = {"rollback": "it went back to", "vacate": "nothing serves in place of"}
_ASSETS = "__ASSET_JOB"
"""What Dagster calls the job of a run that somebody started from assets."""


class Memory(BaseModel):
    """What a look leaves for the next one: the sensor's cursor.

    Attributes:
        looked: When runs were last looked for; None before the first look, which tells of nothing old.
        runs: Runs that were looked at, as far back as the next look goes.
        champions: Newest entry of each surface's champion log.
        book: Alerts.
    """

    looked: datetime | None = None
    runs: list[str] = []
    champions: dict[str, int] = {}
    book: Book = Book()


def look(settings: Settings, instance: dg.DagsterInstance, cursor: str | None, now: datetime) -> tuple[str, str]:
    """Look at everything once, and tell what is new.

    Args:
        settings: The home.
        instance: Its runs and ticks.
        cursor: From the last look.
        now: Time of this one.

    Returns:
        What was found, for people, and the cursor of the next look.
    """
    started = monotonic()
    memory = Memory.model_validate_json(cursor) if cursor else Memory()
    blind: list[Alert] = []
    for what, happened in EVENTS.items():
        try:
            opened, closed = happened(settings, instance, memory, now)
        except Exception as error:  # what cannot be looked at is told, and the next part is looked at all the same
            blind.append(_blind(what, error))
            continue
        memory.book.close(closed)
        memory.book.add(opened, now)
    found, looked = list[Alert](), list[Cause]()
    for what, part in STATES.items():
        try:
            found += part.look(settings, instance, memory, now)
            looked += part.causes
        except Exception as error:
            blind.append(_blind(what, error))
    memory.book.look([*found, *blind], [*looked, CANNOT_LOOK], now)
    arrived = deliver(Desk.of(settings), memory.book, now, budget_s=_BUDGET_S - (monotonic() - started))
    open_ones = [key for key, entry in memory.book.entries.items() if not entry.over]
    told = f"{len(open_ones)} are open, {arrived} messages were sent: {'; '.join(open_ones[:5])}"
    return told if open_ones or arrived else "nothing is wrong", memory.model_dump_json()


def _blind(what: str, error: Exception) -> Alert:
    return Alert(CANNOT_LOOK, what, f"{type(error).__name__}: {error}", patience=timedelta(minutes=5))


# Runs and checks


def _runs(
    settings: Settings, instance: dg.DagsterInstance, memory: Memory, now: datetime
) -> tuple[list[Alert], list[str]]:
    """Return what the runs that ended since the last look open, and the keys that they close.

    Runs are asked for, not events: event ids have no order across runs in the embedded storage. Ended runs are looked
    for a little further back than the last look, since several machines write.
    """
    first, since = memory.looked is None, memory.looked or now
    ended = dg.RunsFilter(statuses=ENDED, updated_after=since - _LOOK_BACK)
    opened, closed, seen = dict[str, Alert](), set[str](), list[str]()
    for record in instance.get_run_records(ended, order_by="update_timestamp", ascending=True):
        run = record.dagster_run
        if instance.run_retries_enabled and run.is_failure and WILL_RETRY_TAG not in run.tags:
            continue  # whether it is tried again is written a moment after it failed
        seen.append(run.run_id)
        if first or run.run_id in memory.runs:
            continue
        for alert, is_open in _of_run(instance, run):
            opened.pop(alert.key, None)
            closed.discard(alert.key)
            if is_open:
                opened[alert.key] = alert
            else:
                closed.add(alert.key)
    memory.looked, memory.runs = now, seen
    return list(opened.values()), list(closed)


def _of_run(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Iterator[tuple[Alert, bool]]:
    """Yield each thing that a run says something about, and whether it is wrong."""
    path = f"/runs/{run.run_id}"
    failed = yield from _of_checks(instance, run.run_id)
    about = _called(run)
    if run.is_success:
        yield from ((Alert(cause, about, "", path), False) for cause in (RUN_FAILED, DAMAGED))
        if run.asset_selection:
            yield from ((Alert(GATE_REFUSED, _named(k, run.tags), "", path), False) for k in run.asset_selection)
    if not run.is_failure or run.tags.get(WILL_RETRY_TAG) == "true":
        return
    error = _error_of(instance, run.run_id)
    kinds = {one.cls_name for one in _chain(error)}
    if failed and "DagsterAssetCheckFailedError" in kinds:
        return
    told = cause_of(error)
    if "PromotionRefused" in kinds:
        surface = next((key for key in run.asset_selection or () if key.path[-1] == "release"), None)
        yield Alert(GATE_REFUSED, _named(surface, run.tags) if surface else about, told, path), True
        return
    yield Alert(DAMAGED if DamagedError.__name__ in kinds else RUN_FAILED, about, told, path), True


def _of_checks(instance: dg.DagsterInstance, run_id: str) -> Iterator[tuple[Alert, bool]]:
    """Yield an alert for each asset and partition with checks in a run; return whether one of them failed."""
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
    by_asset: dict[tuple[dg.AssetKey, str | None], list[dg.AssetCheckEvaluation]] = {}
    for record in records:
        evaluation = record.event_log_entry.get_dagster_event().asset_check_evaluation_data
        by_asset.setdefault((evaluation.asset_key, evaluation.partition), []).append(evaluation)
    wrong = False
    for (key, partition), evaluations in by_asset.items():
        failed = [e for e in evaluations if not e.passed and e.severity is dg.AssetCheckSeverity.ERROR]
        told = "; ".join(f"{e.check_name}: {e.description or 'failed'}" for e in failed)
        about = " ".join([key.to_user_string(), *([partition] if partition else [])])
        cause = _CAUSES.get(key.path[-1], CHECK_FAILED)
        yield Alert(cause, about, told, f"/assets/{'/'.join(key.path)}?view=checks"), bool(failed)
        wrong = wrong or bool(failed)
    return wrong


def _called(run: dg.DagsterRun) -> str:
    """Return what people call a run: its job, or the first of its assets, and its days."""
    name, keys = run.job_name, sorted(key.to_user_string() for key in run.asset_selection or ())
    if name.startswith(_ASSETS) and keys:
        name = keys[0] + (f" and {len(keys) - 1} more" if len(keys) > 1 else "")
    return _with_days(name, run.tags)


def _named(key: dg.AssetKey, tags: Mapping[str, str]) -> str:
    return _with_days(key.to_user_string(), tags)


def _with_days(name: str, tags: Mapping[str, str]) -> str:
    try:
        span = span_of(tags)
    except ValueError:  # a partition that is no day
        return name
    if span is None:
        return name
    return f"{name} {span[0]}" if span[0] == span[1] else f"{name} {span[0]} to {span[1]}"


def _error_of(instance: dg.DagsterInstance, run_id: str) -> SerializableErrorInfo | None:
    """Return what the first failed step of a run said, or what the run itself did."""
    kinds = (dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE)
    for kind in kinds:
        for record in instance.get_records_for_run(run_id, of_type=kind).records:
            data = record.event_log_entry.get_dagster_event().event_specific_data
            if (error := getattr(data, "error", None)) is not None:
                return error
    return None


def _chain(error: SerializableErrorInfo | None) -> Iterator[SerializableErrorInfo]:
    while error is not None:
        yield error
        error = error.cause


def cause_of(error: SerializableErrorInfo | None) -> str:
    """Return what the cause of an error says, without the words that Dagster puts around it."""
    *_, last = [*_chain(error)] or [None]
    return last.message.strip() if last else "it ended without a word: its process is gone"


# Champions


def _champions(
    settings: Settings, instance: dg.DagsterInstance, memory: Memory, now: datetime
) -> tuple[list[Alert], list[str]]:
    """Return the moves back since the last look."""
    store, found = ReleaseStore.of(settings), list[Alert]()
    for surface in store.surfaces():
        before = memory.champions.get(surface)
        try:
            pointer = store.pointer(surface)
            history = store.history(surface) if pointer is None or pointer.number != before else []
        except DamagedError:
            continue  # a cause of its own
        memory.champions[surface] = history[-1].number if history else before or 0
        for entry in history:
            if before is not None and entry.number > before and entry.action in _BACK:
                told = f"{_BACK[entry.action]} {entry.release}: {entry.reason} ({entry.by})"
                about = f"{surface}, entry {entry.number}"
                found.append(Alert(ROLLED_BACK, about, told, f"/assets/{surface}/release"))
    return found, []


def _releases(settings: Settings, instance: dg.DagsterInstance, memory: Memory, now: datetime) -> Iterator[Alert]:
    """Yield the surfaces whose champion log or champion's folder is not whole."""
    store = ReleaseStore.of(settings)
    surfaces = store.surfaces()
    for surface in sorted({*surfaces, *memory.champions}):
        path = f"/assets/{surface}/release"
        if surface not in surfaces:
            yield Alert(RELEASE_LOST, surface, f"champion/{surface} and heads/{surface}.json are gone", path)
            continue
        try:
            pointer = store.pointer(surface)
        except DamagedError as error:
            yield Alert(RELEASE_LOST, surface, str(error), path)
            continue
        if pointer is None:
            continue
        folder = f"releases/{surface}/{pointer.release}"
        if lost := sorted(set(SERVED) - set(store.files.names(folder))):
            told = f"{surface} serves {pointer.release}, whose folder {folder} has no {', '.join(lost)}"
            yield Alert(RELEASE_LOST, surface, told, path)


def _approvals(settings: Settings, instance: dg.DagsterInstance, memory: Memory, now: datetime) -> Iterator[Alert]:
    """Yield the candidates that passed and wait for a person."""
    for name, surface in load_surfaces(settings).items():
        found = waiting_candidate(settings, surface)
        if found is not None and now <= found.until:
            told = (
                f"the candidate of {found.partition} passed; it may be approved until {found.until:%Y-%m-%d %H:%M} UTC"
            )
            yield Alert(WAITS, f"{name} {found.partition}", told, f"/assets/{name}/release")


# Ticks, days, features, server


def _ticks(settings: Settings, instance: dg.DagsterInstance, memory: Memory, now: datetime) -> Iterator[Alert]:
    """Yield the sensors and schedules whose last look ended with an error."""
    for state in instance.all_instigator_state():
        if state.status is InstigatorStatus.STOPPED or state.instigator_name == ALERT_SENSOR:
            continue
        ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1, statuses=_LOOKED_AT)
        if not ticks or ticks[0].status is not TickStatus.FAILURE:
            continue
        kind = "schedules" if state.instigator_type is InstigatorType.SCHEDULE else "sensors"
        path = f"/locations/{LOCATION}/{kind}/{state.instigator_name}"
        # A sensor that was stopped amid its look fails once; a schedule's tick stays its last until the next night.
        yield Alert(TICK_FAILED, state.instigator_name, cause_of(ticks[0].error), path, timedelta(minutes=3))


def _days(settings: Settings, instance: dg.DagsterInstance, memory: Memory, now: datetime) -> Iterator[Alert]:
    """Yield the first day that is late: those after it have the same cause."""
    from ml.landing.changes import changed_days

    with Lake(settings) as lake:
        newest = max(landed_days(lake, LABEL_TABLE), default=None)
    if newest is None or (settings.last_day is not None and newest >= settings.last_day):
        return
    due = newest + timedelta(days=1)
    ended = datetime.combine(due + timedelta(days=1), time(), UTC)
    if now - ended < timedelta(hours=settings.late_after_hours):
        return
    changes = changed_days(settings)
    why = [*changes.odd.get(due, []), *changes.waiting.get(due, [])]
    told = f"{due} has not landed {(now - ended) // timedelta(hours=1)} hours after it ended: "
    if not why:
        why = ["it is complete, and its run has not ended well"] if due in changes.ready else ["no file of it is there"]
    yield Alert(DAY_LATE, str(due), told + "; ".join(why[:3]), f"/locations/{LOCATION}/sensors/landing_sensor")


def _features(settings: Settings, instance: dg.DagsterInstance, memory: Memory, now: datetime) -> Iterator[Alert]:
    """Yield that the published features are too old to be served."""
    from ml.inference.snapshot import published_day

    day = published_day(settings)
    if day is None:
        return
    age = ((settings.last_day or now.date()) - day).days
    if age > settings.max_feature_age_days:
        told = f"they are of {day}, {age} days old; servers take at most {settings.max_feature_age_days}"
        yield Alert(FEATURES_OLD, "features", told, "/assets/features/serving_snapshot")


def _server(settings: Settings, instance: dg.DagsterInstance, memory: Memory, now: datetime) -> Iterator[Alert]:
    """Yield what the server does not serve, and what it says is wrong."""
    if settings.serve_url is None:
        return
    patience = timedelta(minutes=settings.unserved_minutes)
    reason, troubles = unready(settings)
    if reason:
        yield Alert(UNSERVED, "the server", reason, patience=patience)
    else:
        for item in unserved(settings):
            told = f"{item.surface}: {item.pointer.release} is the champion; {item.reason}"
            yield Alert(UNSERVED, item.surface, told, f"/assets/{item.surface}/release", patience)
    for what, told in troubles.items():
        yield Alert(SERVER_TROUBLED, what, told, patience=timedelta(minutes=1))


@dataclass(frozen=True)
class _State:
    look: "Callable[[Settings, dg.DagsterInstance, Memory, datetime], Iterator[Alert]]"
    causes: Sequence[Cause]


_Event = Callable[[Settings, dg.DagsterInstance, Memory, datetime], tuple[list[Alert], list[str]]]

EVENTS: Mapping[str, _Event] = {"runs": _runs, "champions": _champions}
"""What happened since the last look."""
STATES: Mapping[str, _State] = {
    "ticks": _State(_ticks, [TICK_FAILED]),
    "days": _State(_days, [DAY_LATE]),
    "features": _State(_features, [FEATURES_OLD]),
    "server": _State(_server, [UNSERVED, SERVER_TROUBLED]),
    "releases": _State(_releases, [RELEASE_LOST]),
    "approvals": _State(_approvals, [WAITS]),
}
"""What is so now."""
