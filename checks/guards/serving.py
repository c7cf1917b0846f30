"""Guard: a clean process loads, warms and answers in time, with the features that the surface declares.

Its speed is held against the champion's, and against that of the app's present ranker where the surface names its file.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from checks import gx
from checks.guard import Found, Guard, Subject
from ml.evaluation.outcome import Outcome
from ml.export.files import SCHEMA
from ml.export.schema import feature_schema, schema_hash
from ml.releases.release import Champion
from ml.releases.verdicts import Check
from ml.surfaces.gate import ServingGate
from ml.surfaces.spec import Surface

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite
    from great_expectations.expectations.expectation import Expectation

PRESENT = "speed_over_present_rankers"
"""Name of the check that compares with the ranker of ``incumbent: onnx``."""
_MOST = 500


def judge(subject: Subject) -> Found:
    """Judge the feature schema, and what ``measure_serving`` finds in a clean process, in turn with the champion."""
    from ml.inference.probe import ROUNDS, measure_serving

    champion, gate = subject.champion(), subject.surface.gate.serving
    stated = schema_hash(subject.candidate.json(SCHEMA))
    checks = gx.validate([{"stated": feature_schema(subject.surface)["hash"], "found": stated}], schema_suite())
    rival = timed_champion(champion)
    row = measure_serving(subject.candidate.path, rival, timeout_s=2 * gate.max_ready_s) | {"n": ROUNDS}
    checks += gx.validate([row], suite(gate, champion=rival is not None))
    present = champion is not None and champion.release.manifest.kind == "incumbent"
    return checks + ([] if present else beside_present_ranker(subject)), ""


def timed_champion(champion: Champion | None) -> Path | None:
    """Return the folder of the champion that a candidate is timed beside; none beside popularity."""
    if champion is None or champion.release.manifest.kind == "popularity":
        return None  # it computes next to nothing: no ranker is half as fast
    return champion.release.path


def beside_present_ranker(subject: Subject) -> list[Check]:
    """Time the candidate in turn with the file of the app's present ranker, which serves elsewhere or was replaced."""
    from ml.evaluation.incumbent import IncumbentError, incumbent_contract
    from ml.inference.probe import ROUNDS, measure_beside

    surface = subject.surface
    if surface.incumbent is None or surface.incumbent.onnx is None:
        return []
    try:
        ranker = incumbent_contract(surface, subject.settings.app)
        row = measure_beside(subject.candidate.path, ranker, timeout_s=2 * surface.gate.serving.max_ready_s)
    except (IncumbentError, RuntimeError) as error:  # a ranker that cannot be timed says nothing of the candidate
        outcome = Outcome.FAIL if surface.incumbent.must_not_lose else Outcome.WARN
        told = f"it could not be timed: {error}"[:_MOST]
        threshold = gx.between(surface.gate.serving.min_speed)
        return [Check(name=PRESENT, outcome=outcome, threshold=threshold, detail=told)]
    return gx.validate([row | {"n": ROUNDS}], present_suite(surface))


def present_suite(surface: Surface) -> "ExpectationSuite":
    """Return the suite over the one row of ``measure_beside``: a slower candidate warns where it may lose."""
    from checks.expectations.measured import ExpectNotClearlyBelow

    assert surface.incumbent is not None
    least, beyond = surface.gate.serving.min_speed, Outcome.FAIL if surface.incumbent.must_not_lose else Outcome.WARN
    named = gx.named(PRESENT, gx.between(least))
    return gx.suite("present_ranker", [ExpectNotClearlyBelow(min_value=least, beyond=beyond.value, **named)])


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
