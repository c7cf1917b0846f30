"""Guard: the manifest tells where the candidate came from, and nothing knows the answer beforehand."""

import math
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, TypedDict

from checks import gx
from checks.guard import SERVED, Found, Guard, Subject
from ml.evaluation.outcome import Outcome
from ml.foundation.documents import digest
from ml.foundation.lake import ALIAS, FEATURES, Lake
from ml.releases.manifest import (
    DayContent,
    Manifest,
    examples_content,
    joined_vectors,
    soft_label_content,
    vector_content,
)
from ml.releases.verdicts import Check
from ml.surfaces.gate import OnnxGate, ProvenanceGate
from ml.surfaces.spec import Surface
from ml.teacher.contract import Contract

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite

    from ml.evaluation.predictions import Scores
    from ml.evaluation.results import Evaluation, Result


class LeakRow(TypedDict):
    """How well one number alone tells one task's label."""

    task: str
    feature: str
    auc: float
    n: int


class PredictionRow(TypedDict):
    """How far one model's stored predictions are from what it says."""

    model: str
    difference: float
    n: int


def judge(subject: Subject) -> Found:
    """Derive again what manifest and evaluation state; look for a leak, and for teachers that saw the answers."""
    manifest, surface = subject.manifest, subject.surface
    origins = measure(subject)
    leaks = measure_leaks(subject.evaluated, surface, manifest.eval_days, subject.evaluation, manifest.kind)
    stored = measure_predictions(subject.present, surface, manifest, subject.again.scores)
    origins += [_rival(subject), compare_figures(subject, same=all(row["difference"] == 0 for row in stored))]
    tasks = [task for task, spec in surface.tasks.items() if spec.kind == "binary"]
    checks = gx.validate(origins, suite(origins))
    checks += gx.validate(stored, predictions_suite(surface.gate.onnx, stored))
    checks += gx.validate(leaks, leaks_suite(surface.gate.provenance, tasks)) if tasks else []
    return checks + judge_teachers(manifest), ""


def judge_teachers(manifest: Manifest) -> list[Check]:
    """Judge whether each teacher was trained before the evaluation days; one that does not say warns."""
    found: list[Check] = []
    for name, (teacher, *_) in manifest.labels.items():
        named = _named(name, "days_from_teacher_to_evaluation")
        if teacher.trained_through is None:
            told = f"the teacher{f' {name}' if name else ''} does not say what it was trained through"
            found.append(Check(name=named, outcome=Outcome.WARN, threshold=">= 1", detail=told))
            continue
        between = (min(manifest.eval_days) - teacher.trained_through).days
        found += gx.validate([{"days_between": between}], teacher_suite(named))
    return found


def _named(teacher: str | None, what: str) -> str:
    """Return the name of a check of one teacher; of the only one, that of what is checked."""
    return f"{teacher}/{what}" if teacher else what


def measure(subject: Subject) -> list[dict[str, str]]:
    """Derive again what the candidate's manifest, and the evaluation about it, state.

    Returns:
        Rows of ``item``, ``stated`` and ``found``, as text.
    """
    settings, surface, manifest, evaluation = subject.settings, subject.surface, subject.manifest, subject.stated
    champion, reference = subject.champion(), subject.reference()
    partition = manifest.partition
    train_days = [day for day in surface.training_days(partition) if day >= settings.first_day]
    widened = min(len(manifest.eval_days), surface.looks.most) - surface.looks.first
    wanted = surface.evaluation_days(partition, max(0, widened))
    eval_days = [day for day in wanted if day >= settings.first_day]
    every_day = [*train_days, *eval_days]
    stated: dict[str, tuple[object, object]] = {
        "training days": (_span(manifest.train_days), _span(train_days)),
        "evaluation days": (_span(manifest.eval_days), _span(eval_days)),
        "evaluated days": (_span(evaluation.days), _span(eval_days)),
        "evaluated partition": (evaluation.partition, partition),
        "evaluated rows": (evaluation.rows, sum(d.rows for d in manifest.examples if d.day in manifest.eval_days)),
        "evaluated model": (evaluation.models.get(manifest.kind), manifest.checkpoint_sha256),
        "evaluated champion": (
            evaluation.models.get("champion"),
            champion.release.manifest.onnx_sha256 if champion else None,
        ),
        "evaluated reference": (
            evaluation.models.get("reference"),
            reference.manifest.onnx_sha256 if reference else None,
        ),
        "surface specification": (manifest.spec_digest, surface.digest),
        "gate thresholds": (manifest.gate_digest, surface.gate.digest),
        "days of examples": (_span([d.day for d in manifest.examples]), _span(every_day)),
    }
    days = [d.day for d in manifest.examples]
    found_examples = [c for lake, own in _read_at(subject, days) for c in examples_content(lake, surface.name, own)]
    stated |= _contents("examples", manifest.examples, found_examples)
    contracts = list(subject.contracts.items())
    pinned: dict[str | None, Contract] = dict(contracts) if len(contracts) > 1 else {None: contracts[0][1]}
    for name in dict.fromkeys([*pinned, *manifest.labels]):
        stated |= _of_teacher(subject, name, pinned.get(name), every_day)
    stated |= _vectors(subject)
    return [{"item": item, "stated": str(s), "found": str(f)} for item, (s, f) in stated.items()]


def _of_teacher(
    subject: Subject, name: str | None, contract: Contract | None, every_day: Sequence[date]
) -> dict[str, tuple[object, object]]:
    """Return what the manifest states of one teacher, and what pinned contract and lake say: (stated, found) by item.

    Args:
        subject: The candidate.
        name: Of the teacher, where there are several.
        contract: The pinned one; None where the home has no such teacher.
        every_day: Days that were trained or evaluated on.
    """
    surface, of = subject.surface, f" of {name}" if name else ""
    teacher, labels, pairs = subject.manifest.labels.get(name, (None, (), ()))
    stated: dict[str, tuple[object, object]] = {
        f"teacher{of}": (
            teacher and f"{teacher.name} {teacher.version}",
            contract and f"{contract.name} {contract.version}",
        ),
        f"teacher contract{of}": (teacher and teacher.contract_hash, contract and contract.contract_hash),
        f"teacher trained through{of}": (teacher and teacher.trained_through, contract and contract.trained_through),
        f"days of soft labels{of}": (_span([d.day for d in labels]), _span(every_day)),
    }
    if teacher is None:
        return stated
    known = teacher.version, teacher.contract_hash
    found = [
        content
        for lake, own in _read_at(subject, [d.day for d in labels])
        for content in soft_label_content(lake, surface.name, own, *known, teacher=name)
    ]
    stated |= _contents(f"soft labels{of}", labels, found)
    if surface.distillation.unshown:
        from ml.features.unshown import drawn_by

        train_days = [day for day in every_day if day in subject.manifest.train_days]
        filled = sorted(drawn_by(subject.past, surface.name, train_days))
        found = soft_label_content(subject.past, surface.name, filled, *known, teacher=name, unshown=True)
        stated[f"days of unshown labels{of}"] = _span([d.day for d in pairs]), _span(filled)
        stated |= _contents(f"unshown labels{of}", pairs, found)
    return stated


def _vectors(subject: Subject) -> dict[str, tuple[object, object]]:
    """Return what the manifest states of the teacher's vectors, and what the lake holds; of none, nothing."""
    windows = _read_at(subject, subject.days)
    found = joined_vectors(*(vector_content(lake, subject.surface, own) for lake, own in windows))
    stated, there = (
        {
            f"vectors of {one.table} by {one.teacher} {one.teacher_version} ({one.contract_hash})": digest(
                one.model_dump(mode="json")
            )
            for one in own
        }
        for own in (subject.manifest.vectors, found)
    )
    return {key: (stated.get(key), there.get(key)) for key in [*stated, *(there.keys() - stated.keys())]}


def _read_at(subject: Subject, days: Sequence[date]) -> list[tuple[Lake, list[date]]]:
    """Return some days with the lake as it was when they were read."""
    of_evaluation = set(subject.manifest.eval_days)
    parts = [
        (subject.past, [day for day in days if day not in of_evaluation]),
        (subject.evaluated, [day for day in days if day in of_evaluation]),
    ]
    return [(lake, own) for lake, own in parts if own]


def measure_predictions(lake: Lake, surface: Surface, manifest: Manifest, again: "Scores") -> list[PredictionRow]:
    """Compare the stored predictions of every model, row by row, with what the models themselves say.

    Args:
        lake: The lake as it is now.
        surface: The surface.
        manifest: The candidate's.
        again: Every evaluation row scored again.

    Returns:
        Rows of ``model``, ``difference`` (the largest absolute one; infinite where one of the two has no score) and
        ``n``.
    """
    from ml.evaluation.predictions import largest_differences, stored_scores

    apart = largest_differences(stored_scores(lake, surface.name, manifest.partition), again.without(SERVED))
    return [{"model": model, "difference": most, "n": len(again.exposure_ids)} for model, most in apart.items()]


def compare_figures(subject: Subject, *, same: bool = False) -> dict[str, str]:
    """Compute every stored figure again from the stored predictions and the rows of the snapshot that it read.

    Args:
        subject: The candidate.
        same: Whether the stored predictions are, to the last bit, what the models say: the figures of that are there.

    Returns:
        A row like those of ``measure``; ``found`` names the first figure that differs.

    Raises:
        PredictionError: There are no predictions of every evaluation row.
    """
    from ml.evaluation.evaluate import compute_evaluation
    from ml.evaluation.predictions import stored_scores

    evaluation, again = subject.stated, subject.again.evaluation if same else None
    if again is None or (again.seed, again.replicates) != (evaluation.seed, evaluation.replicates):
        again = compute_evaluation(
            subject.evaluated,
            subject.surface,
            evaluation.partition,
            teacher_outputs=subject.kinds,
            seed=evaluation.seed,
            replicates=evaluation.replicates,
            scores=stored_scores(subject.present, subject.surface.name, evaluation.partition),
            days=subject.manifest.eval_days,
        )
    stated, found = _figures(evaluation), _figures(again)
    differing = [name for name in {**stated, **found} if stated.get(name) != found.get(name)]
    others = [m for m in {**evaluation.models, **again.models} if evaluation.models.get(m) != again.models.get(m)]
    told = [f"{len(differing)} differ; {n} is {found.get(n)}, not {stated.get(n)}" for n in differing[:1]]
    told += [f"the predictions of {name} are another model's" for name in others]
    as_stated = f"{len(stated)} as predicted"
    return {"item": "figures", "stated": as_stated, "found": "; ".join(told) or as_stated}


def measure_leaks(
    lake: Lake, surface: Surface, days: Sequence[date], evaluation: "Evaluation", kind: str
) -> list[LeakRow]:
    """Return the AUC (of 0.5 or more) of each single number against each binary task, and the candidate's own.

    Args:
        lake: The lake, or a snapshot of it.
        surface: The surface.
        days: Evaluation days.
        evaluation: The evaluation.
        kind: Which model is the candidate.

    Returns:
        Rows of ``task``, ``feature`` (or which scores of the candidate), ``auc`` and ``n``; a constant feature, or a
        task with one class, gives 0.5.
    """
    import numpy as np

    from ml.evaluation import metrics

    tasks = {task: spec.label for task, spec in surface.tasks.items() if spec.kind == "binary"}
    numbers = {name: spec.default for name, spec in surface.inputs.items() if spec.type == "number"}
    columns = dict.fromkeys([*tasks.values(), *numbers])
    selected = ", ".join('"' + c.replace('"', '""') + '"::double as "' + c.replace('"', '""') + '"' for c in columns)
    query = f"select {selected} from {ALIAS}.{FEATURES}.examples_{surface.name} where day in (select unnest(?::date[]))"
    table = lake.sql(query, [list(days)])
    found: list[LeakRow] = []
    for task, label in tasks.items():
        labels = table[label].to_numpy().astype(float)
        known = np.isfinite(labels)
        for name, default in numbers.items():
            values = np.nan_to_num(table[name].fill_null(default).to_numpy().astype(float)[known], nan=default)
            area = metrics.auc(labels[known], values)
            strength = max(area, 1 - area) if np.isfinite(area) else 0.5
            found.append({"task": task, "feature": name, "auc": strength, "n": int(known.sum())})
        for inputs in ("serving", "logged"):
            own = evaluation.result(kind, task, metric="auc", inputs=inputs)
            found.append({"task": task, "feature": f"candidate, {inputs} inputs", "auc": own.value, "n": own.n})
    return found


def suite(rows: Sequence[dict[str, str]]) -> "ExpectationSuite":
    """Return the suite over ``measure``: one check per item, so that each can be read by itself."""
    from checks.expectations.measured import ExpectStated

    return gx.suite(
        "origins",
        [ExpectStated(where={"item": row["item"]}, **gx.named(row["item"], row["stated"])) for row in rows],
    )


def predictions_suite(gate: OnnxGate, rows: Sequence[PredictionRow]) -> "ExpectationSuite":
    """Return the suite over ``measure_predictions``."""
    cases = {f"predictions_of_{row['model']}": {"model": row["model"]} for row in rows}
    return gx.bounded("predictions", "difference", cases, high=gate.tolerance, count="n")


def leaks_suite(gate: ProvenanceGate, tasks: Sequence[str]) -> "ExpectationSuite":
    """Return the suite over ``measure_leaks``: the strongest single number, or the candidate, of each task."""
    cases = {f"{task}_strongest_auc": {"task": task} for task in tasks}
    return gx.bounded("leaks", "auc", cases, high=gate.max_plausible_auc, label="feature")


def teacher_suite(name: str) -> "ExpectationSuite":
    """Return the suite over one row: ``days_between`` a teacher's last day and the first evaluation day."""
    from checks.expectations.measured import ExpectMeasureBetween

    named = gx.named(name, gx.between(1))
    return gx.suite("teacher", [ExpectMeasureBetween(column="days_between", min_value=1, **named)])


def _rival(subject: Subject) -> dict[str, str]:
    """Return a row like those of ``measure``: whether the ranker that was not chosen is the one that was evaluated."""
    rival = subject.rival
    stated, found = subject.stated.models.get(rival), subject.again.scores.hashes[rival]
    return {"item": f"evaluated {rival}", "stated": str(stated), "found": str(found)}


def _figures(evaluation: "Evaluation") -> dict[str, tuple[float | None, ...]]:
    def name(r: "Result") -> str:
        than = f" - {r.reference}" if r.reference else ""
        return f"{r.task} {r.metric} of {r.model}{than} on {r.slice} ({r.inputs} inputs)"

    def known(value: float) -> float | None:
        return round(value, 9) if math.isfinite(value) else None

    return {name(r): (known(r.value), known(r.lo), known(r.hi), r.n, r.positives) for r in evaluation.results}


def _contents(what: str, stated: Sequence[DayContent], found: Sequence[DayContent]) -> dict[str, tuple[object, object]]:
    seen = {d.day: d for d in found}
    rows = sum(d.rows for d in stated), sum(d.rows for d in found)
    differing = [d.day for d in stated if seen.get(d.day) != d]
    if not differing:
        return {f"rows of {what}": rows, f"content of {what}": ("as stated", "as stated")}
    return {
        f"rows of {what}": rows,
        **{f"content of {what} {day}": (_text(d), _text(seen.get(day))) for d in stated if (day := d.day) in differing},
    }


def _text(content: DayContent | None) -> str:
    return "none" if content is None else f"{content.rows} rows, {content.content_hash}"


def _span(days: Sequence[date]) -> str:
    return ", ".join(str(day) for day in sorted(days))


GUARD = Guard(
    number=10,
    name="provenance",
    means="Manifest, predictions and figures are what lake and models say again; nothing knows the answer beforehand.",
    to_do="the reason names what is not as stated. After a change of surface, teacher, champion or rows, run the "
    "release job again; an AUC that is too good is a leak, and no release.",
    judge=judge,
)
