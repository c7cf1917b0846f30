"""Guard 4: the quality of each slice, with a wider margin. Too few rows to judge is a warning, never a silent pass."""

from collections.abc import Sequence
from typing import Any

from checks import gx
from ml.gate.figures import ABSOLUTE
from ml.store.verdicts import Outcome
from ml.surfaces.spec import QualityGate, SliceGate


def slices_suite(gate: SliceGate, quality: dict[str, QualityGate], rows: Sequence[dict[str, Any]]) -> Any:
    """Return the suite over ``measure_slices``."""
    from great_expectations.expectations.metadata_types import FailureSeverity

    from checks.expectations.measured import ExpectIntervalAbove, ExpectMeasureBetween, ExpectNotClearlyBelow

    def enough(row: dict[str, Any]) -> bool:
        return row["n"] >= gate.min_rows and row["positives"] >= gate.min_positives

    comparisons = sum(row["comparison"] != ABSOLUTE and enough(row) for row in rows)
    compared = {"wide": Outcome.WARN.value, "comparisons": comparisons}
    expected: list[Any] = []
    for row in rows:
        where = {"slice": row["slice"], "task": row["task"], "comparison": row["comparison"]}
        limits, name = quality[row["task"]], f"{row['slice']}_{row['task']}_{row['metric']}"
        margin = gate.margin_factor * limits.margin
        if row["comparison"] == ABSOLUTE:
            for column, least in (("n", gate.min_rows), ("positives", gate.min_positives)):
                named = gx.named(f"{row['slice']}_{row['task']}_{_COUNTS[column]}", gx.between(least))
                bounds = {"min_value": least, "where": where, "count": "n", "severity": FailureSeverity.WARNING}
                expected.append(ExpectMeasureBetween(column=column, **bounds, **named))
        if not enough(row):
            continue
        if row["comparison"] == ABSOLUTE:
            least = limits.min - margin
            expected.append(ExpectNotClearlyBelow(min_value=least, where=where, **gx.named(name, gx.between(least))))
        else:
            named = gx.named(f"{name}_minus_champion", f">= {-margin:g}, interval not below 0")
            expected.append(ExpectIntervalAbove(margin=margin, where=where, **compared, **named))
    return gx.suite("slices", expected)


_COUNTS = {"n": "rows", "positives": "positives"}
