"""The examples that a candidate is looked at with."""

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING

from ml.foundation.lake import ALIAS, FEATURES, Lake
from ml.surfaces.spec import Surface

if TYPE_CHECKING:
    import pyarrow as pa


def newest_rows(lake: Lake, surface: Surface, days: Sequence[date], *, limit: int) -> "pa.Table":
    """Return up to ``limit`` examples of some days, the newest first.

    Args:
        lake: The lake, or a snapshot of it.
        surface: The surface.
        days: Days to take rows from.
        limit: Most rows.

    Raises:
        ValueError: The days have no rows.
    """
    query = f"select * from {ALIAS}.{FEATURES}.examples_{surface.name} where day in (select unnest(?::date[])) "
    table = lake.sql(f"{query} order by ts desc, exposure_id limit ?", [list(days), limit])
    if table.num_rows == 0:
        raise ValueError(f"examples_{surface.name} has no rows on {days[0]} to {days[-1]}")
    return table
