"""Guard 10: the manifest tells where the candidate came from, and nothing knows the answer beforehand."""

from collections.abc import Sequence
from typing import Any

from checks import gx
from ml.surfaces.spec import ProvenanceGate


def origins_suite(rows: Sequence[dict[str, str]]) -> Any:
    """Return the suite over ``compare_origins``: one check per item, so that each can be read by itself."""
    from checks.expectations.measured import ExpectStated

    return gx.suite(
        "origins",
        [ExpectStated(where={"item": row["item"]}, **gx.named(row["item"], row["stated"])) for row in rows],
    )


def leaks_suite(gate: ProvenanceGate, tasks: Sequence[str]) -> Any:
    """Return the suite over ``measure_leaks``: the strongest single number, or the candidate, of each task."""
    from checks.expectations.measured import ExpectMeasureBetween

    return gx.suite(
        "leaks",
        [
            ExpectMeasureBetween(
                column="auc",
                min_value=0,
                max_value=gate.max_plausible_auc,
                where={"task": task},
                label="feature",
                **gx.named(f"{task}_strongest_auc", gx.between(high=gate.max_plausible_auc)),
            )
            for task in tasks
        ],
    )


def teacher_suite() -> Any:
    """Return the suite over one row: ``days_between`` the teacher's last day and the first evaluation day."""
    from checks.expectations.measured import ExpectMeasureBetween

    named = gx.named("days_from_teacher_to_evaluation", gx.between(1))
    return gx.suite("teacher", [ExpectMeasureBetween(column="days_between", min_value=1, **named)])
