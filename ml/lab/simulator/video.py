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
    users, videos = truth.population.platform, truth.population.videos
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

    clock, mood = sessions.start_s.copy(), sessions.mood
    depth, watched, clicked_before = np.zeros(count, np.int64), np.zeros(count), np.zeros(count, bool)
    shown: list[dict[str, np.ndarray]] = []
    for number in range(_MAX_PAGES):
        here = np.flatnonzero((pages > number) & (clock < DAY_S - 1))
        kind = rng.choice(3, len(here), p=(0.7, 0.15, 0.15))
        kind = np.where(clicked_before[here] & (rng.random(len(here)) < 0.6), PAGES.index("watch_next"), kind)
        seen = rng.integers(_FEWEST, _MOST + 1, len(here))
        of = np.repeat(np.arange(len(here)), seen)
        session = here[of]
        position = np.arange(len(of)) - np.repeat(np.cumsum(seen) - seen, seen)
        viewer, drive = user[session], truth.session_drive(watched[here], absence[here])[of]
        video = _recommend(rng, truth, policy, viewer)
        context = {
            "page": kind[of],
            "position": position,
            "autoplay": autoplays[session] & (kind[of] == PAGES.index("watch_next")) & (position == 0),
            "subscribed": truth.subscribed(viewer, video, _luck(seed, viewer, videos.channel[video])),
        }
        probability = truth.video_click_probability(viewer, video, day=state.day, drive=drive, **context)
        clicked = rng.random(len(of), dtype=np.float32) < probability
        at = np.flatnonzero(clicked)
        watched_ms, continued, liked = np.zeros(len(of), np.int64), np.zeros(len(of), bool), np.zeros(len(of), bool)
        watched_ms[at], continued[at], liked[at] = _watch(
            rng,
            truth,
            viewer[at],
            video[at],
            device=device[session[at]],
            network=network[session[at]],
            mood=mood[session[at]],
            drive=drive[at],
            subscribed=context["subscribed"][at],
        )
        shown.append(
            context
            | {
                "second": clock[session],
                "user": viewer,
                "video": video,
                "device": device[session],
                "network": network[session],
                "session_depth": depth[session] + position,
                "session_watch_s": np.round(watched[session], 3),
                "hours_since_visit": absence[session],
                "clicked": clicked,
                "watched_ms": watched_ms,
                "continued": continued,
                "liked": liked,
                "click_probability": probability,
                "mood": mood[session],
            }
        )
        seconds = np.bincount(of, watched_ms, len(here)) / 1000
        clock[here] += 15 + 2 * seen + seconds
        watched[here] += seconds
        depth[here] += seen
        clicked_before[here] |= np.bincount(of, clicked, len(here)) > 0
        mood = drift(rng, mood)
    rows = {name: np.concatenate([page[name] for page in shown]) for name in shown[0]}
    order = np.argsort(rows["second"], kind="stable")
    last_visit = state.last_visit_s.copy()
    last_visit[user] = start  # sessions of a user are in order of time, the last one stays
    return VideoDay(**{name: column[order] for name, column in rows.items()}, last_visit_s=last_visit)


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
    rng: np.random.Generator,
    truth: Truth,
    user: np.ndarray,
    video: np.ndarray,
    *,
    device: np.ndarray,
    network: np.ndarray,
    mood: np.ndarray,
    drive: np.ndarray,
    subscribed: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return milliseconds watched, whether the viewer watched on, and likes of clicked videos."""
    latent = truth.watch_mean(user, video, device=device, network=network, mood=mood)
    latent += np.float32(TRAIL_NOISE) * rng.standard_normal(len(user), dtype=np.float32)
    watched_ms = np.rint(1000 * np.expm1(latent).clip(0, MAX_TRAIL_S)).astype(np.int64)
    goes_on = truth.continue_probability(user, video, mood=mood, drive=drive)
    likes = truth.like_probability(user, video, subscribed=subscribed)
    luck = rng.random((2, len(user)), dtype=np.float32)
    return watched_ms, luck[0] < goes_on, luck[1] < likes


def _luck(seed: int, user: np.ndarray, channel: np.ndarray) -> np.ndarray:
    """Return a number in [0, 1) that is fixed per world, user and channel (splitmix64)."""
    with np.errstate(over="ignore"):
        bits = np.uint64(seed) + user.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        bits += channel.astype(np.uint64) * np.uint64(0xD1B54A32D192ED03)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        bits ^= bits >> np.uint64(31)
    return (bits >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
