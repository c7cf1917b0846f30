import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.evaluation.shift import psi, top_overlap

arrays = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed))


@given(rng=arrays, n=st.integers(20, 400), shift=st.floats(-3, 3))
def test_psi_is_0_for_the_same_scores_never_negative_and_blind_to_a_monotone_map(rng, n: int, shift: float):
    reference, scores = rng.normal(size=n), rng.normal(size=n) + shift
    assert psi(reference, reference) == 0
    found = psi(reference, scores)
    assert found >= 0
    assert psi(3 * reference + 1, 3 * scores + 1) == pytest.approx(found, rel=1e-6, abs=1e-6)


def test_psi_of_a_known_shift():
    # Half of the mass in each of two bins against 3/4 and 1/4: 1/4 ln(3/2) + (-1/4) ln(1/2) = 1/4 ln 3.
    reference = np.array([0.0, 0.0, 1.0, 1.0])
    assert psi(reference, np.array([0.0, 0.0, 0.0, 1.0]), bins=2) == pytest.approx(np.log(3) / 4)


@given(rng=arrays, n=st.integers(1, 120), groups=st.integers(1, 12), top=st.integers(1, 4), ties=st.booleans())
def test_the_overlap_is_that_of_each_groups_best_rows(rng, n: int, groups: int, top: int, ties: bool):
    group = rng.integers(0, groups, n)
    a, b = (rng.integers(0, 4, n).astype(float) if ties else rng.normal(size=n) for _ in range(2))
    shares = []
    for g in np.unique(group):
        rows = np.flatnonzero(group == g)
        if len(rows) >= 2 * top:
            best = [set(rows[np.argsort(-x[rows], kind="stable")[:top]]) for x in (a, b)]
            shares.append(len(best[0] & best[1]) / top)
    value, counted = top_overlap(a, b, group, top)
    assert counted == len(shares)
    assert value == pytest.approx(np.mean(shares)) if shares else np.isnan(value)
