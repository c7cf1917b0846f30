"""What could be had from the teacher at most, and which share of it a student keeps.

The ceiling is a control that reads the teacher's scores as inputs. It cannot serve, since nobody has the scores at the
time of a request, and it has to be trained: studies do (variant ``ceiling``). Where nothing is trained, the *stacked
teacher* stands in: a linear model of the control's score and the teacher's, fitted on some users and judged on others,
after Wolpert, "Stacked generalization", Neural Networks 5 (1992). It only adds scores up, so it lies below the ceiling.

The transfer ratio is the student's gain over the ceiling's, both over the same control. Its interval holds every ratio
that the two gains do not contradict: Fieller, "Some Problems in Interval Estimation", Journal of the Royal Statistical
Society B 16 (1954). It is unbounded where the ceiling itself is not shown to gain, and then there is none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ml.evaluation import metrics
from ml.evaluation.bootstrap import CONFIDENCE, UserWeights, interval
from ml.evaluation.over_worlds import quantile
from ml.evaluation.results import Transfer

FOLDS = 5
REPLICATES = 200
"""Bootstrap samples of the users in an evaluation, for gains and shares that decide nothing."""

_CENTRE_PRIOR = 5.0

_NAN = float("nan")


@dataclass(frozen=True)
class Ratio:
    """A ratio of two gains with its 95 % interval; all NaN where the one below is not shown to differ from 0."""

    estimate: float
    lo: float
    hi: float


def stacked_transfer(
    task: str,
    labels: np.ndarray,
    scores: Mapping[str, np.ndarray],
    teacher: np.ndarray,
    weights: UserWeights,
    *,
    binary: bool,
    seed: int,
) -> Transfer | None:
    """Return what the stacked teacher gains on a task and which share of it the student keeps.

    Args:
        task: Name of the task.
        labels: Of every row [n], NaN where masked.
        scores: ``control`` and ``student`` [n].
        teacher: ``hints`` of every row [n, k], NaN where missing.
        weights: Of the users of every row.
        binary: Whether the labels are 0 and 1.
        seed: Of the folds.

    Returns:
        None where the rows do not define a model.
    """
    rows = np.isfinite(labels) & np.isfinite(teacher).all(axis=1)
    y, codes = labels[rows], weights.codes[rows]
    found = stacked_scores(y, scores["control"][rows], teacher[rows], codes, binary=binary, seed=seed)
    if found is None:
        return None
    values: list[float] = []
    drawn: list[np.ndarray] = []
    for score in (*found, scores["control"][rows], scores["student"][rows]):
        value, replicates = figure(weights, codes, y, score, binary=binary)
        values.append(value)
        drawn.append(replicates)
    stacked = interval(values[1] - values[0], drawn[1] - drawn[0])
    gain, gain_drawn = values[3] - values[2], drawn[3] - drawn[2]
    kept = ratio_over_worlds([gain], [stacked.estimate], gain_drawn, drawn[1] - drawn[0])
    metric = "auc" if binary else "r2"
    ends = (stacked.estimate, stacked.lo, stacked.hi, kept.estimate, kept.lo, kept.hi)
    return Transfer(task, metric, *ends, n=len(y))


def figure(
    weights: UserWeights, codes: np.ndarray, labels: np.ndarray, scores: np.ndarray, *, binary: bool
) -> tuple[float, np.ndarray]:
    """Return AUC or R2 of scores [n] and its replicates; ``codes`` [n] name the users."""
    scores = scores.astype(np.float64)
    if binary:
        return metrics.auc(labels, scores), weights.auc(codes, labels, scores)
    [replicates] = weights.replicate([weights.r2(codes, labels, scores)])
    return metrics.r2(labels, scores), replicates


def ratio_over_worlds(
    above: Sequence[float] | np.ndarray,
    below: Sequence[float] | np.ndarray,
    above_drawn: np.ndarray,
    below_drawn: np.ndarray,
) -> Ratio:
    """Return the ratio of two mean gains over worlds.

    Args:
        above: Gain of the student in each world.
        below: Gain of the ceiling in each world.
        above_drawn: Replicates of the first over the users of one world [replicates]; they count where there is one.
        below_drawn: Of the second, of the same users.
    """
    count = len(above)
    if count == 1:
        drawn = np.stack([above_drawn, below_drawn])
        covariance = np.cov(drawn[:, np.isfinite(drawn).all(axis=0)])
    else:
        covariance = np.cov(np.stack([above, below])) / count
    return fieller(float(np.mean(above)), float(np.mean(below)), covariance, quantile(count, CONFIDENCE))


def fieller(above: float, below: float, covariance: np.ndarray, reach: float) -> Ratio:
    r"""Return :math:`\rho = a / b` with every :math:`\rho` for which :math:`|a - \rho b|` is within its error.

    Args:
        above: a.
        below: b.
        covariance: Of both estimates [2, 2].
        reach: Half an interval's width in standard errors.
    """
    square = reach**2
    quadratic = below**2 - square * covariance[1, 1]
    linear = above * below - square * covariance[0, 1]
    constant = above**2 - square * covariance[0, 0]
    within = linear**2 - quadratic * constant
    if not (below > 0 and quadratic > 0 and within >= 0):
        return Ratio(_NAN, _NAN, _NAN)
    half = float(np.sqrt(within))
    return Ratio(above / below, float((linear - half) / quadratic), float((linear + half) / quadratic))


def hints(scores: Mapping[str, np.ndarray], users: np.ndarray) -> np.ndarray:
    """Return the teacher's scores side by side, raw and less each user's own level [n, 2 * scores].

    Args:
        scores: {output: [n]}, NaN where missing.
        users: User of each row [n].
    """
    raw = np.stack(list(scores.values()), axis=1)
    _, codes = np.unique(users, return_inverse=True)
    known = np.isfinite(raw)
    about = np.where(known, raw - np.nanmean(raw, axis=0, where=known), 0.0)
    sums = np.stack([np.bincount(codes, weights=column) for column in about.T], axis=1)
    counts = np.stack([np.bincount(codes, weights=column) for column in known.T], axis=1)
    return np.concatenate([raw, raw - (sums / (counts + _CENTRE_PRIOR))[codes]], axis=1)


def stacked_scores(
    labels: np.ndarray, control: np.ndarray, teacher: np.ndarray, users: np.ndarray, *, binary: bool, seed: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return scores of the control alone and of control and teacher together, by models that saw other users.

    Args:
        labels: [n], finite.
        control: The control's score [n].
        teacher: ``hints`` of the same rows [n, k], finite.
        users: User of each row [n].
        binary: Logistic regression, else linear.
        seed: Of the split into folds.

    Returns:
        Two arrays [n]; None where some users alone do not define a model.
    """
    base = control.astype(np.float64)[:, None]
    if len(np.unique(users)) < FOLDS or len(np.unique(labels)) < 2:
        return None
    both = np.hstack([base, teacher])
    alone, stacked = np.zeros(len(labels)), np.zeros(len(labels))
    for learn, judge in GroupKFold(FOLDS, shuffle=True, random_state=seed).split(base, labels, users):
        if len(np.unique(labels[learn])) < 2:
            return None
        for found, inputs in ((alone, base), (stacked, both)):
            model = make_pipeline(StandardScaler(), LogisticRegression() if binary else LinearRegression())
            model.fit(inputs[learn], labels[learn])
            found[judge] = model.decision_function(inputs[judge]) if binary else model.predict(inputs[judge])
    return alone, stacked
