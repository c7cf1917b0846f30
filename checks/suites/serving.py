"""Guard 8: a clean process loads, warms and answers in time, with the features that the surface declares."""

from typing import Any

from checks import gx
from ml.surfaces.spec import ServingGate


def serving_suite(gate: ServingGate, *, champion: bool) -> Any:
    """Return the suite over the one row of ``measure_serving``."""
    from checks.expectations.measured import ExpectMeasureBetween, ExpectNotClearlyBelow

    expected: list[Any] = [
        ExpectMeasureBetween(
            column="ready_s",
            min_value=0,
            max_value=gate.max_ready_s,
            **gx.named("seconds_to_first_answer", gx.between(high=gate.max_ready_s)),
        ),
        ExpectMeasureBetween(
            column="milliseconds",
            min_value=0,
            max_value=gate.max_milliseconds,
            **gx.named("milliseconds_of_200_rows", gx.between(high=gate.max_milliseconds)),
        ),
    ]
    if champion:
        named = gx.named("speed_over_champions", gx.between(gate.min_speed))
        expected.append(ExpectNotClearlyBelow(min_value=gate.min_speed, **named))
    return gx.suite("serving", expected)


def schema_suite() -> Any:
    """Return the suite over one row: the hash of the feature schema as ``stated`` by the candidate and ``found``."""
    from checks.expectations.measured import ExpectStated

    return gx.suite("schema", [ExpectStated(**gx.named("feature_schema", "the surface's"))])
