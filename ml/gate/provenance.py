"""What the manifest says, beside what the lake, the stores and the specification say now."""

from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np

from ml.evaluation import metrics
from ml.evaluation.evaluate import Evaluation, Result, compute_evaluation
from ml.lake import ALIAS, FEATURES, Lake
from ml.settings import Settings
from ml.store.manifest import DayContent, Manifest, examples_content, soft_label_content
from ml.store.release import Release
from ml.surfaces.spec import Surface
from ml.teacher.contract import Contract


def compare_origins(
    lake: Lake,
    settings: Settings,
    surface: Surface,
    manifest: Manifest,
    contract: Contract,
    evaluation: Evaluation,
    champion: Release | None,
    reference: Release | None = None,
) -> list[dict[str, str]]:
    """Re-derive what the manifest states.

    Args:
        lake: The lake at the manifest's snapshot.
        settings: The home; gives the first day.
        surface: The surface as it is specified now.
        manifest: What is to be checked.
        contract: The pinned teacher.
        evaluation: The evaluation that the verdict judges.
        champion: What serves now.
        reference: The reference release, where it is another one.

    Returns:
        Rows of ``item``, ``stated`` and ``found``, as text.
    """
    partition = manifest.partition
    train_days = [day for day in surface.training_days(partition) if day >= settings.first_day]
    eval_days = [day for day in surface.evaluation_days(partition) if day >= settings.first_day]
    every_day = [*train_days, *eval_days]
    teacher = manifest.teacher
    stated: dict[str, tuple[object, object]] = {
        "training days": (_span(manifest.train_days), _span(train_days)),
        "evaluation days": (_span(manifest.eval_days), _span(eval_days)),
        "evaluated days": (_span(evaluation.days), _span(eval_days)),
        "evaluated partition": (evaluation.partition, partition),
        "evaluated rows": (evaluation.rows, sum(d.rows for d in manifest.examples if d.day in manifest.eval_days)),
        "evaluated model": (evaluation.models.get(manifest.kind), manifest.checkpoint_sha256),
        "evaluated champion": (evaluation.models.get("champion"), champion.manifest.onnx_sha256 if champion else None),
        "evaluated reference": (
            evaluation.models.get("reference"),
            reference.manifest.onnx_sha256 if reference else None,
        ),
        "surface specification": (manifest.spec_digest, surface.digest),
        "gate thresholds": (manifest.gate_digest, surface.gate.digest),
        "teacher": (teacher and f"{teacher.name} {teacher.version}", f"{contract.name} {contract.version}"),
        "teacher contract": (teacher and teacher.contract_hash, contract.contract_hash),
        "teacher trained through": (teacher and teacher.trained_through, contract.trained_through),
        "days of examples": (_span([d.day for d in manifest.examples]), _span(every_day)),
        "days of soft labels": (_span([d.day for d in manifest.soft_labels]), _span(every_day)),
    }
    found_examples = examples_content(lake, surface.name, [d.day for d in manifest.examples])
    stated |= _contents("examples", manifest.examples, found_examples)
    if teacher is not None:
        days = [d.day for d in manifest.soft_labels]
        found_labels = soft_label_content(lake, surface.name, days, teacher.version, teacher.contract_hash)
        stated |= _contents("soft labels", manifest.soft_labels, found_labels)
    return [{"item": item, "stated": str(s), "found": str(f)} for item, (s, f) in stated.items()]


def compare_figures(
    lake: Lake, surface: Surface, manifest: Manifest, contract: Contract, evaluation: Evaluation
) -> dict[str, str]:
    """Compute every figure again from the stored predictions and the rows of the manifest's snapshot.

    Args:
        lake: The lake as it is now.
        surface: The surface.
        manifest: Names the snapshot.
        contract: The pinned teacher.
        evaluation: The evaluation that the verdict judges.

    Returns:
        A row like those of ``compare_origins``; ``found`` names the first figure that differs.

    Raises:
        PredictionError: There are no predictions of every evaluation row.
    """
    again = compute_evaluation(
        lake,
        surface,
        evaluation.partition,
        teacher_outputs={output.task: output.kind for output in contract.outputs},
        seed=evaluation.seed,
        replicates=evaluation.replicates,
        snapshot=manifest.snapshot,
    )
    stated, found = _figures(evaluation), _figures(again)
    differing = [name for name in {**stated, **found} if stated.get(name) != found.get(name)]
    others = [m for m in {**evaluation.models, **again.models} if evaluation.models.get(m) != again.models.get(m)]
    told = [f"{len(differing)} differ; {n} is {found.get(n)}, not {stated.get(n)}" for n in differing[:1]]
    told += [f"the predictions of {name} are another model's" for name in others]
    as_stated = f"{len(stated)} as predicted"
    return {"item": "figures", "stated": as_stated, "found": "; ".join(told) or as_stated}


def measure_leaks(
    lake: Lake, surface: Surface, days: Sequence[date], evaluation: Evaluation, kind: str
) -> list[dict[str, Any]]:
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
    tasks = {task: spec.label for task, spec in surface.tasks.items() if spec.kind == "binary"}
    numbers = {name: spec.default for name, spec in surface.inputs.items() if spec.type == "number"}
    columns = dict.fromkeys([*tasks.values(), *numbers])
    selected = ", ".join('"' + c.replace('"', '""') + '"::double as "' + c.replace('"', '""') + '"' for c in columns)
    query = f"select {selected} from {ALIAS}.{FEATURES}.examples_{surface.name} where day in (select unnest(?::date[]))"
    table = lake.sql(query, [list(days)])
    found: list[dict[str, Any]] = []
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


def _figures(evaluation: Evaluation) -> dict[str, tuple[float | None, ...]]:
    def name(r: Result) -> str:
        than = f" - {r.reference}" if r.reference else ""
        return f"{r.task} {r.metric} of {r.model}{than} on {r.slice} ({r.inputs} inputs)"

    def known(value: float) -> float | None:
        return round(value, 9) if np.isfinite(value) else None

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
