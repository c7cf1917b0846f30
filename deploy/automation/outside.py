"""What ``crossfade watch`` looks at from outside: that the definitions can be read, and that ``alert_sensor`` looks.

A code location that does not load, a daemon that is down and a sensor that is off all end the sensor's looks, and
with them every other alert; none of them can be told from within.
"""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorStatus

from deploy.automation.jobs import ALERT_SENSOR
from ml.foundation.settings import Settings, home_from_environment
from ml.operations.alerts import Alert, Book, Desk, deliver
from ml.operations.app_files import examine_files
from ml.operations.causes import CANNOT_LOOK, DEFINITIONS_BROKEN, NOBODY_LOOKS
from ml.operations.findings import State

BOOK = "watch.json"
SILENCE = timedelta(minutes=5)
"""The sensor has not looked for so long, or for five of its intervals: nobody looks."""
_LOCATIONS = "/deployment/locations"


def watch(now: datetime) -> list[str]:
    """Look once, tell what is new, and return what is wrong; the book is kept in the home's reports."""
    home = home_from_environment()
    desk = Desk.of_environment(home, os.environ)
    found: list[Alert] = []
    settings: Settings | None = None
    try:
        settings = Settings()
        desk = Desk.of(settings)
        found += _files(settings)
    except Exception as error:  # whatever is wrong with them is what is told
        found.append(Alert(DEFINITIONS_BROKEN, "settings", str(error), _LOCATIONS))
    looked = [DEFINITIONS_BROKEN, NOBODY_LOOKS, CANNOT_LOOK]
    try:
        found += _sensor(home / "dagster", settings.sensor_seconds if settings else 0, now)
    except Exception as error:
        found.append(Alert(CANNOT_LOOK, "dagster", f"{type(error).__name__}: {error}", patience=SILENCE))
        looked.remove(NOBODY_LOOKS)
    path = home / "reports" / BOOK
    book = _read(path)
    book.look(found, looked, now)
    deliver(desk, book, now)
    _write(path, book)
    return [f"{alert.about}: {alert.told}" for alert in found]


def _files(settings: Settings) -> Iterator[Alert]:
    for finding in examine_files(settings):
        if finding.state is State.BAD:
            yield Alert(DEFINITIONS_BROKEN, finding.what, finding.told, _LOCATIONS)


def _sensor(folder: Path, seconds: int, now: datetime) -> Iterator[Alert]:
    """Yield that the sensor has not looked, and what is known of why."""
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        states = [s for s in instance.all_instigator_state() if s.instigator_name == ALERT_SENSOR]
        on = [s for s in states if s.status is not InstigatorStatus.STOPPED]
        if not on:
            told = f"{ALERT_SENSOR} is off: turn it on in the UI, or set CROSSFADE_AUTOMATION=1"
            yield Alert(NOBODY_LOOKS, ALERT_SENSOR, told, "/automation")
            return
        ticks = [t for s in on for t in instance.get_ticks(s.instigator_origin_id, s.selector_id, limit=1)]
        newest = max(ticks, key=lambda tick: tick.timestamp, default=None)
        beats = [beat.timestamp for beat in instance.get_daemon_heartbeats().values()]
    patience = max(SILENCE, 5 * timedelta(seconds=seconds))
    looked = datetime.fromtimestamp(newest.timestamp, UTC) if newest else None
    beaten = datetime.fromtimestamp(max(beats), UTC) if beats else None
    if newest is not None and newest.is_failure and newest.error is not None:
        yield Alert(NOBODY_LOOKS, ALERT_SENSOR, f"its last look failed: {newest.error.message.strip()}", "/automation")
    elif looked is None or now - looked > patience:
        told = f"it last looked at {looked:%Y-%m-%d %H:%M} (UTC)" if looked else "it has not looked yet"
        lives = beaten is not None and now - beaten < patience
        told += "; the daemon lives: the code location does not load" if lives else "; the daemon does not run"
        yield Alert(NOBODY_LOOKS, ALERT_SENSOR, told, _LOCATIONS, timedelta(0) if looked else patience)


def _read(path: Path) -> Book:
    """Return the book as the last look left it; one that cannot be read begins anew, and tells again."""
    try:
        return Book.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return Book()


def _write(path: Path, book: Book) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}.tmp")
    scratch.write_text(book.model_dump_json(), encoding="utf-8")
    scratch.replace(path)
