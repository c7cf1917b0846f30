"""Guard 1: the examples of every day are there, well formed, and within bounds."""

from collections.abc import Sequence
from datetime import date
from typing import Any

from checks import gx
from ml.surfaces.spec import DataGate

FEATURES = "values_unlike_their_features"
"""Name of the check that compares examples with feature tables."""


def data_suite(gate: DataGate, days: Sequence[date]) -> Any:
    """Return the suite over ``measure_examples``."""
    built_in = gx.expectations()
    from checks.expectations.measured import ExpectMeasureBetween, ExpectRateBetween

    def bounded(column: str, low: float | None, high: float | None) -> Any:
        bounds = {"min_value": low, "max_value": high, "label": "day", "count": "rows"}
        return ExpectMeasureBetween(column=column, **bounds, **gx.named(column, gx.between(low, high)))

    expected = [
        built_in.ExpectTableRowCountToEqual(value=len(set(days)), **gx.named("days", str(len(set(days))))),
        built_in.ExpectColumnValuesToBeUnique(column="day", **gx.named("days_repeated", "0")),
        bounded("rows", gate.min_rows, None),
        *(bounded(name, 0, 0) for name in ("duplicate_ids", "null_keys", "foreign_times", "bad_labels", "bad_values")),
        bounded("null_share", 0, gate.max_null_share),
        bounded("days_behind", 0, 0),
    ]
    for task, (low, high) in gate.label_rate.items():
        rate, bounds = f"label_rate_{task}", {"min_value": low, "max_value": high, "label": "day"}
        named = gx.named(rate, gx.between(low, high))
        expected.append(ExpectRateBetween(column=rate, count=f"labelled_{task}", **bounds, **named))
    return gx.suite("data", expected)


def features_suite() -> Any:
    """Return the suite over ``measure_features``."""
    from checks.expectations.measured import ExpectMeasureBetween

    bounds = {"min_value": 0, "max_value": 0, "label": "day", "count": "rows"}
    named = gx.named(FEATURES, gx.between(0, 0))
    return gx.suite("features", [ExpectMeasureBetween(column="other_values", **bounds, **named)])


def data_rows(measured: Sequence[dict[str, Any]], days: Sequence[date]) -> list[dict[str, Any]]:
    """Return the measurements, and how many days the newest examples lag behind the days asked for."""
    newest = max((row["day"] for row in measured if row["rows"]), default=None)
    behind = (max(days) - newest).days if newest is not None else None
    return [{**row, "day": str(row["day"]), "days_behind": behind} for row in measured]
