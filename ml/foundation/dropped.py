"""Days that housekeeping removed from a table: what is built from them must not take them for empty days."""

from collections.abc import Sequence
from datetime import date

from ml.foundation.lake import ALIAS, ML, Lake

DROPPED = f"{ML}.dropped_days"


class DaysDropped(ValueError):
    """A day that cannot be built, because what it is made from is no longer kept; the message says since when."""


def require_kept(lake: Lake, prefixes: Sequence[str], first: date, last: date) -> None:
    """Check that housekeeping removed no day of [first, last] from tables of these names; one that is back counts.

    Args:
        lake: The lake.
        prefixes: How ``schema.table`` of the tables that are read begins.
        first: First day that is read.
        last: Last day.

    Raises:
        DaysDropped: Names the table and the first of its days.
    """
    if not lake.table_exists(DROPPED):
        return
    query = f"select table_name, list(distinct day order by day) from {ALIAS}.{DROPPED} where day between ? and ?"
    for table, days in lake.connection.execute(f"{query} group by 1 order by 1", [first, last]).fetchall():
        if not table.startswith(tuple(prefixes)):
            continue
        back = lake.connection.execute(
            f"select distinct day from {ALIAS}.{table} where day in (select unnest(?::date[]))", [days]
        ).fetchall()
        if gone := sorted(set(days) - {day for (day,) in back}):
            raise DaysDropped(
                f"{table} of {gone[0]}{f' and {len(gone) - 1} more days' if len(gone) > 1 else ''} is no longer kept "
                f"(CROSSFADE_KEEP_DAYS): land and build these days again first, oldest first, if their files are there"
            )
