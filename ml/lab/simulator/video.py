"""One day of the video platform: pages of videos, clicks, watching, likes."""

from dataclasses import dataclass

import numpy as np

from ml.lab.simulator.population import DEVICES, VIDEO_STREAM, generator
from ml.lab.simulator.presets import Preset
from ml.lab.simulator.sessions import DAY_S, Sampler, draw_sessions, drift, gumbel
from ml.lab.simulator.state import State
from ml.lab.simulator.truth import MAX_TRAIL_S, PAGES, TRAIL_NOISE, Truth

_MORE_PAGES, _MAX_PAGES = 0.55, 5
_FEWEST, _MOST = 5, 12
"""Videos of a page that a viewer sees."""
_CANDIDATES = 3
_NEW_BOOST, _NEW_DAYS = 2.5, 7
_MEAN_IMPRESSIONS = (1 - _MORE_PAGES**_MAX_PAGES) / (1 - _MORE_PAGES) * (_FEWEST + _MOST) / 2


@dataclass(frozen=True, eq=False)
class VideoDay:
    """Impressions of one day, ordered by time; arrays [impressions]."""

    second: np.ndarray
    """Second of the day at which the page was shown."""
    user: np.ndarray
    video: np.ndarray
    page: np.ndarray
    position: np.ndarray
    device: np.ndarray
    network: np.ndarray
    autoplay: np.ndarray
    subscribed: np.ndarray
    session_depth: np.ndarray
    """Impressions on earlier pages of the session and above on this one."""
    session_watch_s: np.ndarray
    """Seconds watched on earlier pages of the session."""
    hours_since_visit: np.ndarray
    clicked: np.ndarray
    watched_ms: np.ndarray
    """0 unless clicked."""
    continued: np.ndarray
    liked: np.ndarray
    click_probability: np.ndarray
    """Hidden."""
    mood: np.ndarray
    """Hidden."""
    last_visit_s: np.ndarray
    """Start of each platform user's last session after this day, seconds since the first day [platform_users]."""


def simulate_video_day(preset: Preset, seed: int, truth: Truth, state: State) -> VideoDay:
    """Simulate the platform's day ``state.day``."""
    rng = generator(seed, VIDEO_STREAM, state.day)
    users = truth.population.platform
    sessions = draw_sessions(rng, preset.source_impressions / _MEAN_IMPRESSIONS, users.activity)
    count, user = len(sessions.user), sessions.user
    start = state.day * DAY_S + sessions.start_s
    same_day = start - sessions.start_s + sessions.previous_start_s
    earlier = np.where(np.isnan(same_day), state.last_visit_s[user], same_day)
    absence = np.round((start - earlier) / 3600, 2)
    device = np.where(rng.random(count) < 0.8, users.device[user], rng.integers(0, len(DEVICES), count))
    network = (rng.random(count) < np.where(device == 0, 0.5, 0.05)).astype(np.int64)
    autoplays = rng.random(count) < 0.7
    pages = np.minimum(rng.geometric(1 - _MORE_PAGES, count), _MAX_PAGES)
    policy = Sampler(_policy_weight(truth, state.day))

    going = _Visits(
        user=user,
        absence=absence,
        device=device,
        network=network,
        autoplays=autoplays,
        clock=sessions.start_s.copy(),
        mood=sessions.mood,
        depth=np.zeros(count, np.int64),
        watched=np.zeros(count),
        clicked=np.zeros(count, bool),
    )
    shown: list[dict[str, np.ndarray]] = []
    for number in range(_MAX_PAGES):
        here = np.flatnonzero((pages > number) & (going.clock < DAY_S - 1))
        shown.append(_show_page(rng, seed, truth, state.day, policy, going, here))
        going.mood = drift(rng, going.mood)
    rows = {name: np.concatenate([page[name] for page in shown]) for name in shown[0]}
    order = np.argsort(rows["second"], kind="stable")
    last_visit = state.last_visit_s.copy()
    last_visit[user] = start  # sessions of a user are in order of time, the last one stays
    return VideoDay(**{name: column[order] for name, column in rows.items()}, last_visit_s=last_visit)


@dataclass(eq=False)
class _Visits:
    """Sessions of a day as they go on, arrays [sessions]; the first five stay as they are."""

    user: np.ndarray
    absence: np.ndarray
    """Hours since the visit before."""
    device: np.ndarray
    network: np.ndarray
    autoplays: np.ndarray
    clock: np.ndarray
    """Second of the day."""
    mood: np.ndarray
    depth: np.ndarray
    """Impressions so far."""
    watched: np.ndarray
    """Seconds watched so far."""
    clicked: np.ndarray
    """Whether anything was clicked so far."""


def _show_page(
    rng: np.random.Generator, seed: int, truth: Truth, day: int, policy: Sampler, visits: _Visits, here: np.ndarray
) -> dict[str, np.ndarray]:
    """Show the sessions ``here`` their next page: return its impressions, and move the sessions on."""
    kind = rng.choice(3, len(here), p=(0.7, 0.15, 0.15))
    kind = np.where(visits.clicked[here] & (rng.random(len(here)) < 0.6), PAGES.index("watch_next"), kind)
    seen = rng.integers(_FEWEST, _MOST + 1, len(here))
    of = np.repeat(np.arange(len(here)), seen)
    session = here[of]
    position = np.arange(len(of)) - np.repeat(np.cumsum(seen) - seen, seen)
    viewer, drive = visits.user[session], truth.session_drive(visits.watched[here], visits.absence[here])[of]
    video = _recommend(rng, truth, policy, viewer)
    channel = truth.population.videos.channel[video]
    context = {
        "page": kind[of],
        "position": position,
        "autoplay": visits.autoplays[session] & (kind[of] == PAGES.index("watch_next")) & (position == 0),
        "subscribed": truth.subscribed(viewer, video, _luck(seed, viewer, channel)),
    }
    probability = truth.video_click_probability(viewer, video, day=day, drive=drive, **context)
    clicked = rng.random(len(of), dtype=np.float32) < probability
    shown = context | {
        "second": visits.clock[session],
        "user": viewer,
        "video": video,
        "device": visits.device[session],
        "network": visits.network[session],
        "session_depth": visits.depth[session] + position,
        "session_watch_s": np.round(visits.watched[session], 3),
        "hours_since_visit": visits.absence[session],
        "clicked": clicked,
        "click_probability": probability,
        "mood": visits.mood[session],
    }
    shown |= _watch(rng, truth, shown, drive)
    seconds = np.bincount(of, shown["watched_ms"], len(here)) / 1000
    visits.clock[here] += 15 + 2 * seen + seconds
    visits.watched[here] += seconds
    visits.depth[here] += seen
    visits.clicked[here] |= np.bincount(of, clicked, len(here)) > 0
    return shown


def _policy_weight(truth: Truth, day: int) -> np.ndarray:
    """Return how often the platform considers each video: popular ones more, new releases boosted, unreleased never."""
    videos = truth.population.videos
    age = day - videos.release_day
    boost = np.where(age <= _NEW_DAYS, _NEW_BOOST, 1.0)
    return np.where(age >= 0, np.exp(0.6 * videos.popularity) * boost, 0.0)


def _recommend(rng: np.random.Generator, truth: Truth, policy: Sampler, user: np.ndarray) -> np.ndarray:
    """Return one video per row: the best of a few candidates by a noisy guess of the viewer's taste."""
    best, best_score = np.zeros(len(user), np.int64), np.full(len(user), -np.inf, np.float32)
    for _ in range(_CANDIDATES):
        candidate = policy.draw(rng, len(user))
        score = 0.5 * truth.video_taste(user, candidate) + gumbel(rng, (len(user),))
        better = score > best_score
        best[better], best_score[better] = candidate[better], score[better]
    return best


def _watch(
    rng: np.random.Generator, truth: Truth, shown: dict[str, np.ndarray], drive: np.ndarray
) -> dict[str, np.ndarray]:
    """Return milliseconds watched, whether the viewer watched on, and likes: 0 and False unless clicked."""
    at = np.flatnonzero(shown["clicked"])
    user, video, mood = shown["user"][at], shown["video"][at], shown["mood"][at]
    latent = truth.watch_mean(user, video, device=shown["device"][at], network=shown["network"][at], mood=mood)
    latent += np.float32(TRAIL_NOISE) * rng.standard_normal(len(user), dtype=np.float32)
    goes_on = truth.continue_probability(user, video, mood=mood, drive=drive[at])
    likes = truth.like_probability(user, video, subscribed=shown["subscribed"][at])
    luck = rng.random((2, len(user)), dtype=np.float32)
    n = len(drive)
    watched_ms, continued, liked = np.zeros(n, np.int64), np.zeros(n, bool), np.zeros(n, bool)
    watched_ms[at] = np.rint(1000 * np.expm1(latent).clip(0, MAX_TRAIL_S)).astype(np.int64)
    continued[at], liked[at] = luck[0] < goes_on, luck[1] < likes
    return {"watched_ms": watched_ms, "continued": continued, "liked": liked}


def _luck(seed: int, user: np.ndarray, channel: np.ndarray) -> np.ndarray:
    """Return a number in [0, 1) that is fixed per world, user and channel (splitmix64)."""
    with np.errstate(over="ignore"):
        bits = np.uint64(seed) + user.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        bits += channel.astype(np.uint64) * np.uint64(0xD1B54A32D192ED03)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        bits ^= bits >> np.uint64(31)
    return (bits >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
