"""Teachers of common frameworks, small ones: each exported to ONNX, with what its own framework said of some rows."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxmltools
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import xgboost
import yaml
from lightgbm import LGBMClassifier
from onnxmltools.convert.common.data_types import FloatTensorType
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType as Floats
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import nn

Built = tuple[onnx.ModelProto, list[dict[str, Any]], dict[str, Any], dict[str, Any]]
"""Model, inputs and output of its contract, golden columns."""

RNG = np.random.default_rng(0)
NUMBERS = {"name": "x", "dtype": "float32", "shape": [4], "keep_nan": True, "default": 0.5}


def _rows() -> tuple[np.ndarray, np.ndarray]:
    """Numbers with gaps, which trees have a path of their own for, and whether something was clicked."""
    x = RNG.normal(size=(400, 4)).astype(np.float32)
    clicked = (x[:, 0] + x[:, 1] > 0.3).astype(int)
    x[RNG.random(x.shape) < 0.1] = np.nan
    return x, clicked


def scikit_learn() -> Built:
    """Gradient boosting of scikit-learn."""
    x, clicked = _rows()
    model = HistGradientBoostingClassifier(max_iter=12, random_state=0).fit(x, clicked)
    types = [("x", Floats([None, 4]))]
    exported: Any = convert_sklearn(model, initial_types=types, options={id(model): {"zipmap": False}}, target_opset=17)
    output = {"task": "click", "kind": "probability", "output": "probabilities", "index": 1}
    return exported, [NUMBERS], output, {"x": x.tolist(), "score_click": model.predict_proba(x)[:, 1]}


def lightgbm() -> Built:
    """Trees of LightGBM."""
    x, clicked = _rows()
    model = LGBMClassifier(n_estimators=12, num_leaves=7, verbose=-1).fit(x, clicked)
    exported = onnxmltools.convert_lightgbm(model, initial_types=[("x", FloatTensorType([None, 4]))], target_opset=15)
    output = {"task": "click", "kind": "probability", "output": "probabilities", "index": 1}  # through its ZipMap
    return exported, [NUMBERS], output, {"x": x.tolist(), "score_click": np.asarray(model.predict_proba(x))[:, 1]}


def xgboosted() -> Built:
    """Trees of XGBoost."""
    x, clicked = _rows()
    model = xgboost.XGBClassifier(n_estimators=12, max_depth=3).fit(x, clicked)
    exported = onnxmltools.convert_xgboost(model, initial_types=[("x", FloatTensorType([None, 4]))], target_opset=15)
    output = {"task": "click", "kind": "probability", "output": "probabilities", "index": 1}
    return exported, [NUMBERS], output, {"x": x.tolist(), "score_click": model.predict_proba(x)[:, 1]}


class _Embeddings(nn.Module):
    """Two lookups and their product, as recommenders begin."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(50, 8), nn.Embedding(30, 8)

    def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        return (self.users(user) * self.items(item)).sum(dim=1)


def _exported(model: nn.Module, columns: dict[str, torch.Tensor]) -> onnx.ModelProto:
    program = torch.onnx.export(
        model.eval(),
        tuple(columns.values()),
        dynamo=True,
        input_names=list(columns),
        output_names=["click"],
        dynamic_shapes=tuple({0: torch.export.Dim.DYNAMIC} for _ in columns),
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def torch_embeddings() -> Built:
    """Two embeddings of torch."""
    torch.manual_seed(0)
    model = _Embeddings()
    user, item = torch.randint(0, 50, (64,)), torch.randint(0, 30, (64,))
    inputs = [
        {"name": "user", "dtype": "int64", "min": 0, "max": 49},
        {"name": "item", "dtype": "int64", "min": 0, "max": 29},
    ]
    exported = _exported(model, {"user": user, "item": item})
    scores = model(user, item).detach().numpy()
    golden = {"user": user.numpy(), "item": item.numpy(), "score_click": scores}
    return exported, inputs, {"task": "click", "kind": "logit"}, golden


class _Transformer(nn.Module):
    """Attention over a padded history and its mask."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(20, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, 1)

    def forward(self, history: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        encoded = self.layer(self.items(history) * mask.unsqueeze(2))
        total = (encoded * mask.unsqueeze(2)).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)
        return self.head(total).squeeze(1)


def torch_transformer() -> Built:
    """Attention of torch over a padded history."""
    torch.manual_seed(1)
    model = _Transformer().eval()
    histories = [RNG.integers(0, 20, size=RNG.integers(0, 9)).tolist() for _ in range(64)]
    history, mask = torch.zeros(64, 6, dtype=torch.int64), torch.zeros(64, 6)
    for row, items in enumerate(histories):
        kept = items[:6]
        history[row, : len(kept)] = torch.tensor(kept, dtype=torch.int64)
        mask[row, : len(kept)] = 1
    scores = model(history, mask).detach().numpy()
    inputs = [
        {"name": "history", "dtype": "int64", "shape": [6], "ragged": True, "mask": "mask", "min": 0, "max": 19},
        {"name": "mask", "dtype": "float32", "shape": [6]},
    ]
    exported = _exported(model, {"history": history, "mask": mask})
    golden = {"history": pa.array(histories, pa.list_(pa.int64())), "score_click": scores}
    return exported, inputs, {"task": "click", "kind": "logit"}, golden


FRAMEWORKS: Mapping[str, Callable[[], Built]] = {
    "scikit-learn, gradient boosting": scikit_learn,
    "LightGBM": lightgbm,
    "XGBoost": xgboosted,
    "torch, two embeddings": torch_embeddings,
    "torch, a transformer": torch_transformer,
}
"""Which frameworks' teachers are tried, by what they are."""


def write_built(folder: Path, built: Built, name: str) -> None:
    """Write a teacher's model, contract and golden rows."""
    model, inputs, output, golden = built
    contract = {
        "name": name,
        "version": "1",
        "trained_through": None,
        "source": "elsewhere",
        "license": "MIT",
        "model": "model.onnx",
        "golden": "golden.parquet",
        "golden_tolerance": 1e-5,
        "inputs": inputs,
        "outputs": [output],
    }
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (folder / "contract.yaml").write_text(yaml.safe_dump(contract), encoding="utf-8")
    pq.write_table(pa.table(golden), folder / "golden.parquet")
