"""The candidate of a partition: exported to ONNX, with a manifest that names all that it was made of."""

import importlib.metadata
import json
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TypedDict

from ml.evaluation.choice import choose_candidate
from ml.export.files import CONFIG, MODEL, SCHEMA
from ml.export.onnx import export_ranker, inspect
from ml.export.schema import feature_schema
from ml.export.triton import config_pbtxt
from ml.features.projects import project_hash
from ml.foundation.artifacts import Artifact, ArtifactStore
from ml.foundation.code import git_commit
from ml.foundation.documents import Document
from ml.foundation.files import sha256_bytes, sha256_file
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.releases.manifest import (
    DayContent,
    Manifest,
    VectorContent,
    examples_content,
    joined_vectors,
    soft_label_content,
    vector_content,
)
from ml.releases.release import MANIFEST, manifest_of
from ml.stages.artifacts import artifact_name, find
from ml.stages.evaluation import read_evaluation
from ml.stages.training import load_ranker
from ml.stages.training_set import read_training_set
from ml.stages.widening import evaluated_rows
from ml.surfaces.spec import Role, Surface
from ml.teacher.contract import Teacher
from ml.teacher.teachers import contracts_of

_exports: dict[str, bytes] = {}
"""The last export by the digest of its checkpoint: the candidate is one, and its guards ask for it several times."""

LIBRARIES = ("dagster", "dbt-core", "duckdb", "numpy", "onnx", "onnxruntime", "pyarrow", "safetensors", "torch")


@dataclass(frozen=True)
class Exported:
    """A candidate in the store."""

    path: Path
    digest: str
    kind: Role
    bytes: int
    parameters: int
    operators: dict[str, int]
    manifest: Document


def export_candidate(settings: Settings, surface: Surface, partition: date, *, run_id: str | None = None) -> Exported:
    """Export the student, or the control where it is better by interval, as the candidate of a partition."""
    kind = _kind(settings, surface, partition)
    checkpoint = find(settings, surface, kind, partition)
    exported, meta = exported_file(checkpoint), checkpoint.json("checkpoint.json")
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model.onnx"
        model.write_bytes(exported)
        found = inspect(model)
        schema = schema_file(surface)
        manifest = Manifest(
            **_learnt_from(settings, surface, partition),
            **declared(settings, surface, schema),
            kind=kind,
            technique=meta["technique"],
            seed=int(meta["seed"]),
            parameters=int(meta["parameters"]["serving"]),
            checkpoint_sha256=checkpoint.digest,
            onnx_sha256=sha256_file(model),
            libraries={name: importlib.metadata.version(name) for name in LIBRARIES},
            run_ids={"onnx": run_id} if run_id else {},
        )
        artifact = ArtifactStore(settings.artifacts_dir).put(
            artifact_name(surface, "onnx"),
            partition.isoformat(),
            candidate_files(surface, model, schema, manifest),
            {"run_id": run_id},
        )
    return Exported(
        path=artifact.path,
        digest=artifact.digest,
        kind=kind,
        bytes=(artifact.path / "model.onnx").stat().st_size,
        parameters=manifest.parameters,
        operators=dict(found["operators"]),
        manifest=manifest.model_dump(mode="json"),
    )


def schema_file(surface: Surface) -> bytes:
    """Return the feature schema of a surface as the file of a candidate."""
    return (json.dumps(feature_schema(surface), indent=1) + "\n").encode()


class Declared(TypedDict):
    """The manifest's fields about what a candidate was declared by, whatever was learnt."""

    spec_digest: str
    gate_digest: str
    dbt_manifest_hash: str
    git_commit: str | None
    feature_schema_hash: str


def declared(settings: Settings, surface: Surface, schema: bytes) -> Declared:
    """Return what a candidate of a surface with this feature schema is declared by."""
    return Declared(
        spec_digest=surface.digest,
        gate_digest=surface.gate.digest,
        dbt_manifest_hash=project_hash(settings),
        git_commit=git_commit(),
        feature_schema_hash=sha256_bytes(schema),
    )


def candidate_files(surface: Surface, model: Path, schema: bytes, manifest: Manifest) -> dict[str, Path | bytes]:
    """Return the files that a candidate consists of, by name."""
    return {
        MODEL: model,
        SCHEMA: schema,
        MANIFEST: manifest.to_bytes(),
        CONFIG: config_pbtxt(surface.name, model, surface.gate.onnx.max_batch).encode(),
    }


def exported_file(checkpoint: Artifact) -> bytes:
    """Return the ONNX file that a checkpoint exports to, with this machine's versions of torch and onnx.

    A process exports a checkpoint once: the digest says that its bytes are the same, and it is held against them here.

    Raises:
        DamagedError: The checkpoint's files are not what its digest says.
    """
    checkpoint.verify()
    if checkpoint.digest not in _exports:
        ranker, _ = load_ranker(checkpoint)
        with tempfile.TemporaryDirectory() as scratch:
            exported = export_ranker(ranker, Path(scratch) / "model.onnx")
            _exports.clear()
            _exports[checkpoint.digest] = exported.path.read_bytes()
    return _exports[checkpoint.digest]


def _kind(settings: Settings, surface: Surface, partition: date) -> Role:
    """Return which ranker is exported: where an evaluation was widened, the candidate that it was widened for.

    If the wider evaluation would have chosen the other one, guard 3 says so and the candidate is refused: another one
    that profits from days which were added because this one failed would have two chances to err.
    """
    evaluated, begun = evaluated_rows(settings, surface, partition), read_training_set(settings, surface, partition)
    if evaluated.eval_days != begun.eval_days:
        kind = manifest_of(find(settings, surface, "onnx", partition)).kind
        assert kind in ("student", "control"), "no other kind is stored as onnx"
        return kind
    return choose_candidate(read_evaluation(settings, surface, partition), surface)


class Learnt(TypedDict):
    """The manifest's fields about rows and teacher."""

    surface: str
    partition: date
    snapshot: int
    eval_snapshot: int | None
    train_days: tuple[date, ...]
    eval_days: tuple[date, ...]
    examples: tuple[DayContent, ...]
    soft_labels: tuple[DayContent, ...]
    unshown_labels: tuple[DayContent, ...]
    vectors: tuple[VectorContent, ...]
    teacher: Teacher
    further_teachers: tuple[Teacher, ...]


def _learnt_from(settings: Settings, surface: Surface, partition: date) -> Learnt:
    """Return the manifest's fields about rows and teacher, derived again from the snapshots that were read."""
    training_set = read_training_set(settings, surface, partition)
    evaluated = evaluated_rows(settings, surface, partition)
    several = len(training_set.labels) > 1
    examples, soft_labels, pairs = list[DayContent](), list[DayContent](), list[DayContent]()
    vectors: tuple[VectorContent, ...] = ()
    for rows, days in ((training_set, training_set.train_days), (evaluated, evaluated.eval_days)):
        with Lake(settings, snapshot=rows.snapshot) as lake:
            examples += examples_content(lake, surface.name, days)
            vectors = joined_vectors(vectors, vector_content(lake, surface, days))
            for of in training_set.labels:
                known, name = (of.version, of.contract_hash), of.teacher if several else None
                soft_labels += soft_label_content(lake, surface.name, days, *known, teacher=name)
                if training_set.unshown and rows is training_set:
                    filled = training_set.unshown.days
                    pairs += soft_label_content(lake, surface.name, filled, *known, teacher=name, unshown=True)
    teacher, *further = (contract.reference() for contract in contracts_of(settings, surface).values())
    return {
        "surface": surface.name,
        "partition": partition,
        "snapshot": training_set.snapshot,
        "eval_snapshot": evaluated.snapshot if evaluated.snapshot != training_set.snapshot else None,
        "train_days": training_set.train_days,
        "eval_days": evaluated.eval_days,
        "examples": tuple(examples),
        "soft_labels": tuple(soft_labels),
        "unshown_labels": tuple(pairs),
        "vectors": vectors,
        "teacher": teacher,
        "further_teachers": tuple(further),
    }
