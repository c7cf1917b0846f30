"""Metrics agree with scikit-learn, with brute force, and with their own invariances."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn import metrics as sk

from ml.evaluation import metrics

SMALL = settings(max_examples=60, deadline=None)


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw labels with both classes, scores full of ties, and groups."""
    n = draw(st.integers(2, 40))
    labels = np.array(draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)), float)
    labels[:2] = 0, 1
    scores = np.array(draw(st.lists(st.integers(-4, 4), min_size=n, max_size=n)), float) / 2
    groups = np.array(draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)))
    return labels, scores, groups


@pytest.mark.slow
@SMALL
@given(scored())
def test_binary_metrics_equal_scikit_learn_with_ties(data: tuple) -> None:
    labels, scores, _ = data
    assert metrics.auc(labels, scores) == pytest.approx(sk.roc_auc_score(labels, scores))
    assert metrics.log_loss(labels, scores) == pytest.approx(sk.log_loss(labels, expit(scores)))


@pytest.mark.slow
@SMALL
@given(scored())
def test_gauc_equals_scikit_learn_per_user_weighted_by_impressions(data: tuple) -> None:
    labels, scores, users = data
    total = weight = 0.0
    for user in np.unique(users):
        mine = users == user
        if len(set(labels[mine])) == 2:
            total += mine.sum() * sk.roc_auc_score(labels[mine], scores[mine])
            weight += mine.sum()
    found = metrics.gauc(labels, scores, users)
    assert found == pytest.approx(total / weight) if weight else np.isnan(found)


@pytest.mark.slow
@SMALL
@given(scored(), st.integers(1, 12))
def test_ndcg_equals_scikit_learn_per_session_with_ties(data: tuple, cutoff: int) -> None:
    gains, scores, sessions = data
    expected = []
    for session in np.unique(sessions):
        mine = sessions == session
        if gains[mine].sum() == 0:
            continue
        one = mine.sum() == 1  # scikit-learn refuses a single document
        expected.append(1.0 if one else sk.ndcg_score([gains[mine]], [scores[mine]], k=cutoff))
    assert metrics.ndcg(gains, scores, sessions, cutoff) == pytest.approx(np.mean(expected))


@SMALL
@given(scored())
def test_xauc_equals_brute_force_over_pairs(data: tuple) -> None:
    _, labels, scores = data
    pairs = [
        0.5 if scores[i] == scores[j] else float((scores[i] > scores[j]) == (labels[i] > labels[j]))
        for i, j in itertools.combinations(range(len(labels)), 2)
        if labels[i] != labels[j]
    ]
    found = metrics.xauc(labels, scores)
    assert found == pytest.approx(np.mean(pairs)) if pairs else np.isnan(found)


@SMALL
@given(scored(), st.integers(1, 6))
def test_equal_predictions_share_a_calibration_bin_and_no_row_is_lost(data: tuple, bins: int) -> None:
    labels, scores, _ = data
    found = metrics.calibration_bins(labels, expit(scores), bins)
    assert found.rows.sum() == len(labels)
    assert found.rows @ found.observed == pytest.approx(labels.sum())
    assert (np.diff(found.predicted) > 0).all()
    assert len(found.rows) <= min(bins, len(np.unique(scores)))


@pytest.mark.slow
@SMALL
@given(scored(), st.randoms(use_true_random=False))
def test_no_metric_depends_on_the_order_of_rows(data: tuple, random: object) -> None:
    labels, scores, groups = data
    order = np.arange(len(labels))
    random.shuffle(order)  # type: ignore[attr-defined]
    for metric in (metrics.auc, metrics.log_loss, metrics.expected_calibration_error, metrics.xauc, metrics.r2_affine):
        before, after = metric(labels, scores), metric(labels[order], scores[order])
        assert after == pytest.approx(before, nan_ok=True), metric.__name__
    for metric in (metrics.gauc, metrics.ndcg):
        before, after = metric(labels, scores, groups), metric(labels[order], scores[order], groups[order])
        assert after == pytest.approx(before, nan_ok=True), metric.__name__


def test_regression_metrics_equal_scikit_learn_and_survive_what_they_promise() -> None:
    rng = np.random.default_rng(0)
    labels = rng.normal(5, 2, 500)
    predictions = labels + rng.normal(0, 1, 500)
    assert metrics.r2(labels, predictions) == pytest.approx(sk.r2_score(labels, predictions))
    assert metrics.rmse(labels, predictions) == pytest.approx(sk.root_mean_squared_error(labels, predictions))
    slope, offset = np.polyfit(predictions, labels, 1)
    best = sk.r2_score(labels, slope * predictions + offset)
    assert metrics.r2_affine(labels, predictions) == pytest.approx(best)
    assert metrics.r2_affine(labels, 100 - 7 * predictions) == pytest.approx(best)
    assert metrics.xauc(labels, np.exp(predictions)) == pytest.approx(metrics.xauc(labels, predictions))


def test_calibration_error_equals_equal_mass_bins_by_hand() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(-1, 1, 1500)
    labels = (rng.random(1500) < expit(logits + 0.5)).astype(float)
    order = np.argsort(logits)
    groups = zip(np.split(expit(logits)[order], 15), np.split(labels[order], 15), strict=True)
    by_hand = np.mean([abs(p.mean() - y.mean()) for p, y in groups])
    assert metrics.expected_calibration_error(labels, logits) == pytest.approx(by_hand)
    assert metrics.predicted_over_observed(labels, logits) == pytest.approx(expit(logits).sum() / labels.sum())


def test_undefined_metrics_are_nan_and_never_an_error() -> None:
    none, ones = np.empty(0), np.ones(3)
    scores = np.arange(3.0)
    for labels, values in ((none, none), (ones, scores)):
        assert np.isnan(metrics.auc(labels, values))
        assert np.isnan(metrics.r2(labels, values))
        assert np.isnan(metrics.xauc(labels, values))
        assert np.isnan(metrics.gauc(labels, values, np.zeros(len(labels), int)))
    assert np.isnan(metrics.log_loss(none, none))
    assert np.isnan(metrics.ndcg(np.zeros(3), scores, np.zeros(3, int)))
    assert np.isnan(metrics.predicted_over_observed(np.zeros(3), scores))


def test_log_loss_is_finite_for_extreme_logits() -> None:
    assert metrics.log_loss(np.array([1.0, 0.0]), np.array([-800.0, 800.0])) == pytest.approx(800)
