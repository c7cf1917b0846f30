"""What tools made for Triton ask besides: a model's configuration, its statistics, and which models there are."""

from collections.abc import Iterable

from deploy.serving.engine import Served

_TYPES = {"int64": "TYPE_INT64", "float32": "TYPE_FP32"}


def metadata(served: Served) -> dict[str, object]:
    """Return inputs and outputs of a model, and which release it is."""
    return {
        "name": served.released.surface,
        "versions": [served.version],
        "platform": "onnxruntime_onnx",
        "inputs": [tensor.describe() for tensor in served.released.tensors.values()],
        "outputs": [{"name": name, "datatype": "FP32", "shape": [-1]} for name in served.released.model.outputs],
        "parameters": served.label,
    }


def config(served: Served) -> dict[str, object]:
    """Return a model's configuration, as Triton would: every dimension is named, the first is that of the batch."""
    released = served.released
    inputs = [
        {"name": name, "data_type": _TYPES[item.dtype], "dims": [-1, *item.shape]}
        for name, item in released.tensors.items()
    ]
    return {
        "name": released.surface,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "version_policy": {"specific": {"versions": [int(served.version)]}},
        "max_batch_size": 0,
        "input": inputs,
        "output": [{"name": name, "data_type": "TYPE_FP32", "dims": [-1]} for name in released.model.outputs],
        "instance_group": [{"name": released.surface, "kind": "KIND_CPU", "count": 1}],
        "default_model_filename": "model.onnx",
    }


def statistics(served: Iterable[Served]) -> dict[str, object]:
    """Return the statistics of models."""
    return {
        "model_stats": [
            {"name": one.released.surface, "version": one.version, **one.released.counts.describe()} for one in served
        ]
    }


def index(served: Iterable[Served], missing: Iterable[str]) -> list[dict[str, str]]:
    """Return the models that are served, and those whose champion is not loaded."""
    ready = [{"name": one.released.surface, "version": one.version, "state": "READY", "reason": ""} for one in served]
    return ready + [
        {"name": name, "version": "", "state": "UNAVAILABLE", "reason": "its champion is not loaded"}
        for name in missing
    ]
