"""Metrics of a ranker's outputs on labelled rows, to choose settings and passes by."""

from collections.abc import Mapping

import numpy as np
from sklearn.metrics import log_loss, r2_score, roc_auc_score

from ml.surfaces.spec import Surface

Metrics = dict[str, float]


def task_metrics(
    surface: Surface, scores: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray]
) -> dict[str, Metrics]:
    """Return {task: metrics}: AUC and log loss, or R2 and RMSE; ``base`` scores the mean label.

    A metric that the rows do not define (one class only) is left out.

    Args:
        surface: Its tasks.
        scores: {task: logit or value [n]}.
        labels: {task: [n]}, NaN where masked.
    """
    found: dict[str, Metrics] = {}
    for name, task in surface.tasks.items():
        known = labels[name].astype(np.float64)
        present = ~np.isnan(known)
        label, score = known[present], scores[name][present].astype(np.float64)
        metrics: Metrics = {"rows": float(len(label))}
        if task.kind == "regression" and len(label) > 1:
            metrics["r2"] = float(r2_score(label, score))
            metrics["rmse"] = float(np.sqrt(np.mean((label - score) ** 2)))
        elif task.kind == "binary" and len(label):
            probability = np.clip(1.0 / (1.0 + np.exp(-score)), 1e-7, 1 - 1e-7)
            metrics["positives"] = float(label.sum())
            metrics["log_loss"] = float(log_loss(label, probability, labels=[0.0, 1.0]))
            if 0 < label.sum() < len(label):
                metrics["auc"] = float(roc_auc_score(label, score))
                rate = label.mean()
                metrics["base_log_loss"] = float(-rate * np.log(rate) - (1 - rate) * np.log(1 - rate))
        found[name] = metrics
    return found
