"""Guard 2: every example has one finite soft label of the one teacher, and scoring again gives the same."""

from collections.abc import Sequence
from datetime import date
from typing import Any

from checks import gx
from ml.surfaces.spec import SoftLabelGate

RESCORE = "rescore_difference"


def soft_labels_suite(gate: SoftLabelGate, days: Sequence[date]) -> Any:
    """Return the suite over ``measure_soft_labels``."""
    built_in = gx.expectations()
    from checks.expectations.measured import ExpectMeasureBetween

    def bounded(column: str, low: float | None, high: float | None, count: str = "labels") -> Any:
        bounds = {"min_value": low, "max_value": high, "label": "day", "count": count}
        return ExpectMeasureBetween(column=column, **bounds, **gx.named(column, gx.between(low, high)))

    none = ("duplicates", "strangers", "non_finite", "wrong_width", "other_teacher")
    return gx.suite(
        "soft_labels",
        [
            built_in.ExpectTableRowCountToEqual(value=len(set(days)), **gx.named("days", str(len(set(days))))),
            bounded("coverage", gate.min_coverage, 1, "examples"),
            *(bounded(name, 0, 0) for name in none),
            bounded("defaulted_share", 0, gate.max_defaulted_share),
        ],
    )


def rescore_suite(gate: SoftLabelGate) -> Any:
    """Return the suite over one row: ``difference`` of a re-score of ``n`` rows."""
    from checks.expectations.measured import ExpectMeasureBetween

    bounds = {"min_value": 0, "max_value": gate.rescore_tolerance, "count": "n"}
    named = gx.named(RESCORE, gx.between(high=gate.rescore_tolerance))
    return gx.suite("rescore", [ExpectMeasureBetween(column="difference", **bounds, **named)])
