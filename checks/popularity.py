"""The gate over popularity: guards that need no learning run as ever, two look at what it is, the others say so.

Nothing that it scores is held against labels: it serves because no ranker has earned to, and says so.
"""

import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

from checks import gx
from checks.gate import ask
from checks.guard import Found, Guard, Subject
from checks.guards import GUARDS, onnx, provenance
from ml.evaluation.outcome import Outcome
from ml.export.files import MODEL
from ml.foundation.artifacts import Artifact
from ml.foundation.settings import Settings
from ml.releases.gate import OF_POPULARITY
from ml.releases.manifest import DayContent, examples_content
from ml.releases.release import manifest_of
from ml.releases.store import ReleaseStore
from ml.releases.verdicts import GuardResult, StoredVerdict
from ml.surfaces.gate import PromotionGate
from ml.surfaces.spec import Surface


class Apart(TypedDict):
    """How far what popularity says of a task is from the task's baseline, the largest difference over ``n`` rows."""

    task: str
    difference: float
    n: int


def judge_popularity(
    settings: Settings, surface: Surface, candidate: Artifact, told: str, *, run_id: str | None = None
) -> StoredVerdict:
    """Judge a surface's popularity, which shall serve in a refused student's place, and record the verdict.

    Args:
        settings: The home.
        surface: Specification and thresholds.
        candidate: Artifact with the files of ``ml.releases.release.CANDIDATE``.
        told: In whose place, and why: what guard ``evidence`` says, since it cannot look.
        run_id: Dagster run that judges.

    Raises:
        DamagedError: The candidate's files are not what their hashes say: there is nothing to judge.
        UnusableKey: Only what is signed counts here, and no key can sign the verdict.
    """
    from ml.stages.evaluation import read_evaluation

    store = ReleaseStore.of(settings)
    _ = store.keys.signer
    candidate.verify()
    key, partition = store.verdict_key(surface, candidate), manifest_of(candidate).partition
    own = {"onnx": judge_model, "provenance": _judge_origin}
    with ExitStack() as lakes:
        stated = read_evaluation(settings, surface, partition)
        subject = Subject(settings, surface, candidate, stated, store, key, None, lakes)
        guards = tuple(
            ask(replace(guard, judge=own.get(guard.name, guard.judge)), subject)
            if guard.name in OF_POPULARITY
            else _silent(guard, told)
            for guard in GUARDS
        )
    # A person asks for it by a command of its own, so nobody has to say yes once more.
    return store.record(candidate, key, guards, promotion=PromotionGate(), about="popularity", run_id=run_id)


def _silent(guard: Guard, told: str) -> GuardResult:
    reason = told if guard.name == "evidence" else "popularity learnt nothing that this guard could look at"
    return GuardResult(number=guard.number, name=guard.name, outcome=Outcome.NOT_EVALUATED, reason=reason)


def judge_model(subject: Subject) -> Found:
    """Judge the graph, that it is this surface's popularity and nothing else, and that it says what baselines say."""
    gate, model = subject.surface.gate.onnx, subject.candidate.path / MODEL
    graph = [*onnx.measure(subject.surface, model), _same(subject)]
    checks = gx.validate(graph, onnx.suite(graph))
    checks += gx.validate([{"megabytes": model.stat().st_size / 1e6}], onnx.size_suite(gate))
    if gx.worst(checks) is Outcome.FAIL:
        return checks, "not run"
    apart = measure(subject)
    cases = {f"{row['task']}_minus_baseline": {"task": row["task"]} for row in apart}
    expected = gx.bounded("popularity", "difference", cases, high=gate.tolerance, count="n")
    return checks + gx.validate(apart, expected), ""


def _same(subject: Subject) -> onnx.PropertyRow:
    """Return whether the candidate is byte for byte the popularity of the surface as it is declared."""
    from ml.export.popularity import export_popularity

    with tempfile.TemporaryDirectory() as scratch:
        again = Path(scratch) / MODEL
        export_popularity(subject.surface, again)
        same = again.read_bytes() == subject.candidate.read(MODEL)
    return {"property": "exported_again", "problems": int(not same), "detail": "" if same else f"{MODEL} is another"}


def measure(subject: Subject) -> list[Apart]:
    """Compare, on every evaluation row and as when serving, each task's output with its baseline input.

    A binary task's output is a logit, so that a baseline which is no rate lies apart.
    """
    import numpy as np

    from ml.evaluation.predictions import as_scores, baseline_query, beside
    from ml.stages.evaluation import score_rows, scoring

    surface, days = subject.surface, subject.manifest.eval_days
    model = {"popularity": (subject.manifest.onnx_sha256, scoring(subject.candidate.path / MODEL))}
    scored = score_rows(subject.evaluated, surface, days, model)
    query, parameters = baseline_query(surface, subject.manifest.partition, days)
    found = beside(scored.scores, [as_scores(subject.evaluated, f"({query})", parameters)]).values
    rows: list[Apart] = []
    for task, spec in surface.tasks.items():
        if spec.baseline is None:
            continue
        said, wanted = found["serving", "popularity", task], found["serving", "baseline", task]
        value = 1 / (1 + np.exp(-said)) if spec.kind == "binary" else said
        largest = float(np.abs(value - wanted).max(initial=0.0))
        rows.append({"task": task, "difference": largest if np.isfinite(largest) else np.inf, "n": len(said)})
    return rows


def _judge_origin(subject: Subject) -> Found:
    """Derive again what the manifest states: the specification, the thresholds and the rows that were looked at."""
    manifest, surface = subject.manifest, subject.surface
    found = examples_content(subject.evaluated, surface.name, manifest.eval_days)
    stated = {
        "surface specification": (manifest.spec_digest, surface.digest),
        "gate thresholds": (manifest.gate_digest, surface.gate.digest),
        "examples": (_content(manifest.examples), _content(found)),
        "training days, soft labels, parameters": (
            f"{len(manifest.train_days)}, {len(manifest.soft_labels)}, {manifest.parameters}",
            "0, 0, 0",
        ),
    }
    rows = [{"item": item, "stated": said, "found": seen} for item, (said, seen) in stated.items()]
    return gx.validate(rows, provenance.suite(rows)), ""


def _content(days: tuple[DayContent, ...]) -> str:
    return "; ".join(f"{day.day} {day.rows} rows {day.content_hash}" for day in days)
