"""Control and student of a partition: trained into the store, and tuned."""

import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from ml.foundation.artifacts import Artifact, ArtifactStore
from ml.foundation.progress import Progress, Step, silent
from ml.foundation.settings import Settings
from ml.stages.artifacts import artifact_name
from ml.stages.training_set import read_training_set
from ml.students.checkpoint import META_FILE, WEIGHTS_FILE, Meta, load_checkpoint
from ml.students.dataset import load
from ml.students.network import Ranker
from ml.students.train import train
from ml.students.tune import Budget, Trial, TrialLog, Tuned, identity, tune
from ml.surfaces.spec import Role, Surface
from ml.surfaces.techniques import NO_TECHNIQUE


@dataclass(frozen=True)
class Trained:
    """A trained ranker: its checkpoint in the store, and numbers to plot."""

    path: Path
    digest: str
    metrics: dict[str, float]


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
    training_set = read_training_set(settings, surface, partition)
    technique = NO_TECHNIQUE if role == "control" else surface.distillation.technique
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


def load_ranker(artifact: Artifact) -> tuple[Ranker, Meta]:
    """Return the ranker of a checkpoint artifact and what its JSON says."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / WEIGHTS_FILE).write_bytes(artifact.read("model.safetensors"))
        (folder / META_FILE).write_bytes(artifact.read("checkpoint.json"))
        return load_checkpoint(folder)


def tune_surface(
    settings: Settings, surface: Surface, partition: date, *, budget: Budget, progress: Progress = silent
) -> Tuned:
    """Tune control and student on the validation days of a partition; what was tried lies in ``<home>/tuning``.

    No evaluation day is read. A search that was killed, or whose budget ended, goes on where it was.
    """
    training_set = read_training_set(settings, surface, partition)
    fit_days, validation_days = training_set.validation_split(surface.window.validation_days)
    data = load(settings, training_set, surface, fit_days, soft_labels=True)
    held_out = load(settings, training_set, surface, validation_days, soft_labels=False, after_ranking="serving")
    log = TrialLog(
        settings.home / "tuning" / f"{surface.name}-{partition}.jsonl", identity(training_set, surface, settings.seed)
    )

    def report(stage: str, done: int, at_most: int, trial: Trial) -> None:
        minutes = f"{log.seconds / 60:.1f} of {budget.seconds / 60:g} min"
        progress(Step(f"tune {surface.name}", done, at_most, note=f"{stage}, {minutes}, {trial.unexplained:.4f} left"))

    return tune(data, held_out, surface, budget=budget, seed=settings.seed, log=log, report=report)
