import numpy as np
import pytest
from scipy.stats import t

from ml.evaluation.bootstrap import UserWeights
from ml.evaluation.transfer import fieller, hints, ratio_over_worlds, stacked_transfer


@pytest.mark.slow
def test_fiellers_interval_covers_the_ratio_about_as_often_as_it_says():
    rng, of, worlds = np.random.default_rng(0), 2000, 10
    covered, none = 0, np.empty(2)
    for _ in range(of):
        most = rng.normal(0.02, 0.01, worlds)
        gain = 0.5 * most + rng.normal(0, 0.004, worlds)
        ratio = ratio_over_worlds(gain, most, none, none)
        covered += ratio.lo <= 0.5 <= ratio.hi
    assert 0.93 <= covered / of <= 0.97


def test_the_ends_of_fiellers_interval_are_the_ratios_that_a_t_test_just_does_not_reject():
    rng, worlds = np.random.default_rng(1), 8
    most = rng.normal(0.02, 0.005, worlds)
    gain = 0.6 * most + rng.normal(0, 0.005, worlds)
    found = ratio_over_worlds(gain, most, np.empty(2), np.empty(2))
    for end in (found.lo, found.hi):
        left = gain - end * most
        assert abs(left.mean()) / (left.std(ddof=1) / np.sqrt(worlds)) == pytest.approx(t.ppf(0.975, worlds - 1))


def test_there_is_no_ratio_to_a_ceiling_that_is_not_shown_to_gain():
    covariance = np.diag([1e-6, 1e-4])
    assert np.isnan(fieller(0.01, 0.015, covariance, 2.0).estimate), "1.5 errors above 0"
    assert np.isnan(fieller(0.01, -0.05, covariance, 2.0).estimate), "a ceiling below the control is none"
    assert fieller(0.01, 0.05, covariance, 2.0).estimate == pytest.approx(0.2)


def test_hints_are_the_scores_and_the_same_less_each_users_level():
    users = np.repeat([7, 9], 500)
    scores = np.where(users == 7, 2.0, -2.0) + np.tile([1.0, -1.0], 500)
    raw, centred = hints({"click": scores}, users).T
    assert np.array_equal(raw, scores)
    assert centred[users == 7].mean() == pytest.approx(0, abs=0.03)
    assert centred[:2] == pytest.approx((1.02, -0.98), abs=0.01)
    missing = hints({"click": np.where(np.arange(1000) % 5, scores, np.nan)}, users)
    assert np.isnan(missing[::5]).all() and np.isfinite(np.delete(missing, slice(None, None, 5), axis=0)).all()


@pytest.mark.parametrize("binary", [True, False])
def test_a_teacher_that_knows_the_rest_gains_when_stacked_and_half_of_it_is_kept(binary: bool):
    rng, n, count = np.random.default_rng(2), 6000, 300
    users = rng.integers(count, size=n)
    known, hidden = rng.normal(size=n), rng.normal(size=n)
    value = -0.5 + known + hidden
    labels = (rng.random(n) < 1 / (1 + np.exp(-value))).astype(float) if binary else value + rng.normal(size=n)
    labels[::50] = np.nan
    scores = {"control": -0.5 + known, "student": -0.5 + known + (0.3 if binary else 0.29) * hidden}
    weights = UserWeights(users, seed=0, replicates=300)

    def found(said: np.ndarray):
        teacher = hints({"click": said}, users)
        transfer = stacked_transfer("ctr", labels, scores, teacher, weights, binary=binary, seed=0)
        assert transfer is not None and transfer.n == n - n // 50
        return transfer

    informed, ignorant = found(hidden), found(rng.normal(size=n))
    assert informed.stacked_lo > 0.05 and 0.35 < informed.kept_lo < informed.kept < informed.kept_hi < 0.75
    assert ignorant.stacked_hi < 0.005 and np.isnan(ignorant.kept), "nothing to keep a share of"
