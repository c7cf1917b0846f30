"""Metrics of rankers: numpy and scipy only, vectorized, aware of ties, NaN where a metric is undefined.

Labels and scores are arrays [n]. Binary labels are 0 or 1; a score is a logit, any monotone score where a metric only
ranks, or a value in the label's unit for regressions. Metrics of ranks and R2 have no unit.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit
from scipy.stats import kendalltau, rankdata

CALIBRATION_BINS = 15
NDCG_CUTOFF = 10


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the area under the ROC curve.

    ``AUC = P(s+ > s-) + P(s+ = s-) / 2`` over all pairs of a positive and a negative row, computed from average ranks:
    ``(sum of ranks of positives - P (P + 1) / 2) / (P N)``. In [0, 1]; NaN with one class only.

    Source: Hanley and McNeil, "The meaning and use of the area under a ROC curve", Radiology 143 (1982).
    """
    positive = labels > 0.5
    positives = int(positive.sum())
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    above = rankdata(scores)[positive].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def log_losses(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Return the binary cross-entropy of each row, in nats [n]: ``log(1 + exp(s)) - y s``, stable for any logit."""
    return np.logaddexp(0.0, logits) - labels * logits


def log_loss(labels: np.ndarray, logits: np.ndarray) -> float:
    """Return the mean binary cross-entropy in nats per row, ``mean(log(1 + exp(s)) - y s)``; NaN without rows.

    Source: Good, "Rational Decisions", J. R. Stat. Soc. B 14 (1952).
    """
    return float(log_losses(labels, logits).mean()) if len(labels) else float("nan")


@dataclass(frozen=True)
class UserAucs:
    """AUC of each user who has both classes.

    Attributes:
        users: Code of each such user [m].
        values: AUC of each [m].
        impressions: Rows of each [m].
    """

    users: np.ndarray
    values: np.ndarray
    impressions: np.ndarray


def user_aucs(labels: np.ndarray, scores: np.ndarray, users: np.ndarray) -> UserAucs:
    """Return the tie-aware AUC of each user with both classes.

    Args:
        labels: 0 or 1 [n].
        scores: Any monotone score [n].
        users: Integer code of the row's user [n].
    """
    if len(labels) == 0:
        return UserAucs(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64))
    order = np.lexsort((scores, users))
    user, score, positive = users[order], scores[order], labels[order] > 0.5
    new_user = np.r_[True, user[1:] != user[:-1]]
    starts = np.flatnonzero(new_user)
    sizes = np.diff(np.r_[starts, len(user)])
    new_tie = new_user | np.r_[True, score[1:] != score[:-1]]
    tie_starts = np.flatnonzero(new_tie)
    tie_sizes = np.diff(np.r_[tie_starts, len(user)])
    rank = np.repeat(tie_starts + (tie_sizes + 1) / 2, tie_sizes) - np.repeat(starts, sizes)
    positives = np.add.reduceat(positive, starts, dtype=np.int64)
    negatives = sizes - positives
    both = (positives > 0) & (negatives > 0)
    above = np.add.reduceat(rank * positive, starts) - positives * (positives + 1) / 2
    return UserAucs(user[starts][both], above[both] / (positives * negatives)[both], sizes[both])


def gauc(labels: np.ndarray, scores: np.ndarray, users: np.ndarray) -> float:
    """Return the group AUC: ``sum_u n_u AUC_u / sum_u n_u`` over users with both classes, n_u their impressions.

    In [0, 1]; NaN where no user has both classes.

    Source: Zhou et al., "Deep Interest Network for Click-Through Rate Prediction", KDD 2018, section 6.2.
    """
    groups = user_aucs(labels, scores, users)
    if len(groups.values) == 0:
        return float("nan")
    return float(np.average(groups.values, weights=groups.impressions))


@dataclass(frozen=True)
class Bins:
    """Equal-mass bins of predictions, in rising order: mean prediction, mean label and rows of each [b]."""

    predicted: np.ndarray
    observed: np.ndarray
    rows: np.ndarray


def calibration_bins(labels: np.ndarray, predictions: np.ndarray, bins: int = CALIBRATION_BINS) -> Bins:
    """Cut the rows into ``bins`` groups of equal mass by prediction; equal predictions share a bin, empty bins go.

    Args:
        labels: Labels [n], binary or real.
        predictions: Probabilities, or values in the label's unit [n].
        bins: Number of bins before empty ones are dropped.
    """
    code = bin_codes(predictions, bins)
    rows = np.bincount(code, minlength=bins)
    filled = rows > 0
    mean = [np.bincount(code, weights=v, minlength=bins)[filled] / rows[filled] for v in (predictions, labels)]
    return Bins(mean[0], mean[1], rows[filled])


def bin_codes(predictions: np.ndarray, bins: int = CALIBRATION_BINS) -> np.ndarray:
    """Return the bin of equal mass of each prediction [n], integers from 0; equal predictions share one."""
    rank = np.searchsorted(np.sort(predictions), predictions, side="left")
    return rank * bins // max(len(predictions), 1)


def expected_calibration_error(labels: np.ndarray, logits: np.ndarray, bins: int = CALIBRATION_BINS) -> float:
    """Return ``sum_b n_b / n |mean prediction - mean label|`` over equal-mass bins of probability, in [0, 1].

    Source: Naeini, Cooper and Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015;
    equal mass as in Nixon et al., "Measuring Calibration in Deep Learning", CVPR workshops 2019.
    """
    if len(labels) == 0:
        return float("nan")
    found = calibration_bins(labels, expit(logits), bins)
    return float(np.average(np.abs(found.predicted - found.observed), weights=found.rows))


def predicted_over_observed(labels: np.ndarray, logits: np.ndarray) -> float:
    """Return ``sum(sigmoid(s)) / sum(y)``, 1 where the mean prediction is right; NaN without positives.

    Source: He et al., "Practical Lessons from Predicting Clicks on Ads at Facebook", ADKDD 2014 ("calibration").
    """
    observed = labels.sum()
    return float(expit(logits).sum() / observed) if observed > 0 else float("nan")


def r2(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Return the coefficient of determination ``1 - sum (y - p)^2 / sum (y - mean y)^2``.

    At most 1, negative where a constant would predict better; NaN for fewer than two distinct labels.

    Source: Wright, "Correlation and causation", J. Agric. Res. 20 (1921).
    """
    total = np.square(labels - labels.mean()).sum() if len(labels) else 0.0
    return float(1 - np.square(labels - predictions).sum() / total) if total > 0 else float("nan")


def r2_affine(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Return the squared Pearson correlation, the R2 of the best affine map of the predictions.

    The map is fitted on the very rows it is scored on, so this is an upper bound on what any recalibration
    ``a * prediction + b`` fitted elsewhere can reach there. It makes a teacher whose output has another unit or offset
    comparable. In [0, 1]; NaN for constant labels or predictions.
    """
    if len(labels) < 2:
        return float("nan")
    y, p = labels - labels.mean(), predictions - predictions.mean()
    scale = (y @ y) * (p @ p)
    return float((y @ p) ** 2 / scale) if scale > 0 else float("nan")


def rmse(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Return the root mean squared error ``sqrt(mean (y - p)^2)`` in the label's unit; NaN without rows."""
    return float(np.sqrt(np.square(labels - predictions).mean())) if len(labels) else float("nan")


def xauc(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Return the share of pairs of rows with different labels that the predictions order right, ties counting half.

    All pairs, not a sample: ``(1 + (C - D) / T) / 2`` with C concordant, D discordant and T pairs of different labels;
    C - D comes from Kendall's tau-b in O(n log n). In [0, 1]; NaN for constant labels.

    Source: Zhan et al., "Deconfounding Duration Bias in Watch-time Prediction for Video Recommendation", KDD 2022.
    """
    pairs = len(labels) * (len(labels) - 1) / 2
    label_pairs = pairs - _tied_pairs(labels)
    if label_pairs <= 0:
        return float("nan")
    score_pairs = pairs - _tied_pairs(predictions)
    if score_pairs <= 0:
        return 0.5
    tau, _ = kendalltau(labels, predictions)
    return float((1 + tau * np.sqrt(score_pairs / label_pairs)) / 2)


@dataclass(frozen=True)
class SessionNdcgs:
    """NDCG of each session that has a gain: the index of one of its rows [m] and the value [m]."""

    rows: np.ndarray
    values: np.ndarray


def session_ndcgs(
    gains: np.ndarray, scores: np.ndarray, sessions: np.ndarray, cutoff: int = NDCG_CUTOFF
) -> SessionNdcgs:
    """Return NDCG@cutoff of each session with at least one positive gain.

    ``DCG = sum_i gain_i / log2(i + 1)`` over the first ``cutoff`` places of the order by falling score, divided by that
    of the best order. Rows of equal score count with their mean gain, the expectation over their orders.

    Args:
        gains: Non-negative relevance [n].
        scores: Score to rank by [n].
        sessions: Integer code of the row's session [n].
        cutoff: Places that count.

    Source: Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", TOIS 20 (2002); ties after
    McSherry and Najork, "Computing Information Retrieval Performance Measures Efficiently in the Presence of Tied
    Scores", ECIR 2008.
    """
    if len(gains) == 0:
        return SessionNdcgs(np.empty(0, np.int64), np.empty(0))
    order = np.lexsort((-scores, sessions))
    session, score, gain = sessions[order], scores[order], gains[order].astype(float)
    new_session = np.r_[True, session[1:] != session[:-1]]
    starts = np.flatnonzero(new_session)
    sizes = np.diff(np.r_[starts, len(session)])
    tie_starts = np.flatnonzero(new_session | np.r_[True, score[1:] != score[:-1]])
    tie_sizes = np.diff(np.r_[tie_starts, len(session)])
    expected = np.repeat(np.add.reduceat(gain, tie_starts) / tie_sizes, tie_sizes)
    place = np.arange(len(session)) - np.repeat(starts, sizes)
    discount = np.where(place < cutoff, 1 / np.log2(place + 2), 0.0)
    found = np.add.reduceat(expected * discount, starts)
    best = np.add.reduceat(gains[np.lexsort((-gains, sessions))] * discount, starts)
    some = best > 0
    return SessionNdcgs(order[starts][some], found[some] / best[some])


def ndcg(gains: np.ndarray, scores: np.ndarray, sessions: np.ndarray, cutoff: int = NDCG_CUTOFF) -> float:
    """Return the mean of ``session_ndcgs`` over sessions, in [0, 1]; NaN where no session has a gain."""
    values = session_ndcgs(gains, scores, sessions, cutoff).values
    return float(values.mean()) if len(values) else float("nan")


def _tied_pairs(values: np.ndarray) -> float:
    counts = np.unique(values, return_counts=True)[1].astype(float)
    return float((counts * (counts - 1) / 2).sum())
