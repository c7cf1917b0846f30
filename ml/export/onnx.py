"""Export of a ranker to ONNX, and what the gate asks about the exported file."""

import copy
import hashlib
import logging
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from ml.foundation.ids import NO_ID
from ml.students.checkpoint import load_checkpoint, predict, write_atomically
from ml.students.network import SCORE, Ranker
from ml.surfaces.spec import Surface

OPSET = 20
BATCH = "batch"
"""Name of the symbolic dimension."""

_EXAMPLE_ROWS = 4
_BATCH = 8192
_DRAWN = 4
"""Random ids for each shared row: all but 2 % of the rows are met."""

_DISTILLATION = "distillation"


@dataclass(frozen=True)
class Export:
    """An exported model.

    Attributes:
        path: The ONNX file.
        digest: SHA-256 of its bytes.
        size: Bytes.
        inputs: Names, in order.
        outputs: Names, in order; the last is the ranking score.
    """

    path: Path
    digest: str
    size: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class _Positional(nn.Module):
    """The ranker with one positional argument per input, as the exporter names them."""

    def __init__(self, ranker: Ranker) -> None:
        super().__init__()
        self.ranker = ranker

    def forward(self, *columns: Tensor) -> tuple[Tensor, ...]:
        outputs = self.ranker(dict(zip(self.ranker.surface.inputs, columns, strict=True)))
        return tuple(outputs.values())


def export(checkpoint_dir: Path, out_path: Path) -> Export:
    """Export a checkpoint without its distillation heads.

    Inputs are the raw columns by name, int64 or float32, [batch] or [batch, length]; outputs each task's logit or value
    and the ranking score, float32 [batch]. Equal checkpoints give equal bytes on one platform: nothing about where or
    when it was exported stays in the file.

    Args:
        checkpoint_dir: Folder of the checkpoint.
        out_path: File to write; appears whole or not at all.

    Raises:
        CheckpointError: The folder holds no usable checkpoint.
    """
    ranker, _ = load_checkpoint(checkpoint_dir)
    return export_ranker(ranker, out_path)


def export_ranker(ranker: Ranker, out_path: Path) -> Export:
    """Export a ranker in memory; see ``export``."""
    ranker = copy.deepcopy(ranker).to("cpu").eval()
    ranker.distillation = None
    return export_module(_Positional(ranker), ranker.surface, out_path)


def export_module(module: nn.Module, surface: Surface, out_path: Path) -> Export:
    """Export a module that takes a surface's inputs by position and returns its tasks' outputs and the score."""
    inputs, outputs = tuple(surface.inputs), (*surface.tasks, SCORE)
    columns = edge_columns(surface, _EXAMPLE_ROWS)
    batch = torch.export.Dim(BATCH)
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)  # names torchvision
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own deprecated calls
        program = torch.onnx.export(
            module,
            tuple(torch.from_numpy(columns[name]) for name in inputs),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=(tuple({0: batch} for _ in inputs),),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    content = _bare(program.model_proto).SerializeToString(deterministic=True)
    out_path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out_path, content)
    return Export(out_path, hashlib.sha256(content).hexdigest(), len(content), inputs, outputs)


def parity(
    ranker: Ranker,
    onnx_path: Path,
    sizes: Sequence[int],
    arrays: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Compare torch and onnxruntime.

    Args:
        ranker: The ranker that was exported.
        onnx_path: The exported file.
        sizes: Batch sizes, for example 1, 2, an odd one and the largest.
        arrays: {input: rows to compare on}, repeated or cut to each size; without, seeded rows of known and unknown
            ids and of numbers within and beyond the fitted bounds.
        seed: Seed of those rows.

    Returns:
        {case: {output: largest absolute difference}}; infinite where either is not finite. The cases are ``batch
        <size>``; ``edge``, rows of unknown ids, 0, the int64 limits, and huge, infinite and NaN numbers; ``bounds``,
        rows of which one input alone is at its fitted bound or at such an extreme; ``known ids``, a row for every id of
        every vocabulary; where ids share rows, ``shared rows``: every id that is stored as sharing one, or random ids.
    """
    session = session_of(onnx_path)
    cases = {f"batch {size}": [_sample(ranker, size, arrays, seed)] for size in sizes}
    cases |= {"edge": [edge_columns(ranker.surface, 64)], "bounds": [_bounds(ranker, seed)]}
    found = {case: _differences(ranker, session, columns) for case, columns in cases.items()}
    found |= {"known ids": _differences(ranker, session, _known_ids(ranker, seed))}
    if any(spec.id_table and spec.id_table.hash_buckets for spec in ranker.surface.inputs.values()):
        found |= {"shared rows": _differences(ranker, session, _sharing_ids(ranker, seed))}
    return found


def session_of(onnx_path: Path) -> onnxruntime.InferenceSession:
    """Open a model on the CPU with one thread and no spinning."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(onnx_path), options, providers=["CPUExecutionProvider"])


class Inspected(TypedDict):
    """What an exported model is, as ``inspect`` finds it."""

    checker: str | None
    opset: int
    inputs: dict[str, list[str | list[int | str]]]
    outputs: dict[str, list[str | list[int | str]]]
    symbolic_batch: bool
    operators: dict[str, int]
    bytes: int
    custom_domains: list[str]
    external_data: bool
    distillation: list[str]


def inspect(onnx_path: Path) -> Inspected:
    """Describe an exported model.

    Returns:
        ``checker`` (null, or why ``onnx.checker`` refuses it), ``opset``, ``inputs`` and ``outputs`` ({name: [dtype,
        dims]}), ``symbolic_batch`` (every first dimension is the one symbol ``batch``), ``operators`` ({name: count}),
        ``bytes``, ``custom_domains``, ``external_data``, and ``distillation`` (initializers and nodes that belong to a
        distillation head).

    Raises:
        ValueError: The file cannot be read as ONNX.
    """
    try:
        model = onnx.load(onnx_path, load_external_data=False)
    except Exception as error:  # protobuf has several, none public
        raise ValueError(f"{onnx_path}: {error}") from error
    graph = model.graph
    try:
        onnx.checker.check_model(model, full_check=True)
        refused = None
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        refused = str(error)
    firsts = [_dims(value)[:1] for value in (*graph.input, *graph.output)]
    named = [*(tensor.name for tensor in graph.initializer), *(name for node in graph.node for name in node.output)]
    return {
        "checker": refused,
        "opset": max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0),
        "inputs": {value.name: _signature(value) for value in graph.input},
        "outputs": {value.name: _signature(value) for value in graph.output},
        "symbolic_batch": all(first == [BATCH] for first in firsts),
        "operators": dict(sorted(Counter(node.op_type for node in graph.node).items())),
        "bytes": onnx_path.stat().st_size,
        "custom_domains": sorted({node.domain for node in graph.node} - {"", "ai.onnx"}),
        "external_data": any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.initializer),
        "distillation": sorted({name for name in named if _DISTILLATION in name}),
    }


_INTEGERS = (0, 1, 2, 3, -1, 12_345_678_901_234_567, np.iinfo(np.int64).max, np.iinfo(np.int64).min)
_FLOATS = (0, -1, 1, 1e-30, 3e38, -3e38, np.inf, -np.inf, np.nan, 1e6, -1e6)


def edge_columns(surface: Surface, rows: int) -> dict[str, np.ndarray]:
    """Return raw columns that go through the extreme values of their type, each at its own pace."""
    columns = {}
    for index, (name, spec) in enumerate(surface.inputs.items()):
        values = np.array(_INTEGERS if spec.dtype == "int64" else _FLOATS, dtype=spec.dtype)
        count = rows * int(np.prod(spec.shape, dtype=int))
        place = (np.arange(count) * (1 + index % 3) + index) % len(values)
        columns[name] = values[place].reshape(rows, *spec.shape)
    return columns


def _bounds(ranker: Ranker, seed: int) -> dict[str, np.ndarray]:
    """Return rows of which one input alone is extreme, or at a bound that was fitted."""
    pre, extremes = ranker.preprocessing, {}
    for name, spec in ranker.surface.inputs.items():
        fitted = [t[pre.numbers.index(name)].item() for t in (pre.low, pre.high)] if spec.type == "number" else []
        extremes[name] = np.array([*(_INTEGERS if spec.dtype == "int64" else _FLOATS), *fitted], dtype=spec.dtype)
    columns = _sample(ranker, sum(map(len, extremes.values())), None, seed)
    at = 0
    for name, values in extremes.items():
        columns[name][at : at + len(values)] = values.reshape(-1, *(1 for _ in columns[name].shape[1:]))
        at += len(values)
    return columns


def _known_ids(ranker: Ranker, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield rows, some at a time, that together have every known id of every input."""
    for name in ranker.preprocessing.ids:
        yield from _rows_of(ranker, name, ranker.preprocessing.known(name), seed)


def _sharing_ids(ranker: Ranker, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield rows, some at a time, that together have every id that is stored as sharing a row.

    Where none is, since every id without a row of its own shares one, random ids; enough to meet nearly every row.
    """
    pre, rng = ranker.preprocessing, np.random.default_rng(seed)
    for name in pre.ids:
        table = ranker.surface.inputs[pre.vocabulary[name]].id_table
        if table and table.hash_buckets:
            drawn = rng.integers(2**62, size=_DRAWN * table.hash_buckets) if table.unseen == "bucket" else None
            yield from _rows_of(ranker, name, pre.sharing(name) if drawn is None else drawn, seed)


def _rows_of(ranker: Ranker, name: str, ids: np.ndarray, seed: int) -> Iterator[dict[str, np.ndarray]]:
    for start in range(0, len(ids), _BATCH):
        part = ids[start : start + _BATCH]
        yield _sample(ranker, len(part), None, seed) | {name: part}


def _sample(ranker: Ranker, size: int, arrays: Mapping[str, np.ndarray] | None, seed: int) -> dict[str, np.ndarray]:
    if arrays is not None:
        place = np.arange(size) % len(next(iter(arrays.values())))
        return {name: arrays[name][place] for name in ranker.surface.inputs}
    rng = np.random.default_rng([seed, size])
    pre = ranker.preprocessing
    columns: dict[str, np.ndarray] = {}
    for name, spec in ranker.surface.inputs.items():
        match spec.type:
            case "id" | "category":
                keys = pre.known(name)
                known = keys[rng.integers(len(keys), size=size)] if len(keys) else np.full(size, NO_ID)
                columns[name] = np.where(rng.random(size) < 0.9, known, rng.integers(2**62, size=size))
            case "event_list":
                columns[name] = rng.integers(0, 4, size=(size, spec.length))
            case "vector":
                columns[name] = (2 * rng.normal(size=(size, spec.length))).astype(np.float32)
            case "number":
                index = pre.numbers.index(name)
                low, high = float(pre.low[index]), float(pre.high[index])
                spread = max(high - low, 1.0)
                columns[name] = rng.uniform(low - 0.1 * spread, high + 0.1 * spread, size).astype(np.float32)
    return columns


def _differences(
    ranker: Ranker, session: onnxruntime.InferenceSession, cases: Iterable[Mapping[str, np.ndarray]]
) -> dict[str, float]:
    """Return the largest absolute difference by output; infinite where torch or onnxruntime is not finite."""
    outputs = (*ranker.surface.tasks, SCORE)
    largest = dict.fromkeys(outputs, 0.0)
    for columns in cases:
        expected, found = predict(ranker, columns), session.run(list(outputs), dict(columns))
        for name, got in zip(outputs, map(np.asarray, found), strict=True):
            want = expected[name]
            if got.shape != want.shape:
                raise ValueError(f"output {name} has shape {got.shape}, not {want.shape}")
            finite = np.isfinite(want).all() and np.isfinite(got).all()
            apart = float(np.abs(want.astype(np.float64) - got).max(initial=0.0)) if finite else float("inf")
            largest[name] = max(largest[name], apart)
    return largest


def _bare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop everything that does not compute: stack traces, docstrings, inferred shapes of inner values."""
    graph = model.graph
    for message in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        message.ClearField("doc_string")
        message.ClearField("metadata_props")
    graph.ClearField("value_info")
    return model


def _dims(value: onnx.ValueInfoProto) -> list[int | str]:
    shape = value.type.tensor_type.shape
    return [d.dim_value if d.HasField("dim_value") else d.dim_param for d in shape.dim]


def _signature(value: onnx.ValueInfoProto) -> list[str | list[int | str]]:
    kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    return [str(kind), _dims(value)]
