"""A sample of days for development: landed rows of an instance directory, copied into a lake of its own beside it."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from ml.foundation.lake import ALIAS, LANDING, Lake
from ml.foundation.settings import SHARED, Settings
from ml.landing.contract import CARRIED, DAY, load_contract
from ml.landing.ledger import LABEL_TABLE, LEDGER, landed_days
from ml.landing.load import QUARANTINE, init_tables

FOLDER = "development"
"""Of the instance directory: where its sample lies."""


@dataclass(frozen=True)
class Copied:
    """What one landing table brought into the sample."""

    table: str
    rows: int


def days_of_sample(settings: Settings, count: int, last: date | None = None) -> list[date]:
    """Return the newest landed days, oldest first.

    Args:
        settings: Those of production.
        count: How many days at most.
        last: The newest of them. Default the newest that landed.

    Raises:
        ValueError: No day has landed until then.
    """
    with Lake(settings) as lake:
        landed = sorted(day for day in landed_days(lake, LABEL_TABLE) if last is None or day <= last)
    if not landed:
        until = f" until {last}" if last else ""
        raise ValueError(f"no day has landed in {settings.home}{until}: materialize base_tables_job first")
    return landed[-count:]


def settings_of_sample(settings: Settings, folder: Path, days: list[date]) -> Settings:
    """Return production's settings with the days of the sample, and with all that is written in ``folder``."""
    of_sample = {
        "home": folder,
        "landing_dir": folder / "landing",  # its sensors find nothing that would replace what was copied
        "first_day": days[0],
        "last_day": days[-1],
        "development": True,
    }
    return settings.model_copy(update=of_sample | dict.fromkeys(SHARED))


def copy_sample(settings: Settings, sample: Settings) -> Iterator[Copied]:
    """Copy the landed rows of the sample's days, each table in one commit; yield each table when it is there.

    Of tables whose latest row counts until the next, the first day gets what is known by then.
    Production is read as of one snapshot, and nothing of it is written.
    """
    assert sample.last_day is not None
    first, last = sample.first_day, sample.last_day
    days = sample.days(first, last)
    with Lake(settings) as production:
        snapshot = production.snapshot()
    with Lake(settings, snapshot=snapshot) as production, Lake(sample) as lake:
        init_tables(lake)
        keys = {name: table.key for name, table in load_contract(settings).tables.items()}
        for name in [*(f"{LANDING}.{table}" for table in keys), QUARANTINE, LEDGER]:
            if not production.table_exists(name):
                continue
            table = name.removeprefix(f"{LANDING}.")
            query = f"select * from {ALIAS}.{name} where {DAY} between $1 and $2"
            if table in CARRIED:
                listed = ", ".join(keys[table])
                query = (
                    f"select * replace (greatest({DAY}, $1) as {DAY}) from {ALIAS}.{name} where {DAY} <= $2 "
                    f"qualify {DAY} > $1 "
                    f"or row_number() over (partition by {listed}, {DAY} <= $1 order by {DAY} desc) = 1"
                )
            rows = production.sql(query, [first, last])
            lake.replace_days(name, rows, days, day_column=DAY, message=f"sample of {name}")
            yield Copied(table, rows.num_rows)
