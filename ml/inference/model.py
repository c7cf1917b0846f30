"""One model as it serves: an onnxruntime session that was checked against its feature schema and warmed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from ml.inference.schema import FeatureSchema

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

SCORE = "score"
"""Output that ranks candidates."""

_WARM_ROWS = (1, 2, 200)
_DTYPES = {"tensor(int64)": "int64", "tensor(float)": "float32"}


class ModelError(RuntimeError):
    """A model that cannot be served; the message names the input or output."""


class Model:
    """A model with one intra-op thread and no spinning: small rankers are fastest so, and leave the cores alone.

    Args:
        onnx: Bytes of the ONNX file; external data is not followed.
        schema: Bytes of ``schema.json``.

    Raises:
        SchemaError: The schema cannot be read.
        ModelError: The graph cannot be loaded, does not fit the schema, or gives wrong shapes or numbers.
    """

    def __init__(self, onnx: bytes, schema: bytes) -> None:
        self.schema = FeatureSchema.parse(schema)
        self.outputs = list(self.schema.outputs)
        self._session = open_session(onnx)
        self._check()
        self._warm()

    def run(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Score rows.

        Args:
            feeds: Arrays [n] or [n, length] of every input.
            outputs: Names wanted; all when absent.

        Returns:
            float32 [n] by output name.
        """
        names = self.outputs if outputs is None else list(outputs)
        # onnxruntime's annotation also names what no ranker gives: sequences, maps, sparse tensors.
        values = cast("list[np.ndarray]", self._session.run(names, dict(feeds)))
        return dict(zip(names, values, strict=True))

    def _check(self) -> None:
        graph = {node.name: (_DTYPES.get(node.type), len(node.shape) - 1) for node in self._session.get_inputs()}
        schema = {name: (item.dtype, len(item.shape)) for name, item in self.schema.inputs.items()}
        if graph != schema:
            differing = sorted(name for name in graph.keys() | schema.keys() if graph.get(name) != schema.get(name))
            raise ModelError(f"graph and schema.json differ in {', '.join(differing)}")
        given = sorted(node.name for node in self._session.get_outputs())
        if given != sorted(self.outputs) or SCORE not in given:
            raise ModelError(f"the graph gives {given}, schema.json says {sorted(self.outputs)}; {SCORE!r} is needed")

    def _warm(self) -> None:
        for rows in _WARM_ROWS:
            inputs = self.schema.inputs.items()
            feeds = {name: np.zeros((rows, *item.shape), dtype=item.dtype) for name, item in inputs}
            try:
                answer = self.run(feeds)
            except Exception as error:  # onnxruntime raises many kinds
                raise ModelError(f"the graph does not answer {rows} all-zero rows: {error}") from error
            for name, value in answer.items():
                if value.shape != (rows,) or value.dtype != np.float32 or not np.isfinite(value).all():
                    raise ModelError(f"output {name!r} of {rows} rows is {value.dtype} {value.shape}: {value[:3]}")


def order_of(scores: np.ndarray) -> np.ndarray:
    """Return the places of scores [n] by falling score; equal ones keep their order, what is no number comes last."""
    return np.argsort(-scores, kind="stable")


def open_session(onnx: bytes | Path) -> "InferenceSession":
    """Open a graph as it serves; of a file, external data is followed.

    Raises:
        ModelError: onnxruntime cannot load it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises many kinds
        raise ModelError(f"onnxruntime cannot load the graph: {error}") from error
