"""Trains a release again from its recorded snapshot, and says whether the bytes, or at least the figures, match."""

import importlib.metadata
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ml.evaluation import metrics
from ml.export.onnx import export_ranker
from ml.foundation.artifacts import Artifact, ArtifactStore
from ml.foundation.files import sha256_file
from ml.foundation.lake import Lake
from ml.foundation.progress import Progress, Step, silent
from ml.foundation.settings import Settings
from ml.foundation.signing import Keyring
from ml.operations.trace import checkpoint_of
from ml.releases.manifest import Manifest
from ml.releases.release import Release, require_trusted
from ml.stages.candidate import LIBRARIES
from ml.stages.evaluation import scoring
from ml.stages.training import load_ranker
from ml.students.checkpoint import load_checkpoint
from ml.students.dataset import TrainingSet, load
from ml.students.train import train
from ml.surfaces.spec import Surface

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = 0.001
"""Difference in AUC or R2 up to which figures match: training repeats its bytes on one platform, not across them."""

Match = Literal["bytes", "figures", "no"]


class NotReproducible(RuntimeError):
    """Something that the training needs is no longer there; the message names it."""


@dataclass(frozen=True)
class Figure:
    """A task's figure of the released model and of the one trained again, on the recorded evaluation rows."""

    task: str
    metric: str
    released: float
    again: float
    largest_difference: float


@dataclass(frozen=True)
class Reproduction:
    """The outcome.

    Attributes:
        release: Id of the release.
        weights: Whether the weights are the same bytes.
        onnx: Whether the exported file has the same bytes.
        figures: One per task.
        differing: {library: (of the release, here)} where they differ.
    """

    release: str
    weights: bool
    onnx: bool
    figures: tuple[Figure, ...]
    differing: dict[str, tuple[str, str]]

    @property
    def match(self) -> Match:
        """What matches: the bytes of weights and export, only the figures, or neither."""
        if self.weights and self.onnx:
            return "bytes"
        close = all(abs(f.released - f.again) <= TOLERANCE for f in self.figures)
        return "figures" if self.figures and close else "no"


def reproduce(settings: Settings, release: Release, progress: Progress = silent) -> Reproduction:
    """Train, export and score a release again; nothing of the home is changed but a scratch folder.

    The surface is read from the checkpoint and the rows from the recorded snapshot, so neither a later specification
    nor a corrected day matters.

    Args:
        settings: The home.
        release: Which.
        progress: Told how far the training is.

    Raises:
        NotReproducible: Checkpoint, training set, snapshot or the recorded rows are gone.
        UntrustedError: A key is set, and no trusted one signed the release.
    """
    manifest = require_trusted(Keyring.of(settings), release).manifest
    if manifest.kind == "popularity":
        raise NotReproducible(f"{release.id} ranks by popularity: nothing was trained, so that nothing can be again")
    checkpoint = checkpoint_of(settings, manifest)
    if checkpoint is None:
        raise NotReproducible(f"{release.id}: its checkpoint {manifest.checkpoint_sha256} is no longer stored")
    ranker, meta = load_ranker(checkpoint)
    surface: Surface = ranker.surface
    training_set = _training_set(settings, manifest, meta["training_set"])
    try:
        with Lake(settings, snapshot=manifest.snapshot) as lake:
            _require_rows(lake, training_set, release.id)
    except NotReproducible:
        raise
    except Exception as error:  # DuckLake raises many kinds for a snapshot that was expired
        raise NotReproducible(f"{release.id}: snapshot {manifest.snapshot} cannot be read: {error}") from error
    (settings.home / "scratch").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.home / "scratch", prefix=f"{release.id}-") as folder:
        scratch = Path(folder)
        again = train(
            settings,
            training_set,
            surface,
            technique=manifest.technique,
            seed=manifest.seed,
            out_dir=scratch,
            progress=lambda done, total, loss: progress(Step(f"train {release.id} again", done, total)),
        )
        trained, _ = load_checkpoint(again.path)
        model = scratch / "model.onnx"
        export_ranker(trained, model)
        days = training_set.eval_days
        data = load(settings, training_set, surface, days, soft_labels=False, after_ranking="serving")
        arrays = {name: column.numpy() for name, column in data.inputs.items()}
        scores = [scoring(path)(arrays) for path in (release.model, model)]
        return Reproduction(
            release=release.id,
            weights=sha256_file(again.path / "model.safetensors") == checkpoint.files["model.safetensors"],
            onnx=sha256_file(model) == manifest.onnx_sha256,
            figures=tuple(_figures(surface, data.labels, *scores)),
            differing=_differing(manifest),
        )


def _training_set(settings: Settings, manifest: Manifest, wanted: str) -> TrainingSet:
    """Return the recorded training set with a digest, whatever was recorded for the partition since."""
    store, name = ArtifactStore(settings.artifacts_dir), f"models/{manifest.surface}/training_set"
    partition = str(manifest.partition)
    for artifact in store.files.names(f"{name}/{partition}"):
        if artifact.endswith(".json"):
            continue
        found: Artifact = store.get(name, partition, artifact)
        training_set = TrainingSet.from_json(found.read("training_set.json").decode())
        if training_set.digest == wanted:
            return training_set
    raise NotReproducible(f"{manifest.surface} {partition}: training set {wanted} is no longer stored")


def _require_rows(lake: Lake, training_set: TrainingSet, release: str) -> None:
    _, found = lake.content_hash(f"({training_set.query})", [])
    if found != training_set.content_hash:
        raise NotReproducible(f"{release}: the rows at the snapshot hash to {found}, not {training_set.content_hash}")


def _figures(
    surface: Surface, labels: Mapping[str, "Tensor"], released: dict[str, np.ndarray], again: dict[str, np.ndarray]
) -> Iterator[Figure]:
    for name, task in surface.tasks.items():
        label = labels[name].numpy().astype(np.float64)
        present = np.isfinite(label)
        metric = metrics.auc if task.kind == "binary" else metrics.r2
        pair = [metric(label[present], scores[name][present].astype(np.float64)) for scores in (released, again)]
        yield Figure(
            name,
            "auc" if task.kind == "binary" else "r2",
            released=float(pair[0]),
            again=float(pair[1]),
            largest_difference=float(np.abs(released[name] - again[name]).max()),
        )


def _differing(manifest: Manifest) -> dict[str, tuple[str, str]]:
    here = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {name: (then, here[name]) for name, then in manifest.libraries.items() if here.get(name) != then}
