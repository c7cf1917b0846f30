"""Tuning of the control on validation days: a student is only as convincing as the control that it beats."""

from collections.abc import Callable
from dataclasses import dataclass

import optuna
import yaml

from ml.foundation.settings import Settings
from ml.students.dataset import Dataset, TrainingSet, load
from ml.students.optimizer import Recipe
from ml.students.train import fit, validation_metrics
from ml.surfaces.spec import Surface
from ml.surfaces.techniques import NO_TECHNIQUE

Report = Callable[[int, int, "Trial"], None]
"""Called with (trials done, trials in all, the trial)."""


@dataclass(frozen=True)
class Trial:
    """One setting of the control.

    Attributes:
        settings: ``learning_rate``, ``embedding_learning_rate``, ``final_rate``, ``weight_decay``, ``batch_size``
            and ``embedding`` (size of ids).
        unexplained: Mean over tasks of the share of the label's uncertainty that is left, 1 for a model that only knows
            the mean label: log loss over that of the base rate, or 1 - R2. Lower is better.
        metrics: {task: metrics on the validation days}.
    """

    settings: dict[str, float | int]
    unexplained: float
    metrics: dict[str, dict[str, float]]

    def row(self) -> dict[str, float | int]:
        """Return one flat row for a table."""
        names = ("auc", "log_loss", "r2")
        shown = {f"{task} {n}": m[n] for task, m in self.metrics.items() for n in names if n in m}
        return {**self.settings, "unexplained": self.unexplained, **shown}


def tune(
    settings: Settings,
    training_set: TrainingSet,
    surface: Surface,
    trials: int,
    seed: int,
    progress: Report | None = None,
) -> list[Trial]:
    """Search settings of the control by TPE; fits on the first training days, judges on the last ``validation_days``.

    No evaluation day and no soft label is read. The first trial is the surface's own setting.

    Args:
        settings: Names the lake.
        training_set: Rows and days.
        surface: What to tune.
        trials: Settings to try, at least 1.
        seed: Seed of the search and of every training.
        progress: Told after each trial.

    Returns:
        The trials, best first.
    """
    fit_days, validation_days = training_set.validation_split(surface.window.validation_days)
    train_rows = load(settings, training_set, surface, fit_days, soft_labels=False)
    held_out = load(settings, training_set, surface, validation_days, soft_labels=False, after_ranking="serving")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    study.enqueue_trial(_present(surface, len(train_rows)))
    done: list[Trial] = []
    for _ in range(trials):
        asked = study.ask()
        chosen = {
            "learning_rate": asked.suggest_float("learning_rate", 1e-3, 5e-2, log=True),
            "embedding_learning_rate": asked.suggest_float("embedding_learning_rate", 1e-2, 1.0, log=True),
            "final_rate": asked.suggest_categorical("final_rate", [0.1, 1.0]),
            "weight_decay": asked.suggest_float("weight_decay", 1e-6, 1e-1, log=True),
            "batch_size": asked.suggest_categorical("batch_size", [32, 64, 128, 256, 512, 1024]),
            "embedding": asked.suggest_categorical("embedding", [4, 8, 16, 32]),
        }
        trial = _try(apply(surface, chosen), chosen, train_rows, held_out, seed)
        study.tell(asked, trial.unexplained)
        done.append(trial)
        if progress:
            progress(len(done), trials, trial)
    return sorted(done, key=lambda trial: trial.unexplained)


def apply(surface: Surface, chosen: dict[str, float]) -> Surface:
    """Return the surface with the settings of a trial; ``embedding`` is the size of every input of type id."""
    content = surface.model_dump(mode="json", by_alias=True)
    content["training"] |= {name: value for name, value in chosen.items() if name != "embedding"}
    for spec in content["inputs"].values():
        if spec["type"] == "id":
            spec["embedding"] = chosen["embedding"]
    return Surface.model_validate(content)


def as_yaml(surface: Surface, trial: Trial) -> str:
    """Return what a trial changes in the surface's file: its line ``training``, and every input of another size.

    Each line can replace the one in the file; the whole can stand in a file that ``extends`` it.
    """
    found = apply(surface, trial.settings)
    training = {name: value for name, value in trial.settings.items() if name != "embedding"}
    content = {"training": surface.training.model_dump(mode="json", exclude_unset=True) | training}
    sizes = {name: spec.embedding for name, spec in found.inputs.items() if spec != surface.inputs[name]}
    if sizes:
        content["inputs"] = {
            name: surface.inputs[name].model_dump(mode="json", by_alias=True, exclude_unset=True) | {"embedding": size}
            for name, size in sizes.items()
        }
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=10**6)


def _present(surface: Surface, rows: int) -> dict[str, float]:
    recipe = Recipe.of(surface.training, rows)
    sizes = [spec.embedding for spec in surface.inputs.values() if spec.type == "id"]
    return {
        "learning_rate": recipe.learning_rate,
        "embedding_learning_rate": recipe.embedding_learning_rate,
        "final_rate": recipe.final_rate,
        "weight_decay": max(recipe.weight_decay, 1e-6),
        "batch_size": recipe.batch_size,
        "embedding": max(sizes, default=8),
    }


def _try(surface: Surface, chosen: dict[str, float | int], train_rows: Dataset, held_out: Dataset, seed: int) -> Trial:
    ranker, _ = fit(train_rows, surface, technique=NO_TECHNIQUE, seed=seed)
    metrics = validation_metrics(ranker, held_out)
    left = [
        values["log_loss"] / values["base_log_loss"] if "base_log_loss" in values else 1.0 - values["r2"]
        for values in metrics.values()
        if "base_log_loss" in values or "r2" in values
    ]
    if not left:
        raise ValueError(f"surface {surface.name}: the validation days have no labels to judge by: {metrics}")
    return Trial(settings=chosen, unexplained=sum(left) / len(left), metrics=metrics)
