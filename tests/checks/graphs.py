"""Edits of an exported graph."""

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ml.foundation.artifacts import Artifact


def edited(candidate: Artifact, edit: Callable[[onnx.GraphProto], None]) -> bytes:
    """Return the candidate's model after an edit of its graph."""
    model = onnx.load_model_from_string(candidate.read("model.onnx"))
    edit(model.graph)
    return model.SerializeToString()


def scaled(factor: float, offset: float = 0.0) -> Callable[[onnx.GraphProto], None]:
    """Return an edit that makes the logits another affine map; nothing else differs."""

    def change(graph: onnx.GraphProto) -> None:
        for output in ("ctr", "score"):
            graph.initializer.append(numpy_helper.from_array(np.array(factor, np.float32), f"{output}_factor"))
            graph.initializer.append(numpy_helper.from_array(np.array(offset, np.float32), f"{output}_offset"))
            for node in graph.node:
                node.output[:] = [f"{output}_raw" if name == output else name for name in node.output]
                node.input[:] = [f"{output}_raw" if name == output else name for name in node.input]
            graph.node.append(helper.make_node("Mul", [f"{output}_raw", f"{output}_factor"], [f"{output}_scaled"]))
            graph.node.append(helper.make_node("Add", [f"{output}_scaled", f"{output}_offset"], [output]))

    return change
