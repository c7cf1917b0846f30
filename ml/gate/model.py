"""Measurements of an exported model against its surface and its checkpoint."""

import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ml.lake import ALIAS, Lake
from ml.store.artifacts import Artifact
from ml.store.release import CONFIG
from ml.surfaces.spec import Surface


def measure_onnx(surface: Surface, model: Path) -> list[dict[str, Any]]:
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
    problems: dict[str, list[Any]] = {
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
    surface: Surface, model: Path, checkpoint: Artifact, examples: pa.Table, *, max_batch: int
) -> list[dict[str, Any]]:
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
    lake: Lake, surface: Surface, rows: pa.Table, model: Path, partition: date, kind: str
) -> dict[str, Any]:
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
    from ml.evaluation.predictions import predictions_table
    from ml.stages.evaluation import scoring
    from ml.students.columns import to_arrays

    ids = rows["exposure_id"]
    query = f"""
        select s.task, s.exposure_id, s.score from {ALIAS}.{predictions_table(surface.name)} as s
        where s.partition = ? and s.model = ? and s.inputs = 'serving' and list_contains(?::bigint[], s.exposure_id)"""
    stored = lake.sql(query, [partition, kind, ids.to_pylist()])
    tasks = stored["task"].to_numpy(zero_copy_only=False)
    wanted = ids.to_numpy()
    scores = scoring(model)(to_arrays(rows, surface.inputs, "serving"))
    difference = 0.0
    for task in scores:
        own = stored.filter(pa.array(tasks == task))
        predicted = dict(zip(own["exposure_id"].to_pylist(), own["score"].to_pylist(), strict=True))
        found = np.array([predicted.get(i, np.inf) for i in wanted.tolist()])
        difference = max(difference, float(np.abs(found - scores[task]).max()))
    return {"case": "stored predictions", "difference": difference, "n": len(wanted)}


def model_bytes(model: Path) -> int:
    """Return the size of the exported file."""
    return model.stat().st_size


def measure_restorable(release: Any) -> dict[str, Any]:
    """Load a release's model and answer one row of zeros; return its inputs' count and whether outputs are finite."""
    from ml.export.onnx import session_of

    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "model.onnx"
        copy.write_bytes(release.model.read_bytes())
        session = session_of(copy)
    shapes = {i.name: [1, *[d for d in i.shape[1:]]] for i in session.get_inputs()}
    kinds = {i.name: np.int64 if "int64" in i.type else np.float32 for i in session.get_inputs()}
    answers = session.run(None, {name: np.zeros(shape, kinds[name]) for name, shape in shapes.items()})
    return {"outputs": len(answers), "finite": all(bool(np.isfinite(np.asarray(a)).all()) for a in answers)}


def _differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    names = [*wanted, *(name for name in found if name not in wanted)]
    return [f"{n} is {found.get(n)}, not {wanted.get(n)}" for n in names if wanted.get(n) != found.get(n)]
