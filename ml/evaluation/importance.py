"""What each input is worth to a ranker: how much worse it ranks where that input says nothing.

One input at a time is permuted among the rows of a day, which keeps its distribution and the day's mean, and the ranker
scores again: Breiman, "Random Forests", Machine Learning 45 (2001), without retraining. So an input whose knowledge
stands in another one too counts little here, though the two together may count much.

Intervals are over users: the drop of a metric is a smooth function of sums over users, and its variance is that of each
user's influence on it. For AUC that is the clustered form of Obuchowski, "Nonparametric Analysis of Clustered ROC Curve
Data", Biometrics 53 (1997). No replicate is drawn, which keeps thirty inputs at three tasks cheap.
"""

from collections.abc import Callable, Mapping

import numpy as np
from scipy.stats import norm, rankdata

from ml.evaluation import metrics
from ml.evaluation.bootstrap import CONFIDENCE
from ml.evaluation.results import InputValue

MAX_ROWS = 5_000
"""Rows that are scored once per input; of more, a random sample."""

_REACH = float(norm.ppf((1 + CONFIDENCE) / 2))


def input_values(
    score: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]],
    inputs: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    binary: Mapping[str, bool],
    *,
    users: np.ndarray,
    days: np.ndarray,
    seed: int,
) -> list[InputValue]:
    """Return what every input is worth to every task, the most valuable to the first task first.

    Args:
        score: Returns {task: [m]} of rows {input: [m] or [m, length]}.
        inputs: {input: [n] or [n, length]}.
        labels: {task: [n]}, NaN where masked.
        binary: {task: whether its labels are 0 and 1}.
        users: User of each row [n].
        days: Day of each row [n].
        seed: Of sample and permutations.
    """
    rng = np.random.default_rng(seed)
    rows = np.arange(len(users))
    if len(rows) > MAX_ROWS:
        rows = np.sort(rng.choice(rows, MAX_ROWS, replace=False))
    as_it_is = {name: column[rows] for name, column in inputs.items()}
    own = score(as_it_is)
    found: list[InputValue] = []
    for name, column in as_it_is.items():
        permuted = score({**as_it_is, name: column[_within(days[rows], rng)]})
        for task, label in labels.items():
            known = np.isfinite(label[rows])
            y, codes = label[rows][known].astype(np.float64), users[rows][known]
            drop, error = drop_of(y, own[task][known], permuted[task][known], codes, binary=binary[task])
            ends = (drop, drop - _REACH * error, drop + _REACH * error)
            found.append(InputValue(name, task, "auc" if binary[task] else "r2", *ends, n=len(y)))
    first = {value.input: -value.drop for value in reversed(found) if np.isfinite(value.drop)}
    return sorted(found, key=lambda value: (first.get(value.input, np.inf), value.input))


def drop_of(
    labels: np.ndarray, scores: np.ndarray, others: np.ndarray, users: np.ndarray, *, binary: bool
) -> tuple[float, float]:
    """Return AUC or R2 of ``scores`` less that of ``others``, [n] each, and its standard error over users."""
    scores, others = scores.astype(np.float64), others.astype(np.float64)
    if len(labels) < 2 or labels.min() == labels.max():
        return float("nan"), float("nan")
    influence_of = _auc_influence if binary else _r2_influence
    value_of = metrics.auc if binary else metrics.r2
    influence = influence_of(labels, scores) - influence_of(labels, others)
    _, codes = np.unique(users, return_inverse=True)
    by_user = np.bincount(codes, weights=influence)
    count = len(by_user)
    error = np.sqrt(np.square(by_user).sum() * count / (count - 1)) if count > 1 else float("nan")
    return value_of(labels, scores) - value_of(labels, others), float(error)


def _auc_influence(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return how far each row moves the AUC: where it stands among the other class, less what is average there."""
    positive = labels > 0.5
    count = np.where(positive, positive.sum(), (~positive).sum())
    own = np.where(positive, _ranks(scores, positive), _ranks(scores, ~positive))
    below = (rankdata(scores) - own) / (len(labels) - count)  # share of the other class that lies below
    place = np.where(positive, below, 1 - below)
    return (place - metrics.auc(labels, scores)) / count


def _ranks(scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
    found = np.zeros(len(scores))
    found[rows] = rankdata(scores[rows])
    return found


def _r2_influence(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return how far each row moves R2: its square error less the share of its variation that is left on average."""
    variation = np.square(labels - labels.mean())
    return -(np.square(labels - scores) - (1 - metrics.r2(labels, scores)) * variation) / variation.sum()


def _within(days: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return an order [n] that permutes the rows of each day among themselves."""
    order = np.empty(len(days), dtype=np.int64)
    order[np.argsort(days, kind="stable")] = np.lexsort((rng.random(len(days)), days))
    return order
