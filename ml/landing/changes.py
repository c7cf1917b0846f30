"""Which days of the landing zone are complete, and new or different from what was landed."""

from dataclasses import dataclass
from datetime import date

from ml.lake import ALIAS, Lake
from ml.landing.ledger import LEDGER
from ml.landing.readiness import days_in_zone, input_hash, landed_tables, missing
from ml.settings import Settings
from ml.store.sealed import digest


@dataclass(frozen=True)
class Changes:
    """The landing zone against the ledger.

    Attributes:
        ready: {day: hash of its files} of the days that are complete, and new or changed, oldest first.
        waiting: {day: what it waits for} of the new or changed days that are not complete.
    """

    ready: dict[date, str]
    waiting: dict[date, list[str]]


def changed_days(settings: Settings) -> Changes:
    """Compare every day of the landing zone with the hashes of the files that were landed.

    A file that was not touched since the last look of this process is not read again.
    """
    with Lake(settings) as lake:
        rows = lake.connection.execute(f"select day, table_name, input_hash from {ALIAS}.{LEDGER}").fetchall()
    landed = {(day, table): known for day, table, known in rows}
    ready: dict[date, str] = {}
    waiting: dict[date, list[str]] = {}
    for day in days_in_zone(settings):
        present, absent = landed_tables(settings, day)
        hashes = {table: input_hash(settings, day, [table]) for table in present}
        if not absent and all(landed.get((day, table)) == found for table, found in hashes.items()):
            continue
        if reasons := missing(settings, day):
            waiting[day] = reasons
        else:
            ready[day] = digest(hashes)
    return Changes(ready, waiting)
