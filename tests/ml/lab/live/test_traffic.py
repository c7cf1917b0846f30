from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from ml.experiments.user_days import METRICS
from ml.lab.live.traffic import HISTORY, Requests, draw_requests, mean_trail_s, outcomes
from ml.lab.simulator.state import State
from ml.lab.simulator.tables import OUTCOMES
from ml.lab.simulator.truth import MAX_TRAIL_S, SHELVES, TRAIL_NOISE
from ml.lab.simulator.world import World

DAY = 6
SURFACES = ("homepage", "radio")


@pytest.fixture(scope="module")
def world() -> World:
    return World("tiny", seed=3)


@pytest.fixture(scope="module")
def state(world: World) -> State:
    return world.state(DAY)


@pytest.fixture(scope="module")
def drawn(world: World, state: State) -> dict[str, Requests]:
    return {s: draw_requests(world, state, s, count=300, candidates=40, shown=5, seed=1) for s in SURFACES}


def happened(world: World, requests: Requests, slots: np.ndarray, *, expected: bool = False) -> dict[str, np.ndarray]:
    return outcomes(world, requests, slots, discovery_bound=3.4, expected=expected)


@pytest.mark.parametrize("surface", SURFACES)
def test_the_same_call_gives_the_same_requests_and_another_seed_others(world, state, drawn, surface):
    again = draw_requests(world, state, surface, count=300, candidates=40, shown=5, seed=1)
    other = draw_requests(world, state, surface, count=300, candidates=40, shown=5, seed=2)
    for name in ("user", "second", "candidates", "shelf", "luck", "noise", "outcomes", "mood"):
        assert np.array_equal(getattr(again, name), getattr(drawn[surface], name)), name
    assert not np.array_equal(other.candidates, drawn[surface].candidates)


@pytest.mark.parametrize("surface", SURFACES)
def test_a_pool_holds_different_released_tracks_and_new_ones_in_their_share(world, state, drawn, surface):
    requests, tracks = drawn[surface], world.truth.population.tracks
    assert all(len(set(row)) == 40 for row in requests.candidates.tolist())
    assert (tracks.release_day[requests.candidates] <= DAY).all()
    assert not (requests.candidates == requests.seed[:, None]).any()
    fresh = DAY - tracks.release_day <= 7
    share = fresh[requests.candidates].mean() / fresh[tracks.release_day <= DAY].mean()
    assert 0.6 < share < 1.5
    assert (np.diff(requests.second) >= 0).all() and len(requests) == 300


def test_a_shelf_holds_only_what_belongs_there(world, state, drawn):
    requests, tracks = drawn["homepage"], world.truth.population.tracks
    known = state.plays(requests.user[:, None], tracks.artist[requests.candidates]) > 0
    again, discover = (requests.shelf == SHELVES.index(name) for name in ("listen_again", "discover"))
    assert known[again].all() and not known[discover].any()
    assert len(np.unique(requests.shelf)) == len(SHELVES)


def test_the_session_so_far_is_newest_first_and_ends_before_the_request(drawn):
    radio = drawn["radio"]
    assert radio.outcomes.shape == (300, HISTORY) and set(np.unique(radio.index)) <= {0, 10, 20}
    # A track that the radio plays is a listen, so a refill has heard at least as many as it played.
    heard = (radio.outcomes >= 0).sum(axis=1)
    assert (heard[radio.index > 0] == HISTORY).all() and (heard[radio.index == 0] < HISTORY).all()
    assert ((radio.outcomes >= 0)[:, 1:] <= (radio.outcomes >= 0)[:, :-1]).all()


def test_a_request_carries_only_inputs_of_the_ranker(drawn):
    body = drawn["radio"].body(7, "radio.student", date(2026, 1, 7), frozenset({"seed_item_id", "session_outcomes"}))
    assert body["surface"] == "radio.student" and body["seed_item_id"] == f"t{drawn['radio'].seed[7]}"
    assert body["ts"].startswith("2026-01-07T") and set(body["session"]["outcomes"]) <= set(OUTCOMES)
    assert set(body["candidates"][0]) == {"item_id"} and len(body["candidates"]) == 40
    home = drawn["homepage"].body(0, "homepage.control", date(2026, 1, 7), frozenset({"container_id"}))
    assert set(home) == {"surface", "user_id", "ts", "candidates"}
    assert set(home["candidates"][0]) == {"item_id", "container_id"}


@pytest.mark.parametrize("surface", SURFACES)
def test_equal_slates_get_equal_outcomes_whoever_ranked_them(world, drawn, surface):
    requests = drawn[surface]
    rng = np.random.default_rng(0)
    slots = rng.permuted(np.tile(np.arange(40), (300, 1)), axis=1)[:, :5]
    ours, theirs = happened(world, requests, slots), happened(world, requests, slots.copy())
    assert all(np.array_equal(ours[metric], theirs[metric]) for metric in METRICS)
    assert ours["engagement"].sum() > 0
    # What only one of two variants changed changes nothing for the other requests.
    changed = slots.copy()
    changed[:150] = changed[:150, ::-1]
    theirs = happened(world, requests, changed)
    assert all(np.array_equal(ours[metric][150:], theirs[metric][150:]) for metric in METRICS)
    assert not np.array_equal(ours["engagement"][:150], theirs["engagement"][:150])


@pytest.mark.slow
@pytest.mark.parametrize("surface", SURFACES)
def test_expected_outcomes_are_the_mean_over_luck(world, drawn, surface):
    requests, rng = drawn[surface], np.random.default_rng(1)
    slots = np.tile(np.arange(5), (300, 1))
    expected, totals = happened(world, requests, slots, expected=True), dict.fromkeys(METRICS, 0.0)
    squares, rounds = dict.fromkeys(METRICS, 0.0), 300
    for _ in range(rounds):
        luck = rng.random(requests.luck.shape, dtype=np.float32)
        noise = rng.standard_normal(requests.noise.shape, dtype=np.float32)
        found = happened(world, replace(requests, luck=luck, noise=noise), slots)
        for metric in METRICS:
            totals[metric] += found[metric].sum() / rounds
            squares[metric] += found[metric].sum() ** 2 / rounds
    for metric in METRICS:
        error = np.sqrt((squares[metric] - totals[metric] ** 2) / rounds)
        assert abs(totals[metric] - expected[metric].sum()) < 4 * error, metric


def test_the_mean_trail_is_that_of_clipped_draws():
    mean = np.array([0.0, 3.0, 5.0, 9.5])
    grid = np.linspace(-8, 8, 200_001)
    density = np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi) * (grid[1] - grid[0])
    wanted = [(np.expm1(m + TRAIL_NOISE * grid).clip(0.1, MAX_TRAIL_S) * density).sum() for m in mean]
    assert mean_trail_s(mean) == pytest.approx(wanted, rel=1e-4)


def test_more_than_there_is_is_refused(world, state):
    with pytest.raises(ValueError, match=r"tracks are released on day 6, a pool needs 500"):
        draw_requests(world, state, "homepage", count=5, candidates=500, shown=5, seed=1)
