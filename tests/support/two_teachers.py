"""A second teacher beside the one of ``tests.checks.conftest``, and a surface that learns from both."""

from pathlib import Path
from typing import Any

import onnx
import yaml

from tests.checks.conftest import SPEC, write_teacher

NOISE = """
<ir_version: 9, opset_import: ["" : 17]>
noise (float[n] item_ctr, float[n] unknown, float[n] further) => (float[n] click, float[n] like) {
    fast = Constant <value = float {9e3}> ()
    turned = Mul (item_ctr, fast)
    click = Sin (turned)
    both = Add (unknown, further)
    like = Add (click, both)
}
"""
"""What nobody can use: sin(9000 item_ctr)."""


def write_noise(folder: Path) -> Path:
    """Write the contract ``noise``, and its model."""
    folder.mkdir(parents=True)
    onnx.save(onnx.parser.parse_model(NOISE), folder / "model.onnx")
    contract = {
        "name": "noise",
        "version": "7",
        "trained_through": None,
        "source": "a sine",
        "license": "none",
        "model": "model.onnx",
        "inputs": [{"name": name, "dtype": "float32"} for name in ("item_ctr", "unknown", "further")],
        "outputs": [{"task": "click", "kind": "logit"}, {"task": "like", "kind": "value"}],
    }
    (folder / "contract.yaml").write_text(yaml.safe_dump(contract))
    return folder


def spec(**changes: Any) -> dict[str, Any]:
    """Return a surface that learns from ``toy`` and ``noise``, with other bounds of soft labels."""
    heads = [{"task": "ctr", "teacher_output": name, "weight": 0.1} for name in ("toy/click", "noise/like")]
    bounds = {**SPEC["gate"]["soft_labels"], "teachers": {"noise": {"max_defaulted_share": 0.7}}}
    return {
        **SPEC,
        "tasks": {**SPEC["tasks"], "ctr": {**SPEC["tasks"]["ctr"], "teacher_output": "toy/click"}},
        "distillation": {"technique": "auxiliary", "heads": heads},
        "gate": {**SPEC["gate"], "soft_labels": {**bounds, **changes}},
    }


def write_two(folder: Path, column: str) -> dict[str, Path]:
    """Write the contracts ``toy`` and ``noise``, which both read a column of an app's, for ``teachers``."""
    found = {"toy": write_teacher(folder / "toy").parent, "noise": write_noise(folder / "noise")}
    for path in found.values():
        contract = yaml.safe_load((path / "contract.yaml").read_text(encoding="utf-8"))
        contract["inputs"][0]["column"] = column
        (path / "contract.yaml").write_text(yaml.safe_dump(contract), encoding="utf-8")
    return found
