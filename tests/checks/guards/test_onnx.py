"""Guard `onnx`: the exported file is sound, and computes what its checkpoint computes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import GraphProto as Graph
from onnx import NodeProto, TensorProto, helper, numpy_helper
from safetensors.numpy import load, save

from checks import gx
from checks.guards import onnx
from ml.evaluation.outcome import Outcome
from ml.foundation.artifacts import ArtifactStore
from ml.foundation.files import Files, sha256_bytes
from ml.stages.candidate import exported_file
from tests.checks.graphs import edited
from tests.checks.spoilt import Bench, blocked
from tests.support.known import the


def test_the_exported_candidate_passes(bench: Bench) -> None:
    result = bench.ask(onnx.GUARD)
    assert (result.outcome, result.reason) == (Outcome.PASS, "")
    assert {
        "checker_accepts",
        "exported_again",
        "weights_are_finite",
        "megabytes",
        "difference_batch_10000",
        "difference_edge",
        "difference_bounds",
        "difference_known_ids",
        "difference_evaluation_rows",
    } <= {check.name for check in result.checks}


def test_a_file_that_is_no_onnx_blocks(bench: Bench) -> None:
    result = bench.variant({"model.onnx": b"no model"}).ask(onnx.GUARD)
    assert (result.outcome, result.checks) == (Outcome.FAIL, ())
    assert "could not be evaluated" in result.reason
    assert result.to_do == onnx.GUARD.to_do


def test_a_graph_that_fails_is_not_run_beside_its_checkpoint(bench: Bench) -> None:
    result = bench.variant({"model.onnx": edited(bench.candidate, _keep_head)}).ask(onnx.GUARD)
    assert result.outcome is Outcome.FAIL
    assert result.reason.endswith("not run beside its checkpoint")


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
        rows = onnx.measure_parity(bench.surface, path, subject.exported, max_batch=64)
    checks = gx.validate(rows, onnx.parity_suite(bench.surface.gate.onnx, rows))
    assert len(checks) == 8 and all(check.outcome is Outcome.FAIL for check in checks)


def _effect(nodes: list[NodeProto], constants: dict[str, object], graph: Graph) -> None:
    """Add what ``nodes`` give as ``effect`` to the ranking score."""
    for node in graph.node:
        node.output[:] = ["score_alone" if name == "score" else name for name in node.output]
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())
    graph.node.extend([*nodes, helper.make_node("Add", ["score_alone", "effect"], ["score"])])


def _of_one_id(value: float) -> Callable[[Graph], None]:
    hit = helper.make_node("Equal", ["item_id", "the_item"], ["hit"])
    chosen = helper.make_node("Where", ["hit", "more", "none"], ["effect"])
    constants = {"the_item": np.int64(10**9), "more": np.float32(value), "none": np.float32(0)}
    return partial(_effect, [hit, chosen], constants)


def _endless() -> Callable[[Graph], None]:
    """The score is there when zero was added to zero very often."""
    bool_, float_, int_ = (
        partial(helper.make_tensor_value_info, elem_type=kind, shape=[])
        for kind in (TensorProto.BOOL, TensorProto.FLOAT, TensorProto.INT64)
    )
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in ("goes_on", "sum")]
    step = helper.make_graph(
        nodes, "step", [int_("i"), bool_("goes_on"), float_("sum")], [bool_("goes_on_out"), float_("sum_out")]
    )
    loop = helper.make_node("Loop", ["times", "yes", "zero"], ["effect"], body=step)
    return partial(_effect, [loop], {"times": np.int64(10**12), "yes": np.bool_(True), "zero": np.float32(0)})


@pytest.mark.parametrize("edit", [_of_one_id(3.0), _of_one_id(float("nan")), _endless()], ids=["bias", "nan", "loop"])
def test_a_graph_that_was_altered_after_training_fails_and_is_never_run(
    bench: Bench, edit: Callable[[Graph], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = edited(bench.candidate, edit)
    altered = bench.variant({"model.onnx": model}, onnx_sha256=sha256_bytes(model))
    monkeypatch.setattr(onnxruntime, "InferenceSession", None)
    result = altered.ask(onnx.GUARD)
    assert blocked(result) == {"exported_again"}, result.reason


def test_a_checkpoint_with_a_weight_that_is_no_number_fails_though_no_row_has_its_id(bench: Bench, tmp_path) -> None:
    with bench.subject() as subject:
        files = {name: subject.exported.read(name) for name in subject.exported.files}
    tensors = {name: value.copy() for name, value in load(files["model.safetensors"]).items()}
    table = next(name for name in tensors if ".tables." in name)
    tensors[table][-1, 0] = np.nan
    lost = ArtifactStore(tmp_path).put("x", "p", files | {"model.safetensors": save(tensors)})
    model = exported_file(lost)
    story = {"checkpoint_sha256": lost.digest, "onnx_sha256": sha256_bytes(model)}
    result = bench.but(checkpoint=lost).variant({"model.onnx": model}, **story).ask(onnx.GUARD)
    assert blocked(result) == {"weights_are_finite"}, result.reason


def test_another_checkpoint_than_the_manifests_blocks(bench: Bench) -> None:
    other = ArtifactStore(the(Files, bench.store.files).root).put("x", "p", {"model.safetensors": b"1"})
    assert "is not the manifest's" in bench.but(checkpoint=other).ask(onnx.GUARD).reason


def test_a_file_that_is_too_large_fails(bench: Bench) -> None:
    gate = bench.surface.gate.onnx
    sizes = (1.0, gate.max_megabytes + 0.1)
    outcomes = [gx.validate([{"megabytes": m}], onnx.size_suite(gate))[0].outcome for m in sizes]
    assert outcomes == [Outcome.PASS, Outcome.FAIL]
