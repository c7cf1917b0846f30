"""The stages of one release, each a function of (settings, surface, partition) that reads and writes the stores.

``training_set -> control, student -> evaluation -> candidate -> release``; every stage finds its inputs by name and
partition and leaves its result under the same, so any of them can be run again alone.
"""

import importlib.metadata
import json
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ml.lake import Lake
from ml.progress import Progress, Step, silent
from ml.settings import PROJECT_ROOT, Settings
from ml.store.artifacts import Artifact, ArtifactStore
from ml.surfaces.spec import Surface

if TYPE_CHECKING:
    import numpy as np

    from ml.store.verdicts import Override
    from ml.students.tune import Trial

    Arrays = dict[str, np.ndarray]
    Scoring = Callable[[Mapping[str, np.ndarray]], Arrays]

Role = Literal["control", "student"]

LIBRARIES = ("dagster", "dbt-core", "duckdb", "numpy", "onnx", "onnxruntime", "pyarrow", "safetensors", "torch")


class MissingInput(RuntimeError):
    """A stage whose input was not made yet; the message names the asset to materialize."""


@dataclass(frozen=True)
class Trained:
    """A trained ranker: its checkpoint in the store, and numbers to plot."""

    path: Path
    digest: str
    metrics: dict[str, float]


@dataclass(frozen=True)
class Evaluated:
    """An evaluation: numbers to plot, plots as data URIs by name, a summary in Markdown."""

    numbers: dict[str, float]
    plots: dict[str, str]
    summary: str
    digest: str


@dataclass(frozen=True)
class Exported:
    """A candidate in the store."""

    path: Path
    digest: str
    kind: Role
    bytes: int
    parameters: int
    operators: dict[str, int]
    manifest: dict[str, Any]


@dataclass(frozen=True)
class Released:
    """The champion after a promotion."""

    id: str
    path: Path
    digest: str
    previous: str | None


def artifact_name(surface: Surface, asset: str) -> str:
    """Return the name under which an asset's artifacts are stored."""
    return f"models/{surface.name}/{asset}"


def find(settings: Settings, surface: Surface, asset: str, partition: date) -> Artifact:
    """Return the latest artifact of an asset's partition.

    Raises:
        MissingInput: There is none.
    """
    found = ArtifactStore(settings.artifacts_dir).latest(artifact_name(surface, asset), partition.isoformat())
    if found is None:
        raise MissingInput(f"{surface.name}/{asset} of {partition} is missing; materialize it first")
    return found


def make_training_set(settings: Settings, surface: Surface, partition: date) -> Any:
    """Fix which rows the students of a partition learn from and are judged on; return the ``TrainingSet``."""
    from ml.students.dataset import build_training_set
    from ml.teacher.contract import teacher_contract

    contract = teacher_contract(settings)
    with Lake(settings) as lake:
        made = build_training_set(lake, surface, partition, contract.version, contract.contract_hash, contract.tasks)
    ArtifactStore(settings.artifacts_dir).put(
        artifact_name(surface, "training_set"),
        partition.isoformat(),
        {"training_set.json": made.to_json().encode()},
        {"surface_digest": surface.digest},
    )
    return made


def read_training_set(settings: Settings, surface: Surface, partition: date) -> Any:
    """Return the recorded ``TrainingSet`` of a partition."""
    from ml.students.dataset import TrainingSet

    return TrainingSet.from_json(find(settings, surface, "training_set", partition).read("training_set.json").decode())


def train_model(
    settings: Settings,
    surface: Surface,
    partition: date,
    role: Role,
    *,
    seed: int,
    run_id: str | None = None,
    progress: Progress = silent,
) -> Trained:
    """Train control or student of a partition and store its checkpoint; a killed training goes on where it was."""
    from ml.students.train import train

    training_set = read_training_set(settings, surface, partition)
    technique = "none" if role == "control" else surface.distillation.technique
    folder = settings.home / "training" / surface.name / role / f"{partition}-{training_set.digest[:12]}-{seed}"
    checkpoint = train(
        settings,
        training_set,
        surface,
        technique=technique,
        seed=seed,
        out_dir=folder,
        progress=lambda done, total, loss: progress(
            Step(f"{surface.name} {role}", done, total, note=f"loss {loss:.4f}")
        ),
    )
    artifact = ArtifactStore(settings.artifacts_dir).put(
        artifact_name(surface, role),
        partition.isoformat(),
        {"model.safetensors": folder / "model.safetensors", "checkpoint.json": folder / "meta.json"},
        {"run_id": run_id, "seed": seed, "technique": technique},
    )
    metrics = {
        "rows": float(checkpoint.meta["rows"]),
        "steps": float(checkpoint.meta["steps"]),
        "loss_tasks": float(checkpoint.meta["loss"]["hard"]),
        "loss_distillation": float(checkpoint.meta["loss"]["soft"]),
        "parameters": float(checkpoint.meta["parameters"]["serving"]),
        "rows_per_second": float(checkpoint.timing["rows_per_second"]),
        "seconds_fit": float(checkpoint.timing["fit"]),
    }
    return Trained(artifact.path, artifact.digest, metrics)


def load_ranker(artifact: Artifact) -> tuple[Any, dict[str, Any]]:
    """Return the ranker of a checkpoint artifact and what its JSON says."""
    import tempfile

    from ml.students.checkpoint import META_FILE, WEIGHTS_FILE, load_checkpoint

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / WEIGHTS_FILE).write_bytes(artifact.read("model.safetensors"))
        (folder / META_FILE).write_bytes(artifact.read("checkpoint.json"))
        return load_checkpoint(folder)


def evaluate_models(settings: Settings, surface: Surface, partition: date) -> Evaluated:
    """Score the evaluation days with teacher, control, student, champion and reference release, and compare them."""
    import pyarrow as pa

    from ml.evaluation.evaluate import evaluate
    from ml.evaluation.plots import data_uri, figures
    from ml.evaluation.predictions import Model, student_predictions, teacher_predictions, write_predictions
    from ml.evaluation.report import markdown_summary
    from ml.students.checkpoint import predict
    from ml.students.dataset import load
    from ml.teacher.contract import teacher_contract

    training_set = read_training_set(settings, surface, partition)
    contract = teacher_contract(settings)
    checkpoints: dict[Role, Artifact] = {
        role: find(settings, surface, role, partition) for role in ("control", "student")
    }
    rankers: dict[Role, Any] = {role: load_ranker(checkpoint)[0] for role, checkpoint in checkpoints.items()}
    hashes = {role: checkpoint.digest for role, checkpoint in checkpoints.items()}
    released = _released_models(settings, surface)
    tables: list[pa.Table] = []
    for inputs in ("serving", "logged"):
        data = load(settings, training_set, surface, training_set.eval_days, soft_labels=False, after_ranking=inputs)
        arrays = {name: column.numpy() for name, column in data.inputs.items()}
        scores: dict[Model, tuple[str, Arrays]] = {
            role: (hashes[role], predict(ranker, arrays)) for role, ranker in rankers.items()
        }
        scores |= {name: (model_hash, score(arrays)) for name, (model_hash, score) in released.items()}
        for role, (model_hash, values) in scores.items():
            tables.append(
                student_predictions(
                    values,
                    partition=partition,
                    days=data.day.numpy().astype("datetime64[D]"),
                    exposure_ids=data.exposure_id.numpy(),
                    model=role,
                    model_hash=model_hash,
                    inputs=inputs,
                )
            )
    with Lake(settings) as lake:
        teacher = teacher_predictions(
            lake,
            surface,
            partition,
            outputs=training_set.teacher_outputs,
            teacher_version=training_set.teacher_version,
            contract_hash=training_set.contract_hash,
        )
        write_predictions(lake, surface.name, partition, pa.concat_tables([*tables, teacher]))
        evaluation = evaluate(
            lake,
            surface,
            partition,
            teacher_outputs={output.task: output.kind for output in contract.outputs},
            seed=settings.seed,
            snapshot=training_set.snapshot,
        )
    plots = figures(evaluation)
    stored = ArtifactStore(settings.artifacts_dir).put(
        artifact_name(surface, "evaluation"),
        partition.isoformat(),
        {"evaluation.json": evaluation.to_json().encode(), **{f"{name}.png": png for name, png in plots.items()}},
        {"hashes": hashes},
    )
    numbers: dict[str, float] = {}
    for task in surface.tasks:
        metric = evaluation.primary(task)
        for model in ("teacher", "control", "student", "champion"):
            if evaluation.has(model, task):
                numbers[f"{task}_{metric}_{model}"] = evaluation.metric(model, task)
        numbers[f"{task}_{metric}_student_minus_control"] = evaluation.difference("student", "control", task).estimate
    return Evaluated(
        numbers={name: float(value) for name, value in numbers.items() if isfinite(value)},
        plots={name: data_uri(png) for name, png in plots.items()},
        summary=markdown_summary(evaluation, surface),
        digest=stored.digest[:32],
    )


def read_evaluation(settings: Settings, surface: Surface, partition: date) -> Any:
    """Return the stored ``Evaluation`` of a partition."""
    from ml.evaluation.evaluate import Evaluation

    return Evaluation.from_json(find(settings, surface, "evaluation", partition).read("evaluation.json").decode())


def export_candidate(settings: Settings, surface: Surface, partition: date, *, run_id: str | None = None) -> Exported:
    """Export the student, or the control where it is better by interval, as the candidate of a partition."""
    import tempfile

    from ml.evaluation.evaluate import choose_candidate
    from ml.export.onnx import export_ranker, inspect
    from ml.export.schema import feature_schema
    from ml.export.triton import config_pbtxt
    from ml.features import project_hash
    from ml.store.files import sha256_bytes, sha256_file
    from ml.store.manifest import Manifest, examples_content, soft_label_content
    from ml.teacher.contract import teacher_contract

    training_set = read_training_set(settings, surface, partition)
    contract = teacher_contract(settings)
    kind = choose_candidate(read_evaluation(settings, surface, partition), surface)
    checkpoint = find(settings, surface, kind, partition)
    ranker, meta = load_ranker(checkpoint)
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model.onnx"
        export_ranker(ranker, model)
        found = inspect(model)
        schema = (json.dumps(feature_schema(surface), indent=1) + "\n").encode()
        with Lake(settings, snapshot=training_set.snapshot) as lake:
            days = (*training_set.train_days, *training_set.eval_days)
            manifest = Manifest(
                surface=surface.name,
                partition=partition,
                kind=kind,
                technique=meta["technique"],
                snapshot=training_set.snapshot,
                train_days=training_set.train_days,
                eval_days=training_set.eval_days,
                examples=examples_content(lake, surface.name, days),
                soft_labels=soft_label_content(
                    lake, surface.name, days, training_set.teacher_version, training_set.contract_hash
                ),
                teacher=contract.reference(),
                spec_digest=surface.digest,
                gate_digest=surface.gate.digest,
                dbt_manifest_hash=project_hash(),
                git_commit=git_commit(),
                seed=int(meta["seed"]),
                parameters=int(meta["parameters"]["serving"]),
                libraries={name: importlib.metadata.version(name) for name in LIBRARIES},
                checkpoint_sha256=checkpoint.digest,
                onnx_sha256=sha256_file(model),
                feature_schema_hash=sha256_bytes(schema),
                run_ids={"onnx": run_id} if run_id else {},
            )
        artifact = ArtifactStore(settings.artifacts_dir).put(
            artifact_name(surface, "onnx"),
            partition.isoformat(),
            {
                "model.onnx": model,
                "schema.json": schema,
                "manifest.json": manifest.to_bytes(),
                "config.pbtxt": config_pbtxt(surface.name, model, surface.gate.onnx.max_batch).encode(),
            },
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


def promote_candidate(
    settings: Settings,
    surface: Surface,
    partition: date,
    *,
    by: str,
    reason: str | None = None,
    override: "Override | None" = None,
) -> Released:
    """Make the candidate of a partition the champion, if its verdict or a person's override allows it.

    Raises:
        PromotionRefused: With the reason; nothing was changed.
    """
    from ml.store.releases import ReleaseStore

    store = ReleaseStore(settings.artifacts_dir)
    before = store.pointer(surface.name)
    asked = _promotion(settings, surface, partition, store, by, reason)
    pointer = store.promote(surface.name, **asked, override=override)
    release = store.release(surface.name, pointer.release)
    return Released(release.id, release.path, pointer.onnx_sha256, before.release if before else None)


def challenge_champion(
    settings: Settings,
    surface: Surface,
    partition: date,
    *,
    mode: Literal["canary", "shadow"],
    share: float,
    by: str,
    reason: str | None = None,
) -> str:
    """Serve the candidate of a partition beside the champion; return its release.

    Raises:
        PromotionRefused: The candidate would not be promoted; nothing was changed.
    """
    from ml.store.releases import ReleaseStore

    store = ReleaseStore(settings.artifacts_dir)
    asked = _promotion(settings, surface, partition, store, by, reason)
    challenger = store.challenge(surface.name, **asked, mode=mode, share=share).challenger
    assert challenger is not None
    return challenger.release


def _promotion(
    settings: Settings, surface: Surface, partition: date, store: Any, by: str, reason: str | None
) -> dict[str, Any]:
    """Return what the release store wants to know about the candidate of a partition."""
    candidate = find(settings, surface, "onnx", partition)
    evaluation = find(settings, surface, "evaluation", partition)
    plots = [name for name in evaluation.files if name.endswith(".png")]
    return {
        "candidate": candidate,
        "key": store.verdict_key(surface, candidate),
        "partition": partition,
        "by": by,
        "reason": reason or f"candidate of {partition}",
        "evaluation": evaluation.json("evaluation.json"),
        "plots": {name.removesuffix(".png"): evaluation.read(name) for name in plots},
    }


def surface_summary(lake: Lake, settings: Settings, surface: Surface, partition: date) -> dict[str, Any]:
    """Return what demo.json says about a surface: rows, figures, verdict and release."""
    from ml.evaluation.report import surface_report
    from ml.store.releases import ReleaseStore
    from ml.store.verdicts import VerdictStore
    from ml.teacher.contract import teacher_contract
    from ml.teacher.demo import read_card

    training_set = read_training_set(settings, surface, partition)
    contract = teacher_contract(settings)
    candidate = find(settings, surface, "onnx", partition)
    checkpoint = find(settings, surface, "student", partition).json("checkpoint.json")
    verdicts = VerdictStore(settings.artifacts_dir).of_candidate(surface.name, candidate.digest)
    pointer = ReleaseStore(settings.artifacts_dir).pointer(surface.name)
    released = None
    if pointer is not None and pointer.partition == partition:
        released = ReleaseStore(settings.artifacts_dir).release(surface.name, pointer.release)
    card = read_card(contract)
    return surface_report(
        read_evaluation(settings, surface, partition),
        surface,
        rows={"train": training_set.train_rows, "test": training_set.eval_rows},
        defaulted_input_share=defaulted_share(lake, surface, training_set, len(contract.inputs)),
        parameters={
            "teacher": int(card["parameters"]) if card else None,
            "student": int(checkpoint["parameters"]["serving"]),
        },
        verdict={"decision": verdicts[-1].verdict.decision, "path": str(verdicts[-1].path)} if verdicts else None,
        release={"id": released.id, "path": str(released.path)} if released else None,
    )


def defaulted_share(lake: Lake, surface: Surface, training_set: Any, inputs: int) -> float:
    """Return the mean share of teacher inputs that took the contract's default, over the training set's days."""
    days = [*training_set.train_days, *training_set.eval_days]
    row = lake.connection.execute(
        f"select avg(defaulted_inputs) from lake.ml.soft_labels_{surface.name} "
        "where day between ? and ? and teacher_version = ? and contract_hash = ?",
        [days[0], days[-1], training_set.teacher_version, training_set.contract_hash],
    ).fetchone()
    return float(row[0]) / inputs if row and row[0] is not None and inputs else 0.0


def tune_control(
    settings: Settings, surface: Surface, partition: date, *, trials: int, progress: Progress = silent
) -> "list[Trial]":
    """Tune the control on the validation days of a partition; return the trials, best first."""
    from ml.students.tune import tune

    training_set = read_training_set(settings, surface, partition)
    return tune(
        settings,
        training_set,
        surface,
        trials=trials,
        seed=settings.seed,
        progress=lambda done, total, _: progress(Step(f"tune {surface.name}", done, total)),
    )


def newest_partition(settings: Settings, surface: Surface) -> tuple[date | None, str]:
    """Return the newest day that a student can be made of and was not, or None and why.

    A partition D needs examples and soft labels of every day of its window, the last of which is D - 1.
    """
    from ml.students.dataset import TrainingSetError, build_training_set
    from ml.teacher.contract import ContractError, teacher_contract

    try:
        contract = teacher_contract(settings)
    except (ContractError, FileNotFoundError) as error:
        return None, f"no teacher yet: {error}"
    with Lake(settings) as lake:
        table = f"features.examples_{surface.name}"
        if not lake.table_exists(table):
            return None, f"{table} was not built yet"
        (last,) = lake.connection.execute(f"select max(day) from lake.{table}").fetchone() or (None,)
        if last is None:
            return None, f"{table} is empty"
        day = last + timedelta(days=1)
        if settings.last_day is not None:
            day = min(day, settings.last_day)
        if ArtifactStore(settings.artifacts_dir).latest(artifact_name(surface, "onnx"), day.isoformat()) is not None:
            return None, f"the candidate of {day} was made already"
        try:
            build_training_set(lake, surface, day, contract.version, contract.contract_hash, contract.tasks)
        except TrainingSetError as error:
            return None, str(error)
    return day, ""


def git_commit() -> str | None:
    """Return the commit of the checkout, with ``-dirty`` where it was edited; None outside of git."""
    try:
        command = ["git", "-C", str(PROJECT_ROOT), "describe", "--always", "--abbrev=40", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None


def _released_models(
    settings: Settings, surface: Surface
) -> dict[Literal["champion", "reference"], "tuple[str, Scoring]"]:
    """Return hash and scoring function of the champion, and of the reference release where that is another one."""
    from ml.store.releases import ReleaseStore

    store = ReleaseStore(settings.artifacts_dir)
    champion, reference = store.champion(surface.name), store.reference(surface.name)
    found: dict[Literal["champion", "reference"], Any] = {}
    if champion is not None:
        found["champion"] = (champion.pointer.onnx_sha256, scoring(champion.release.model))
        if reference is not None and reference != champion.release.id:
            release = store.release(surface.name, reference)
            found["reference"] = (release.manifest.onnx_sha256, scoring(release.model))
    return found


def scoring(onnx: Path) -> "Scoring":
    """Return a function that scores raw columns with an exported model; a release's path names it."""
    import numpy as np

    from ml.export.onnx import session_of

    model = session_of(onnx)
    names = [item.name for item in model.get_inputs()]
    outputs = [item.name for item in model.get_outputs()]

    def score(arrays: "Mapping[str, np.ndarray]") -> "Arrays":
        if absent := [name for name in names if name not in arrays]:
            raise MissingInput(f"{onnx} wants {absent}, which the surface no longer has")
        values = model.run(outputs, {name: arrays[name] for name in names})
        return {name: np.asarray(value) for name, value in zip(outputs, values, strict=True)}

    return score
