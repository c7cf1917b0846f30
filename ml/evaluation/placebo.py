"""The placebo: does the lift come from what the teacher knows, or from any extra head? Trained apart from the graph."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ml.evaluation.metrics import auc, r2
from ml.progress import Progress, Step, silent
from ml.settings import Settings
from ml.students.checkpoint import predict
from ml.students.dataset import Dataset, TrainingSet, load
from ml.students.train import NO_TECHNIQUE, fit, shuffle_soft_labels
from ml.surfaces.spec import Surface

REAL, SHUFFLED = "teacher", "shuffled within day"


def placebo_lifts(
    settings: Settings,
    training_set: TrainingSet,
    surface: Surface,
    *,
    seeds: Sequence[int],
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Train control, student and placebo student per seed and compare them on the evaluation days, serving inputs.

    Args:
        settings: Names the lake.
        training_set: Rows and days.
        surface: What to train.
        seeds: Initialisations; the three arms of a seed share theirs.
        progress: Told after each training.

    Returns:
        One row per task and arm: mean difference to the control (AUC or R2), its 95 % t-interval over seeds (the rows
        are the same, so it says nothing about other users or days; null for a single seed) and the number of seeds.
    """
    data = load(settings, training_set, surface, training_set.train_days, soft_labels=True)
    held_out = load(settings, training_set, surface, training_set.eval_days, soft_labels=False, after_ranking="serving")
    arms = ((NO_TECHNIQUE, False), (surface.distillation.technique, False), (surface.distillation.technique, True))
    lifts: dict[tuple[str, str], list[float]] = {}
    for number, seed in enumerate(seeds):
        figures: list[dict[str, float]] = []
        for place, (technique, shuffled) in enumerate(arms):
            rows = shuffle_soft_labels(data, seed) if shuffled else data
            ranker, _, _ = fit(rows, surface, technique=technique, seed=seed)
            figures.append(_figures(ranker, held_out, surface))
            progress(Step(f"placebo {surface.name}", number * len(arms) + place + 1, len(seeds) * len(arms)))
        for arm, found in zip((REAL, SHUFFLED), figures[1:], strict=True):
            for task, value in found.items():
                lifts.setdefault((task, arm), []).append(value - figures[0][task])
    return [_row(task, arm, np.asarray(values)) for (task, arm), values in sorted(lifts.items())]


def _figures(ranker: Any, data: Dataset, surface: Surface) -> dict[str, float]:
    scores = predict(ranker, {name: column.numpy() for name, column in data.inputs.items()})
    found = {}
    for name, task in surface.tasks.items():
        labels = data.labels[name].numpy().astype(np.float64)
        present = np.isfinite(labels)
        metric = auc if task.kind == "binary" else r2
        found[name] = float(metric(labels[present], scores[name][present].astype(np.float64)))
    return found


def _row(task: str, arm: str, values: np.ndarray) -> dict[str, Any]:
    from scipy import stats

    half = None
    if len(values) > 1:
        half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    mean = float(values.mean())
    return {
        "task": task,
        "soft labels": arm,
        "lift": mean,
        "lo": None if half is None else mean - half,
        "hi": None if half is None else mean + half,
        "seeds": len(values),
    }
