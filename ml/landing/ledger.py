"""What has landed: reads ``landing.ledger``, which every landing writes with its rows."""

from collections.abc import Sequence
from datetime import date, timedelta

from ml.foundation.lake import ALIAS, LANDING, Lake
from ml.foundation.settings import Settings

LEDGER = f"{LANDING}.ledger"
LABEL_TABLE = "exposures"
"""The table whose days tell how far a source has landed: the one that no app is without."""


class NotFinal(ValueError):
    """A day whose labels can still change; the message names the day that must land first."""


def landed_days(lake: Lake, table: str) -> set[date]:
    """Return the days of ``table`` that have landed, empty ones included."""
    query = f"select distinct day from {ALIAS}.{LEDGER} where table_name = ?"
    return {row[0] for row in lake.connection.execute(query, [table]).fetchall()}


def require_final(settings: Settings, days: Sequence[date], label_window_days: int = 1) -> None:
    """Check that the labels of ``days`` are final: each day and its label window, the days after it, have landed.

    The day after the last of a finite source counts as landed: nothing comes on it.

    Args:
        settings: Names the lake and the last day.
        days: The days.
        label_window_days: Days after a day on which an outcome counts for it.

    Raises:
        NotFinal: Names the first day that is missing, or the last day that can be final.
    """
    with Lake(settings) as lake:
        landed = landed_days(lake, LABEL_TABLE)
    end = settings.last_day and settings.last_day + timedelta(days=1)
    for day in days:
        if end and day + timedelta(days=label_window_days) > end:
            raise NotFinal(
                f"labels of {day} are never final: outcomes count for {label_window_days} days, and the source ends "
                f"on {settings.last_day}"
            )
        for needed in (day + timedelta(days=i) for i in range(label_window_days + 1)):
            if needed not in landed and needed != end:
                raise NotFinal(f"labels of {day} are not final: {LABEL_TABLE} of {needed} have not landed")


def totals(lake: Lake) -> dict[str, int]:
    """Return rows in, loaded and quarantined over everything that has landed."""
    query = (
        f"select coalesce(sum(rows_in), 0)::bigint, coalesce(sum(rows_loaded), 0)::bigint, "
        f"coalesce(sum(rows_quarantined), 0)::bigint from {ALIAS}.{LEDGER}"
    )
    rows_in, loaded, quarantined = lake.connection.execute(query).fetchone() or (0, 0, 0)
    return {"rows_in": rows_in, "rows_loaded": loaded, "rows_quarantined": quarantined}
