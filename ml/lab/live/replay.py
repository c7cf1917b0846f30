"""A landed day asked for again: the requests whose answers could have been the exposures of a day."""

from collections.abc import Iterator
from datetime import date
from itertools import groupby

from ml.foundation.lake import ALIAS, FEATURES, Lake, quoted
from ml.surfaces.spec import Surface

_LANDED = {"user_id": "landed_user_id", "item_id": "landed_item_id"}


def requests_of(lake: Lake, surface: Surface, day: date, *, named: bool = True) -> Iterator[dict[str, object]]:
    """Yield the requests of a day, in the order of time: one for what a user was shown at one moment.

    Args:
        lake: Holds the exposures and examples of the day.
        surface: Its `request` inputs are sent as the training rows have them.
        day: The day.
        named: Whether each candidate names its exposure.
    """
    shown, examples = f"{FEATURES}.stg_exposures", f"{FEATURES}.examples_{surface.name}"
    asked = {name: item for name, item in surface.inputs.items() if item.kind == "request"}
    landed = lake.columns(shown)
    columns = {name: f"shown.{raw}" for name in asked if (raw := _LANDED.get(name, f"landed_{name}")) in landed}
    columns |= {name: f"examples.{quoted(name)}" for name in asked if name not in columns}
    columns |= {name: f"shown.{raw}" for name, raw in _LANDED.items()}
    listed = ", ".join(f"{expression} as {quoted(name)}" for name, expression in columns.items())
    rows = lake.sql(
        f"select shown.ts, shown.landed_exposure_id as exposure_id, {listed} from {ALIAS}.{shown} as shown "
        f"inner join {ALIAS}.{examples} as examples on examples.day = shown.day "
        "and examples.exposure_id = shown.exposure_id where shown.surface = ? and shown.day = ? "
        "order by shown.ts, shown.landed_user_id, shown.exposure_id",
        [surface.name, day],
    ).to_pylist()
    each = ["item_id", *(name for name, item in asked.items() if item.per_candidate and name != "item_id")]
    each += ["exposure_id"] if named else []
    shared = ["user_id", *(name for name in asked if name not in each and name != "user_id")]
    for _, together in groupby(rows, key=lambda row: (row["ts"], *(str(row[name]) for name in shared))):
        part = list(together)
        yield {
            "surface": surface.name,
            "ts": f"{part[0]['ts'].isoformat()}Z",
            **{name: part[0][name] for name in shared if part[0][name] is not None},
            "candidates": [{name: row[name] for name in each if row[name] is not None} for row in part],
        }
