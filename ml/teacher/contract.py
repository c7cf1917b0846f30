"""The teacher's contract: who it is, what it learnt until when, what goes in and what comes out.

A contract is one ``contract.yaml``; beside it lies the model, unless an endpoint serves it or its scores are landed.
"""

import hashlib
import json
import math
from datetime import date
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from ml.foundation.documents import load_yaml
from ml.foundation.settings import Settings

if TYPE_CHECKING:
    import numpy as np

CONTRACT_FILE = "contract.yaml"
CARD_FILE = "card.json"

PROBABILITY_FLOOR = 1e-7
"""Probabilities are clipped to [floor, 1 - floor] before they become logits; float32 cannot resolve 1 - p below it."""

DType = Literal["bool", "int32", "int64", "float32", "float64"]


class ContractError(ValueError):
    """A contract that cannot be used; the message names the file and the key."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


def _version(value: object) -> object:
    if isinstance(value, float):
        raise ValueError(f"{value} is a number; quote it, so that 1.10 stays 1.10")
    return str(value) if isinstance(value, int) else value


class TeacherInput(_Model):
    """One input of the teacher; ``default`` stands where the app has no value."""

    name: str = Field(min_length=1)
    dtype: DType
    shape: tuple[int, ...] = Field(default=(), description="Shape of one row: [] or [k]")
    default: bool | int | float | tuple[float, ...] = Field(default=0, description="One number, or k of them")
    meaning: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.shape) > 1 or any(length < 1 for length in self.shape):
            raise ValueError(f"shape {list(self.shape)} is neither [] nor [k]")
        values = self.default if isinstance(self.default, tuple) else (self.default,)
        if isinstance(self.default, tuple) and self.shape != (len(values),):
            raise ValueError(f"default has {len(values)} numbers, shape is {list(self.shape)}")
        for value in values:
            if math.isinf(value):
                raise ValueError(f"default {value} is not finite")
            if self.dtype in ("int32", "int64") and value != int(value if math.isfinite(value) else 0):
                raise ValueError(f"default {value} is no {self.dtype}")
            if self.dtype == "bool" and value not in (0, 1):
                raise ValueError(f"default {value} is no bool")
        return self


class TeacherOutput(_Model):
    """One task that the teacher predicts."""

    task: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    kind: Literal["logit", "probability", "value"]
    output: str | None = Field(default=None, description="Name of the model's output; default: the task")
    index: int | None = Field(default=None, ge=0, description="Column of an output of shape [n, k]")
    meaning: str = ""

    @property
    def source(self) -> str:
        """Name of the model's output that holds this task."""
        return self.output or self.task

    def to_score(self, values: "np.ndarray") -> "np.ndarray":
        """Turn the teacher's numbers [n] into stored scores, float64 [n].

        Logits and values stay; a probability p becomes log(p / (1 - p)), and NaN where p lies outside [0, 1].
        """
        import numpy as np

        values = np.asarray(values, dtype=np.float64)
        if self.kind != "probability":
            return values
        p = np.clip(values, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
        return np.where((values >= 0) & (values <= 1 + 1e-6), np.log(p) - np.log1p(-p), np.nan)


class Endpoint(_Model):
    """A model behind the Open Inference Protocol v2 over REST."""

    url: str = Field(pattern=r"^https?://", description="Base URL; /v2/... is appended")
    model: str = Field(min_length=1)
    model_version: str | None = None
    binary: bool = Field(default=True, description="Binary tensors; false sends JSON")
    timeout_s: float = Field(default=30, gt=0)
    token_env: str | None = Field(default=None, description="Environment variable that holds a bearer token")


class Contract(_Model):
    """What a teacher is; loaded by ``load_contract``, which sets the folder that ``model`` is relative to."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    version: Annotated[str, BeforeValidator(_version)] = Field(min_length=1)
    trained_through: date | None = Field(description="Last day that the teacher learnt from; null if unknown")
    source: str = Field(min_length=1, description="What it was trained on")
    license: str = Field(min_length=1)
    model: str | None = Field(default=None, description="ONNX file, relative to the contract's folder")
    data_files: tuple[str, ...] = Field(default=(), description="Files of weights that the ONNX file refers to")
    scores: bool = Field(default=False, description="The scores are landed in `teacher_scores`")
    endpoint: Endpoint | None = None
    inputs: tuple[TeacherInput, ...] = ()
    outputs: tuple[TeacherOutput, ...] = Field(min_length=1)

    _folder: Path = PrivateAttr(default_factory=Path.cwd)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        ways = [self.model is not None, self.scores, self.endpoint is not None]
        if sum(ways) != 1:
            raise ValueError("name exactly one of `model`, `endpoint`, `scores: true`")
        if bool(self.inputs) == self.scores:
            raise ValueError("landed scores have no inputs" if self.scores else "a teacher needs inputs")
        if self.data_files and self.model is None:
            raise ValueError("`data_files` belong to a `model`")
        for name in (self.model, *self.data_files):
            if name is not None and (PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts):
                raise ValueError(f"{name!r} leaves the contract's folder")
        _distinct("input", [item.name for item in self.inputs])
        _distinct("output", [item.task for item in self.outputs])
        return self

    @property
    def folder(self) -> Path:
        """Folder of the contract; ``model`` is relative to it."""
        return self._folder

    def beside(self, folder: Path) -> Self:
        """Return the contract, its files taken from ``folder``."""
        self._folder = folder
        return self

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks in the order of ``soft_labels.scores``."""
        return tuple(item.task for item in self.outputs)

    @property
    def model_path(self) -> Path:
        """Path of the ONNX file.

        Raises:
            ContractError: The teacher is no file, or the file is missing or lies outside the folder.
        """
        if self.model is None:
            raise ContractError(f"teacher {self.name!r} {self.version!r} is no file")
        return self._file(self.model)

    @property
    def data_paths(self) -> tuple[Path, ...]:
        """Paths of the files of weights beside the ONNX file."""
        return tuple(self._file(name) for name in self.data_files)

    def _file(self, name: str) -> Path:
        path = (self.folder / name).resolve()
        if not path.is_relative_to(self.folder.resolve()):
            raise ContractError(f"{self.folder / name} leads to {path}, outside the contract's folder")
        if not path.is_file():
            raise ContractError(f"{path}: no such file")
        return path

    @property
    def contract_hash(self) -> str:
        """SHA-256 (32 hex digits) over the contract's content and the model's bytes; free of where the model lies."""
        content = self.model_dump(mode="json", exclude_defaults=True, exclude={"model", "data_files"})
        paths = (self.model_path, *self.data_paths) if self.model is not None else ()
        content["model_sha256"] = [_sha256(path, path.stat().st_mtime_ns, path.stat().st_size) for path in paths]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]

    def reference(self, parameters: int | None = None) -> "Teacher":
        """Return the reference that soft labels, manifests and lineage carry."""
        return Teacher(
            name=self.name,
            version=self.version,
            contract_hash=self.contract_hash,
            outputs=self.tasks,
            trained_through=self.trained_through,
            parameters=parameters,
        )


class Teacher(_Model):
    """A pinned teacher."""

    name: str
    version: str
    contract_hash: str
    outputs: tuple[str, ...]
    trained_through: date | None
    parameters: int | None = Field(default=None, description="Numbers in the model's weights; null if unknown")


def load_contract(path: Path) -> Contract:
    """Read one contract.

    Args:
        path: The ``contract.yaml``, or the folder that holds it.

    Raises:
        ContractError: The file is missing, is no YAML mapping, or breaks a rule; names file and key.
    """
    path = path / CONTRACT_FILE if path.is_dir() else path
    try:
        content = load_yaml(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ContractError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise ContractError(f"{path} holds no mapping")
    try:
        contract = Contract.model_validate(content)
    except ValidationError as error:
        raise ContractError(f"{path}: {readable(error)}") from error
    return contract.beside(path.resolve().parent)


def teacher_contract(settings: Settings) -> Contract:
    """Read the contract of the home's teacher.

    Raises:
        ContractError: As ``load_contract``.
    """
    assert settings.teacher is not None
    return load_contract(settings.teacher)


def write_contract(contract: Contract, path: Path) -> None:
    """Write ``contract`` as YAML; the file reads back as an equal contract."""
    content = contract.model_dump(mode="json", exclude_defaults=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120), encoding="utf-8")


def _distinct(what: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{what} {twice[0]!r} is declared twice")


def readable(error: ValidationError) -> str:
    """Return one line per broken key, without pydantic's framing."""
    return "; ".join(
        f"{'.'.join(str(part) for part in item['loc']) or 'contract'}: {item['msg']}" for item in error.errors()
    )


@lru_cache(maxsize=64)
def _sha256(path: Path, modified_ns: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
