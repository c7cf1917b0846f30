"""Guard 6: scores and rankings do not jump against the champion."""

from collections.abc import Sequence
from typing import Any

from checks import gx
from ml.surfaces.spec import ShiftGate


def shift_suite(gate: ShiftGate, rows: Sequence[dict[str, Any]]) -> Any:
    """Return the suite over ``measure_shift``: a large shift fails, a moderate one warns."""
    from great_expectations.expectations.metadata_types import FailureSeverity

    from checks.expectations.measured import ExpectMeasureBetween

    expected: list[Any] = []
    for row in rows:
        where = {"measure": row["measure"], "output": row["output"]}
        common = {"column": "measured", "where": where, "count": "n"}
        if row["measure"] == "psi":
            name = f"psi_{row['output']}"
            most = {"min_value": 0, "max_value": gate.max_psi}
            expected.append(ExpectMeasureBetween(**common, **most, **gx.named(name, gx.between(high=gate.max_psi))))
            least = {"min_value": 0, "max_value": gate.warn_psi, "severity": FailureSeverity.WARNING}
            named = gx.named(f"{name}_is_small", gx.between(high=gate.warn_psi))
            expected.append(ExpectMeasureBetween(**common, **least, **named))
        elif row["n"] < gate.min_users:
            bounds = {"column": "n", "where": where, "min_value": gate.min_users, "severity": FailureSeverity.WARNING}
            named = gx.named("users_with_enough_rows", gx.between(gate.min_users))
            expected.append(ExpectMeasureBetween(count="n", **bounds, **named))
        else:
            named = gx.named(f"top_{gate.top}_overlap", gx.between(gate.min_overlap))
            expected.append(ExpectMeasureBetween(**common, min_value=gate.min_overlap, max_value=1, **named))
    return gx.suite("shift", expected)
