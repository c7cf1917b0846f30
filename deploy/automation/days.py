"""Days of runs: their tags, their ranges, and which days see a change of others."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta

from ml.foundation.settings import Settings

RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
PARTITION = "dagster/partition"


def range_tags(first: date, last: date) -> dict[str, str]:
    """Return the tags of one run over the days [first, last]."""
    return {RANGE_START: first.isoformat(), RANGE_END: last.isoformat()}


def span_of(tags: Mapping[str, str]) -> tuple[date, date] | None:
    """Return the first and last day of a run by its tags, of a range or of one partition; None without either."""
    one = tags.get(PARTITION)
    first, last = tags.get(RANGE_START, one), tags.get(RANGE_END, one)
    return (date.fromisoformat(first), date.fromisoformat(last)) if first and last else None


def ranges(days: Sequence[date]) -> list[tuple[date, date]]:
    """Return the runs of consecutive days among ``days``, each as (first, last), oldest first."""
    found: list[tuple[date, date]] = []
    for day in sorted(set(days)):
        if found and day == found[-1][1] + timedelta(days=1):
            found[-1] = (found[-1][0], day)
        else:
            found.append((day, day))
    return found


def affected(
    settings: Settings, first: date, last: date, landed: date, label_window_days: int = 1
) -> tuple[date, date] | None:
    """Return the days whose ranking tables can see base tables of [first, last]; None where none is final yet.

    The days before see them through their label window, the ``feature_window_days`` after through trailing features.
    The newest landed days have no label window yet, so their labels are not final; the day after the last of a finite
    source counts as landed.

    Args:
        settings: First and last day, and the feature window.
        first: First changed day.
        last: Last changed day.
        landed: Newest landed day.
        label_window_days: That of the tables; features and teacher inputs, which have no labels, wait for one day too.
    """
    known = landed + timedelta(days=1) if landed == settings.last_day else landed
    start = max(first - timedelta(days=label_window_days), settings.first_day)
    end = min(last + timedelta(days=settings.feature_window_days), known - timedelta(days=label_window_days))
    return (start, end) if start <= end else None
