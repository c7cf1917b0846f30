"""The verdict about an app's present ranker: what can be measured of it, and that nothing else was judged."""

from checks import gx
from checks.guards import GUARDS
from ml.evaluation.outcome import Outcome
from ml.export.files import MODEL
from ml.foundation.artifacts import Artifact
from ml.foundation.settings import Settings
from ml.releases.store import ReleaseStore
from ml.releases.verdicts import Check, GuardResult, StoredVerdict
from ml.surfaces.spec import Surface

_UNJUDGED = "not judged: the app's present ranker was trained elsewhere, and a person answers for it"


def judge_incumbent(settings: Settings, surface: Surface, candidate: Artifact, store: ReleaseStore) -> StoredVerdict:
    """Measure the graph and how a clean process serves it, and record a verdict that fails on all that is not known.

    Nothing of the gate is loosened: such a candidate is promoted by a person's override alone. A verdict of the same
    key that is there already holds.
    """
    candidate.verify()
    key = store.verdict_key(surface, candidate)
    judged = [one for one in store.verdicts.of_candidate(surface.name, candidate.digest) if one.verdict.key == key]
    if judged:
        return judged[-1]
    measured = {"onnx": _graph(settings, surface, candidate), "serving": _serving(surface, candidate, store)}
    guards = tuple(
        GuardResult(
            number=guard.number,
            name=guard.name,
            outcome=gx.worst(measured[guard.name]) if guard.name in measured else Outcome.FAIL,
            reason="" if guard.name in measured else _UNJUDGED,
            checks=tuple(measured.get(guard.name, ())),
        )
        for guard in GUARDS
    )
    return store.record(candidate, key, guards, promotion=surface.gate.promotion)


def _graph(settings: Settings, surface: Surface, candidate: Artifact) -> list[Check]:
    """Return whether the graph is sound, and answers as the ranker's own file does where it is evaluated."""
    from ml.export.onnx import inspect
    from ml.stages.incumbent import incumbent_differences

    found, most = inspect(candidate.path / MODEL), surface.gate.onnx.tolerance
    sound = found["checker"] is None and found["symbolic_batch"] and not found["external_data"]
    told = found["checker"] or f"{found['bytes']:,} bytes, opset {found['opset']}"
    checks = [Check(name="checker", outcome=Outcome.PASS if sound else Outcome.FAIL, detail=str(told))]
    for name, gap in incumbent_differences(settings, surface, candidate).items():
        outcome = Outcome.PASS if gap <= most else Outcome.FAIL
        checks.append(Check(name=f"{name}_as_evaluated", outcome=outcome, value=gap, threshold=f"<= {most:g}"))
    return checks


def _serving(surface: Surface, candidate: Artifact, store: ReleaseStore) -> list[Check]:
    """Return whether a clean process loads it, warms and answers in time, and how fast beside what it replaces."""
    from checks.guards.serving import suite, timed_champion
    from ml.inference.probe import ROUNDS, measure_serving

    gate, rival = surface.gate.serving, timed_champion(store.champion(surface.name))
    row = measure_serving(candidate.path, rival, timeout_s=2 * gate.max_ready_s) | {"n": ROUNDS}
    return gx.validate([row], suite(gate, champion=rival is not None))
