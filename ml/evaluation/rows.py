"""The examples that a candidate is looked at with."""

from collections.abc import Collection, Iterator, Sequence
from datetime import date
from typing import TYPE_CHECKING

from ml.foundation.lake import ALIAS, FEATURES, Lake, quoted
from ml.surfaces.spec import Surface

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH = 16_384


def newest_first(
    lake: Lake, surface: Surface, days: Sequence[date], columns: Collection[str]
) -> "Iterator[pa.RecordBatch]":
    """Yield every example of some days, the newest first, some at a time: memory does not grow with their number.

    Args:
        lake: The lake, or a snapshot of it.
        surface: The surface.
        days: Days to take rows from.
        columns: What is wanted of them; columns that the examples lack are left out.

    Raises:
        ValueError: The days have no rows.
    """
    table = f"{FEATURES}.examples_{surface.name}"
    wanted = ", ".join(quoted(name) for name in lake.columns(table) if name in columns)
    query = f"select {wanted} from {ALIAS}.{table} where day in (select unnest(?::date[]))"
    found = 0
    for batch in lake.batches(f"{query} order by ts desc, exposure_id", [list(days)], rows=_BATCH):
        found += batch.num_rows
        yield batch
    if not found:
        raise ValueError(f"examples_{surface.name} has no rows on {days[0]} to {days[-1]}")


def newest_day(lake: Lake, surface: Surface) -> date | None:
    """Return the newest final day of a surface, since examples hold no others; None where there is none."""
    table = f"{FEATURES}.examples_{surface.name}"
    if not lake.table_exists(table):
        return None
    return lake.sql(f"select max(day) as day from {ALIAS}.{table}")["day"][0].as_py()
