"""Partitions: a UTC day for everything; a student's day D trains and is evaluated on days before D."""

from datetime import date, timedelta

import dagster as dg

from ml.foundation.settings import Settings
from ml.surfaces.spec import Surface

_DAYS_OF_A_RUN = 15
"""Days of one run where several runs share a backfill: starting a run costs as much as many days of a small app."""


def day_partitions(settings: Settings) -> dg.DailyPartitionsDefinition:
    """Every day from ``first_day`` to ``last_day`` (or on, for a live source)."""
    return _daily(settings.first_day, settings.last_day)


def student_partitions(settings: Settings, surface: Surface) -> dg.DailyPartitionsDefinition:
    """The days that can have a student of ``surface``."""
    return _daily(surface.first_partition(settings.first_day), settings.last_day)


def student_window(surface: Surface) -> dg.TimeWindowPartitionMapping:
    """The days of its training and evaluation, and those between, feed partition D of a student: [D-e-w, D)."""
    return _window(start=-surface.reach_days, end=-surface.label_window_days)


def trailing_window(days: int) -> dg.TimeWindowPartitionMapping:
    """Days [d-W, d) of a daily aggregate feed the features of day d."""
    return _window(start=-days, end=-1)


def known_window(days: int) -> dg.TimeWindowPartitionMapping:
    """Days [d-W, d] of a slowly changing table feed day d."""
    return _window(start=-days, end=0)


def label_window(days: int) -> dg.TimeWindowPartitionMapping:
    """Days [d, d+days] feed the labels of day d."""
    return _window(start=0, end=days)


def _window(*, start: int, end: int) -> dg.TimeWindowPartitionMapping:
    return dg.TimeWindowPartitionMapping(start_offset=start, end_offset=end, allow_nonexistent_upstream_partitions=True)


def _daily(first: date, last: date | None) -> dg.DailyPartitionsDefinition:
    end = (last + timedelta(days=1)).isoformat() if last else None
    return dg.DailyPartitionsDefinition(start_date=first.isoformat(), end_date=end, timezone="UTC")


def days_of_a_run(settings: Settings) -> dg.BackfillPolicy:
    """Return how a backfill shares its days among runs: all in one, or some in each where several may write at once."""
    if settings.lake_writers == 1:
        return dg.BackfillPolicy.single_run()
    return dg.BackfillPolicy.multi_run(max_partitions_per_run=_DAYS_OF_A_RUN)


def partition_days(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> list[date]:
    """Return the days of this run, one or a range, oldest first."""
    return [date.fromisoformat(key) for key in sorted(context.partition_keys)]


def partition_day(context: dg.AssetExecutionContext) -> date:
    """Return the one day of this run."""
    return date.fromisoformat(context.partition_key)
