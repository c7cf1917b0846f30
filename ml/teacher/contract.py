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

from ml.foundation.documents import DocumentError, load_yaml
from ml.foundation.names import faults_of
from ml.foundation.settings import Settings

if TYPE_CHECKING:
    import numpy as np

CONTRACT_FILE = "contract.yaml"
CARD_FILE = "card.json"

PROBABILITY_FLOOR = 1e-7
"""Probabilities are clipped to [floor, 1 - floor] before they become logits; float32 cannot resolve 1 - p below it."""

DType = Literal[
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
    "string",
]

INTEGERS: dict[str, tuple[int, int]] = {
    **{f"int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)},
}
"""Least and largest value of each integer type."""

FLOATS = {"float16": (-65504.0, 65504.0)}
"""Least and largest finite value of floats that are narrower than a column's."""


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
    shape: tuple[int, ...] = Field(default=(), description="Shape of one row: [], [k], [k, d]")
    default: bool | int | float | str | tuple[float, ...] = Field(
        default=0, description="One value, or k of them for a vector"
    )
    column: str | None = Field(default=None, min_length=1, description="Column of teacher_inputs; default: the name")
    id: Literal["raw", "vocabulary", "hashed"] | None = Field(default=None, description="How an id reaches the teacher")
    vocabulary: str | None = Field(default=None, description="File of known ids, relative to the contract's folder")
    max_unknown_share: float = Field(default=0.9, ge=0, le=1, description="More unknown ids than this are refused")
    min: int | float | None = Field(default=None, description="Least value; a smaller one takes the default")
    max: int | float | None = Field(default=None, description="Largest value; a larger one takes the default")
    keep_nan: bool = Field(default=False, description="NaN, and null within a vector, reaches the teacher as NaN")
    ragged: bool = Field(default=False, description="Rows are shorter or longer than shape[0]: padded or cut")
    mask: str | None = Field(default=None, description="Input that is 1 where a ragged row has a value, else 0")
    meaning: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if any(length < 1 for length in self.shape):
            raise ValueError(f"shape {list(self.shape)} has a length below 1")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        if (self.min, self.max) != (None, None) and self.dtype in ("string", "bool"):
            raise ValueError(f"a {self.dtype} has no min and max")
        if self.keep_nan and not self.dtype.startswith("float"):
            raise ValueError(f"keep_nan: a {self.dtype} cannot be NaN")
        if self.ragged and not self.shape:
            raise ValueError("ragged: `shape` has to say how many values are kept, as [k]")
        if self.mask is not None and not self.ragged:
            raise ValueError("mask belongs to a ragged input")
        if (self.id == "vocabulary") != (self.vocabulary is not None):
            raise ValueError("`id: vocabulary` and `vocabulary: <file>` belong together")
        if self.id and self.dtype not in ("string", *INTEGERS):
            raise ValueError(f"id: {self.id} needs a string or integer input, dtype is {self.dtype}")
        if (self.id in ("vocabulary", "hashed") and self.dtype == "string") or (self.id and len(self.shape) > 1):
            raise ValueError(f"id: {self.id} does not fit dtype {self.dtype} and shape {list(self.shape)}")
        self._check_default()
        return self

    def _check_default(self) -> None:
        values = self.default if isinstance(self.default, tuple) else (self.default,)
        if isinstance(self.default, tuple) and self.shape != (len(values),):
            raise ValueError(f"default has {len(values)} values, shape is {list(self.shape)}")
        if isinstance(self.default, tuple) and self.ragged:
            raise ValueError("the default of a ragged input is one value: it fills what a row lacks")
        for value in values:
            if self.dtype == "string":
                if not isinstance(value, str) and value != 0:
                    raise ValueError(f"default {value!r} is no string")
                continue
            if isinstance(value, str):
                raise ValueError(f"default {value!r} is no {self.dtype}")
            if math.isinf(value):
                raise ValueError(f"default {value} is not finite")
            if self.dtype == "bool" and value not in (0, 1):
                raise ValueError(f"default {value} is no bool")
            low, high = self.bounds
            whole = value == int(value if math.isfinite(value) else 0)
            if self.dtype in INTEGERS and not (whole and low <= value <= high):
                raise ValueError(f"default {value} is no {self.dtype} between {low} and {high}")
            if not math.isnan(value) and not low <= value <= high:
                raise ValueError(f"default {value} lies outside min {self.min} and max {self.max}")

    @property
    def bounds(self) -> tuple[float, float]:
        """Least and largest value that reaches the teacher: of the dtype, narrowed by ``min`` and ``max``."""
        low, high = INTEGERS.get(self.dtype, FLOATS.get(self.dtype, (-math.inf, math.inf)))
        return (low if self.min is None else max(low, self.min), high if self.max is None else min(high, self.max))

    @property
    def filler(self) -> bool | int | float | str | tuple[float, ...]:
        """What stands where the app has no value; the empty string is the default of strings."""
        return "" if self.dtype == "string" and self.default == 0 else self.default

    @property
    def source(self) -> str:
        """Column of ``teacher_inputs_<surface>`` that holds this input: landed ids lie beside our hashes of them."""
        return self.column or (f"landed_{self.name}" if self.id in ("raw", "vocabulary") else self.name)


class TeacherOutput(_Model):
    """One task that the teacher predicts."""

    task: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    kind: Literal["logit", "probability", "value", "rank"]
    temperature: float = Field(default=1, gt=0, description="Logits were divided by it before they were handed over")
    output: str | None = Field(default=None, description="Name of the model's output; default: the task")
    index: int | None = Field(default=None, ge=0, description="Column of an output [n, k], or class of a ZipMap")
    meaning: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.temperature != 1 and self.kind not in ("logit", "probability"):
            raise ValueError(f"temperature: a {self.kind} has none")
        return self

    @property
    def source(self) -> str:
        """Name of the model's output that holds this task."""
        return self.output or self.task

    def to_score(self, values: "np.ndarray") -> "np.ndarray":
        """Turn the teacher's numbers [n] into stored scores, float64 [n].

        Values stay; a logit is multiplied by the temperature that divided it. A probability p becomes log(p / (1 - p))
        first, and NaN where p lies outside [0, 1]. A rank (1 is the best) becomes -log(rank), and NaN below 1.
        """
        import numpy as np

        values = np.asarray(values, dtype=np.float64)
        if self.kind == "rank":
            return np.where(values >= 1, -np.log(np.maximum(values, 1)), np.nan)
        if self.kind != "probability":
            return values if self.temperature == 1 else values * self.temperature
        p = np.clip(values, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
        logits = (np.log(p) - np.log1p(-p)) * self.temperature
        return np.where((values >= 0) & (values <= 1 + 1e-6), logits, np.nan)


Entity = Literal["user_id", "item_id"]
"""Whom a vector is about: the app's user or item, by the column of its hashed id."""


class TeacherEmbedding(_Model):
    """One vector that the teacher has of a user or an item, of whatever else a row holds independent."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)
    output: str | None = Field(default=None, description="Name of the model's output [n, d]; default: the name")
    entity: Entity = Field(description="Whom it is about")
    inputs: tuple[str, ...] = Field(min_length=1, description="The contract's inputs that it is made of, no others")
    meaning: str = ""

    @property
    def source(self) -> str:
        """Name of the model's output that holds this vector."""
        return self.output or self.name


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
    golden: str | None = Field(default=None, description="Parquet file of inputs and the original framework's scores")
    golden_tolerance: float = Field(default=1e-4, gt=0, description="Largest difference, by 1 + the score's size")
    scores: bool = Field(default=False, description="The scores are landed in `teacher_scores`")
    endpoint: Endpoint | None = None
    inputs: tuple[TeacherInput, ...] = ()
    outputs: tuple[TeacherOutput, ...] = Field(min_length=1)
    embeddings: tuple[TeacherEmbedding, ...] = Field(default=(), description="Vectors of users and items")

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
        if self.golden and self.scores:
            raise ValueError("`golden` rows are answered by a model, not by landed scores")
        for name in self.files:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise ValueError(f"{name!r} leaves the contract's folder")
        _distinct("input", [item.name for item in self.inputs])
        _distinct("output", [item.task for item in self.outputs])
        self._check_masks()
        self._check_embeddings()
        return self

    def _check_embeddings(self) -> None:
        if self.embeddings and self.model is None:
            raise ValueError("`embeddings` are outputs of a `model`: an endpoint and landed scores have none")
        _distinct("embedding", [item.name for item in self.embeddings])
        known = {item.name for item in self.inputs} - self.masks.keys()
        for item in self.embeddings:
            _distinct(f"input of embedding {item.name!r}", list(item.inputs))
            if strangers := [name for name in item.inputs if name not in known]:
                raise ValueError(f"embedding {item.name!r}: {strangers[0]!r} is no input; there are {sorted(known)}")

    def _check_masks(self) -> None:
        inputs = {item.name: item for item in self.inputs}
        _distinct("mask", list(self.masks))
        for mask, name in self.masks.items():
            found = inputs.get(mask)
            if found is None:
                raise ValueError(f"input {name!r}: its mask {mask!r} is no input; there are {sorted(inputs)}")
            if found.shape != inputs[name].shape[:1] or found.dtype == "string" or found.ragged:
                raise ValueError(f"mask {mask!r} of {name!r} must be numbers of shape {list(inputs[name].shape[:1])}")

    @property
    def masks(self) -> dict[str, str]:
        """{input that is a mask: the ragged input that it tells of}."""
        return {item.mask: item.name for item in self.inputs if item.mask is not None}

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that the contract names, relative to its folder."""
        vocabularies = dict.fromkeys(item.vocabulary for item in self.inputs)
        return tuple(name for name in (self.model, *self.data_files, *vocabularies, self.golden) if name is not None)

    @property
    def folder(self) -> Path:
        """Folder of the contract; ``model`` is relative to it."""
        return self._folder

    def beside(self, folder: Path) -> Self:
        """Return the contract, its files taken from ``folder``."""
        self._folder = folder
        return self

    @property
    def kinds(self) -> dict[str, str]:
        """Kind of each output by its task name."""
        return {output.task: output.kind for output in self.outputs}

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
        return self.file(self.model)

    @property
    def data_paths(self) -> tuple[Path, ...]:
        """Paths of the files of weights beside the ONNX file."""
        return tuple(self.file(name) for name in self.data_files)

    def file(self, name: str) -> Path:
        """Return the path of a file that the contract names.

        Raises:
            ContractError: It is missing, or lies outside the folder.
        """
        path = (self.folder / name).resolve()
        if not path.is_relative_to(self.folder.resolve()):
            raise ContractError(f"{self.folder / name} leads to {path}, outside the contract's folder")
        if not path.is_file():
            raise ContractError(f"{path}: no such file")
        return path

    @property
    def contract_hash(self) -> str:
        """SHA-256 (32 hex digits) over all that can change a score.

        The contract's content and the bytes of model, weights and vocabularies; free of where they lie, and of the
        golden rows.
        """
        kept = {"model", "data_files", "golden", "golden_tolerance"}
        content = self.model_dump(mode="json", exclude_defaults=True, exclude=kept)
        content["model_sha256"] = [_sha256_of(path) for path in self._weights()]
        vocabularies = [item.vocabulary for item in self.inputs if item.vocabulary is not None]
        if vocabularies:
            content["vocabulary_sha256"] = [_sha256_of(self.file(name)) for name in vocabularies]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]

    def _weights(self) -> tuple[Path, ...]:
        return (self.model_path, *self.data_paths) if self.model is not None else ()

    def reference(self, parameters: int | None = None) -> "Teacher":
        """Return the reference that soft labels, manifests and lineage carry."""
        return Teacher(
            name=self.name,
            version=self.version,
            contract_hash=self.contract_hash,
            outputs=self.tasks,
            trained_through=self.trained_through,
            parameters=parameters,
            license=self.license,
        )


class Teacher(_Model):
    """A pinned teacher."""

    name: str
    version: str
    contract_hash: str
    outputs: tuple[str, ...]
    trained_through: date | None
    parameters: int | None = Field(default=None, description="Numbers in the model's weights; null if unknown")
    license: str | None = Field(default=None, description="As its contract says; version 0.1 did not record it")


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
    except DocumentError as error:
        raise ContractError(str(error)) from error
    except OSError as error:
        raise ContractError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise ContractError(f"{path} holds no mapping")
    try:
        contract = Contract.model_validate(content)
    except ValidationError as error:
        raise ContractError(f"{path}: {faults_of(error, Contract, path.read_bytes())}") from error
    return contract.beside(path.resolve().parent)


def teacher_contract(settings: Settings) -> Contract:
    """Read the contract of the home's teacher.

    Raises:
        ContractError: No file is there, or as ``load_contract``.
    """
    assert settings.teacher is not None
    if not settings.teacher.exists():
        raise ContractError(f"{settings.teacher}: no teacher's contract is there; name its file with CROSSFADE_TEACHER")
    return load_contract(settings.teacher)


def write_contract(contract: Contract, path: Path) -> None:
    """Write ``contract`` as YAML; the file reads back as an equal contract."""
    content = contract.model_dump(mode="json", exclude_defaults=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120), encoding="utf-8")


def _distinct(what: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{what} {twice[0]!r} is declared twice")


def _sha256_of(path: Path) -> str:
    found = path.stat()
    return _sha256(path, found.st_mtime_ns, found.st_ctime_ns, found.st_size)


@lru_cache(maxsize=64)
def _sha256(path: Path, modified_ns: int, changed_ns: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
