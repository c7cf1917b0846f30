"""The teacher's ONNX file before onnxruntime sees it: whether it is what the contract says, and safe to load."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from ml.teacher.contract import Contract, TeacherOutput
from ml.teacher.refused import TeacherRefused, missing_output, name_faults, shape_fault

MAX_MODEL_BYTES = 1 << 31
"""A protobuf, and with it an ONNX file, cannot be larger than 2 GiB."""

MAX_NODES = 2_000_000
"""Nodes of a graph with every call of its functions written out: onnxruntime writes them out before it runs one."""

_PICKLES = {".pkl", ".pickle", ".joblib"}
_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}
"""Domains of operators that onnxruntime ships; its own optimiser writes the last one."""

_ELEMENTS = {
    "bool": TensorProto.BOOL,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
    "uint32": TensorProto.UINT32,
    "uint64": TensorProto.UINT64,
    "float16": TensorProto.FLOAT16,
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "string": TensorProto.STRING,
}
_DTYPES = {int(element): dtype for dtype, element in _ELEMENTS.items()}
_FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}
_ZIPMAP_CURE = (
    "cut the ZipMap off the graph: skl2onnx and onnxmltools (LightGBM, XGBoost) take zipmap=False; of a CatBoost model "
    "remove the last node, and name its input as the output"
)


@dataclass(frozen=True)
class Graph:
    """A checked file.

    Attributes:
        ranks: {input: number of its dimensions, the batch counted}.
        parameters: Numbers in its weights.
        fetched: {output of the contract: the tensor of the graph that holds it}.
        columns: {output of the contract: {class: column}} of outputs that a ZipMap names classes of.
        vectors: {embedding of the contract: the tensor of the graph that holds it}.
        adapted: The model with other outputs, where numpy could not hold those that it has; else None.
    """

    ranks: dict[str, int]
    parameters: int
    fetched: dict[str, str]
    columns: dict[str, dict[int, int]]
    vectors: dict[str, str]
    adapted: onnx.ModelProto | None


def check_graph(contract: Contract) -> Graph:
    """Check a teacher's file against its contract.

    Raises:
        TeacherRefused: It is no ONNX file, needs operators that onnxruntime does not ship, refers to weights that the
            contract does not name, or has other inputs or outputs than the contract.
    """
    path = contract.model_path
    model = parse_graph(path)
    _check_operators(path, model)
    _check_size(path, model)
    _check_external_data(contract, model)
    ranks = _check_inputs(contract, model)
    fetched, columns, adapted = _outputs(contract, model)
    vectors, adapted = _vectors(contract, model, adapted)
    sizes = (int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type in _FLOATS)
    return Graph(ranks, sum(sizes), fetched, columns, vectors, adapted)


def parse_graph(path: Path) -> onnx.ModelProto:
    """Read a file without its external data, if it is one of ONNX at all.

    Raises:
        TeacherRefused: It is none, such as a pickle or a zip archive, or too large to be one.
    """
    size = path.stat().st_size
    if size > MAX_MODEL_BYTES:
        raise TeacherRefused(f"{path}: {size} bytes, an ONNX file has at most {MAX_MODEL_BYTES}")
    with path.open("rb") as file:
        head = file.read(8)
    if (head[0:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05") or path.suffix in _PICKLES:
        raise TeacherRefused(f"{path}: a pickle, which is never loaded; export the teacher to ONNX")
    if head[:4] == b"PK\x03\x04":
        raise TeacherRefused(f"{path}: a zip archive (a torch or keras checkpoint?); export the teacher to ONNX")
    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except Exception as error:  # protobuf's DecodeError depends on its backend
        raise TeacherRefused(f"{path}: no ONNX file: {error}") from error
    if not model.graph.node or not model.opset_import:
        raise TeacherRefused(f"{path}: no ONNX file: it holds no graph")
    return model


Body = onnx.GraphProto | onnx.FunctionProto


def _bodies(model: onnx.ModelProto) -> Iterator[Body]:
    """Yield the graph, every function of the model, and the graphs within their nodes."""
    pending: list[Body] = [model.graph, *model.functions]
    while pending:
        body = pending.pop()
        yield body
        for node in body.node:
            pending += _inner(node)


def _inner(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return the graphs within a node: branches of an If, the body of a Loop."""
    return [graph for a in node.attribute for graph in (*([a.g] if a.HasField("g") else []), *a.graphs)]


def _check_operators(path: Path, model: onnx.ModelProto) -> None:
    own = {(function.domain, function.name) for function in model.functions}
    for body in _bodies(model):
        for node in body.node:
            if node.domain not in _DOMAINS and (node.domain, node.op_type) not in own:
                raise TeacherRefused(
                    f"{path}: node {node.name!r} needs the custom operator {node.domain}::{node.op_type}; "
                    f"only operators that onnxruntime itself ships are run"
                )


def _check_size(path: Path, model: onnx.ModelProto) -> None:
    """Refuse functions that call themselves, or each other so often that loading the file would not end."""
    functions = {(f.domain, f.name): f for f in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def written_out(body: Body, callers: tuple[tuple[str, str], ...]) -> int:
        total = 0
        for node in body.node:
            key = (node.domain, node.op_type)
            if key in callers:
                raise TeacherRefused(f"{path}: function {key[1]!r} calls itself, so that loading it would never end")
            if key in functions and key not in sizes:
                sizes[key] = written_out(functions[key], (*callers, key))
            total += 1 + sizes.get(key, 0) + sum(written_out(graph, callers) for graph in _inner(node))
        return total

    try:
        total = written_out(model.graph, ())
    except RecursionError as error:
        raise TeacherRefused(f"{path}: graphs or functions lie within each other too deep to be loaded") from error
    if total > MAX_NODES:
        raise TeacherRefused(
            f"{path}: has {total} nodes once its functions are written out, so that loading it would take too long a "
            f"time; {MAX_NODES} are the most"
        )


def _tensors(body: Body) -> Iterator[TensorProto]:
    """Yield every tensor that is stored in a graph or function: initializers and attributes, sparse ones too."""
    sparse = [*getattr(body, "sparse_initializer", ())]
    yield from getattr(body, "initializer", ())
    for node in body.node:
        for attribute in node.attribute:
            yield from ([attribute.t] if attribute.HasField("t") else [])
            yield from attribute.tensors
            sparse += [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
            sparse += attribute.sparse_tensors
    for tensor in sparse:
        yield tensor.values
        yield tensor.indices


def _check_external_data(contract: Contract, model: onnx.ModelProto) -> None:
    path = contract.model_path
    listed = set(contract.data_paths)
    for body in _bodies(model):
        for tensor in _tensors(body):
            if tensor.data_location != TensorProto.EXTERNAL:
                continue
            locations = [entry.value for entry in tensor.external_data if entry.key == "location"]
            if len(locations) != 1:
                raise TeacherRefused(f"{path}: weight {tensor.name!r} names {len(locations)} files, not one")
            target = (path.parent / locations[0]).resolve()
            if not target.is_relative_to(contract.folder.resolve()):
                raise TeacherRefused(f"{path}: weight {tensor.name!r} lies in {target}, outside the contract's folder")
            if target not in listed:
                raise TeacherRefused(
                    f"{path}: weight {tensor.name!r} lies in {locations[0]!r}, which `data_files` of the contract omits"
                )


class Signature(NamedTuple):
    """What an input of a graph takes: its element type in ONNX, and its shape with None for what is free."""

    element: int
    shape: list[int | None]

    @property
    def dtype(self) -> str:
        """Name of the element type, in the contract's words where it has one for it."""
        return _DTYPES.get(self.element, TensorProto.DataType.Name(self.element).lower())


def graph_inputs(path: Path, model: onnx.ModelProto) -> dict[str, Signature]:
    """Return what each input of a graph takes; its weights are no inputs.

    Raises:
        TeacherRefused: One is no tensor, or has no shape.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    weights |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    inputs: dict[str, Signature] = {}
    for value in model.graph.input:
        if value.name in weights:
            continue
        if not value.type.HasField("tensor_type"):
            raise TeacherRefused(f"{path}: input {value.name!r} is a {value.type.WhichOneof('value')}, no tensor")
        tensor = value.type.tensor_type
        if not tensor.HasField("shape"):
            raise TeacherRefused(f"{path}: input {value.name!r} has no shape")
        dims = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
        inputs[value.name] = Signature(tensor.elem_type, dims)
    return inputs


def _check_inputs(contract: Contract, model: onnx.ModelProto) -> dict[str, int]:
    """Hold the graph's inputs against the contract's, and return the number of dimensions of each."""
    path = contract.model_path
    inputs = graph_inputs(path, model)
    faults = list(name_faults(contract.inputs, inputs))
    for item in contract.inputs:
        if item.name not in inputs:
            continue
        found = inputs[item.name]
        if found.element != _ELEMENTS[item.dtype]:
            faults.append(f"input {item.name!r} is {found.dtype}, the contract says {item.dtype}")
        if fault := shape_fault(item, found.shape):
            faults.append(fault)
    outputs = {value.name for value in model.graph.output}
    faults += [missing_output(item, outputs) for item in contract.outputs if item.source not in outputs]
    faults += [missing_output(item, outputs) for item in contract.embeddings if item.source not in outputs]
    if faults:
        raise TeacherRefused(f"{path}: {'; '.join(faults)}")
    return {name: len(found.shape) for name, found in inputs.items()}


def _outputs(
    contract: Contract, model: onnx.ModelProto
) -> tuple[dict[str, str], dict[str, dict[int, int]], onnx.ModelProto | None]:
    """Return where each output of the contract is found; see ``Graph``."""
    where = str(contract.model_path)
    outputs = {value.name: value for value in model.graph.output}
    fetched: dict[str, str] = {}
    columns: dict[str, dict[int, int]] = {}
    adapted: onnx.ModelProto | None = None
    for item in contract.outputs:
        if item.source in fetched:
            continue
        kind = outputs[item.source].type
        fetched[item.source] = item.source
        if kind.HasField("tensor_type") and kind.tensor_type.elem_type == TensorProto.BFLOAT16:
            adapted = adapted or _copy(model)
            fetched[item.source] = _as_float32(adapted, item.source)
        elif not kind.HasField("tensor_type"):
            adapted = adapted or _copy(model)
            fetched[item.source], columns[item.source] = _before_zipmap(where, adapted, item)
    return fetched, columns, adapted


def _vectors(
    contract: Contract, model: onnx.ModelProto, adapted: onnx.ModelProto | None
) -> tuple[dict[str, str], onnx.ModelProto | None]:
    """Return where each embedding of the contract is found, and the model with outputs that numpy has."""
    kinds = {value.name: value.type for value in model.graph.output}
    found: dict[str, str] = {}
    for item in contract.embeddings:
        kind, tensor = kinds[item.source], kinds[item.source].tensor_type
        if not kind.HasField("tensor_type") or tensor.elem_type not in _FLOATS:
            raise TeacherRefused(
                f"{contract.model_path}: output {item.source!r} (embedding {item.name!r}) is no floats"
            )
        if tensor.HasField("shape") and len(tensor.shape.dim) != 2:
            raise TeacherRefused(
                f"{contract.model_path}: output {item.source!r} (embedding {item.name!r}) has "
                f"{len(tensor.shape.dim)} dimensions; a vector of each row, [n, d], has 2"
            )
        found[item.name] = item.source
        if tensor.elem_type == TensorProto.BFLOAT16:
            adapted = adapted or _copy(model)
            found[item.name] = _as_float32(adapted, item.source)
    return found, adapted


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _as_float32(model: onnx.ModelProto, name: str) -> str:
    """Add an output of a type that numpy has; return its name."""
    wide = f"{name}__float32"
    model.graph.node.append(helper.make_node("Cast", [name], [wide], to=TensorProto.FLOAT))
    model.graph.output.append(helper.make_tensor_value_info(wide, TensorProto.FLOAT, None))
    return wide


def _before_zipmap(where: str, model: onnx.ModelProto, item: TeacherOutput) -> tuple[str, dict[int, int]]:
    """Make the tensor that a ZipMap spreads over dictionaries an output; return its name and {class: column}."""
    for node in model.graph.node:
        if node.op_type == "ZipMap" and item.source in node.output:
            labels = next((list(a.ints) for a in node.attribute if a.name == "classlabels_int64s"), [])
            if not labels:
                break
            if node.input[0] not in {value.name for value in model.graph.output}:
                model.graph.output.append(helper.make_tensor_value_info(node.input[0], TensorProto.FLOAT, None))
            return node.input[0], {label: column for column, label in enumerate(labels)}
    kind = next(value.type.WhichOneof("value") for value in model.graph.output if value.name == item.source)
    raise TeacherRefused(
        f"{where}: output {item.source!r} is a {kind}, no tensor; a ZipMap makes dictionaries by class. Read are "
        f"those of whole-number classes; otherwise {_ZIPMAP_CURE}"
    )
