"""How long the served log stays: its files, and their rows in the lake."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ml.foundation.lake import ALIAS, LANDING, Lake
from ml.foundation.settings import SERVED, Settings
from ml.landing.ledger import LEDGER
from ml.landing.load import QUARANTINE
from ml.landing.readiness import Place, files_of_all_days, place_of

_TABLES = {
    f"{LANDING}.{SERVED}": "true",
    QUARANTINE: f"table_name = '{SERVED}'",
    LEDGER: f"table_name = '{SERVED}'",
}
"""Tables that tell of the log, and which of their rows do."""


def remove_served(lake: Lake, settings: Settings, grace: timedelta, *, dry_run: bool = False) -> tuple[int, int]:
    """Remove what is of days before the last ``keep_served_days``: files first, then rows.

    A day without files is no changed one, so nothing of it lands again. What lies in an object store or a database is
    its owner's to remove.

    Args:
        lake: The lake.
        settings: The home.
        grace: Age from which a file that was never finished is one of a server that was killed.
        dry_run: Change nothing.

    Returns:
        Files and rows that were removed, or would be.
    """
    until = (settings.last_day or datetime.now(UTC).date()) - timedelta(days=settings.keep_served_days)
    assert settings.serve_log_dir is not None
    files = {path: day for day, path in files_of_all_days(settings, SERVED) if day < until}
    parts = [path for path in settings.serve_log_dir.glob("day=*/.*.part") if _age(path) > grace]
    tables = {table: rows for table, rows in _TABLES.items() if lake.table_exists(table)}
    landed = 0
    if f"{LANDING}.{SERVED}" in tables:
        count = f"select count(*) as n from {ALIAS}.{LANDING}.{SERVED} where day < ?"
        landed = int(lake.sql(count, [until])["n"][0].as_py())
    if dry_run or not (files or parts or landed):
        return len(files) + len(parts), landed
    place = place_of(settings, SERVED)
    markers = [place.marker(day) for day in set(files.values())] if isinstance(place, Place) else []
    for path in (*files, *parts, *filter(None, markers)):
        path.unlink(missing_ok=True)
    for folder in {path.parent for path in (*files, *parts)}:
        if not any(folder.iterdir()):
            folder.rmdir()

    def step() -> None:
        with lake.transaction(f"{SERVED} before {until}") as connection:
            for table, rows in tables.items():
                connection.execute(f"delete from {ALIAS}.{table} where day < ? and {rows}", [until])

    lake.retry(step)
    return len(files) + len(parts), landed


def _age(path: Path) -> timedelta:
    """Return how long ago a file was written to; one that is gone meanwhile is new."""
    try:
        return timedelta(seconds=time.time() - path.stat().st_mtime)
    except FileNotFoundError:
        return timedelta(0)
