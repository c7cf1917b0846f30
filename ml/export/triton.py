"""The Triton configuration of an exported ranker, read off its ONNX signature."""

from pathlib import Path

import onnx

_TYPES: dict[int, str] = {
    onnx.TensorProto.FLOAT: "TYPE_FP32",
    onnx.TensorProto.DOUBLE: "TYPE_FP64",
    onnx.TensorProto.INT64: "TYPE_INT64",
    onnx.TensorProto.INT32: "TYPE_INT32",
    onnx.TensorProto.BOOL: "TYPE_BOOL",
}


def config_pbtxt(name: str, onnx_path: Path, max_batch: int) -> str:
    """Return ``config.pbtxt`` (text protobuf of Triton's ``ModelConfig``).

    ``max_batch_size`` is 0 and the batch dimension is written out: a scalar per row is then a tensor of shape [batch],
    as in the ONNX signature, and one request fits Triton and the own server alike (with Triton's batching it would
    have to be [batch, 1]). The largest batch that was tested stands in the parameter ``max_batch``.

    Args:
        name: Name of the model in the repository.
        onnx_path: The exported model.
        max_batch: Largest batch that the gate tested.

    Raises:
        ValueError: A tensor has a type that Triton's configuration lacks here.
    """
    graph = onnx.load(onnx_path, load_external_data=False).graph
    parts = [
        f"name: {_quoted(name)}",
        'backend: "onnxruntime"',
        'default_model_filename: "model.onnx"',
        "max_batch_size: 0",
        *(_tensor("input", value) for value in graph.input),
        *(_tensor("output", value) for value in graph.output),
    ]
    parts.append("instance_group [ { count: 1 kind: KIND_CPU } ]")
    parts.append(f'parameters {{ key: "max_batch" value: {{ string_value: "{max_batch}" }} }}')
    for option in ("intra_op_thread_count", "inter_op_thread_count"):
        parts.append(f'parameters {{ key: "{option}" value: {{ string_value: "1" }} }}')
    return "\n".join(parts) + "\n"


def _tensor(field: str, value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    if tensor.elem_type not in _TYPES:
        raise ValueError(f"{value.name} has ONNX type {tensor.elem_type}, which the configuration cannot name")
    dims = [str(d.dim_value) if d.HasField("dim_value") else "-1" for d in tensor.shape.dim]
    kind = _TYPES[tensor.elem_type]
    return f"{field} [ {{ name: {_quoted(value.name)} data_type: {kind} dims: [{', '.join(dims)}] }} ]"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
