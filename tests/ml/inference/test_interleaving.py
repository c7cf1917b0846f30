"""Team draft: two rankings in one list."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ml.inference.interleaving import seed_of, team_draft

rankings = st.integers(1, 30).flatmap(lambda n: st.tuples(st.permutations(range(n)), st.permutations(range(n))))


@given(rankings, st.integers(0, 2**63 - 1))
def test_every_candidate_is_picked_once_by_the_team_that_ranks_it_best_of_what_was_left(both, seed):
    orders = [np.array(ranking) for ranking in both]
    picked, teams = team_draft(orders[0], orders[1], seed)
    assert sorted(picked.tolist()) == sorted(both[0])
    left = set(both[0])
    for place, team in zip(picked.tolist(), teams.tolist(), strict=True):
        assert place == next(candidate for candidate in both[team] if candidate in left)
        left.remove(place)
    rounds = teams[: len(teams) // 2 * 2].reshape(-1, 2)
    assert (rounds.sum(axis=1) == 1).all(), "in each round each team picks once"
    again = team_draft(orders[0], orders[1], seed)
    assert np.array_equal(again[0], picked) and np.array_equal(again[1], teams)


def test_both_teams_stand_at_every_place_equally_often():
    order = np.arange(10)
    teams = np.stack([team_draft(order, order[::-1], seed_of(b"a", b"b", b"%d" % k))[1] for k in range(2000)])
    assert np.abs(teams.mean(axis=0) - 0.5).max() < 0.05
    assert np.abs(np.corrcoef(teams[:, ::2].T) - np.eye(5)).max() < 0.1, "rounds have coins of their own"


def test_a_seed_depends_on_where_parts_end():
    assert seed_of(b"ab", b"c") != seed_of(b"a", b"bc") and 0 <= seed_of(b"x") < 2**63
