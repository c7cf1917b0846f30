"""Guard 3: good enough, better than popularity, not worse than champion and reference; and the right one of the two."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from checks import gx
from ml.gate.figures import ABSOLUTE, BASELINE, CHAMPION, REFERENCE, RIVAL
from ml.store.verdicts import Outcome
from ml.surfaces.spec import QualityGate


def quality_suite(gate: dict[str, QualityGate], rows: Sequence[dict[str, Any]]) -> Any:
    """Return the suite over ``measure_quality``."""
    counts = Counter(row["comparison"] for row in rows)
    return gx.suite("quality", [_expectation(gate[row["task"]], row, counts[row["comparison"]]) for row in rows])


def choice_suite(chosen: str) -> Any:
    """Return the suite over one row: the candidate's kind ``found``, and ``stated``, what the evaluation chose."""
    from checks.expectations.measured import ExpectStated

    return gx.suite("choice", [ExpectStated(**gx.named("candidate", f"{chosen}, by the evaluation"))])


def _expectation(limits: QualityGate, row: dict[str, Any], comparisons: int) -> Any:
    from great_expectations.expectations.metadata_types import FailureSeverity

    from checks.expectations.measured import ExpectImprovement, ExpectIntervalAbove, ExpectMeasureBetween

    comparison, name = row["comparison"], f"{row['task']}_{row['metric']}"
    where = {"task": row["task"], "comparison": comparison}
    if comparison == ABSOLUTE:
        bounds = {"min_value": limits.min, "count": "n"}
        return ExpectMeasureBetween(column="value", where=where, **bounds, **gx.named(name, gx.between(limits.min)))
    if comparison == BASELINE:
        return ExpectImprovement(where=where, **gx.named(f"{name}_minus_baseline", "> 0"))
    if comparison == CHAMPION:
        threshold = f">= {-limits.margin:g}, interval not below 0 nor wider than {2 * limits.margin:g}"
        named = gx.named(f"{name}_minus_champion", threshold)
        return ExpectIntervalAbove(where=where, margin=limits.margin, comparisons=comparisons, **named)
    if comparison == REFERENCE:
        margin = limits.reference_margin or 2 * limits.margin
        named = gx.named(f"{name}_minus_reference", f">= {-margin:g}, interval not below 0")
        wide = Outcome.WARN.value
        return ExpectIntervalAbove(where=where, margin=margin, comparisons=comparisons, wide=wide, **named)
    assert comparison == RIVAL, comparison
    named = gx.named(f"{name}_student_minus_control", "interval not below 0")
    bounds = {"min_value": 0, "count": "n", "shown": "value"}
    return ExpectMeasureBetween(column="hi", where=where, **bounds, severity=FailureSeverity.WARNING, **named)
