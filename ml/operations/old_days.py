"""Days of tables beyond ``keep_days``: which may go, and what keeps the others.

A day may be built again while late rows come, and reads the feature window before it; a student trains on the days of
its window. So ``keep_days`` below that is refused as a whole, before anything goes. Days that a stored release names in
its manifest stay with what they were made from, and so do tables in which the latest row of a user or an item counts.
What went is noted in ``ml.dropped_days`` in the same commit: a build that would need it is refused.
"""

from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from fnmatch import fnmatchcase

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from ml.foundation.dropped import DROPPED
from ml.foundation.lake import ALIAS, FEATURES, LANDING, ML, Lake
from ml.foundation.names import nearest
from ml.foundation.settings import Settings
from ml.landing.contract import CARRIED, load_contract
from ml.landing.ledger import LABEL_TABLE, landed_days
from ml.releases.store import ReleaseStore
from ml.surfaces.spec import Surface

_OF_FEATURES = ("stg_", "int_", "feat_", "examples_", "teacher_inputs_")
_SCHEMA = pa.schema([("table_name", pa.string()), ("day", pa.date32()), ("rows", pa.int64())])


class KeepRefused(ValueError):
    """A ``keep_days`` that would remove what something needs; the message says what, and nothing was changed."""


class OldDays(BaseModel):
    """The days of one table that are older than it keeps."""

    model_config = ConfigDict(frozen=True)

    table: str
    rows: dict[date, int] = Field(description="Rows of each day that goes")
    held: dict[str, int] = Field(description="Days that stay although they are old, by the release that names them")


def old_days(lake: Lake, settings: Settings, surfaces: Iterable[Surface]) -> list[OldDays]:
    """Return what is older than ``settings.keep_days`` lets tables keep; nothing is changed.

    Raises:
        KeepRefused: A table or pattern is unknown, no day of a table may go, or too few would stay.
        DamagedError: A stored release cannot be read, so that the days that it names are not known.
    """
    if not settings.keep_days:
        return []
    surfaces = list(surfaces)
    known = _droppable(lake, settings)
    _require_enough(settings, surfaces)
    kept = {}
    for pattern, days in settings.keep_days.items():
        if not (tables := [table for table in known if fnmatchcase(table, pattern)]):
            every = [f"{schema}.{name}" for schema, name in lake.tables()]
            if any(fnmatchcase(table, pattern) for table in every):
                raise KeepRefused(f"keep_days: no day of {pattern} may go: {_WHY}")
            raise KeepRefused(f"keep_days: there is no table {pattern!r}{nearest(pattern, known)}")
        kept |= {table: min(days, kept.get(table, days)) for table in tables}
    newest = max(landed_days(lake, LABEL_TABLE), default=None)
    if newest is None:
        return []
    needed = _named_by_releases(settings, {surface.name: surface for surface in surfaces})
    found = [_of(lake, table, newest - timedelta(days=days - 1), needed) for table, days in sorted(kept.items())]
    return [one for one in found if one.rows or one.held]


def drop(lake: Lake, found: Iterable[OldDays]) -> None:
    """Remove the days of each table in one commit, and note that they went."""
    for one in found:
        if not one.rows:
            continue
        lake.append(DROPPED, _SCHEMA.empty_table(), "days that housekeeping removes are noted")
        noted = pa.table([[one.table] * len(one.rows), list(one.rows), list(one.rows.values())], schema=_SCHEMA)

        def step(one: OldDays = one, noted: pa.Table = noted) -> None:
            with lake.transaction(f"{one.table}: {len(one.rows)} days are no longer kept") as c:
                c.register("_noted", noted)
                try:
                    c.execute(f"delete from {ALIAS}.{one.table} where day in (select day from _noted)")
                    c.execute(f"insert into {ALIAS}.{DROPPED} by name select * from _noted")
                finally:
                    c.unregister("_noted")

        lake.retry(step)


_WHY = (
    "it has the latest row of each user or item, tells what landed, or is no table of landing, features or soft labels"
)


def _droppable(lake: Lake, settings: Settings) -> list[str]:
    """Return the tables of whose days each can go by itself."""
    landed = {f"{LANDING}.{name}" for name in load_contract(settings).tables if name not in CARRIED}
    staged = {f"{FEATURES}.stg_{name}" for name in CARRIED}
    found = []
    for schema, name in lake.tables():
        table = f"{schema}.{name}"
        of_features = schema == FEATURES and name.startswith(_OF_FEATURES) and table not in staged
        if table in landed or of_features or (schema == ML and name.startswith("soft_labels_")):
            found.append(table)
    return found


def _require_enough(settings: Settings, surfaces: list[Surface]) -> None:
    """Check that what can be built or trained again is kept."""
    label = max((surface.label_window_days for surface in surfaces), default=1)
    reach = max((s.reach_days + s.window.most_eval_days for s in surfaces), default=0)
    needs = {
        f"a late row changes days of the last {settings.late_horizon_days} (late_horizon_days)": (
            settings.late_horizon_days
        ),
        f"a student reads {reach} days with those that its evaluation may widen to": reach,
    }
    for why, days in needs.items():
        least = days + settings.feature_window_days + label
        for pattern, keeps in settings.keep_days.items():
            if keeps < least:
                raise KeepRefused(
                    f"keep_days: {pattern} = {keeps} is too few: {why}, and their features the "
                    f"{settings.feature_window_days} days before, their labels {label} more; at least {least}"
                )


def _named_by_releases(settings: Settings, surfaces: Mapping[str, Surface]) -> dict[date, str]:
    """Return {day: release} of the days that stored releases were made from, their feature windows included."""
    store, found = ReleaseStore.of(settings), {}
    for surface in store.surfaces():
        label = surfaces[surface].label_window_days if surface in surfaces else settings.late_horizon_days
        for name in store.releases(surface):
            manifest = store.release(surface, name).manifest
            days = sorted((*manifest.train_days, *manifest.eval_days))
            first = days[0] - timedelta(days=settings.feature_window_days)
            for number in range((days[-1] - first).days + label + 1):
                found[first + timedelta(days=number)] = name
    return found


def _of(lake: Lake, table: str, first: date, needed: Mapping[date, str]) -> OldDays:
    query = f"select day, count(*) from {ALIAS}.{table} where day < ? group by day order by day"
    rows = dict(lake.connection.execute(query, [first]).fetchall())
    held = dict[str, int]()
    for day in rows:
        if day in needed:
            held[needed[day]] = held.get(needed[day], 0) + 1
    return OldDays(table=table, rows={day: n for day, n in rows.items() if day not in needed}, held=held)
