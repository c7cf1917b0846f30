"""Guard: the exported file is sound, whole, small enough, and computes what the checkpoint computes."""

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from checks import gx
from checks.guard import Found, Guard, Subject
from ml.evaluation.outcome import Outcome
from ml.evaluation.rows import newest_rows
from ml.export.files import CONFIG, MODEL
from ml.foundation.artifacts import Artifact, ArtifactStore
from ml.foundation.lake import Lake
from ml.surfaces.spec import OnnxGate, Surface

if TYPE_CHECKING:
    import pyarrow as pa
    from great_expectations import ExpectationSuite


class PropertyRow(TypedDict):
    """What is wrong with one property of the file."""

    property: str
    problems: int
    detail: str


class ParityRow(TypedDict):
    """How far torch and onnxruntime differ in one case."""

    case: str
    difference: float
    n: int


def judge(subject: Subject) -> Found:
    """Judge graph and size; then, where those are right, compare with the checkpoint and the stored predictions."""
    surface, manifest = subject.surface, subject.manifest
    gate, model = surface.gate.onnx, subject.candidate.path / MODEL
    graph = measure(surface, model)
    checks = gx.validate(graph, suite(graph))
    checks += gx.validate([{"megabytes": model.stat().st_size / 1e6}], size_suite(gate))
    if gx.worst(checks) is Outcome.FAIL:
        return checks, "not compared with its checkpoint"
    rows = newest_rows(subject.past, surface, manifest.eval_days, limit=gate.max_batch)
    parity = measure_parity(surface, model, exported_checkpoint(subject), rows, max_batch=gate.max_batch)
    parity.append(measure_predictions(subject.present, surface, rows, model, manifest.partition, manifest.kind))
    return checks + gx.validate(parity, parity_suite(gate, parity)), ""


def exported_checkpoint(subject: Subject) -> Artifact:
    """Return the checkpoint that the manifest names.

    Raises:
        ValueError: The subject's own checkpoint is another one.
    """
    from ml.stages.artifacts import artifact_name

    wanted = subject.manifest.checkpoint_sha256
    if (found := subject.checkpoint) is None:
        name = artifact_name(subject.surface, subject.manifest.kind)
        found = ArtifactStore(subject.settings.artifacts_dir).get(name, subject.candidate.partition, wanted)
    if found.digest != wanted:
        raise ValueError(f"checkpoint {found.digest} is not the manifest's {wanted}")
    return found


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


def measure_parity(
    surface: Surface, model: Path, checkpoint: Artifact, examples: "pa.Table", *, max_batch: int
) -> list[ParityRow]:
    """Compare torch and onnxruntime at batch 1, 2, an odd size and the largest, on edge rows, and on real rows.

    Args:
        surface: The surface.
        model: The exported file.
        checkpoint: Artifact with the checkpoint that was exported.
        examples: Real rows; inputs are taken as when serving.
        max_batch: Largest batch that is served.

    Returns:
        Rows of ``case``, ``difference`` (the largest absolute one over outputs; infinite where not finite) and ``n``.
    """
    from ml.export.onnx import parity
    from ml.stages.training import load_ranker
    from ml.students.columns import to_arrays

    ranker, _ = load_ranker(checkpoint)
    odd = max(3, max_batch // 3 | 1)
    cases = parity(ranker, model, (1, 2, odd, max_batch))
    rows = to_arrays(examples, surface.inputs, "serving")
    size = len(next(iter(rows.values())))
    cases["evaluation rows"] = parity(ranker, model, (size,), rows)[f"batch {size}"]
    sizes = {"edge": 64, "evaluation rows": size}
    return [
        {"case": case, "difference": max(found.values()), "n": sizes.get(case) or int(case.split()[-1])}
        for case, found in cases.items()
    ]


def measure_predictions(
    lake: Lake, surface: Surface, rows: "pa.Table", model: Path, partition: date, kind: str
) -> ParityRow:
    """Score rows with the exported model and compare with the predictions that were evaluated.

    Args:
        lake: The lake as it is now.
        surface: The surface.
        rows: Examples of the evaluation days.
        model: The exported file.
        partition: Partition of the candidate.
        kind: Which ranker the candidate is, ``student`` or ``control``.

    Returns:
        A row like those of ``measure_parity``; infinite where a prediction is missing.
    """
    from ml.evaluation.predictions import largest_difference
    from ml.stages.evaluation import scoring
    from ml.students.columns import to_arrays

    scores = scoring(model)(to_arrays(rows, surface.inputs, "serving"))
    difference = largest_difference(lake, surface.name, partition, kind, rows, scores)
    return {"case": "stored predictions", "difference": difference, "n": rows.num_rows}


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
    from checks.expectations.measured import ExpectMeasureBetween

    return gx.suite(
        "parity",
        [
            ExpectMeasureBetween(
                column="difference",
                min_value=0,
                max_value=gate.tolerance,
                where={"case": row["case"]},
                count="n",
                **gx.named(f"difference_{row['case'].replace(' ', '_')}", gx.between(high=gate.tolerance)),
            )
            for row in rows
        ],
    )


def size_suite(gate: OnnxGate) -> "ExpectationSuite":
    """Return the suite over one row: ``megabytes``."""
    from checks.expectations.measured import ExpectMeasureBetween

    bounds = {"min_value": 0, "max_value": gate.max_megabytes}
    named = gx.named("megabytes", gx.between(high=gate.max_megabytes))
    return gx.suite("size", [ExpectMeasureBetween(column="megabytes", **bounds, **named)])


def _differences(wanted: Mapping[str, object], found: Mapping[str, object]) -> list[str]:
    names = [*wanted, *(name for name in found if name not in wanted)]
    return [f"{n} is {found.get(n)}, not {wanted.get(n)}" for n in names if wanted.get(n) != found.get(n)]


GUARD = Guard(
    number=7,
    name="onnx",
    means="The exported file is sound and computes what the checkpoint computes.",
    to_do="the export is at fault, not the data: the reason names output or operator. Materialize `onnx` again; if "
    "that fails, the versions of torch, onnx and onnxruntime changed.",
    judge=judge,
)
