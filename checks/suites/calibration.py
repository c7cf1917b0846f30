"""Guard 5: probabilities mean what they say."""

from collections.abc import Sequence
from typing import Any

from checks import gx
from ml.surfaces.spec import CalibrationGate


def calibration_suite(gate: CalibrationGate, rows: Sequence[dict[str, Any]]) -> Any:
    """Return the suite over ``measure_calibration``."""
    from checks.expectations.measured import ExpectMeasureBetween

    low, high = gate.predicted_over_observed
    expected = []
    for row in rows:
        for column, least, most in (("ece", 0, gate.max_ece), ("predicted_over_observed", low, high)):
            bounds = {"min_value": least, "max_value": most, "where": {"task": row["task"]}, "count": "n"}
            named = gx.named(f"{row['task']}_{column}", gx.between(least, most))
            expected.append(ExpectMeasureBetween(column=column, **bounds, **named))
    return gx.suite("calibration", expected)
