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


def affected(settings: Settings, first: date, last: date, landed: date) -> tuple[date, date] | None:
    """Return the days whose ranking tables can see base tables of [first, last]; None where none is final yet.

    The day before sees them through its label window, the ``feature_window_days`` after through trailing features. The
    newest landed day has no day after it yet, so its labels are not final, unless the source ends with it.

    Args:
        settings: First and last day, and the feature window.
        first: First changed day.
        last: Last changed day.
        landed: Newest landed day.
    """
    final = landed if landed == settings.last_day else landed - timedelta(days=1)
    start = max(first - timedelta(days=1), settings.first_day)
    end = min(last + timedelta(days=settings.feature_window_days), final)
    return (start, end) if start <= end else None
