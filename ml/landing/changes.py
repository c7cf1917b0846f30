"""Which days of the landing zone are complete, and new or different from what was landed."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta

from ml.foundation.lake import ALIAS, Lake
from ml.foundation.sealed import digest
from ml.foundation.settings import Settings
from ml.landing.buckets import StoreError, listings_kept
from ml.landing.databases import DatabaseError, engines_kept, question_of
from ml.landing.late import late_digests
from ml.landing.ledger import LEDGER
from ml.landing.readiness import days_in_zone, input_hash, landed_tables, missing, odd_entries


@dataclass(frozen=True)
class Changes:
    """The landing zone against the ledger.

    Attributes:
        ready: {day: hash of its files and late rows} of the days that are complete, and new or changed, oldest first.
        waiting: {day: what it waits for} of the new or changed days that are not complete.
        odd: {day: entries that cannot be read} of days in ``ready``, which will fail by their names.
    """

    ready: dict[date, str]
    waiting: dict[date, list[str]]
    odd: dict[date, list[str]] = field(default_factory=dict)


def changed_days(settings: Settings) -> Changes:
    """Compare every day of the landing zone with the hashes of the files that were landed.

    A file that was not touched since the last look of this process is not read again.
    """
    with Lake(settings) as lake:
        rows = lake.connection.execute(f"select day, table_name, input_hash from {ALIAS}.{LEDGER}").fetchall()
        late = late_digests(lake)
    landed = {(day, table): known for day, table, known in rows}
    changes = Changes({}, {})
    oldest = max((day for day, _ in landed), default=settings.first_day) - timedelta(days=settings.late_horizon_days)
    with engines_kept(), listings_kept():
        for day in days_in_zone(settings):
            # A database is not asked for days that nobody would build again.
            settled = {table for own, table in landed if own == day} if day < oldest else set()
            try:
                _look(settings, day, landed, changes, late.get(day), settled)
            except (DatabaseError, StoreError) as error:
                changes.waiting[day] = [str(error)]
            except OSError as error:
                # An entry that vanished, or a folder that may not be listed, costs its own day, until the next look.
                changes.waiting[day] = [f"cannot look at its files: {error}"]
    return changes


def _look(
    settings: Settings,
    day: date,
    landed: Mapping[tuple[date, str], str],
    changes: Changes,
    late: str | None,
    settled: Collection[str],
) -> None:
    """Sort one day into ``changes``, if it is new or changed; queries of ``settled`` tables are not asked."""
    present, absent = landed_tables(settings, day, settled)
    still = {table: landed[day, table] for table in settled if question_of(settings, table)}
    hashes = {table: still.get(table) or input_hash(settings, day, [table]) for table in present}
    if not absent and hashes and all(landed.get((day, table)) == found for table, found in hashes.items()):
        return
    if reasons := missing(settings, day):
        changes.waiting[day] = reasons
        return
    if not absent and not hashes:
        return
    changes.ready[day] = digest(hashes | {"late rows": late} if late else hashes)
    if odd := odd_entries(settings, day):
        changes.odd[day] = odd
