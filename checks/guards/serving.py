"""Guard: a clean process loads, warms and answers in time, with the features that the surface declares."""

from typing import TYPE_CHECKING

from checks import gx
from checks.guard import Found, Guard, Subject
from ml.export.files import SCHEMA
from ml.export.schema import feature_schema, schema_hash
from ml.surfaces.spec import ServingGate

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite
    from great_expectations.expectations.expectation import Expectation


def judge(subject: Subject) -> Found:
    """Judge the feature schema, and what ``measure_serving`` finds in a clean process, in turn with the champion."""
    from ml.inference.probe import ROUNDS, measure_serving

    champion, gate = subject.champion(), subject.surface.gate.serving
    stated = schema_hash(subject.candidate.json(SCHEMA))
    checks = gx.validate([{"stated": feature_schema(subject.surface)["hash"], "found": stated}], schema_suite())
    if champion is not None and champion.release.manifest.kind == "popularity":
        champion = None  # it computes next to nothing: no ranker is half as fast
    path = champion.release.path if champion else None
    row = measure_serving(subject.candidate.path, path, timeout_s=2 * gate.max_ready_s) | {"n": ROUNDS}
    return checks + gx.validate([row], suite(gate, champion=champion is not None)), ""


def suite(gate: ServingGate, *, champion: bool) -> "ExpectationSuite":
    """Return the suite over the one row of ``measure_serving``."""
    from checks.expectations.measured import ExpectMeasureBetween, ExpectNotClearlyBelow

    expected: list[Expectation] = [
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


def schema_suite() -> "ExpectationSuite":
    """Return the suite over one row: the hash of the feature schema as ``stated`` by the candidate and ``found``."""
    from checks.expectations.measured import ExpectStated

    return gx.suite("schema", [ExpectStated(**gx.named("feature_schema", "the surface's"))])


GUARD = Guard(
    number=8,
    name="serving",
    means="A clean process loads, warms and answers in time.",
    to_do="a busy machine answers late: materialize `onnx` again when it is idle. A model that does not load says why.",
    judge=judge,
)
