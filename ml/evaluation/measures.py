"""Metrics of every model and their paired differences, per task, slice and inputs."""

import hashlib
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from ml.evaluation import metrics
from ml.evaluation.bootstrap import Interval, UserWeights, effective_users, interval
from ml.evaluation.frame import Frame
from ml.evaluation.predictions import (
    RANK_TASK,
)
from ml.evaluation.results import NAN, RANKING, Calibration, Histogram, Result
from ml.surfaces.columns import Task
from ml.surfaces.spec import Surface

COMPARISONS = (
    ("student", "control"),
    ("student", "champion"),
    ("control", "champion"),
    ("student", "reference"),
    ("control", "reference"),
    ("student", "baseline"),
    ("control", "baseline"),
    ("student", "incumbent"),
    ("control", "incumbent"),
    ("control", "teacher"),
    ("student", "teacher"),
)
HISTOGRAM_BINS = 40


@dataclass(frozen=True)
class _Measured:
    """Metrics of one model on some rows, and the replicates of those that are bootstrapped."""

    values: dict[str, float]
    replicates: dict[str, np.ndarray]


class Measures:
    """Measures a model's scores on rows of a task, each distinct array of scores once.

    Two models with the same scores share their replicates, so that their difference is exactly 0.
    """

    def __init__(self, frame: Frame, weights: UserWeights) -> None:
        self.frame, self.weights = frame, weights
        self._known: dict[bytes, _Measured] = {}

    def of(self, spec: Task, task: str, inputs: str, model: str, rows: np.ndarray, probabilistic: bool) -> _Measured:
        """Measure ``model`` on ``rows`` [n] (a mask); ``probabilistic`` tells whether a binary score is a logit."""
        scores = self.frame.scores[inputs, model, task][rows]
        rank = self.frame.scores.get((inputs, model, RANK_TASK), np.empty(0))
        parts = [task.encode(), rows.tobytes(), scores.tobytes(), rank.tobytes(), bytes([probabilistic])]
        key = hashlib.blake2b(b"|".join(parts)).digest()
        if key not in self._known:
            labels, codes = self.frame.labels[task][rows], self.weights.codes[rows]
            if spec.kind == "regression":
                self._known[key] = self._regression(labels, scores, codes)
            else:
                rank = rank[rows] if len(rank) else None
                self._known[key] = self._binary(labels, scores, codes, self.frame.sessions[rows], rank, probabilistic)
        return self._known[key]

    def _binary(
        self,
        labels: np.ndarray,
        scores: np.ndarray,
        codes: np.ndarray,
        sessions: np.ndarray,
        rank: np.ndarray | None,
        probabilistic: bool,
    ) -> _Measured:
        w = self.weights
        groups = metrics.user_aucs(labels, scores, codes)
        values = {"auc": metrics.auc(labels, scores), "gauc": metrics.gauc(labels, scores, codes)}
        linear = {"gauc": w.mean(groups.users, groups.values, groups.impressions)}
        for name, order in (("ndcg_10", scores), (RANKING, rank)):
            if order is not None:
                found = metrics.session_ndcgs(labels, order, sessions)
                values[name] = float(found.values.mean()) if len(found.values) else NAN
                linear[name] = w.mean(codes[found.rows], found.values)
        if probabilistic:
            values |= {
                "log_loss": metrics.log_loss(labels, scores),
                "ece": metrics.expected_calibration_error(labels, scores),
                "predicted_over_observed": metrics.predicted_over_observed(labels, scores),
            }
            predicted = expit(scores)
            linear["log_loss"] = w.mean(codes, metrics.log_losses(labels, scores))
            linear["ece"] = w.calibration_error(codes, metrics.bin_codes(predicted), labels, predicted)
            linear["predicted_over_observed"] = w.ratio(codes, predicted, labels)
        replicates = {"auc": w.auc(codes, labels, scores)}
        replicates |= zip(linear, w.replicate(list(linear.values())), strict=True)
        return _Measured(values, replicates)

    def _regression(self, labels: np.ndarray, scores: np.ndarray, codes: np.ndarray) -> _Measured:
        w = self.weights
        values = {
            "r2": metrics.r2(labels, scores),
            "r2_affine": metrics.r2_affine(labels, scores),
            "rmse": metrics.rmse(labels, scores),
            "xauc": metrics.xauc(labels, scores),
        }
        linear = [
            w.r2(codes, labels, scores),
            w.r2_affine(codes, labels, scores),
            w.mean(codes, np.square(labels - scores)),
        ]
        r2, r2_affine, mse = w.replicate(linear)
        return _Measured(values, {"r2": r2, "r2_affine": r2_affine, "rmse": np.sqrt(mse)})


class Cell:
    """One task on one slice and one kind of inputs."""

    def __init__(
        self, measures: Measures, surface: Surface, inputs: str, task: str, name: str, probabilistic: frozenset[str]
    ) -> None:
        self.measures, self.frame, self.gate = measures, measures.frame, surface.gate.slices
        self.inputs, self.task, self.name = inputs, task, name
        self.spec = surface.tasks[task]
        self.probabilistic = probabilistic
        self.mask = self.frame.slices[name] & np.isfinite(self.frame.labels[task])

    def results(self, models: list[str]) -> list[Result]:
        """Return every metric of ``models`` and every difference among them."""
        found = []
        for model in models:
            rows = self._rows(model)
            measured, effective = self._measure(model, rows), effective_users(self.measures.weights.codes[rows])
            spreads = {
                metric: interval(value, measured.replicates[metric], effective)
                if metric in measured.replicates
                else Interval(value, NAN, NAN, NAN, NAN)
                for metric, value in measured.values.items()
            }
            found += self._results(model, None, spreads, rows, effective)
        for model, reference in COMPARISONS:
            if model in models and reference in models:
                rows = self._rows(model) & self._rows(reference)
                a, b = self._measure(model, rows), self._measure(reference, rows)
                effective = effective_users(self.measures.weights.codes[rows])
                spreads = {
                    metric: interval(a.values[metric] - b.values[metric], spread - b.replicates[metric], effective)
                    for metric, spread in a.replicates.items()
                    if metric in b.replicates
                }
                found += self._results(model, reference, spreads, rows, effective)
        return found

    def _rows(self, model: str) -> np.ndarray:
        scored = self.mask & np.isfinite(self.frame.scores[self.inputs, model, self.task])
        rank = self.frame.scores.get((self.inputs, model, RANK_TASK))
        return scored if rank is None else scored & np.isfinite(rank)

    def _measure(self, model: str, rows: np.ndarray) -> _Measured:
        return self.measures.of(self.spec, self.task, self.inputs, model, rows, model in self.probabilistic)

    def _results(
        self, model: str, reference: str | None, spreads: dict[str, Interval], rows: np.ndarray, effective: float
    ) -> list[Result]:
        n, codes = int(rows.sum()), self.measures.weights.codes
        positive = rows & (self.frame.labels[self.task] > 0.5) if self.spec.kind == "binary" else rows
        positives = int(positive.sum())
        users, positive_users = (int(np.count_nonzero(np.bincount(codes[chosen]))) for chosen in (rows, positive))
        weak = [f"{n} rows, fewer than {self.gate.min_rows}"] if n < self.gate.min_rows else []
        if positives < self.gate.min_positives:
            weak.append(f"{positives} positives, fewer than {self.gate.min_positives}")
        return [
            Result(
                model=model,
                reference=reference,
                inputs=self.inputs,
                slice=self.name,
                task=self.task,
                metric=metric,
                value=spread.estimate,
                lo=spread.lo,
                hi=spread.hi,
                se=spread.se,
                mde=spread.mde,
                n=n,
                positives=positives,
                users=users,
                flag="; ".join(weak) or None,
                positive_users=positive_users,
                effective_users=effective,
            )
            for metric, spread in spreads.items()
        ]


def calibration_curves(
    frame: Frame, spec: Task, inputs: str, task: str, models: list[str], rows: np.ndarray
) -> list[Calibration]:
    """Return each model's calibration of one task on ``rows`` [n] (a mask)."""
    labels = frame.labels[task][rows]
    found = []
    for model in models:
        scores = frame.scores[inputs, model, task][rows]
        bins = metrics.calibration_bins(labels, expit(scores) if spec.kind == "binary" else scores)
        found.append(
            Calibration(model, inputs, task, bins.predicted.tolist(), bins.observed.tolist(), bins.rows.tolist())
        )
    return found


def histograms_of(
    frame: Frame, spec: Task, inputs: str, task: str, models: list[str], rows: np.ndarray
) -> list[Histogram]:
    """Return each model's scores of one task on ``rows`` [n] (a mask), counted on edges that all share."""
    labels = frame.labels[task][rows]
    scores = {m: frame.scores[inputs, m, task][rows] for m in models}
    pooled = np.concatenate([s[np.isfinite(s)] for s in scores.values()]) if scores else np.empty(0)
    if len(pooled) == 0:
        return []
    lo, hi = np.quantile(pooled, [0.001, 0.999])
    edges = np.linspace(lo, hi if hi > lo else lo + 1, HISTOGRAM_BINS + 1)
    positive = (labels > 0.5) if spec.kind == "binary" else np.zeros(len(labels), bool)
    found = []
    for model, values in scores.items():
        inside = np.clip(values, edges[0], edges[-1])
        counts = [np.histogram(inside[m & np.isfinite(values)], edges)[0].tolist() for m in (positive, ~positive)]
        found.append(Histogram(model, inputs, task, edges.tolist(), *counts))
    return found
