"""Requests of simulated users on one day of a world, and what users do with the slates that they get.

The day is simulated once more, with other luck and more visits, for who comes when, in which mood, after which
listening. What is shown is then for a variant to decide: each request brings its pool of candidates and the luck of
each candidate, so that two variants that show the same slate get the same outcome.
"""

from dataclasses import dataclass
from datetime import date

import numpy as np
from scipy.special import ndtr

from ml.experiments.user_days import NEW_RELEASE_DAYS
from ml.lab.live.design import SimulatedSurface
from ml.lab.simulator.music import COLUMNS, HOMEPAGE, RADIO, MusicDay, simulate_music_day
from ml.lab.simulator.population import generator
from ml.lab.simulator.sessions import drift, gumbel, hour_of
from ml.lab.simulator.state import State
from ml.lab.simulator.tables import OUTCOMES
from ml.lab.simulator.truth import MAX_TRAIL_S, SHELVES, TRAIL_NOISE, Slot
from ml.lab.simulator.world import World

MIN_TRAIL_S = 0.1
HISTORY = 8
"""Outcomes of the session's last listens that a request carries."""

_STREAM = 4
_KNOWN_BOOST, _POPULARITY, _SIMILARITY = 1.5, 0.8, 0.7
_FRESH_DAYS = 45
_QUEUE_STEP = 10
_EXPOSURES_PER_REQUEST = {"homepage": 3.0 * COLUMNS, "radio": 8.0}
_MARGIN, _SPARE = 1.3, 60.0
_SESSION_S = 1e6


@dataclass(frozen=True, eq=False)
class Requests:
    """Requests of one day and surface, in order of time; n requests with p candidates of which s are shown.

    Attributes:
        surface: ``homepage`` or ``radio``.
        state: The world at the beginning of the day.
        user: Index of the user [n].
        second: Second of the day [n].
        mood: Hidden mood at each place of the slate, float32 [n, s].
        seed: Track that the radio follows [n]; -1 on the homepage.
        index: Tracks that the radio played before in this session [n].
        outcomes: Outcomes of the session so far, newest first, indices into ``OUTCOMES``, -1 pads [n, 8].
        candidates: Different tracks [n, p].
        shelf: Shelf that would hold each candidate, index into ``SHELVES`` [n, p].
        luck: Uniform draw of each candidate [n, p].
        noise: Standard normal draw of each candidate [n, p].
    """

    surface: SimulatedSurface
    state: State
    user: np.ndarray
    second: np.ndarray
    mood: np.ndarray
    seed: np.ndarray
    index: np.ndarray
    outcomes: np.ndarray
    candidates: np.ndarray
    shelf: np.ndarray
    luck: np.ndarray
    noise: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    @property
    def shown(self) -> int:
        """Length of a slate."""
        return self.mood.shape[1]

    def body(self, row: int, model: str, day: date, inputs: frozenset[str]) -> dict[str, object]:
        """Return one request as an app would send it, with no more than the ranker's ``request`` inputs.

        Args:
            row: Which request.
            model: Name that the server knows the variant by.
            day: Date of the day.
            inputs: Names of the ranker's inputs.
        """
        second = int(self.second[row])
        clock = f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
        content: dict[str, object] = {"surface": model, "user_id": f"u{self.user[row]}", "ts": f"{day}T{clock}Z"}
        if "session_outcomes" in inputs:
            content["session"] = {"outcomes": [OUTCOMES[o] for o in self.outcomes[row].tolist() if o >= 0]}
        if "seed_item_id" in inputs and self.seed[row] >= 0:
            content["seed_item_id"] = f"t{self.seed[row]}"
        tracks = self.candidates[row].tolist()
        if "container_id" in inputs:
            shelves = self.shelf[row].tolist()
            content["candidates"] = [
                {"item_id": f"t{t}", "container_id": SHELVES[s]} for t, s in zip(tracks, shelves, strict=True)
            ]
        else:
            content["candidates"] = [{"item_id": f"t{t}"} for t in tracks]
        return content


def draw_requests(
    world: World, state: State, surface: SimulatedSurface, *, count: int, candidates: int, shown: int, seed: int
) -> Requests:
    """Draw the requests of one day; equal arguments give equal requests.

    Args:
        world: Whose users ask.
        state: Its state at the beginning of the day.
        surface: Where they ask.
        count: Requests.
        candidates: Items of each pool.
        shown: Length of a slate.
        seed: At least 1; with the world's own it seeds everything drawn here.

    Raises:
        ValueError: Fewer tracks are released than a pool needs, or the day has fewer visits than asked for.
    """
    # Worlds' own seeds are below 2^32, so that no draw here is one of the simulator's.
    rng = generator((seed << 32) + world.seed, _STREAM + (surface == "radio"), state.day)
    volume = _EXPOSURES_PER_REQUEST[surface] * (_MARGIN * count + _SPARE)
    other = "radio" if surface == "homepage" else "homepage"
    preset = world.preset.model_copy(
        update={f"{surface}_exposures": volume, f"{other}_exposures": _EXPOSURES_PER_REQUEST[other] * _SPARE}
    )
    day = simulate_music_day(preset, int(rng.integers(2**62)), world.truth, state)
    at = _visits(day, surface)
    if len(at) < count:
        raise ValueError(f"day {state.day} has {len(at)} visits of {surface}, {count} are asked for")
    at = np.sort(rng.permutation(at)[:count])  # exposures are in order of time
    exposed = day.exposures
    user, seeds = exposed.user[at], exposed.seed[at]
    pool = _pools(rng, world, state, surface, user, seeds, candidates)
    return Requests(
        surface=surface,
        state=state,
        user=user,
        second=exposed.second[at],
        mood=_moods(rng, surface, exposed.mood[at], shown),
        seed=seeds,
        index=np.where(exposed.seed[at] >= 0, exposed.column[at], 0),
        outcomes=_history(day, exposed.session[at], exposed.second[at]),
        candidates=pool,
        shelf=_shelves(rng, world, state, user, pool),
        luck=rng.random(pool.shape, dtype=np.float32),
        noise=rng.standard_normal(pool.shape, dtype=np.float32),
    )


def _visits(day: MusicDay, surface: str) -> np.ndarray:
    """Return one exposure of each page, or of each refill of a radio's queue."""
    shown = day.exposures
    if surface == "radio":
        return np.flatnonzero((shown.surface == RADIO) & (shown.column % _QUEUE_STEP == 0))
    home = np.flatnonzero(shown.surface == HOMEPAGE)
    home = home[np.lexsort((home, shown.second[home], shown.session[home]))]
    same = (np.diff(shown.session[home]) == 0) & (np.diff(shown.second[home]) == 0)
    return home[np.concatenate([np.ones(min(len(home), 1), dtype=bool), ~same])]


def _history(day: MusicDay, session: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the outcomes of listens that had ended before, newest first [n, 8]; -1 pads."""
    played = day.listens
    ended = played.session * _SESSION_S + played.second + played.played_ms / 1000
    order = np.argsort(ended, kind="stable")
    last = np.searchsorted(ended[order], session * _SESSION_S + second, side="left")
    first = np.searchsorted(ended[order], session * _SESSION_S)
    back = last[:, None] - 1 - np.arange(HISTORY)
    outcome = played.outcome[order][np.maximum(back, 0)] if len(order) else np.zeros_like(back)
    return np.where(back >= first[:, None], outcome, -1)


def _moods(rng: np.random.Generator, surface: str, mood: np.ndarray, shown: int) -> np.ndarray:
    """Return the mood at each place: a page is seen in one, a radio plays through changing ones; float32 [n, shown]."""
    moods = [mood]
    for _ in range(shown - 1):
        moods.append(drift(rng, moods[-1]) if surface == "radio" else mood)
    return np.stack(moods, axis=1)


def _pools(
    rng: np.random.Generator,
    world: World,
    state: State,
    surface: str,
    user: np.ndarray,
    seed: np.ndarray,
    size: int,
) -> np.ndarray:
    """Return different tracks in proportion to what a retrieval stage finds, new releases like any other [n, size].

    Popular tracks come more often; on the homepage those by artists that the user knows, on the radio those like the
    seed.
    """
    tracks = world.truth.population.tracks
    released = np.flatnonzero(tracks.release_day <= state.day)
    if len(released) - (surface == "radio") < size:
        raise ValueError(f"{len(released)} tracks are released on day {state.day}, a pool needs {size}")
    score = (_POPULARITY * tracks.popularity[released]).astype(np.float32) + gumbel(rng, (len(user), len(released)))
    if surface == "radio":
        score += np.float32(_SIMILARITY) * world.truth.similarity(seed[:, None], released)
        score[released == seed[:, None]] = -np.inf
    else:
        score += np.float32(_KNOWN_BOOST) * (state.plays(user[:, None], tracks.artist[released]) > 0)
    best = np.argpartition(score, len(released) - size, axis=1)[:, len(released) - size :]
    return released[np.sort(best, axis=1)]


def _shelves(rng: np.random.Generator, world: World, state: State, user: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """Return the shelf of each candidate [n, p], any of those that may hold it."""
    tracks = world.truth.population.tracks
    age, known = state.day - tracks.release_day[pool], state.plays(user[:, None], tracks.artist[pool]) > 0
    allowed = {
        "listen_again": known & (age > NEW_RELEASE_DAYS),
        "popular": np.ones(pool.shape, dtype=bool),
        "new": age <= _FRESH_DAYS,
        "discover": ~known,
    }
    luck = rng.random((*pool.shape, len(SHELVES)), dtype=np.float32) + np.float32(1e-6)
    return np.argmax(luck * np.stack([allowed[name] for name in SHELVES], axis=-1), axis=-1)


def outcomes(
    world: World, requests: Requests, slots: np.ndarray, *, discovery_bound: float, expected: bool
) -> dict[str, np.ndarray]:
    """Return what users do with their slates, by the hidden truth: the sums of ``slot_outcomes`` over the places.

    Args:
        world: Whose truth decides.
        requests: n requests.
        slots: As of ``slot_outcomes``.
        discovery_bound: As of ``slot_outcomes``.
        expected: As of ``slot_outcomes``.

    Returns:
        {metric of ``METRICS``: float64 [n]}.
    """
    found = slot_outcomes(world, requests, slots, discovery_bound=discovery_bound, expected=expected)
    return {metric: values.sum(axis=1) for metric, values in found.items()}


def slot_outcomes(
    world: World, requests: Requests, slots: np.ndarray, *, discovery_bound: float, expected: bool
) -> dict[str, np.ndarray]:
    """Return what users do at each place of their slates, by the hidden truth.

    Engagement is seconds of the trails after clicks on the homepage, and tracks listened to on the radio, as the labels
    of the surfaces have it. Discovery counts clicks by artists new to the user whose trail exceeds the bound, and
    tracks listened to by such artists. New-release engagement is engagement with items at most a week old.

    Args:
        world: Whose truth decides.
        requests: n requests.
        slots: What is shown, best first, as places in the pools [n, s].
        discovery_bound: log1p(seconds) that the trail of a discovery exceeds.
        expected: Means over all luck instead of the outcome of the luck drawn.

    Returns:
        {metric of ``METRICS``: float64 [n, s]}.
    """
    tracks = world.truth.population.tracks
    track = np.take_along_axis(requests.candidates, slots, axis=1)
    if requests.surface == "radio":
        engagement, discovery = _radio_outcomes(world, requests, slots, expected)
    else:
        engagement, discovery = _homepage_outcomes(world, requests, slots, discovery_bound, expected)
    fresh = requests.state.day - tracks.release_day[track] <= NEW_RELEASE_DAYS
    return {
        "engagement": engagement,
        "discovery": discovery,
        "new_releases": engagement * fresh,
    }


def _radio_outcomes(
    world: World, requests: Requests, slots: np.ndarray, expected: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return engagement and discovery of each slot [n, s]."""
    user, track = requests.user[:, None], np.take_along_axis(requests.candidates, slots, axis=1)
    luck = np.take_along_axis(requests.luck, slots, axis=1)
    known = requests.state.plays(user, world.truth.population.tracks.artist[track]) > 0
    probability = world.truth.radio_engagement_probability(
        user,
        track,
        seed=requests.seed[:, None],
        index=requests.index[:, None] + np.arange(slots.shape[1]),
        mood=requests.mood,
        known=known,
    )
    engagement = (probability if expected else luck < probability).astype(np.float64)
    return engagement, engagement * ~known


def _homepage_outcomes(
    world: World, requests: Requests, slots: np.ndarray, discovery_bound: float, expected: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return engagement and discovery of each slot [n, s]."""
    user, track = requests.user[:, None], np.take_along_axis(requests.candidates, slots, axis=1)
    luck = np.take_along_axis(requests.luck, slots, axis=1)
    plays = requests.state.plays(user, world.truth.population.tracks.artist[track])
    known, place = plays > 0, np.arange(slots.shape[1])
    context = {
        "hour": hour_of(requests.second)[:, None],
        "mood": requests.mood,
        "known": known,
    }
    shelf = np.take_along_axis(requests.shelf, slots, axis=1)
    slot = Slot(shelf, row=place // COLUMNS, column=place % COLUMNS)
    probability = world.truth.homepage_click_probability(
        user, track, day=requests.state.day, slot=slot, plays=plays, **context
    ).astype(np.float64)
    mean = world.truth.trail_mean(user, track, shelf=shelf, **context).astype(np.float64)
    if expected:
        engagement = probability * mean_trail_s(mean)
        discovery = probability * ~known * ndtr((mean - discovery_bound) / TRAIL_NOISE)
    else:
        noise = np.take_along_axis(requests.noise, slots, axis=1)
        seconds = np.expm1(mean + TRAIL_NOISE * noise).clip(MIN_TRAIL_S, MAX_TRAIL_S)
        clicked = luck < probability
        engagement = np.where(clicked, np.rint(1000 * seconds) / 1000, 0.0)
        discovery = (clicked & ~known & (np.log1p(seconds) > discovery_bound)).astype(np.float64)
    return engagement, discovery


def mean_trail_s(mean: np.ndarray) -> np.ndarray:
    """Return the mean seconds of trails whose log1p(seconds) is normal about ``mean``, clipped as the app clips them.

    With X normal, E[min(max(e^X, a), b)] is a P(X < ln a) + b P(X > ln b) + E[e^X; ln a < X < ln b], the last of which
    is e^(mean + sd^2 / 2) times the same interval's mass under a normal law about mean + sd^2.
    """
    low, high = np.log1p(MIN_TRAIL_S), np.log1p(MAX_TRAIL_S)
    below, above = (low - mean) / TRAIL_NOISE, (high - mean) / TRAIL_NOISE
    inside = np.exp(mean + TRAIL_NOISE**2 / 2) * (ndtr(above - TRAIL_NOISE) - ndtr(below - TRAIL_NOISE))
    return np.exp(low) * ndtr(below) + np.exp(high) * ndtr(-above) + inside - 1
