"""A teacher is taken as it is: its types, shapes, histories, ids and missing values reach it as its contract says."""

import math
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.teacher import trial
from ml.teacher.columns import ColumnError, InputColumns
from ml.teacher.contract import Contract, ContractError, TeacherInput, load_contract
from ml.teacher.labels import LabelError, LabelReport, label_days
from ml.teacher.refused import TeacherRefused
from ml.teacher.runtime import open_teacher, validate
from ml.teacher.vocabulary import load_vocabulary

DAY = date(2026, 1, 1)
CLICK = [{"task": "click", "kind": "logit"}]
X = {"name": "x", "dtype": "float32"}
NAN = math.nan
HEAD = '<ir_version: 9, opset_import: ["" : 17, "com.microsoft" : 1]>'
ONE = "one = Constant <value = int64[1] {1}> ()"
TABLE = onnx.numpy_helper.from_array(np.arange(24, dtype=np.float32) / 10, "table")


def graph(body: str, inputs: str, outputs: str = "float[n] click", *weights: onnx.TensorProto) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f"{HEAD} g ({inputs}) => ({outputs}) {{ {body} }}")
    model.graph.initializer.extend(weights)
    return model


def lookup(inputs: str = "int64[n] x") -> onnx.ModelProto:
    """click = table[x], of 24 rows."""
    return graph("click = Gather (table, x)", inputs, "float[n] click", TABLE)


MASKED = f"""{ONE} held = Cast <to = 1> (x) kept = Mul (held, mask) total = ReduceSum <keepdims = 0> (kept, one)
    count = ReduceSum <keepdims = 0> (mask, one) least = Constant <value = float {{1}}> () most = Max (count, least)
    click = Div (total, most)"""
PAIR = [{"name": "x", "dtype": "int64", "shape": [3], "ragged": True, "mask": "mask", "min": 0, "max": 9}]
PAIR.append({"name": "mask", "dtype": "float32", "shape": [3]})
SQUEEZED = f"{ONE} click = ReduceSum <keepdims = 0> (x, one)"
FLAT = "axes = Constant <value = int64[2] {1, 2}> () click = ReduceSum <keepdims = 0> (x, axes)"
PRESENT = f"""missing = IsNaN (x) gap = Cast <to = 1> (missing) zero = Sub (gap, gap) known = Where (missing, zero, x)
    ten = Constant <value = float {{10}}> () gaps = Mul (gap, ten) all = Add (known, gaps)
    {ONE} click = ReduceSum <keepdims = 0> (all, one)"""

TAKEN: dict[str, tuple[onnx.ModelProto, list[dict[str, Any]], pa.Array, list[float]]] = {
    "half precision": (
        graph("click = Cast <to = 1> (x)", "float16[n] x"),
        [{"name": "x", "dtype": "float16"}],
        pa.array([1.5, 0.1, None, 1e6]),
        [1.5, 0.0999755859375, 0, 0],
    ),
    "bytes": (
        graph("click = Cast <to = 1> (x)", "uint8[n] x"),
        [{"name": "x", "dtype": "uint8", "default": 7}],
        pa.array([0, 255, 300, -1, None]),
        [0, 255, 7, 7, 7],
    ),
    "signed bytes from numbers with a point": (
        graph("click = Cast <to = 1> (x)", "int8[n] x"),
        [{"name": "x", "dtype": "int8"}],
        pa.array([-128.0, 127.0, 128.0]),
        [-128, 127, 0],
    ),
    "truth values": (
        graph("click = Cast <to = 1> (x)", "bool[n] x"),
        [{"name": "x", "dtype": "bool"}],
        pa.array([True, False, None]),
        [1, 0, 0],
    ),
    "texts": (
        onnx.parser.parse_model(
            '<ir_version: 9, opset_import: ["" : 17, "ai.onnx.ml" : 3]> g (string[n] x) => (float[n] click) { '
            'click = ai.onnx.ml.LabelEncoder <keys_strings = ["folk", "jazz"], values_floats = [1.0, 2.0], '
            "default_float = 9.0> (x) }"
        ),
        [{"name": "x", "dtype": "string"}],
        pa.array(["folk", "jazz", "ska", None]),
        [1, 2, 9, 9],
    ),
    "a table of 24 rows": (
        lookup(),
        [{"name": "x", "dtype": "int64", "min": 0, "max": 23, "default": 5}],
        pa.array([0, 23, 24, -1, None]),
        [0, 2.3, 0.5, 0.5, 0.5],
    ),
    "two vectors a row": (
        graph(FLAT, "float[n, 2, 3] x"),
        [{"name": "x", "dtype": "float32", "shape": [2, 3], "default": 1}],
        pa.array(
            [[[1, 2, 3], [4, 5, 6]], [[0, 0, 0], [1, 1, 1]], None, [[1, 1, 1], None]], pa.list_(pa.list_(pa.float32()))
        ),
        [21, 3, 6, 6],
    ),
    "histories with a mask": (
        graph(MASKED, "int64[n, 3] x, float[n, 3] mask"),
        PAIR,
        pa.array([[1, 2], [3, 3, 3, 9, 9], [], None, [9, 99]]),
        [1.5, 3, 0, 0, 9],
    ),
    "histories of any length in the graph": (
        graph(SQUEEZED, "float[n, m] x"),
        [{"name": "x", "dtype": "float32", "shape": [4], "ragged": True}],
        pa.array([[1.0, 2.0], [1.0, 1.0, 1.0, 1.0, 50.0], None]),
        [3, 4, 0],
    ),
    "missing numbers that the teacher knows": (
        graph(PRESENT, "float[n, 3] x"),
        [{"name": "x", "dtype": "float32", "shape": [3], "keep_nan": True, "default": 0.5}],
        pa.array([[1, NAN, 3], [1, 2, 3], [None, 2, 3], None], pa.list_(pa.float32())),
        [14, 6, 15, 1.5],
    ),
    "missing numbers that it does not": (
        graph(SQUEEZED, "float[n, 3] x"),
        [{"name": "x", "dtype": "float32", "shape": [3], "default": 0.5}],
        pa.array([[1, NAN, 3], [1, 2, 3], [None, 2, 3], None], pa.list_(pa.float32())),
        [1.5, 6, 1.5, 1.5],
    ),
    "an operator that onnxruntime ships": (
        graph("click = com.microsoft.Gelu (x)", "float[n] x"),
        [{"name": "x", "dtype": "float32"}],
        pa.array([1.0, 0.0]),
        [0.8413447, 0],
    ),
    "one number a row in three dimensions": (
        graph(
            "axes = Constant <value = int64[2] {1, 2}> () click = Unsqueeze (x, axes)",
            "float[n] x",
            "float[n, 1, 1] click",
        ),
        [{"name": "x", "dtype": "float32"}],
        pa.array([1.5, -2.0]),
        [1.5, -2],
    ),
    "scores in half precision": (
        graph("click = Cast <to = 10> (x)", "float[n] x", "float16[n] click"),
        [{"name": "x", "dtype": "float32"}],
        pa.array([1.5, 0.1, -2.0]),
        [1.5, 0.0999755859375, -2],
    ),
    "brain floats": (
        graph("click = Cast <to = 16> (x)", "float[n] x", "bfloat16[n] click"),
        [{"name": "x", "dtype": "float32"}],
        pa.array([1.5, -2.0]),
        [1.5, -2],
    ),
}


@pytest.fixture
def label(lake: Lake, teacher_folder: Callable[..., Path]) -> Callable[..., tuple[LabelReport, list[float]]]:
    """Label a column ``x`` with a teacher; return the report and the scores in the rows' order."""

    def run(model: onnx.ModelProto, column: pa.Array, **contract: Any) -> tuple[LabelReport, list[float]]:
        others = contract.pop("columns", {})
        ids = pa.array(range(len(column)), pa.int64())
        rows = {"day": pa.array([DAY] * len(column)), "exposure_id": ids, "x": column, **others}
        lake.replace_days("features.teacher_inputs_home", pa.table(rows), [DAY])
        found = load_contract(teacher_folder(model, **{"outputs": CLICK} | contract))
        report = label_days(lake, lake.settings, "home", found, [DAY])
        query = "select scores[1] as s from lake.ml.soft_labels_home where contract_hash = ? order by exposure_id"
        return report, lake.sql(query, [found.contract_hash])["s"].to_pylist()

    return run


@pytest.mark.parametrize("case", TAKEN)
@pytest.mark.slow
def test_inputs_reach_the_teacher_as_its_contract_says(
    case: str, label: Callable[..., tuple[LabelReport, list[float]]]
) -> None:
    model, inputs, column, expected = TAKEN[case]
    report, scores = label(model, column, inputs=inputs)
    assert scores == pytest.approx(expected, abs=1e-5)
    assert report.rows == len(column)


def test_a_value_beyond_its_bounds_is_counted_apart_from_a_missing_one(
    label: Callable[..., tuple[LabelReport, list[float]]],
) -> None:
    inputs = [{"name": "x", "dtype": "int64", "min": 0, "max": 23}]
    report, _ = label(lookup(), pa.array([0, 23, 24, -1, None]), inputs=inputs)
    assert report.defaulted_inputs == {"x": 3 / 5}
    assert report.unknown_inputs == {"x": 2 / 5}


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    """The folder of a teacher that knows three ids."""
    folder = tmp_path / "teacher"
    folder.mkdir()
    (folder / "ids.csv").write_text("id,index\nu-7,3\n42,5\nÅsa,23\n", encoding="utf-8")
    return folder


BY_VOCABULARY = {
    "name": "x",
    "dtype": "int64",
    "id": "vocabulary",
    "vocabulary": "ids.csv",
    "column": "x",
    "default": 1,
}


@pytest.mark.slow
def test_ids_reach_the_teacher_by_its_vocabulary(
    vocabulary: Path, label: Callable[..., tuple[LabelReport, list[float]]]
) -> None:
    report, scores = label(lookup(), pa.array(["u-7", "42", "nobody", None, "Åsa"]), inputs=[BY_VOCABULARY])
    assert scores == pytest.approx([0.3, 0.5, 0.1, 0.1, 2.3])
    assert report.unknown_inputs == {"x": 1 / 5} and report.defaulted_inputs == {"x": 2 / 5}


@pytest.mark.slow
def test_landed_ids_are_read_beside_our_hashes_of_them(
    label: Callable[..., tuple[LabelReport, list[float]]],
) -> None:
    landed = {"landed_x": pa.array(["17", "3", "not a number"])}
    inputs = [{"name": "x", "dtype": "int64", "id": "raw", "min": 0, "max": 23}]
    report, scores = label(lookup(), pa.array([2**62, 2**61, 2**60]), inputs=inputs, columns=landed)
    assert scores == pytest.approx([1.7, 0.3, 0])
    assert report.unknown_inputs == {"x": pytest.approx(1 / 3)} and report.hashed_inputs == ()


@pytest.mark.slow
def test_a_hash_that_nobody_asked_for_is_named(label: Callable[..., tuple[LabelReport, list[float]]]) -> None:
    model = graph("click = Cast <to = 1> (x)", "int64[n] x")
    landed = {"landed_x": pa.array(["a", "b"])}
    report, _ = label(model, pa.array([1, 2]), inputs=[{"name": "x", "dtype": "int64"}], columns=landed)
    assert report.hashed_inputs == ("x",)
    said = [{"name": "x", "dtype": "int64", "id": "hashed"}]
    assert label(model, pa.array([1, 2]), inputs=said, columns=landed)[0].hashed_inputs == ()


def test_a_teacher_that_knows_nearly_no_id_is_refused(
    vocabulary: Path, lake: Lake, label: Callable[..., tuple[LabelReport, list[float]]]
) -> None:
    ids = pa.array([*(f"hash-{i}" for i in range(19)), "u-7"])
    with pytest.raises(
        LabelError, match=r"19 of 20 values of features\.teacher_inputs_home\.x are ids that it does not"
    ):
        label(lookup(), ids, inputs=[BY_VOCABULARY])
    assert lake.sql("select count(*) as n from lake.ml.soft_labels_home")["n"].to_pylist() == [0]


def test_landed_ids_that_the_table_lacks_are_asked_for(label: Callable[..., Any]) -> None:
    inputs = [{"name": "x", "dtype": "int64", "id": "raw", "min": 0, "max": 23}]
    with pytest.raises(ColumnError, match=r"no column landed_x, and input 'x'.*id: raw"):
        label(lookup(), pa.array([1]), inputs=inputs)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("twice.csv", "id,index\na,1\na,2\n", "id 'a' stands there 2 times"),
        ("empty.txt", "", "holds no id"),
        ("words.csv", "id,index\na,one\n", "no vocabulary"),
        ("other.csv", "key,index\na,1\n", "no vocabulary"),
        ("list.json", "{}", r"a \.txt, \.csv or \.parquet"),
    ],
)
def test_a_vocabulary_that_says_nothing_clear_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ContractError, match=message):
        load_vocabulary(tmp_path / name)


def test_another_vocabulary_is_another_teacher(vocabulary: Path, teacher_folder: Callable[..., Path]) -> None:
    path = teacher_folder(lookup(), inputs=[BY_VOCABULARY], outputs=CLICK)
    before = load_contract(path).contract_hash
    (vocabulary / "ids.csv").write_text("id,index\nu-7,3\n42,6\n")
    assert load_contract(path).contract_hash != before


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "default outside": ({"min": 1, "max": 5}, "default 0 is no int64 between 1 and 5"),
    "bounds the wrong way": ({"min": 5, "max": 1}, "min 5 is above max 1"),
    "NaN of a whole number": ({"keep_nan": True}, "a int64 cannot be NaN"),
    "ragged number": ({"ragged": True}, r"ragged: `shape` has to say"),
    "mask of nothing": ({"mask": "m"}, "mask belongs to a ragged input"),
    "mask that is no input": ({"ragged": True, "shape": [3], "mask": "m"}, "its mask 'm' is no input"),
    "vocabulary without a file": ({"id": "vocabulary"}, "belong together"),
    "id of a fraction": ({"id": "raw", "dtype": "float32"}, "id: raw needs a string or integer"),
    "byte out of reach": ({"dtype": "uint8", "default": 256}, "default 256 is no uint8 between 0 and 255"),
    "text for a number": ({"default": "none"}, "default 'none' is no int64"),
    "file outside": ({"id": "vocabulary", "vocabulary": "../ids.csv"}, "leaves the contract's folder"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_contract_that_contradicts_itself_is_refused(case: str, teacher_folder: Callable[..., Path]) -> None:
    changes, message = WRONG[case]
    path = teacher_folder(lookup(), inputs=[{"name": "x", "dtype": "int64"} | changes], outputs=CLICK)
    with pytest.raises(ContractError, match=message):
        load_contract(path)


@given(
    rows=st.lists(st.none() | st.lists(st.none() | st.integers(-3, 12), max_size=6), min_size=1, max_size=20),
    length=st.integers(1, 5),
)
def test_every_ragged_row_is_its_first_values_and_a_mask(rows: list[list[int | None] | None], length: int) -> None:
    item = TeacherInput(name="x", dtype="int64", shape=(length,), ragged=True, mask="m", min=0, max=9, default=4)
    mask = TeacherInput(name="m", dtype="float32", shape=(length,))
    columns = InputColumns([item, mask], {"x": "BIGINT[]"}, "t")
    gaps = pa.array([row is None for row in rows])
    batch = pa.record_batch(
        [pa.array(rows, pa.list_(pa.int64())), gaps, pa.array(range(len(rows)))], ["x", "x is missing", "key"]
    )
    found = columns.read(batch, "key")
    for place, row in enumerate(rows):
        kept = (row or [])[:length]
        good = [value is not None and 0 <= value <= 9 for value in kept]
        padded = [*(value if ok else 4 for value, ok in zip(kept, good, strict=True)), *[4] * (length - len(kept))]
        assert found.inputs["x"][place].tolist() == padded
        assert found.inputs["m"][place].tolist() == [*map(float, good), *[0.0] * (length - len(kept))]
    assert found.defaulted_by_input == {"x": sum(row is None for row in rows)}


def doubling(times: int) -> onnx.ModelProto:
    """Functions of which each calls the next one twice."""
    calls = (f"f{i} (x) => (y) {{ a = f.f{i + 1} (x) y = f.f{i + 1} (a) }}" for i in range(times))
    functions = [*calls, f"f{times} (x) => (y) {{ y = Identity (x) }}"]
    opsets = 'opset_import: ["" : 17, "f" : 1]'
    bodies = " ".join(f'<{opsets}, domain: "f"> {body}' for body in functions)
    return onnx.parser.parse_model(
        f"<ir_version: 9, {opsets}> g (float[n] x) => (float[n] click) {{ click = f.f0 (x) }} {bodies}"
    )


FOREVER = """most = Constant <value = int64 {9223372036854775807}> () yes = Constant <value = bool {1}> ()
    click = Loop (most, yes, x) <body = b (int64 i, bool c, float[n] v) => (bool d, float[n] w)
    { d = Identity (c) w = Identity (v) }>"""


@pytest.mark.slow
def test_a_teacher_that_never_answers_is_refused(
    monkeypatch: pytest.MonkeyPatch, teacher_folder: Callable[..., Path]
) -> None:
    def teacher(name: str, model: onnx.ModelProto) -> Contract:
        return load_contract(teacher_folder(model, folder=name, inputs=[X], outputs=CLICK))

    validate(teacher("sane", doubling(3)))  # from here on a process waits for trials, so that they begin at once
    monkeypatch.setattr(trial, "SECONDS", 2)
    with pytest.raises(TeacherRefused, match=r"did not answer within 2 seconds of CPU.*a loop"):
        validate(teacher("endless", graph(FOREVER, "float[n] x")))
    with pytest.raises(TeacherRefused, match=r"nodes once its functions are written out"):
        validate(teacher("grown", doubling(25)))


@pytest.mark.slow
def test_a_trial_that_waits_for_a_busy_machine_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(1.5); print('done')"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as late:
        assert trial._answers(late, 0.6)
    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], stdout=subprocess.PIPE, text=True
    ) as asleep:
        monkeypatch.setattr(trial, "_WAITS", 2)
        assert not trial._answers(asleep, 0.2)
        asleep.kill()


def test_a_whole_number_range_is_tried_in_full(teacher_folder: Callable[..., Path]) -> None:
    spoilt = np.zeros(50, dtype=np.float32)
    spoilt[37] = np.nan
    model = graph("click = Gather (bad, x)", "int64[n] x", "float[n] click", numpy_helper.from_array(spoilt, "bad"))
    inputs = [{"name": "x", "dtype": "int64", "min": 0, "max": 49}]
    with pytest.raises(TeacherRefused, match=r"is nan.*every value of 'x'.*x=37"):
        validate(load_contract(teacher_folder(model, inputs=inputs, outputs=CLICK)))


def test_a_lookup_without_bounds_says_what_to_state(teacher_folder: Callable[..., Path]) -> None:
    path = teacher_folder(lookup(), inputs=[{"name": "x", "dtype": "int64"}], outputs=CLICK)
    with pytest.raises(TeacherRefused, match=r"if x is looked up in a table, state its `min` and `max`"):
        validate(load_contract(path))


def test_golden_rows_hold_a_teacher_to_its_own_framework(teacher_folder: Callable[..., Path]) -> None:
    inputs = [{"name": "x", "dtype": "int64", "min": 0, "max": 23}]
    path = teacher_folder(lookup(), inputs=inputs, outputs=CLICK, golden="golden.parquet")

    def golden(**columns: list[Any]) -> None:
        pq.write_table(pa.table(columns), path.parent / "golden.parquet")

    golden(x=[3, 23], score_click=[0.3, 2.3])
    open_teacher(load_contract(path)).close()
    golden(x=[3, 23], score_click=[0.3, 2.4])
    with pytest.raises(TeacherRefused, match=r"golden row 2 .*task 'click' is 2\.3.* here, 2\.4"):
        validate(load_contract(path))
    golden(x=[3, 23], click=[0.3, 2.3])
    with pytest.raises(TeacherRefused, match=r"golden\.parquet has no column score_click; it has x, click"):
        validate(load_contract(path))
    golden(x=[None, 23], score_click=[0.0, NAN])
    with pytest.raises(TeacherRefused, match="golden row 2"):
        validate(load_contract(path))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("output", "handed", "stored"),
    [
        ({"kind": "logit", "temperature": 2}, [1.0, -3.0], [2.0, -6.0]),
        ({"kind": "probability", "temperature": 2}, [0.5, 0.25], [0.0, 2 * math.log(0.25 / 0.75)]),
        ({"kind": "rank"}, [1.0, 10.0], [0.0, -math.log(10)]),
    ],
)
def test_softened_scores_and_ranks_become_scores(
    output: dict[str, Any],
    handed: list[float],
    stored: list[float],
    label: Callable[..., tuple[LabelReport, list[float]]],
) -> None:
    model = graph("least = Constant <value = float {-9}> () click = Max (x, least)", "float[n] x")
    low = {"rank": 1, "probability": 0.1}.get(output["kind"])
    high = 0.9 if output["kind"] == "probability" else None
    inputs = [{"name": "x", "dtype": "float32", "default": low or 0, "min": low, "max": high}]
    _, scores = label(model, pa.array(handed), inputs=inputs, outputs=[{"task": "click", **output}])
    assert scores == pytest.approx(stored, rel=1e-6)


def test_a_provider_that_is_not_there_falls_back_aloud(
    teacher_folder: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    inputs = [{"name": "x", "dtype": "int64", "min": 0, "max": 23}]
    contract = load_contract(teacher_folder(lookup(), inputs=inputs, outputs=CLICK))
    model = open_teacher(contract, ["CUDAExecutionProvider"])
    assert model.score({"x": np.array([3])})[0, 0] == pytest.approx(0.3)
    assert "runs on CPUExecutionProvider, not on CUDAExecutionProvider" in caplog.text


def test_a_setting_names_the_providers(settings: Settings) -> None:
    assert Settings(home=settings.home).teacher_providers == ("CPUExecutionProvider",)
