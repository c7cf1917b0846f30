"""The app's present ranker as a model that serves: its own graph between the surface's inputs and outputs."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from ml.export.onnx import BATCH, OPSET
from ml.foundation.names import nearest
from ml.surfaces.columns import Input
from ml.surfaces.incumbent import Incumbent
from ml.surfaces.spec import RANKING_SCORE, Surface
from ml.teacher.contract import PROBABILITY_FLOOR, Contract, TeacherInput

_PREFIX = "incumbent/"
_LEAST_OPSET = 13
_OWN = ("", "ai.onnx")


class NotServable(ValueError):
    """A present ranker that cannot answer where a release does; the message says each reason and what to do."""


def serving_graph(surface: Surface, contract: Contract, model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph that takes the surface's inputs, asks the ranker, and gives each task and ``score``.

    What lies between is what evaluation does too: a missing or impossible value takes its default, columns are put
    side by side and cast, a probability becomes a logit. Inputs that the ranker does not read are taken and left.

    Args:
        surface: Declares the ranker.
        contract: Of its file, as ``incumbent_contract`` returns it.
        model: The file.

    Raises:
        NotServable: It reads or answers something else than a release of the surface does.
    """
    incumbent = surface.incumbent
    assert incumbent is not None
    opset = next((entry.version for entry in model.opset_import if entry.domain in _OWN), OPSET)
    if faults := [*_faults(surface, incumbent, contract), *_faults_of_graph(model, contract, opset)]:
        raise NotServable("; ".join(faults))
    inner = compose.add_prefix(model, _PREFIX)
    del inner.graph.value_info[:]
    build = _Builder()
    for item in contract.inputs:
        build.read(item, [(name, surface.inputs[name]) for name in incumbent.inputs[item.name].columns])
    build.nodes.extend(inner.graph.node)
    for task, (output, column) in incumbent.graph_outputs.items():
        probability = surface.incumbent_gives_probability(task)
        build.answer(task, _PREFIX + output, column, probability=probability)
    inputs = [
        helper.make_tensor_value_info(
            name, TensorProto.INT64 if spec.dtype == "int64" else TensorProto.FLOAT, [BATCH, *spec.shape]
        )
        for name, spec in surface.inputs.items()
    ]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH]) for name in (*surface.tasks, RANKING_SCORE)
    ]
    graph = helper.make_graph(
        build.nodes, f"{surface.name}_incumbent", inputs, outputs, [*build.constants, *inner.graph.initializer]
    )
    graph.sparse_initializer.extend(inner.graph.sparse_initializer)
    domains = [entry for entry in inner.opset_import if entry.domain not in _OWN]
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset), *domains],
        functions=list(inner.functions),
        ir_version=inner.ir_version,
    )


def _faults(surface: Surface, incumbent: Incumbent, contract: Contract) -> Iterator[str]:
    """Say which inputs a server does not send, and which outputs a release lacks."""
    if lacking := [name for name in (*surface.tasks, RANKING_SCORE) if name not in incumbent.scores]:
        yield (
            f"incumbent.scores says nothing of {', '.join(lacking)}, and a champion answers every task and `score`; "
            "as `must_not_lose` it is held against each task that it scores"
        )
    for item in contract.inputs:
        key, told = f"incumbent.inputs.{item.name}", incumbent.inputs[item.name]
        for column in told.columns:
            spec = surface.inputs.get(column)
            if spec is None:
                near = nearest(column, surface.inputs)
                yield f"{key}: {column!r} is no input of the surface, and no other is sent; add it to `inputs`{near}"
            elif len(told.columns) > 1 and spec.shape:
                yield f"{key}: {column!r} is a list, and stands in one"
            elif len(told.columns) == 1 and spec.shape != item.shape:
                yield f"{key}: {column!r} has {list(spec.shape)} values a row, the graph takes {list(item.shape)}"
            elif told.default not in (None, spec.default) or told.keep_nan:
                yield f"{key}: a server sends the default of {column!r}, {spec.default:g}, no other and no NaN"
        if (item.min, item.max) != (None, None) and item.shape:
            yield f"{key}: `min` and `max` of a vector cannot be kept in a graph; let the ranker clip"
        if item.dtype in ("string", "bool"):
            yield f"{key}: the graph takes a {item.dtype}, the surface's inputs are numbers"


def _faults_of_graph(model: onnx.ModelProto, contract: Contract, opset: int) -> Iterator[str]:
    if opset < _LEAST_OPSET:
        yield f"{contract.model}: its opset is {opset}; export it with {_LEAST_OPSET} or later"
    kinds = {value.name: value.type for value in model.graph.output}
    for output in contract.outputs:
        if not kinds[output.source].HasField("tensor_type"):
            yield f"incumbent.scores.{output.task}: {output.source!r} is no tensor; export it without ZipMap"


@dataclass
class _Builder:
    """Nodes and constants around the ranker's own."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)

    def constant(self, values: object, dtype: np.dtype | type) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(values, dtype=dtype), name))
        return name

    def node(self, kind: str, *inputs: str, result: str = "", **attributes: object) -> str:
        name = result or f"around_{len(self.nodes)}"
        node = helper.make_node(kind, list(inputs), [name], name=f"{kind}_{len(self.nodes)}")
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)
        return name

    def read(self, item: TeacherInput, columns: list[tuple[str, Input]]) -> None:
        """Make an input of the ranker from columns."""
        element, axis = helper.np_dtype_to_tensor_dtype(np.dtype(item.dtype)), self.constant([1], np.int64)
        read = [self._usable(item, name, spec) for name, spec in columns]
        if len(read) > 1:
            wide = [self.node("Cast", name, to=TensorProto.DOUBLE) for name in read]
            read = [self.node("Concat", *(self.node("Unsqueeze", name, axis) for name in wide), axis=1)]
        self.node("Cast", read[0], to=element, result=_PREFIX + item.name)

    def _usable(self, item: TeacherInput, name: str, spec: Input) -> str:
        """Return a column, with the default where it is no number or out of bounds."""
        dtype = np.dtype(spec.dtype)
        bad = [self.node("IsNaN", name)] if dtype.kind == "f" else []
        if item.min is not None:
            bad.append(self.node("Less", name, self.constant(item.min, dtype)))
        if item.max is not None:
            bad.append(self.node("Greater", name, self.constant(item.max, dtype)))
        for more in bad[1:]:
            bad[0] = self.node("Or", bad[0], more)
        return self.node("Where", bad[0], self.constant(spec.default, dtype), name) if bad else name

    def answer(self, task: str, tensor: str, column: int | None, *, probability: bool) -> None:
        """Make an output of the release from one of the ranker's."""
        if column is not None:
            tensor = self.node("Gather", tensor, self.constant(column, np.int64), axis=1)
        flat = self.node("Reshape", tensor, self.constant([-1], np.int64))
        found = self.node("Cast", flat, to=TensorProto.FLOAT, result="" if probability else task)
        if probability:
            low, high = (self.constant(p, np.float32) for p in (PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR))
            clipped, one = self.node("Clip", found, low, high), self.constant(1, np.float32)
            self.node("Sub", self.node("Log", clipped), self.node("Log", self.node("Sub", one, clipped)), result=task)
