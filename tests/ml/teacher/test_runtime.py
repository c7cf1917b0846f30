"""A teacher scores what its graph says, or is refused with the name of the input or output before a row is written."""

import pickle
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
from onnx import TensorProto, helper

from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.teacher.answers import default_batch
from ml.teacher.contract import ContractError, load_contract
from ml.teacher.labels import label_days
from ml.teacher.refused import TeacherRefused
from ml.teacher.runtime import open_teacher, validate

DAY = date(2026, 1, 1)
INPUTS = [
    {"name": "user", "dtype": "int64"},
    {"name": "age", "dtype": "float32", "default": 0.5},
    {"name": "taste", "dtype": "float32", "shape": [3], "default": 0.25},
]
CLICK = {"task": "click", "kind": "logit"}


def test_scores_are_float64_logits_in_contract_order(
    teacher_folder: Callable[..., Path], settings: Settings, expected: Callable[..., np.ndarray]
) -> None:
    model = open_teacher(load_contract(teacher_folder()))
    rng = np.random.default_rng(0)
    batch = {
        "user": rng.integers(0, 5_000, 33),
        "age": rng.random(33, dtype=np.float32),
        "taste": rng.normal(size=(33, 3)).astype(np.float32),
    }
    scores = model.score(batch)
    click = expected(**batch)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, np.stack([click, click], axis=1), atol=1e-5)
    model.close()


def test_saturated_probabilities_become_finite_logits(teacher_folder: Callable[..., Path], settings: Settings) -> None:
    model = open_teacher(load_contract(teacher_folder()))
    batch = default_batch(model.contract, 2)
    batch["age"][:] = [-500, 500]
    np.testing.assert_allclose(model.score(batch)[:, 1], [-16.118, 16.118], atol=1e-3)


def _custom_operator() -> onnx.ModelProto:
    def value(name: str, shape: list[Any]) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    node = helper.make_node("Magic", ["age"], ["click"], domain="com.acme")
    graph = helper.make_graph([node], "g", [value("age", ["n"])], [value("click", ["n"])])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.acme", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def _external(location: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 17]> g (float[n] age) => (float[n] click) { click = Add (age, w) }'
    )
    weight = TensorProto(name="w", dims=[1], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    model.graph.initializer.append(weight)
    return model


def _weight_within(place: str) -> onnx.ModelProto:
    """A model whose weight lies in a file and stands within a branch or a function, or is sparse."""
    weight = _external("weights.bin").graph.initializer[0]
    age = '<ir_version: 9, opset_import: ["" : 17, "f" : 1]> g (float[n] age) => (float[n] click)'
    branches = ", ".join(f"{b}_branch = {b} () => (float[n] {b}) {{ {b} = Identity (age) }}" for b in ("then", "else"))
    if place == "branch":
        model = onnx.parser.parse_model(
            f"{age} {{ yes = Constant <value = bool {{1}}> () click = If <{branches}> (yes) }}"
        )
        model.graph.node[1].attribute[0].g.initializer.append(weight)
    elif place == "function":
        body = "plus (x) => (y) { w = Constant <value = float {1}> () y = Add (x, w) }"
        function = f'<opset_import: ["" : 17], domain: "f"> {body}'
        model = onnx.parser.parse_model(f"{age} {{ click = f.plus (age) }} {function}")
        model.functions[0].node[0].attribute[0].t.CopyFrom(weight)
    else:
        model = onnx.parser.parse_model(f"{age} {{ click = Add (age, w) }}")
        indices = helper.make_tensor("at", TensorProto.INT64, [1], [0])
        model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=weight, indices=indices, dims=[1]))
    return model


def _one_input(body: str, inputs: str = "float[n] age", outputs: str = "float[n] click") -> str:
    return f'<ir_version: 9, opset_import: ["" : 17]> g ({inputs}) => ({outputs}) {{ {body} }}'


AGE = {"inputs": [INPUTS[1]], "outputs": [CLICK]}
MALFORMED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "input missing in the graph": (None, {"inputs": [*INPUTS, {"name": "city", "dtype": "int64"}]}, "no input 'city'"),
    "input missing in the contract": (None, {"inputs": INPUTS[:2]}, "wants input 'taste'"),
    "wrong dtype": (None, {"inputs": [INPUTS[0] | {"dtype": "float32"}, *INPUTS[1:]]}, "input 'user' is int64"),
    "wrong shape": (None, {"inputs": [*INPUTS[:2], INPUTS[2] | {"shape": [4]}]}, r"input 'taste' has shape \[n, 3\]"),
    "scalar for a vector": (
        None,
        {"inputs": [*INPUTS[:2], {"name": "taste", "dtype": "float32"}]},
        r"input 'taste' has shape \[n, 3\]",
    ),
    "output missing": (None, {"outputs": [{"task": "watch", "kind": "value"}]}, "no output 'watch'"),
    "column beyond the output": (
        None,
        {"outputs": [{"task": "seen", "kind": "probability", "output": "shares", "index": 2}]},
        "output 'shares' has 2 columns, index is 2",
    ),
    "columns without an index": (
        None,
        {"outputs": [{"task": "seen", "kind": "probability", "output": "shares"}]},
        "output 'shares' has 2 columns",
    ),
    "no probability": (None, {"outputs": [CLICK | {"kind": "probability"}]}, "output 'click'.*out of range"),
    "NaN": (
        _one_input("zero = Sub (age, age) click = Div (zero, zero)"),
        AGE,
        "output 'click'.*is nan.*every input at its default",
    ),
    "NaN for unusual rows only": (
        _one_input("half = Constant <value = float {0.4}> () less = Sub (age, half) click = Log (less)"),
        AGE,
        "output 'click'.*is nan.*varied inputs",
    ),
    "infinite": (
        _one_input("zero = Sub (age, age) click = Div (age, zero)"),
        AGE,
        "output 'click'.*is inf",
    ),
    "fixed batch": (
        _one_input("click = Identity (age)", "float[8] age", "float[8] click"),
        AGE,
        "input 'age' has the fixed batch size 8",
    ),
    "rows that depend on their batch": (
        _one_input("mean = ReduceMean (age) click = Sub (age, mean)"),
        AGE,
        "output 'click' of a row depends on the other rows",
    ),
    "one answer for all rows": (
        _one_input("click = ReduceMean <keepdims = 0> (age)", outputs="float click"),
        AGE,
        r"output 'click' has shape \[\]",
    ),
    "text as output": (
        _one_input("click = Cast <to = 8> (age)", outputs="string[n] click"),
        AGE,
        "output 'click' is object",
    ),
    "sequence as output": (
        _one_input("click = SequenceConstruct (age)", outputs="seq(float[n]) click"),
        AGE,
        "output 'click' is a sequence_type",
    ),
    "custom operator": (_custom_operator(), AGE, "custom operator com.acme::Magic"),
    "weights outside the folder": (_external("../weights.bin"), AGE, "weight 'w' lies in .*outside the contract"),
    "weights at an absolute path": (_external("/etc/passwd"), AGE, "weight 'w' lies in /etc/passwd, outside"),
    "weights that the contract omits": (_external("weights.bin"), AGE, "`data_files` of the contract omits"),
    **{
        f"weights of a {place} that the contract omits": (
            _weight_within(place),
            AGE,
            "`data_files` of the contract omits",
        )
        for place in ("branch", "function", "sparse tensor")
    },
    "pickle": (pickle.dumps({"weights": [1.0]}), AGE, "a pickle"),
    "torch checkpoint": (b"PK\x03\x04" + b"\x00" * 64, AGE, "a zip archive"),
    "no ONNX": (b"not a model at all", AGE, "no ONNX file"),
    "empty file": (b"", AGE, "no ONNX file"),
    "truncated": ("truncated", {}, "no ONNX file|cannot load"),
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """A lake with rows to label; every teacher of this file is refused, so nothing is ever written to it."""
    with Lake(Settings(home=tmp_path_factory.mktemp("shared"), threads=1)) as lake:
        rows = pa.table({"day": [DAY] * 20, "exposure_id": range(20), "user": range(20), "age": [0.5] * 20})
        lake.replace_days("features.teacher_inputs_home", rows, [DAY])
        yield lake


@pytest.mark.slow
@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_teacher_is_refused_before_any_row_is_written(
    case: str, teacher_folder: Callable[..., Path], shared: Lake, graph: str
) -> None:
    model, changes, message = MALFORMED[case]
    if model == "truncated":
        model = onnx.parser.parse_model(graph).SerializeToString()[:-40]
    path = teacher_folder(graph if model is None else model, **changes)
    with pytest.raises(TeacherRefused, match=message) as refused:
        label_days(shared, shared.settings, "home", load_contract(path), [DAY])
    assert "model.onnx" in str(refused.value)
    assert not shared.table_exists("ml.soft_labels_home")


def test_an_oversized_file_is_refused(
    teacher_folder: Callable[..., Path], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml.teacher.graph.MAX_MODEL_BYTES", 100)
    with pytest.raises(TeacherRefused, match=r"model\.onnx: \d+ bytes"):
        validate(load_contract(teacher_folder()))


def test_weights_beside_the_model_are_part_of_the_teacher(
    teacher_folder: Callable[..., Path], settings: Settings
) -> None:
    path = teacher_folder(_external("weights.bin"), data_files=["weights.bin"], **AGE)
    weights = path.parent / "weights.bin"
    weights.write_bytes(np.array([2.0], dtype=np.float32).tobytes())
    contract = load_contract(path)
    model = open_teacher(contract)
    assert model.score({"age": np.array([1.0], dtype=np.float32)}).tolist() == [[3.0]]
    before = contract.contract_hash
    weights.write_bytes(np.array([4.0, 0.0], dtype=np.float32).tobytes()[:4] + b"")
    weights.touch()
    assert load_contract(path).contract_hash != before


def test_a_batch_that_breaks_the_contract_is_an_error_that_names_the_input(
    teacher_folder: Callable[..., Path], settings: Settings
) -> None:
    model = open_teacher(load_contract(teacher_folder()))
    batch = default_batch(model.contract, 4)
    with pytest.raises(ValueError, match=r"input 'user': float32\[4\] given, int64\[4\] wanted"):
        model.score(batch | {"user": np.zeros(4, dtype=np.float32)})


def test_landed_scores_have_no_model_to_open(teacher_folder: Callable[..., Path], settings: Settings) -> None:
    contract = load_contract(teacher_folder(model=None, scores=True, inputs=[]))
    assert validate(contract) is None
    with pytest.raises(ContractError, match="landed scores and no model"):
        open_teacher(contract)
