"""A teacher from elsewhere labels the same rows: other library, inputs and tasks; only the path changes."""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.teacher.contract import Contract, load_contract
from ml.teacher.labels import label_days
from ml.teacher.refused import TeacherRefused
from ml.teacher.runtime import open_teacher, validate


def write_teacher(folder: Path, onnx_bytes: bytes, **contract: Any) -> Path:
    folder.mkdir()
    (folder / "teacher.onnx").write_bytes(onnx_bytes)
    common = {"version": "2024-11", "trained_through": None, "source": "elsewhere", "license": "MIT"}
    (folder / "contract.yaml").write_text(yaml.safe_dump(common | {"model": "teacher.onnx"} | contract))
    return folder / "contract.yaml"


@pytest.fixture
def classifier(tmp_path: Path) -> tuple[Path, Callable[[np.ndarray, np.ndarray], np.ndarray]]:
    """Logistic regression over scalar inputs of shape [n, 1], as skl2onnx exports a pipeline over columns."""
    rng = np.random.default_rng(0)
    age, city = rng.random((500, 1)).astype(np.float32), rng.integers(0, 4, (500, 1))
    pipeline = make_pipeline(
        make_column_transformer((StandardScaler(), [0]), (OneHotEncoder(handle_unknown="ignore"), [1])),
        LogisticRegression(),
    )
    data = np.hstack([age, city])
    pipeline.fit(data, rng.random(500) < 0.2 + 0.5 * age[:, 0])
    model: Any = convert_sklearn(
        pipeline,
        initial_types=[("age", FloatTensorType([None, 1])), ("user", Int64TensorType([None, 1]))],
        options={id(pipeline): {"zipmap": False}},
        target_opset=17,
    )
    path = write_teacher(
        tmp_path / "classifier",
        model.SerializeToString(),
        name="buyers",
        inputs=[{"name": "age", "dtype": "float32", "default": 0.5}, {"name": "user", "dtype": "int64"}],
        outputs=[{"task": "buy", "kind": "probability", "output": "probabilities", "index": 1}],
    )
    return path, lambda age, user: pipeline.predict_proba(np.stack([age, user], axis=1))[:, 1]


@pytest.fixture
def regressor(tmp_path: Path) -> tuple[Path, Callable[[np.ndarray], np.ndarray]]:
    """Gradient boosting over one matrix [n, 3]."""
    rng = np.random.default_rng(1)
    taste = rng.normal(size=(500, 3)).astype(np.float32)
    model = HistGradientBoostingRegressor(max_iter=20, random_state=0).fit(taste, taste @ [1.0, 2.0, 3.0])
    exported: Any = convert_sklearn(model, initial_types=[("taste", FloatTensorType([None, 3]))], target_opset=17)
    path = write_teacher(
        tmp_path / "regressor",
        exported.SerializeToString(),
        name="minutes",
        inputs=[{"name": "taste", "dtype": "float32", "shape": [3], "default": 0.25}],
        outputs=[{"task": "minutes", "kind": "value", "output": "variable"}],
    )
    return path, model.predict


@pytest.mark.slow
def test_another_teacher_labels_by_changing_one_path(
    lake: Lake,
    settings: Settings,
    write_inputs: Callable[..., Any],
    days: list[date],
    teacher_folder: Callable[..., Path],
    classifier: tuple[Path, Callable[..., np.ndarray]],
    regressor: tuple[Path, Callable[..., np.ndarray]],
) -> None:
    day = days[0]
    rows = write_inputs([day], rows=400)[day]
    order = np.argsort(rows["exposure_id"])

    def label(teacher: Path) -> tuple[Any, np.ndarray]:
        pinned = Settings(home=settings.home, first_day=settings.first_day, threads=1, teacher=teacher)
        contract = load_contract(Path(str(pinned.teacher)))
        report = label_days(lake, pinned, "home", contract, [day])
        stored = lake.sql(
            "select scores from lake.ml.soft_labels_home where contract_hash = ? order by exposure_id",
            [contract.contract_hash],
        )
        return report, np.array(stored["scores"].to_pylist())

    own, _ = label(teacher_folder())
    bought, logits = label(classifier[0])
    listened, values = label(regressor[0])
    probability = classifier[1](rows["age"][order], rows["user"][order])
    np.testing.assert_allclose(1 / (1 + np.exp(-logits[:, 0])), probability, atol=1e-6)
    np.testing.assert_allclose(values[:, 0], regressor[1](rows["taste"][order]), rtol=1e-5, atol=1e-5)
    assert (own.rows, bought.rows, listened.rows) == (400, 400, 400)
    assert list(bought.outputs) == ["buy"]
    versions = lake.sql("select distinct contract_hash from lake.ml.soft_labels_home")
    assert versions.num_rows == 3


@pytest.mark.parametrize("words", [False, True])
def test_a_dictionary_of_classes_is_read_by_whole_numbers_and_refused_by_words_with_the_cure(
    words: bool, settings: Settings, tmp_path: Path
) -> None:
    taste = np.random.default_rng(2).normal(size=(50, 3)).astype(np.float32)
    bought = taste[:, 0] > 0
    model = LogisticRegression().fit(taste, np.where(bought, "yes", "no") if words else np.where(bought, 7, 3))
    exported: Any = convert_sklearn(model, initial_types=[("taste", FloatTensorType([None, 3]))], target_opset=17)

    def teacher(index: int) -> Contract:
        path = write_teacher(
            tmp_path / f"zipmap{index}",
            exported.SerializeToString(),
            name="zipmap",
            inputs=[{"name": "taste", "dtype": "float32", "shape": [3]}],
            outputs=[{"task": "buy", "kind": "probability", "output": "output_probability", "index": index}],
        )
        return load_contract(path)

    if words:
        with pytest.raises(
            TeacherRefused, match=r"output 'output_probability' is a sequence_type.*zipmap=False.*CatBoost"
        ):
            validate(teacher(1))
        return
    logits = open_teacher(teacher(7)).score({"taste": taste})[:, 0]
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), model.predict_proba(taste)[:, 1], atol=1e-6)
    with pytest.raises(TeacherRefused, match=r"has the classes \[3, 7\], index is 1"):
        validate(teacher(1))


def test_all_that_a_model_has_otherwise_is_told_at_once_with_the_nearest_names(classifier) -> None:
    path, _ = classifier
    contract = yaml.safe_load(path.read_text())
    contract["inputs"] = [{"name": "aeg", "dtype": "float32"}, {"name": "user", "dtype": "int32", "shape": [2]}]
    contract["outputs"] = [{"task": "buy", "kind": "probability", "output": "probabilitys", "index": 1}]
    path.write_text(yaml.safe_dump(contract))
    with pytest.raises(TeacherRefused) as refused:
        open_teacher(load_contract(path))
    said = str(refused.value)
    assert said.startswith(f"{path.parent}/teacher.onnx: ")
    for fault in (
        "has no input 'aeg' of the contract; it has ['age', 'user']; did you mean 'age'?",
        "wants input 'age', which the contract omits",
        "input 'user' is int64, the contract says int32",
        "input 'user' has shape [n, 1], the contract says [2]",
        "has no output 'probabilitys' (task 'buy') of the contract",
        "did you mean 'probabilities'?",
    ):
        assert fault in said
