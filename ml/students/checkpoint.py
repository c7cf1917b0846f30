"""Checkpoints: safetensors and JSON in one folder, addressed by content; and scoring with them."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from ml.distillation.catalog import build_technique
from ml.distillation.technique import Scale
from ml.students.network import Ranker, build_network
from ml.students.preprocessing import Preprocessing
from ml.surfaces.spec import Surface
from ml.surfaces.techniques import NO_TECHNIQUE

WEIGHTS_FILE = "model.safetensors"
META_FILE = "meta.json"
FORMAT = 1


class CheckpointError(ValueError):
    """A folder that holds no usable checkpoint; the message names it."""


class Losses(TypedDict):
    """Mean losses of the last steps."""

    hard: float
    soft: float


class Parameters(TypedDict):
    """Trained numbers: of what serves, and of the distillation heads."""

    serving: int
    distillation: int


class Meta(TypedDict):
    """What ``meta.json`` says, as far as it is read again."""

    technique: str
    seed: int
    rows: int
    steps: int
    loss: Losses
    parameters: Parameters
    training_set: str
    content_hash: str
    device: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Checkpoint:
    """A trained ranker on disk.

    Attributes:
        path: Folder with ``model.safetensors`` and ``meta.json``.
        digest: SHA-256 of both; equal bytes for equal causes on one platform.
        meta: What ``meta.json`` says; holds no clock times or paths.
        timing: Seconds of the stages of this run, and rows per second.
    """

    path: Path
    digest: str
    meta: Meta
    timing: dict[str, float]


def save_checkpoint(ranker: Ranker, meta: Mapping[str, object], path: Path) -> str:
    """Write a ranker with its heads and return the digest; each file appears whole or not at all.

    Args:
        ranker: The ranker; every buffer and parameter is kept, float32 or int64.
        meta: JSON-able facts; surface and scales are added, so that the folder is complete in itself.
        path: Folder, created if need be.
    """
    path.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in ranker.state_dict().items()}
    content = {**meta, "format": FORMAT, "surface": ranker.surface.model_dump(mode="json", by_alias=True)}
    write_atomically(path / WEIGHTS_FILE, save(state))
    write_atomically(path / META_FILE, (json.dumps(content, indent=1) + "\n").encode())
    return checkpoint_digest(path)


def checkpoint_digest(path: Path) -> str:
    """Return the SHA-256 of the safetensors file followed by the JSON file."""
    digest = hashlib.sha256()
    for name in (WEIGHTS_FILE, META_FILE):
        digest.update((path / name).read_bytes())
    return digest.hexdigest()


def load_checkpoint(path: Path) -> tuple[Ranker, Meta]:
    """Read a ranker, in evaluation mode, and its meta.

    Raises:
        CheckpointError: A file is missing, of another format, or does not fit the surface in it.
    """
    try:
        meta = json.loads((path / META_FILE).read_text(encoding="utf-8"))
        if meta.get("format") != FORMAT:
            raise CheckpointError(f"{path}: format {meta.get('format')}, not {FORMAT}")
        surface = Surface.model_validate(meta["surface"])
        state = load_file(path / WEIGHTS_FILE)
        ranker = build_network(surface, Preprocessing.restore(surface.inputs, state, "preprocessing."), seed=0)
        if meta["technique"] != NO_TECHNIQUE:
            scales = {head.teacher_output: Scale(0.0, 1.0) for head in surface.distillation.heads}
            ranker.distillation = build_technique(surface, scales, ranker.widths, seed=0)
        ranker.load_state_dict(state)
    except (OSError, KeyError, RuntimeError, ValueError, SafetensorError) as error:
        raise error if isinstance(error, CheckpointError) else CheckpointError(f"{path}: {error}") from error
    return ranker.eval(), meta


def predict(ranker: Ranker, arrays: Mapping[str, np.ndarray], batch: int = 8192) -> dict[str, np.ndarray]:
    """Score raw columns.

    Args:
        ranker: The ranker; used in evaluation mode, on its device.
        arrays: {input: int64 or float32, [n] or [n, length]}, as from ``to_arrays``.
        batch: Rows per step.

    Returns:
        {task or ``score``: float32 [n]}.
    """
    device = next(ranker.parameters()).device
    n = len(next(iter(arrays.values())))
    columns = {
        name: torch.from_numpy(np.require(arrays[name], requirements=("C", "W"))) for name in ranker.surface.inputs
    }
    out: dict[str, np.ndarray] = {}
    training = ranker.training
    ranker.eval()
    with torch.inference_mode():
        for start in range(0, max(n, 1), batch):
            part = {name: column[start : start + batch].to(device) for name, column in columns.items()}
            for name, values in ranker(part).items():
                out.setdefault(name, np.empty(n, dtype=np.float32))[start : start + batch] = values.cpu().numpy()
    ranker.train(training)
    return out


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a scratch name, then move it into place."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    scratch.write_bytes(content)
    scratch.replace(path)
