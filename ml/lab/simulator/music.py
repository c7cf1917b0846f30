"""One day of the music app: home pages with clicks and the listening that follows, and radio sessions."""

from dataclasses import dataclass, fields
from itertools import permutations

import numpy as np

from ml.lab.simulator.population import MUSIC_STREAM, SHUFFLE_STREAM, generator
from ml.lab.simulator.presets import Preset
from ml.lab.simulator.sessions import DAY_S, Sampler, Sessions, draw_sessions, drift, gumbel, hour_of, running_total
from ml.lab.simulator.state import State
from ml.lab.simulator.truth import MAX_TRAIL_S, SHELVES, TRAIL_NOISE, Slot, Truth, sigmoid

COLUMNS = 4
"""Tracks of a shelf that a page shows."""

HOMEPAGE, RADIO = 0, 1
COMPLETED, SKIPPED, STOPPED = 0, 1, 2
NO_FEEDBACK, LIKE, DISLIKE = 0, 1, 2
ENGAGED_MIN_S = 30.0

_MORE_PAGES, _MAX_PAGES = 0.4, 4
_SHELVES_SEEN = (0.1, 0.2, 0.3, 0.4)
_SHELF_CANDIDATES = 24
_RADIO_MIN, _RADIO_STOP, _RADIO_MAX, _RADIO_CANDIDATES = 5, 0.12, 30, 96
_PAGE_S, _GAP_S = 12.0, 1.5
_HIDDEN_DAYS, _HIDDEN_WEIGHT = 7, 0.25
"""A new release is considered at this weight for so many days."""
_FRESH_DAYS = 45
_NEW_USER_DAYS, _NEW_USER_WEIGHT = 7, 2.0
_SHUFFLE_LOGIT = -0.5
"""Of a shelf's item by its place in the ranker's own order, where the order shown is drawn one place after another."""


def _shuffle_chances() -> np.ndarray:
    """Return how likely the item of each place of the ranker's order is to stand at each column [places, columns]."""
    weight = np.exp(_SHUFFLE_LOGIT * np.arange(COLUMNS))
    found = np.zeros((COLUMNS, COLUMNS))
    for order in permutations(range(COLUMNS)):
        drawn = weight[list(order)]
        chance = np.prod(drawn / drawn[::-1].cumsum()[::-1])
        found[list(order), np.arange(COLUMNS)] += chance
    return found


SHUFFLE_CHANCES = _shuffle_chances()

_MEAN_EXPOSURES = (
    (1 - _MORE_PAGES**_MAX_PAGES)
    / (1 - _MORE_PAGES)
    * COLUMNS
    * sum(share * (seen + 1) for seen, share in enumerate(_SHELVES_SEEN))
)
_MEAN_RADIO = _RADIO_MIN - 1 + (1 - (1 - _RADIO_STOP) ** (_RADIO_MAX - _RADIO_MIN + 1)) / _RADIO_STOP


@dataclass(frozen=True, eq=False)
class Exposures:
    """Exposures of one day; arrays [exposures]. -1 where a column has no meaning on the surface."""

    second: np.ndarray
    surface: np.ndarray
    session: np.ndarray
    user: np.ndarray
    track: np.ndarray
    shelf: np.ndarray
    row: np.ndarray
    column: np.ndarray
    seed: np.ndarray
    probability: np.ndarray
    """Hidden: of a click (homepage) or of engagement (radio)."""
    trail_mean: np.ndarray
    """Hidden: mean of log1p(seconds) after a click, nan on the radio."""
    mood: np.ndarray
    """Hidden."""
    known: np.ndarray
    """Whether the artist is known; derivable from the listens of earlier days, not logged."""
    shuffled: np.ndarray
    """Number of the shelf, -1 where its order was not drawn; else its items could have stood at each other's place."""
    propensity: np.ndarray
    """Chance with which a drawn order puts the track there, nan where none was drawn."""


@dataclass(frozen=True, eq=False)
class Listens:
    """Playbacks of one day; arrays [listens]."""

    second: np.ndarray
    session: np.ndarray
    user: np.ndarray
    track: np.ndarray
    exposure: np.ndarray
    """Row of the exposure that led to it, -1 if none."""
    played_ms: np.ndarray
    outcome: np.ndarray
    feedback: np.ndarray


@dataclass(frozen=True, eq=False)
class MusicDay:
    """One day of the app; both parts are ordered by time."""

    exposures: Exposures
    listens: Listens


def simulate_music_day(preset: Preset, seed: int, truth: Truth, state: State, shuffled: float = 0.0) -> MusicDay:
    """Simulate the app's day ``state.day``; ``shuffled``: share of the homepage's shelves whose order is drawn."""
    rng = generator(seed, MUSIC_STREAM, state.day)
    app = truth.population.app
    tenure = state.day - app.sign_up_day
    weight = app.activity * np.where(tenure <= _NEW_USER_DAYS, _NEW_USER_WEIGHT, 1.0) * (tenure >= 0)
    homepage, radio = preset.homepage_exposures / _MEAN_EXPOSURES, preset.radio_exposures / _MEAN_RADIO
    sessions = draw_sessions(rng, homepage + radio, weight)
    on_radio = rng.permutation(len(sessions.user)) < round(len(sessions.user) * radio / (homepage + radio))
    policy = _Policy(truth, state, _Shuffle(shuffled, generator(seed, SHUFFLE_STREAM, state.day)))
    parts = [
        _homepage(rng, truth, state, policy, sessions, np.flatnonzero(~on_radio)),
        _radio(rng, truth, state, policy, sessions, np.flatnonzero(on_radio)),
    ]
    return _in_order(parts)


@dataclass(frozen=True, eq=False)
class _Shuffle:
    """Draws the order of some shelves, with luck of its own: a world without is the same to the last draw.

    Attributes:
        share: Of the shelves.
        rng: Its luck.
    """

    share: float
    rng: np.random.Generator

    def shelves(self, slate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the tracks of shelves [pages, shelves, COLUMNS] as shown, and the chance of each to stand there."""
        if not self.share:
            return slate, np.full(slate.shape, np.nan)
        drawn = self.rng.random(slate.shape[:2]) < self.share
        score = _SHUFFLE_LOGIT * np.arange(COLUMNS) + gumbel(self.rng, slate.shape)
        order = np.where(drawn[..., None], np.argsort(-score, axis=2), np.arange(COLUMNS))
        chance = SHUFFLE_CHANCES[order, np.arange(COLUMNS)]
        return np.take_along_axis(slate, order, axis=2), np.where(drawn[..., None], chance, np.nan)


class _Policy:
    """The app's logging policy of one day. It knows popularity and guesses taste; the truth is another thing."""

    def __init__(self, truth: Truth, state: State, shuffle: _Shuffle) -> None:
        tracks = truth.population.tracks
        age = state.day - tracks.release_day
        self.truth, self.state, self.shuffle = truth, state, shuffle
        hidden = np.where(age <= _HIDDEN_DAYS, _HIDDEN_WEIGHT, 1.0)
        even = np.where(age >= 0, hidden, 0.0)
        self.popular = Sampler(np.exp(0.8 * tracks.popularity) * even)
        self.pools = {
            "popular": self.popular,
            "new": Sampler(np.where(age <= _FRESH_DAYS, even, 0.02 * even)),
            "discover": Sampler(even),
        }
        heard = np.flatnonzero(age > _HIDDEN_DAYS)
        self.by_artist = heard[np.argsort(tracks.artist[heard], kind="stable")]
        artists = np.arange(state.artists + 1)
        self.first = np.searchsorted(tracks.artist[self.by_artist], artists)

    def track_of(self, rng: np.random.Generator, artist: np.ndarray) -> np.ndarray:
        """Return one track per artist, no new release; a popular track where ``artist`` is -1 or has none."""
        first, last = self.first[artist], self.first[np.maximum(artist, 0) + 1]
        at = np.minimum(first + (rng.random(artist.shape) * (last - first)).astype(np.int64), len(self.by_artist) - 1)
        return np.where((artist >= 0) & (last > first), self.by_artist[at], self.popular.draw(rng, artist.shape))

    def known_track(self, rng: np.random.Generator, user: np.ndarray) -> np.ndarray:
        """Return one track per user by an artist known to that user, a popular track where none is known."""
        return self.track_of(rng, self.state.known_artist(user, rng.random(user.shape)))

    def guess(self, user: np.ndarray, track: np.ndarray) -> np.ndarray:
        """Return what the policy believes of a user's taste for tracks."""
        return 0.4 * self.truth.taste(user, track)

    def shelf(self, rng: np.random.Generator, name: str, user: np.ndarray) -> np.ndarray:
        """Return the ``COLUMNS`` tracks of a shelf for each user, best first, int64 [users, COLUMNS]."""
        shape = (len(user), _SHELF_CANDIDATES)
        owner = np.broadcast_to(user[:, None], shape)
        tracks = self.known_track(rng, owner) if name == "listen_again" else self.pools[name].draw(rng, shape)
        score = self.guess(owner, tracks) + gumbel(rng, shape)
        if name == "discover":
            played = self.state.plays(owner, self.truth.population.tracks.artist[tracks])
            score -= 3 * (played > 0)
        return _best(tracks, score, COLUMNS)


def _best(items: np.ndarray, score: np.ndarray, count: int) -> np.ndarray:
    """Return the ``count`` best different items of each row, best first; repeats only where there are too few."""
    by_score = np.argsort(-score, axis=1, kind="stable")
    ranked = np.take_along_axis(items, by_score, axis=1)
    by_item = np.argsort(ranked, axis=1, kind="stable")
    ordered = np.take_along_axis(ranked, by_item, axis=1)
    repeat = np.zeros(ranked.shape, dtype=bool)
    np.put_along_axis(repeat, by_item[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return np.take_along_axis(ranked, np.argsort(repeat, axis=1, kind="stable")[:, :count], axis=1)


def _homepage(
    rng: np.random.Generator, truth: Truth, state: State, policy: _Policy, sessions: Sessions, which: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Simulate home pages; return columns of exposures and of listens."""
    tracks = truth.population.tracks
    pages = np.minimum(rng.geometric(1 - _MORE_PAGES, len(which)), _MAX_PAGES)
    clock, mood = sessions.start_s[which].copy(), sessions.mood[which]
    shown: list[dict[str, np.ndarray]] = []
    for number in range(_MAX_PAGES):
        here = np.flatnonzero((pages > number) & (clock < DAY_S - 1))
        user = sessions.user[which[here]]
        slate = np.stack([policy.shelf(rng, name, user) for name in SHELVES], axis=1)
        # The order of shelves differs from page to page; the first ones tend to stay on top.
        order = np.argsort(np.arange(len(SHELVES)) + 1.2 * rng.standard_normal((len(here), len(SHELVES))), axis=1)
        slate, chance = policy.shuffle.shelves(np.take_along_axis(slate, order[:, :, None], axis=1))
        seen = 1 + rng.choice(len(SHELVES), len(here), p=_SHELVES_SEEN)
        visible = np.arange(len(SHELVES)) < seen[:, None]
        page, row, column = np.nonzero(np.broadcast_to(visible[:, :, None], slate.shape))
        viewer, track = user[page], slate[page, row, column]
        plays = state.plays(viewer, tracks.artist[track])
        context = {"hour": hour_of(clock[here])[page], "mood": mood[here][page], "known": plays > 0}
        shelf, propensity = order[page, row], chance[page, row, column]
        probability = truth.homepage_click_probability(
            viewer, track, day=state.day, slot=Slot(shelf, row, column), plays=plays, **context
        )
        trail_mean = truth.trail_mean(viewer, track, shelf=shelf, **context)
        clicked = rng.random(len(page), dtype=np.float32) < probability
        latent = trail_mean + np.float32(TRAIL_NOISE) * rng.standard_normal(len(page), dtype=np.float32)
        trail_s = np.where(clicked, np.expm1(latent).clip(0.1, MAX_TRAIL_S), 0.0)
        busy = np.where(clicked, trail_s + _GAP_S, 0.0)
        shown.append(
            {
                "second": clock[here][page],
                "session": which[here][page],
                "user": viewer,
                "track": track,
                "shelf": shelf,
                "row": row,
                "column": column,
                "probability": probability,
                "trail_mean": trail_mean,
                "mood": context["mood"],
                "known": context["known"],
                "shuffled": np.where(
                    propensity > 0, (which[here][page] * _MAX_PAGES + number) * len(SHELVES) + row, -1
                ),
                "propensity": propensity,
                "clicked": clicked,
                "trail_s": trail_s,
                "listen_second": clock[here][page] + _GAP_S + running_total(busy, page),
            }
        )
        clock[here] += _PAGE_S + np.bincount(page, busy, len(here))
        mood = drift(rng, mood)
    rows = {name: np.concatenate([page[name] for page in shown]) for name in shown[0]}
    count = len(rows["second"])
    rows |= {"surface": np.full(count, HOMEPAGE), "seed": np.full(count, -1)}
    return rows, _trails(rng, truth, policy, rows)


def _trails(
    rng: np.random.Generator, truth: Truth, policy: _Policy, rows: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Turn every click into listens that last as long as its trail: the clicked track, then what autoplay adds."""
    tracks = truth.population.tracks
    at = np.flatnonzero(rows["clicked"])
    left, second, track = rows["trail_s"][at], rows["listen_second"][at], rows["track"][at]
    exposure = at
    played: list[dict[str, np.ndarray]] = []
    while len(at):
        duration, mood = tracks.duration_s[track], rows["mood"][at]
        dropped = rng.random(len(at), dtype=np.float32) < sigmoid(-1.2 - 1.2 * mood)
        # The clicked track plays on; only what autoplay adds is skipped early.
        patience = np.where(dropped & (exposure < 0), rng.uniform(3, 25, len(at)), duration)
        seconds = np.minimum(left, patience)
        completed = seconds >= duration
        ended_early = np.where(dropped, SKIPPED, STOPPED)
        played.append(
            {
                "second": second,
                "session": rows["session"][at],
                "user": rows["user"][at],
                "track": track,
                "exposure": exposure,
                "played_ms": np.maximum(np.rint(seconds * 1000), 1).astype(np.int64),
                "outcome": np.where(completed, COMPLETED, ended_early),
            }
        )
        left = left - seconds
        go = left > 0.001
        at, left, second, track = at[go], left[go], (second + seconds)[go], track[go]
        same = rng.random(len(at)) < 0.75
        track = policy.track_of(rng, np.where(same, tracks.artist[track], -1))
        exposure = np.full(len(at), -1)
    names = ("second", "session", "user", "track", "exposure", "played_ms", "outcome")
    listens = {name: np.concatenate([np.zeros(0, np.int64), *(part[name] for part in played)]) for name in names}
    feedback = _feedback(rng, truth, listens["user"], listens["track"], listens["outcome"])
    return listens | {"feedback": feedback}


def _radio(
    rng: np.random.Generator, truth: Truth, state: State, policy: _Policy, sessions: Sessions, which: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Simulate radio sessions; return columns of exposures and of listens."""
    tracks, user = truth.population.tracks, sessions.user[which]
    count = len(which)
    length = np.minimum(_RADIO_MIN - 1 + rng.geometric(_RADIO_STOP, count), _RADIO_MAX)
    familiar = rng.random(count) < 0.6
    seed = np.where(familiar, policy.known_track(rng, user), policy.popular.draw(rng, count))
    candidates = policy.popular.draw(rng, (count, _RADIO_CANDIDATES))
    score = 0.7 * truth.similarity(seed[:, None], candidates) + policy.guess(user[:, None], candidates)
    queue = _best(candidates, score + gumbel(rng, candidates.shape), _RADIO_MAX)
    moods = [sessions.mood[which]]
    for _ in range(_RADIO_MAX - 1):
        moods.append(drift(rng, moods[-1]))
    of, index = np.nonzero(np.arange(queue.shape[1]) < length[:, None])
    listener, track, mood = user[of], queue[of, index], np.stack(moods, axis=1)[of, index]
    known = state.plays(listener, tracks.artist[track]) > 0
    probability = truth.radio_engagement_probability(
        listener, track, seed=seed[of], index=index, mood=mood, known=known
    )
    engaged = rng.random(len(of), dtype=np.float32) < probability
    seconds, outcome = _radio_outcomes(rng, tracks.duration_s[track], engaged)
    started = sessions.start_s[which][of] + running_total(seconds + _GAP_S, of)
    rows = {
        "second": started,
        "surface": np.full(len(of), RADIO),
        "session": which[of],
        "user": listener,
        "track": track,
        "shelf": np.full(len(of), -1),
        "row": np.full(len(of), -1),
        "column": index,
        "seed": seed[of],
        "probability": probability,
        "trail_mean": np.full(len(of), np.nan, dtype=np.float32),
        "mood": mood,
        "known": known,
        "shuffled": np.full(len(of), -1),
        "propensity": np.full(len(of), np.nan),
    }
    listens = {
        "second": started + 0.2,
        "session": which[of],
        "user": listener,
        "track": track,
        "exposure": np.arange(len(of)),
        "played_ms": np.rint(seconds * 1000).astype(np.int64),
        "outcome": outcome,
        "feedback": _feedback(rng, truth, listener, track, outcome),
    }
    return rows, listens


def _radio_outcomes(
    rng: np.random.Generator, duration: np.ndarray, engaged: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return seconds played and outcomes such that engaged = played min(30 s, duration) and not skipped."""
    luck, share = rng.random((2, len(duration)))
    enough = np.minimum(ENGAGED_MIN_S, duration)
    partly = enough + 1 + share * (0.9 * duration - enough - 1)
    # Engaged: most play to the end. Not engaged: most are skipped at once, some late, some are stopped early.
    seconds = np.where(engaged, np.where(luck < 0.85, duration, partly), 1 + share * 0.9 * (enough - 1))
    seconds = np.where(~engaged & (luck < 0.15), partly, seconds)
    outcome = np.where(engaged, np.where(luck < 0.85, COMPLETED, STOPPED), np.where(luck < 0.9, SKIPPED, STOPPED))
    return seconds, outcome


def _feedback(
    rng: np.random.Generator, truth: Truth, user: np.ndarray, track: np.ndarray, outcome: np.ndarray
) -> np.ndarray:
    luck = rng.random(len(user), dtype=np.float32)
    liked = (outcome == COMPLETED) & (luck < truth.app_like_probability(user, track))
    return np.where(liked, LIKE, np.where((outcome == SKIPPED) & (luck < 0.02), DISLIKE, NO_FEEDBACK))


def _in_order(parts: list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]) -> MusicDay:
    """Join the surfaces, end the day at midnight and order its rows by time."""
    exposed = {f.name: np.concatenate([rows[f.name] for rows, _ in parts]) for f in fields(Exposures)}
    base = np.cumsum([0] + [len(rows["second"]) for rows, _ in parts])
    listened = {f.name: np.concatenate([part[f.name] for _, part in parts]) for f in fields(Listens)}
    offsets = np.repeat(base[:-1], [len(part["second"]) for _, part in parts])
    exposure = np.where(listened["exposure"] >= 0, listened["exposure"] + offsets, -1)

    kept = np.flatnonzero(exposed["second"] < DAY_S - 1)
    order = kept[np.argsort(exposed["second"][kept], kind="stable")]
    position = np.full(base[-1], -1)
    position[order] = np.arange(len(order))
    listened["exposure"] = np.where(exposure >= 0, position[exposure], -1)
    begun = np.flatnonzero(listened["second"] < DAY_S)
    begun = begun[np.argsort(listened["second"][begun], kind="stable")]
    return MusicDay(
        Exposures(**{name: column[order] for name, column in exposed.items()}),
        Listens(**{name: column[begun] for name, column in listened.items()}),
    )
