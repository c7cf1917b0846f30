"""A contract is read exactly, identified by its content, and refused by file and key."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml.foundation.settings import Settings
from ml.teacher.contract import ContractError, load_contract, teacher_contract, write_contract


def test_contract_reads_and_writes_back_equal(teacher_folder: Callable[..., Path]) -> None:
    path = teacher_folder()
    contract = load_contract(path)
    assert contract.tasks == ("click", "seen")
    assert contract.model_path == path.parent / "model.onnx"
    write_contract(contract, path.parent / "again.yaml")
    again = load_contract(path.parent / "again.yaml")
    assert again == contract
    assert again.contract_hash == contract.contract_hash


def test_hash_follows_content_and_model_and_not_the_place(teacher_folder: Callable[..., Path], tmp_path: Path) -> None:
    path = teacher_folder()
    reference = load_contract(path).reference()
    shutil.copytree(path.parent, tmp_path / "elsewhere")
    assert load_contract(tmp_path / "elsewhere").reference() == reference
    moved = teacher_folder(folder="moved", model="renamed.onnx")
    assert load_contract(moved).contract_hash == reference.contract_hash
    others = [
        teacher_folder(folder="a", version="2"),
        teacher_folder(folder="b", trained_through=None),
        teacher_folder(graph=(path.parent / "model.onnx").read_bytes() + b"\x00", folder="c"),
    ]
    hashes = {load_contract(other).contract_hash for other in others} | {reference.contract_hash}
    assert len(hashes) == 4


def test_an_integer_version_is_text_and_a_float_is_refused(teacher_folder: Callable[..., Path]) -> None:
    assert load_contract(teacher_folder(version=3)).version == "3"
    with pytest.raises(ContractError, match=r"version: .*quote it"):
        load_contract(teacher_folder(version=1.10))


INPUT = {"name": "user", "dtype": "int64"}
BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "no outputs": ({"outputs": []}, "outputs"),
    "unknown dtype": ({"inputs": [INPUT | {"dtype": "complex64"}]}, r"inputs\.0\.dtype"),
    "no length": ({"inputs": [INPUT | {"shape": [2, 0]}]}, r"inputs\.0.*shape \[2, 0\] has a length below 1"),
    "default of another length": ({"inputs": [INPUT | {"shape": [3], "default": [1, 2]}]}, "default has 2 values"),
    "fraction as an id": ({"inputs": [INPUT | {"default": 0.5}]}, r"default 0\.5 is no int64"),
    "infinite default": ({"inputs": [{"name": "a", "dtype": "float32", "default": float("inf")}]}, "not finite"),
    "input twice": ({"inputs": [INPUT, INPUT]}, "input 'user' is declared twice"),
    "output twice": ({"outputs": [{"task": "a", "kind": "logit"}] * 2}, "output 'a' is declared twice"),
    "unknown kind": ({"outputs": [{"task": "a", "kind": "odds"}]}, r"outputs\.0\.kind"),
    "file and scores": ({"scores": True}, "exactly one of"),
    "neither": ({"model": None}, "exactly one of"),
    "model elsewhere": ({"model": "../model.onnx"}, "leaves the contract's folder"),
    "scores with inputs": ({"model": None, "scores": True}, "landed scores have no inputs"),
    "endpoint without scheme": ({"model": None, "endpoint": {"url": "host:1", "model": "m"}}, r"endpoint\.url"),
    "misspelt key": ({"licence": "MIT"}, "licence"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_contract_is_refused_by_file_and_key(case: str, teacher_folder: Callable[..., Path]) -> None:
    changes, message = BROKEN[case]
    with pytest.raises(ContractError, match=message) as refused:
        load_contract(teacher_folder(**changes))
    assert "contract.yaml" in str(refused.value)
    assert case == "no outputs" or "at least 1 item" not in str(refused.value), "a wrong entry is not told twice"


@pytest.mark.parametrize("content", ["", "- a list", "name: [", "\x00"])
def test_a_file_that_is_no_mapping_is_refused_by_name(content: str, tmp_path: Path) -> None:
    path = tmp_path / "contract.yaml"
    path.write_text(content)
    with pytest.raises(ContractError, match=r"contract\.yaml"):
        load_contract(path)
    with pytest.raises(ContractError, match=r"nowhere\.yaml"):
        load_contract(tmp_path / "nowhere.yaml")


def test_a_model_that_is_missing_or_linked_from_elsewhere_is_refused(
    teacher_folder: Callable[..., Path], tmp_path: Path
) -> None:
    path = teacher_folder()
    model = path.parent / "model.onnx"
    model.rename(tmp_path / "outside.onnx")
    with pytest.raises(ContractError, match=r"model\.onnx: no such file"):
        _ = load_contract(path).contract_hash
    model.symlink_to(tmp_path / "outside.onnx")
    with pytest.raises(ContractError, match="outside the contract's folder"):
        _ = load_contract(path).contract_hash


@pytest.mark.slow
def test_the_contract_needs_neither_torch_nor_onnx() -> None:
    heavy = ("torch", "onnx", "onnxruntime")
    code = f"import sys, ml.teacher.contract, ml.teacher.labels; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_contract_that_is_not_there_is_told_with_the_setting_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"nowhere/contract\.yaml: no teacher's contract .* CROSSFADE_TEACHER"):
        teacher_contract(Settings(home=tmp_path, teacher=tmp_path / "nowhere" / "contract.yaml"))
