"""Guard: the exported file is sound, whole, small enough, and computes what the checkpoint computes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from checks import gx
from checks.guard import SERVED, Found, Guard, Subject
from ml.evaluation.outcome import Outcome
from ml.export.files import CONFIG, MODEL
from ml.foundation.artifacts import Artifact
from ml.surfaces.gate import OnnxGate
from ml.surfaces.spec import Surface

RANDOM_ROWS = 10_000
"""Rows of known and unknown ids, and of numbers within and beyond their bounds, that must give finite numbers."""

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite

    from ml.evaluation.predictions import Scores


class PropertyRow(TypedDict):
    """What is wrong with one property of the file."""

    property: str
    problems: int
    detail: str


class ParityRow(TypedDict):
    """How far torch and onnxruntime differ in one case."""

    case: str
    difference: float


def judge(subject: Subject) -> Found:
    """Judge graph and size; then, where those are right, compare what it computes with what its checkpoint does."""
    surface = subject.surface
    gate, model = surface.gate.onnx, subject.candidate.path / MODEL
    graph = [*measure(surface, model), *measure_export(subject)]
    checks = gx.validate(graph, suite(graph))
    checks += gx.validate([{"megabytes": model.stat().st_size / 1e6}], size_suite(gate))
    if gx.worst(checks) is Outcome.FAIL:
        return checks, "not run beside its checkpoint"
    parity = measure_parity(surface, model, subject.exported, max_batch=gate.max_batch)
    parity.append(measure_rows(subject.again.scores, subject.manifest.kind))
    return checks + gx.validate(parity, parity_suite(gate, parity)), ""


def measure_export(subject: Subject) -> list[PropertyRow]:
    """Return what is wrong with the file as an export of the checkpoint that the manifest names.

    Returns:
        Rows of ``property``, ``problems`` (their number) and ``detail``.

    Raises:
        ValueError: The checkpoint is another one than the manifest's.
    """
    from ml.stages.training import load_ranker

    ranker, _ = load_ranker(subject.exported)
    told = subject.manifest.libraries
    unlike = [] if subject.is_export else [f"{MODEL} is another file than its checkpoint exports to, made with {told}"]
    odd = [name for name, tensor in ranker.state_dict().items() if not bool(tensor.isfinite().all())]
    of = ranker.surface.ranker_digest
    others = [] if of == subject.surface.ranker_digest else [f"trained for specification {of}"]
    found = {"exported_again": unlike, "weights_are_finite": odd, "checkpoint_is_of_this_surface": others}
    return [{"property": k, "problems": len(v), "detail": "; ".join(v)[:500]} for k, v in found.items()]


def measure(surface: Surface, model: Path) -> list[PropertyRow]:
    """Return what is wrong with the graph and the server's configuration beside it.

    Returns:
        Rows of ``property``, ``problems`` (their number) and ``detail``.

    Raises:
        ValueError: The file cannot be read as ONNX.
    """
    from ml.export.onnx import BATCH, inspect
    from ml.export.triton import config_pbtxt

    seen = inspect(model)
    config = model.with_name(CONFIG)
    stated = config.read_text(encoding="utf-8") if config.is_file() else ""
    inputs = {name: [spec.dtype, [BATCH, *spec.shape]] for name, spec in surface.inputs.items()}
    outputs = {name: ["float32", [BATCH]] for name in (*surface.tasks, "score")}
    problems: dict[str, Sequence[object]] = {
        "checker_accepts": [seen["checker"]] if seen["checker"] else [],
        "batch_is_symbolic": [] if seen["symbolic_batch"] else ["a first dimension is fixed"],
        "no_distillation_head": seen["distillation"],
        "no_custom_operator": seen["custom_domains"],
        "no_external_data": ["weights outside of the file"] if seen["external_data"] else [],
        "inputs_as_declared": _differences(inputs, seen["inputs"]),
        "outputs_as_declared": _differences(outputs, seen["outputs"]),
        "config_as_generated": []
        if stated == config_pbtxt(surface.name, model, surface.gate.onnx.max_batch)
        else [f"{CONFIG} is not what the graph gives"],
    }
    return [{"property": k, "problems": len(v), "detail": "; ".join(map(str, v))[:500]} for k, v in problems.items()]


def measure_parity(surface: Surface, model: Path, checkpoint: Artifact, *, max_batch: int) -> list[ParityRow]:
    """Compare torch and onnxruntime on random rows, one to ten thousand, on edge rows, and on every known id.

    Args:
        surface: The surface.
        model: The exported file.
        checkpoint: Artifact with the checkpoint that was exported.
        max_batch: Largest batch that is served.

    Returns:
        Rows of ``case`` and ``difference`` (the largest absolute one over outputs; infinite where not finite).
    """
    from ml.export.onnx import parity
    from ml.stages.training import load_ranker

    ranker, _ = load_ranker(checkpoint)
    odd = max(3, max_batch // 3 | 1)
    cases = parity(ranker, model, (1, 2, odd, max_batch, RANDOM_ROWS))
    return [{"case": case, "difference": max(found.values())} for case, found in cases.items()]


def measure_rows(scores: "Scores", kind: str) -> ParityRow:
    """Compare the exported file with its checkpoint on every evaluation row, inputs as when serving and as logged."""
    import numpy as np

    apart = [
        np.abs(values - scores.values[inputs, SERVED, task]).max(initial=0.0)
        for (inputs, model, task), values in scores.values.items()
        if model == kind
    ]
    return {"case": "evaluation rows", "difference": float(max(apart))}


def suite(rows: Sequence[PropertyRow]) -> "ExpectationSuite":
    """Return the suite over ``measure``."""
    from checks.expectations.measured import ExpectMeasureBetween

    return gx.suite(
        "onnx",
        [
            ExpectMeasureBetween(
                column="problems",
                min_value=0,
                max_value=0,
                where={"property": row["property"]},
                label="detail" if row["detail"] else None,
                **gx.named(row["property"], "0 problems"),
            )
            for row in rows
        ],
    )


def parity_suite(gate: OnnxGate, rows: Sequence[ParityRow]) -> "ExpectationSuite":
    """Return the suite over ``measure_parity``."""
    cases = {f"difference_{row['case'].replace(' ', '_')}": {"case": row["case"]} for row in rows}
    return gx.bounded("parity", "difference", cases, high=gate.tolerance)


def size_suite(gate: OnnxGate) -> "ExpectationSuite":
    """Return the suite over one row: ``megabytes``."""
    return gx.bounded("size", "megabytes", {"megabytes": {}}, high=gate.max_megabytes)


def _differences(wanted: Mapping[str, object], found: Mapping[str, object]) -> list[str]:
    names = [*wanted, *(name for name in found if name not in wanted)]
    return [f"{n} is {found.get(n)}, not {wanted.get(n)}" for n in names if wanted.get(n) != found.get(n)]


GUARD = Guard(
    number=7,
    name="onnx",
    means="The exported file is sound, is what the checkpoint exports to, and computes what it computes.",
    to_do="the export is at fault, not the data: the reason names output or operator. Materialize `onnx` again, which "
    "exports the checkpoint with the versions of torch and onnx that judge it.",
    judge=judge,
)
