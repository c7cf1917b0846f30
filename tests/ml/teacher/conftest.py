"""A lake of its own, teachers written as ONNX text, and rows for them."""

from collections.abc import Callable, Iterator, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
import yaml

from ml.foundation.lake import Lake
from ml.foundation.settings import Settings

FIRST_DAY = date(2026, 1, 1)

GRAPH = """
<ir_version: 9, opset_import: ["" : 17]>
good (int64[n] user, float[n, 1] age, float[n, 3] taste) => (float[n] click, float[n, 2] shares) {
    user_f = Cast <to = 1> (user)
    scale = Constant <value = float {1e-3}> ()
    user_s = Mul (user_f, scale)
    user_sin = Sin (user_s)
    axis = Constant <value = int64[1] {1}> ()
    flat_age = Squeeze (age, axis)
    taste_sum = ReduceSum <keepdims = 0> (taste, axis)
    some = Add (user_sin, flat_age)
    click = Add (some, taste_sum)
    column = Unsqueeze (click, axis)
    zero = Sub (column, column)
    both = Concat <axis = 1> (zero, column)
    shares = Softmax <axis = 1> (both)
}
"""
"""click = sin(user / 1000) + age + sum(taste); shares[:, 1] is its probability."""

CONTRACT: dict[str, Any] = {
    "name": "small",
    "version": "1",
    "trained_through": date(2025, 12, 31),
    "source": "a test",
    "license": "none",
    "model": "model.onnx",
    "inputs": [
        {"name": "user", "dtype": "int64", "default": 0, "meaning": "who"},
        {"name": "age", "dtype": "float32", "default": 0.5},
        {"name": "taste", "dtype": "float32", "shape": [3], "default": 0.25},
    ],
    "outputs": [
        {"task": "click", "kind": "logit"},
        {"task": "seen", "kind": "probability", "output": "shares", "index": 1},
    ],
}


def click_of(user: np.ndarray, age: np.ndarray, taste: np.ndarray) -> np.ndarray:
    """What GRAPH computes."""
    return np.sin(user.astype(np.float32) * np.float32(1e-3)) + age + taste.sum(axis=1)


@pytest.fixture
def graph() -> str:
    return GRAPH


@pytest.fixture
def expected() -> Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    return click_of


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", first_day=FIRST_DAY, threads=1)


@pytest.fixture
def lake(settings: Settings) -> Iterator[Lake]:
    with Lake(settings) as lake:
        yield lake


@pytest.fixture
def days() -> list[date]:
    return [FIRST_DAY + timedelta(days=i) for i in range(3)]


@pytest.fixture
def teacher_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write a teacher's folder: the given graph (ONNX text, model or bytes) and the contract with changes."""

    def write(graph: str | onnx.ModelProto | bytes = GRAPH, folder: str = "teacher", **changes: Any) -> Path:
        path = tmp_path / folder
        path.mkdir(exist_ok=True)
        model = onnx.parser.parse_model(graph) if isinstance(graph, str) else graph
        content = model if isinstance(model, bytes) else model.SerializeToString()
        contract = {k: v for k, v in (CONTRACT | changes).items() if v is not None or k == "trained_through"}
        if contract.get("model"):
            (path / str(contract["model"])).write_bytes(content)
        (path / "contract.yaml").write_text(yaml.safe_dump(contract, sort_keys=False))
        return path / "contract.yaml"

    return write


@pytest.fixture
def write_inputs(lake: Lake) -> Callable[..., dict[date, dict[str, np.ndarray]]]:
    """Write ``features.teacher_inputs_home``, ``rows`` per day; return what was written."""

    def write(
        days: list[date], rows: int = 500, seed: int = 0, drop: tuple[str, ...] = (), **columns: Any
    ) -> dict[date, dict[str, np.ndarray]]:
        written = {}
        for number, day in enumerate(days):
            rng = np.random.default_rng([seed, number])
            written[day] = {
                "exposure_id": rng.permutation(rows).astype(np.int64) * 1_000_003 + number,
                "user": rng.integers(0, 5_000, rows),
                "age": rng.random(rows),
                "taste": rng.normal(size=(rows, 3)).astype(np.float32),
            }
            table: Mapping[str, Any] = {
                "day": pa.repeat(pa.scalar(day, pa.date32()), rows),
                **{k: pa.array(list(v)) if v.ndim == 2 else pa.array(v) for k, v in written[day].items()},
                **{k: v(rows) if callable(v) else v for k, v in columns.items()},
            }
            lake.replace_days(
                "features.teacher_inputs_home", pa.table({k: v for k, v in table.items() if k not in drop}), [day]
            )
        return written

    return write
