from pathlib import Path

import onnx
from onnx import TensorProto, helper

inputs = [
    helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 8]) for n in ("history_embedding", "content_embedding")
]
steps = [
    helper.make_node("Mul", ["history_embedding", "content_embedding"], ["products"]),
    helper.make_node("ReduceSum", ["products", "axis"], ["affinity"], keepdims=1),
    helper.make_node("Mul", ["affinity", "weight"], ["heard"]),
]
constants = [
    helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
    helper.make_tensor("weight", TensorProto.FLOAT, [1], [2.0]),
]
output = helper.make_tensor_value_info("heard", TensorProto.FLOAT, ["n", 1])
graph = helper.make_graph(steps, "radio_plays", inputs, [output], constants)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
onnx.checker.check_model(model, full_check=True)
(Path(__file__).parent / "teacher" / "model.onnx").write_bytes(model.SerializeToString())
