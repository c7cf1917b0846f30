"""Guard `onnx`: the exported file is sound, and computes what its checkpoint computes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx as onnx_library
import pytest
from onnx import numpy_helper

from checks import gx
from checks.guards import onnx
from ml.evaluation.outcome import Outcome
from ml.evaluation.rows import newest_rows
from ml.foundation.artifacts import ArtifactStore
from ml.foundation.lake import Lake
from tests.checks.graphs import edited
from tests.checks.spoilt import Bench

Graph = onnx_library.GraphProto


def test_the_exported_candidate_passes(bench: Bench) -> None:
    result = bench.ask(onnx.GUARD)
    assert (result.outcome, result.reason) == (Outcome.PASS, "")
    assert {"checker_accepts", "megabytes", "difference_edge", "difference_stored_predictions"} <= {
        check.name for check in result.checks
    }


def test_a_file_that_is_no_onnx_blocks(bench: Bench) -> None:
    result = bench.variant({"model.onnx": b"no model"}).ask(onnx.GUARD)
    assert (result.outcome, result.checks) == (Outcome.FAIL, ())
    assert "could not be evaluated" in result.reason
    assert result.to_do == onnx.GUARD.to_do


def test_a_graph_that_fails_is_not_compared_with_its_checkpoint(bench: Bench) -> None:
    result = bench.variant({"model.onnx": edited(bench.candidate, _keep_head)}).ask(onnx.GUARD)
    assert result.outcome is Outcome.FAIL
    assert result.reason.endswith("not compared with its checkpoint")


def _fix_batch(graph: Graph) -> None:
    graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4


def _keep_head(graph: Graph) -> None:
    graph.initializer[0].name = "distillation.heads.click.weight"


def _rename_input(graph: Graph) -> None:
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == graph.input[0].name:
                node.input[i] = "other"
    graph.input[0].name = "other"


def _drop_output(graph: Graph) -> None:
    del graph.output[-1]


@pytest.mark.parametrize(
    ("edit", "check"),
    [
        (_fix_batch, "batch_is_symbolic"),
        (_keep_head, "no_distillation_head"),
        (_rename_input, "inputs_as_declared"),
        (_drop_output, "outputs_as_declared"),
    ],
)
def test_a_graph_that_is_not_what_it_must_be_fails(
    bench: Bench, tmp_path: Path, edit: Callable[[Graph], None], check: str
) -> None:
    path = tmp_path / "edited.onnx"
    path.write_bytes(edited(bench.candidate, edit))
    rows = onnx.measure(bench.surface, path)
    failed = {c.name for c in gx.validate(rows, onnx.suite(rows)) if c.outcome is Outcome.FAIL}
    assert check in failed


def _shift(graph: Graph) -> None:
    for tensor in graph.initializer:
        if tensor.name.endswith("bias"):
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array((values + 0.1).astype(np.float32), tensor.name))


def test_a_graph_that_computes_something_else_than_the_checkpoint_fails(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "edited.onnx"
    path.write_bytes(edited(bench.candidate, _shift))
    with bench.subject() as subject:
        checkpoint = onnx.exported_checkpoint(subject)
    with Lake(bench.settings) as lake:
        real = newest_rows(lake, bench.surface, bench.manifest.eval_days, limit=64)
    rows = onnx.measure_parity(bench.surface, path, checkpoint, real, max_batch=64)
    assert [row["n"] for row in rows] == [1, 2, 21, 64, 64, 64]
    checks = gx.validate(rows, onnx.parity_suite(bench.surface.gate.onnx, rows))
    assert all(check.outcome is Outcome.FAIL for check in checks)


def test_another_checkpoint_than_the_manifests_blocks(bench: Bench) -> None:
    other = ArtifactStore(bench.store.files.root).put("x", "p", {"model.safetensors": b"1"})
    assert "is not the manifest's" in bench.but(checkpoint=other).ask(onnx.GUARD).reason


def test_predictions_that_another_model_made_fail(bench: Bench) -> None:
    kind = "control" if bench.manifest.kind == "student" else "student"
    with bench.subject() as subject:
        rows = newest_rows(subject.past, bench.surface, bench.manifest.eval_days, limit=64)
        found = [
            onnx.measure_predictions(
                subject.present,
                bench.surface,
                rows,
                bench.candidate.path / "model.onnx",
                bench.manifest.partition,
                name,
            )["difference"]
            for name in (bench.manifest.kind, kind, "champion")
        ]
    tolerance = bench.surface.gate.onnx.tolerance
    assert found[0] <= tolerance < found[1] and found[2] == np.inf, "nobody scored them for a champion"


def test_a_file_that_is_too_large_fails(bench: Bench) -> None:
    gate = bench.surface.gate.onnx
    sizes = (1.0, gate.max_megabytes + 0.1)
    outcomes = [gx.validate([{"megabytes": m}], onnx.size_suite(gate))[0].outcome for m in sizes]
    assert outcomes == [Outcome.PASS, Outcome.FAIL]
