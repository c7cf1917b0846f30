"""The bootstrap counts users, pairs models, covers the truth, and repeats."""

import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from ml.evaluation import bootstrap, metrics
from ml.evaluation.bootstrap import DETECTABLE, UserWeights, effective_users, interval


def clustered(rng: np.random.Generator, users: int, rows: int, spread: float = 0.0) -> tuple[np.ndarray, ...]:
    """Rows of users whose second model errs by a user's own amount, so that rows of a user are not independent.

    ``spread`` is the deviation of the logarithm of a user's expected number of rows.
    """
    share = np.exp(spread * rng.normal(size=users)) if spread else np.ones(users)
    user = rng.choice(users, rows, p=share / share.sum()) if spread else rng.integers(0, users, rows)
    truth = rng.normal(size=rows) + rng.normal(size=users)[user]
    labels = (rng.random(rows) < 1 / (1 + np.exp(1 - truth))).astype(float)
    first = truth + rng.normal(size=rows)
    second = truth + 1.3 * rng.normal(size=users)[user]
    return user, labels, first, second


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(5, 60), st.integers(1, 12))
def test_every_replicate_equals_scikit_learn_on_repeated_rows(seed: int, rows: int, users: int) -> None:
    rng = np.random.default_rng(seed)
    user = rng.integers(0, users, rows) * 17
    labels = rng.integers(0, 2, rows).astype(float)
    scores = rng.integers(-3, 4, rows) / 2
    values = 2 * labels + rng.normal(size=rows)
    weights = UserWeights(user, seed=seed, replicates=7)
    auc = weights.auc(weights.codes, labels, scores)
    mean, r2, affine = weights.replicate(
        [
            weights.mean(weights.codes, values, labels + 1),
            weights.r2(weights.codes, values, scores),
            weights.r2_affine(weights.codes, values, scores),
        ]
    )
    for b in range(7):
        times = weights.counts[weights.codes, b].astype(int)
        y, s, v = (np.repeat(a, times) for a in (labels, scores, values))
        if len(set(y)) == 2:
            assert auc[b] == pytest.approx(sk.roc_auc_score(y, s))
        else:
            assert np.isnan(auc[b])
        if len(y):
            assert mean[b] == pytest.approx(np.average(v, weights=y + 1))
        if len(set(v)) < 2:
            assert np.isnan(r2[b]) and np.isnan(affine[b])
        else:
            assert r2[b] == pytest.approx(sk.r2_score(v, s))
            assert affine[b] == pytest.approx(metrics.r2_affine(v, s), nan_ok=True)


def test_identical_models_differ_by_exactly_zero() -> None:
    user, labels, scores, _ = clustered(np.random.default_rng(0), 50, 500)
    weights = UserWeights(user, seed=1, replicates=50)
    difference = weights.auc(weights.codes, labels, scores) - weights.auc(weights.codes, labels, scores.copy())
    found = interval(0.0, difference)
    assert (found.lo, found.hi, found.se, found.mde) == (0, 0, 0, 0)


@pytest.mark.parametrize(("users", "rows", "spread"), [(120, 900, 0.0), (50, 700, 1.2)])
@pytest.mark.slow
def test_the_interval_covers_the_true_difference_about_95_times_of_100(users: int, rows: int, spread: float) -> None:
    rng = np.random.default_rng(2)
    _, labels, first, second = clustered(rng, 20_000, 400_000, spread)
    truth = metrics.auc(labels, first) - metrics.auc(labels, second)
    trials, covered, by_percentile = 300, 0, 0
    for trial in range(trials):
        user, labels, first, second = clustered(rng, users, rows, spread)
        weights = UserWeights(user, seed=trial, replicates=200)
        replicates = weights.auc(weights.codes, labels, first) - weights.auc(weights.codes, labels, second)
        estimate = metrics.auc(labels, first) - metrics.auc(labels, second)
        found, plain = interval(estimate, replicates, effective_users(weights.codes)), interval(estimate, replicates)
        covered += found.lo <= truth <= found.hi
        by_percentile += plain.lo <= truth <= plain.hi
    assert 0.915 <= covered / trials <= 0.985, covered / trials
    assert spread == 0 or by_percentile / trials < 0.9, by_percentile / trials


def test_effective_users_are_few_where_one_user_holds_the_rows() -> None:
    assert effective_users(np.arange(40)) == pytest.approx(40)
    assert effective_users(np.repeat(np.arange(40), 7)) == pytest.approx(40)
    rows = np.concatenate([np.zeros(840, int), 1 + np.arange(2068) % 188])
    assert 11 < effective_users(rows) < 12
    assert effective_users(np.empty(0, int)) == 0


def test_clusters_widen_the_interval_where_rows_of_a_user_hang_together() -> None:
    user, labels, first, second = clustered(np.random.default_rng(3), 100, 5000)
    spread = []
    for clusters in (user, np.arange(len(user))):
        weights = UserWeights(clusters, seed=4, replicates=300)
        replicates = weights.auc(weights.codes, labels, first) - weights.auc(weights.codes, labels, second)
        spread.append(interval(0.0, replicates).se)
    assert spread[0] > 1.5 * spread[1]


def test_pairing_narrows_the_interval_of_models_that_agree() -> None:
    user, labels, first, _ = clustered(np.random.default_rng(5), 300, 3000)
    second = first + 0.1 * np.random.default_rng(6).normal(size=len(first))
    weights, other = (UserWeights(user, seed=s, replicates=300) for s in (1, 2))
    a, b = weights.auc(weights.codes, labels, first), weights.auc(weights.codes, labels, second)
    unpaired = a - other.auc(other.codes, labels, second)
    assert (a - b).std() < 0.3 * unpaired.std()


def test_a_seed_gives_the_same_weights_whatever_the_order_of_rows() -> None:
    users = np.array([5, 5, 9, 2, 7, 2])
    one, two = UserWeights(users, seed=3, replicates=20), UserWeights(users[::-1], seed=3, replicates=20)
    assert (one.counts == two.counts).all()
    assert (one.counts[one.codes] == two.counts[two.codes][::-1]).all()
    assert (one.counts != UserWeights(users, seed=4, replicates=20).counts).any()


def test_replicates_without_both_classes_are_left_out_of_the_interval() -> None:
    found = interval(0.5, np.array([np.nan, 0.4, 0.6, np.nan]))
    assert found.se == pytest.approx(np.std([0.4, 0.6], ddof=1))
    assert found.mde == pytest.approx(DETECTABLE * found.se)
    assert pytest.approx(2.80, abs=0.005) == DETECTABLE
    assert np.isnan(interval(0.5, np.array([np.nan, np.nan])).lo)


def test_one_replicate_is_refused() -> None:
    with pytest.raises(ValueError, match="1 replicates give no interval"):
        UserWeights(np.arange(3), seed=0, replicates=1)


def test_a_pair_of_25k_rows_and_1000_replicates_costs_less_than_two_seconds_of_cpu() -> None:
    rng = np.random.default_rng(7)
    user, labels, first, second = clustered(rng, 2500, 25_000)
    start = time.process_time()
    weights = UserWeights(user, seed=1, replicates=1000)
    weights.auc(weights.codes, labels, first)
    weights.auc(weights.codes, labels, second)
    assert time.process_time() - start < 2


@pytest.mark.parametrize("in_memory", [10**9, 1000])
def test_weights_are_those_of_one_draw_wherever_they_lie(in_memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "_IN_MEMORY", in_memory)
    users = np.random.default_rng(0).permutation(3000)
    weights = UserWeights(users, seed=7, replicates=400)  # drawn in several parts
    whole = np.random.default_rng(7).poisson(1.0, (3000, 400))
    assert (weights.counts == whole).all()
    values = np.linspace(0, 1, 3000)
    [means] = weights.replicate([weights.mean(weights.codes, values)])
    assert means[3] == pytest.approx(np.average(values[np.argsort(users)], weights=whole[:, 3]))


def test_drawing_weights_takes_little_more_than_a_byte_each() -> None:
    users = np.arange(20_000)
    tracemalloc.start()
    try:
        weights = UserWeights(users, seed=1, replicates=400)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2 * weights.counts.size
