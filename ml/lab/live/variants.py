"""The experiment store: exported rankers that serve as variants. No gate judged them, no champion log names them."""

import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from ml.export.onnx import export_ranker
from ml.export.schema import feature_schema
from ml.foundation.artifacts import ArtifactStore
from ml.foundation.code import code_hash
from ml.foundation.documents import digest
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.lab.live.design import Design
from ml.releases.champions import Mode
from ml.students.dataset import build_training_set, load
from ml.students.train import fit
from ml.surfaces.spec import Surface
from ml.surfaces.techniques import NO_TECHNIQUE
from ml.teacher.contract import teacher_contract
from ml.teacher.teachers import labels_of

if TYPE_CHECKING:
    from ml.students.dataset import TrainingSet

MODEL, SCHEMA = "model.onnx", "schema.json"

_CODE = ("ml/students", "ml/distillation", "ml/export")


@dataclass(frozen=True)
class Variant:
    """One variant as a server names it, and where the store keeps its model.

    Attributes:
        surface: Name that a request asks for: ``<surface>.<variant>``.
        artifact: Name of the artifact in the store.
        partition: Its partition: what the model was trained on and with, as a hash.
        release: Digest of its files; every answer of the server names it.
        version: Versions of a variant do not change while it serves.
    """

    surface: str
    artifact: str
    partition: str
    release: str
    version: int = 1
    challenger: "Beside | None" = None


@dataclass(frozen=True)
class Beside:
    """The variant that picks every other item of all answers of another one, as a server reads a challenger.

    Attributes:
        release: Digest of its files.
        onnx_sha256: What stands for its model where users are drawn.
        artifact: As of ``Variant``.
        partition: As of ``Variant``.
        mode: How it takes part.
        share: Of the users.
    """

    release: str
    onnx_sha256: str
    artifact: str
    partition: str
    mode: Mode = "interleave"
    share: float = 1.0


@dataclass(frozen=True)
class VariantFiles:
    """The files of one variant, checked against their hashes."""

    path: Path

    @property
    def model(self) -> Path:
        """Path of the ONNX file."""
        return self.path / MODEL


class VariantStore:
    """What a server loads in place of the champions.

    Args:
        root: Folder of the experiment store.
        variants: The variants to serve.
    """

    def __init__(self, root: Path, variants: Iterable[Variant]) -> None:
        self._artifacts = ArtifactStore(root)
        self._variants = {variant.surface: variant for variant in variants}

    def surfaces(self) -> list[str]:
        """Return the names that can be asked for."""
        return sorted(self._variants)

    def pointer(self, surface: str) -> Variant | None:
        """Return the variant of that name."""
        return self._variants.get(surface)

    def trusted_release(self, surface: str, release: str) -> VariantFiles:
        """Return the files of a variant after checking them.

        Raises:
            FileNotFoundError: The store holds no such variant.
            DamagedError: A file is missing or was changed.
        """
        variant = self._variants.get(surface)
        for one in (variant, variant.challenger if variant else None):
            if one is not None and one.release == release:
                return VariantFiles(self._artifacts.get(one.artifact, one.partition, release).path)
        raise FileNotFoundError(f"no variant {surface!r} of release {release}")


@dataclass(frozen=True)
class Placement:
    """The variants of one surface of a world: what they are trained on, known before anything is trained.

    Attributes:
        identity: Hash of rows, surface, seed and code; the partition of the variants in the store.
        partition: Partition day of the students.
    """

    settings: Settings
    design: Design
    surface: Surface
    identity: str
    partition: date

    @classmethod
    def of(cls, settings: Settings, design: Design, surface: Surface) -> "Placement":
        """Find what the variants of a surface of a prepared world are trained on.

        Raises:
            TrainingSetError: Too few days remain before the live ones.
            ValueError: The teacher has learnt from a live day.
        """
        assert settings.last_day is not None
        partition = design.partition(surface, settings.last_day)
        first, learnt = design.live_days(settings.last_day)[0], teacher_contract(settings).trained_through
        if learnt is not None and learnt >= first:
            raise ValueError(f"experiment {design.name} begins on {first}, and the teacher learnt up to {learnt}")
        training_set = _training_set(settings, surface, partition)
        facts = {"rows": training_set.content_hash, "surface": surface.ranker_digest, "code": code_hash(_CODE)}
        return cls(settings, design, surface, digest({**facts, "seed": design.seed}), partition)

    def place(self, root: Path) -> dict[str, Variant]:
        """Return {variant: where the store keeps it}, training and exporting what it lacks.

        Args:
            root: Folder of the experiment store.
        """
        store = ArtifactStore(root)
        placed: dict[str, Variant] = {}
        for variant, role in self.design.variants.items():
            name = f"models/{self.surface.name}/{role}"
            found = store.latest(name, self.identity)
            if found is None:
                found = store.put(name, self.identity, self._export(role), {"partition": self.partition.isoformat()})
            placed[variant] = Variant(f"{self.surface.name}.{variant}", name, self.identity, found.digest)
        return placed

    def interleaved(self, placed: Mapping[str, Variant]) -> Variant:
        """Return the variant that both variants of ``placed``, the baseline first, answer together."""
        base, other = placed.values()
        beside = Beside(other.release, other.release, other.artifact, other.partition)
        return replace(base, surface=f"{self.surface.name}.{'_and_'.join(placed)}", challenger=beside)

    def _export(self, role: str) -> dict[str, bytes]:
        training_set = _training_set(self.settings, self.surface, self.partition)
        technique = NO_TECHNIQUE if role == "control" else self.surface.distillation.technique
        data = load(self.settings, training_set, self.surface, training_set.train_days, soft_labels=True)
        ranker, _ = fit(data, self.surface, technique=technique, seed=self.design.seed)
        with tempfile.TemporaryDirectory() as scratch:
            export_ranker(ranker, Path(scratch) / MODEL)
            model = (Path(scratch) / MODEL).read_bytes()
        return {MODEL: model, SCHEMA: json.dumps(feature_schema(self.surface), indent=1).encode()}


def _training_set(settings: Settings, surface: Surface, partition: date) -> "TrainingSet":
    labels = labels_of(settings, surface)
    with Lake(settings) as lake:
        return build_training_set(lake, surface, partition, labels)
