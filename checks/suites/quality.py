"""Guard 3: good enough by itself, better than popularity, not worse than the champion; and the right one of the two."""

from collections.abc import Sequence
from typing import Any

from checks import gx
from ml.gate.figures import ABSOLUTE, BASELINE, CHAMPION, RIVAL
from ml.surfaces.spec import QualityGate


def quality_suite(gate: dict[str, QualityGate], rows: Sequence[dict[str, Any]], kind: str, chosen: str) -> Any:
    """Return the suite over ``measure_quality``; ``chosen`` is what the evaluation makes the candidate."""
    from checks.expectations.measured import ExpectImprovement, ExpectIntervalAbove, ExpectMeasureBetween

    expected: list[Any] = []
    for row in rows:
        task, comparison, metric = row["task"], row["comparison"], row["metric"]
        where = {"task": task, "comparison": comparison}
        limits = gate[task]
        match comparison:
            case _ if comparison == ABSOLUTE:
                named = gx.named(f"{task}_{metric}", gx.between(limits.min))
                bounds = {"min_value": limits.min, "count": "n"}
                expected.append(ExpectMeasureBetween(column="value", where=where, **bounds, **named))
            case _ if comparison == BASELINE:
                named = gx.named(f"{task}_{metric}_minus_baseline", "> 0")
                expected.append(ExpectImprovement(where=where, **named))
            case _ if comparison == CHAMPION:
                named = gx.named(f"{task}_{metric}_minus_champion", f"> -{limits.margin:g}, interval <= {2 * limits.margin:g}")
                expected.append(ExpectIntervalAbove(where=where, margin=limits.margin, **named))
            case _ if comparison == RIVAL:
                named = gx.named(f"{task}_{metric}_student_minus_control", "interval not below 0")
                expected.append(
                    ExpectMeasureBetween(column="hi", where=where, min_value=0, count="n", severity="warning", **named)
                )
    match_kind = gx.expectations().ExpectColumnDistinctValuesToEqualSet(
        column="candidate", value_set=[chosen], **gx.named("candidate", f"{chosen}, by interval")
    )
    return gx.suite("quality", [*expected, match_kind])
