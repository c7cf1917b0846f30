"""Sessions of one day: who comes, when, in which mood."""

from dataclasses import dataclass

import numpy as np

DAY_S = 86_400.0
MOOD_MEMORY = 0.95
"""Correlation of the mood between two steps (pages, or tracks of a radio) of one session."""

_HOURS = np.arange(6, 23, dtype=np.float64)
_TRAFFIC = 1 + 0.6 * np.cos((_HOURS[:-1] - 19) * 2 * np.pi / 24) + 0.3 * np.cos((_HOURS[:-1] - 8) * 4 * np.pi / 24)
_REACHED = np.concatenate([[0.0], np.cumsum(_TRAFFIC) / _TRAFFIC.sum()])


@dataclass(frozen=True)
class Sessions:
    """Sessions of one day, ordered by user and time; arrays [sessions]."""

    user: np.ndarray
    start_s: np.ndarray
    """Second of the day; between 06:00 and 22:00."""
    previous_start_s: np.ndarray
    """Start of the user's previous session of the same day, nan for the first."""
    mood: np.ndarray
    """Hidden mood at the start, standard normal."""


def draw_sessions(rng: np.random.Generator, mean_count: float, weight: np.ndarray) -> Sessions:
    """Draw sessions of users in proportion to ``weight`` [users]; the count is ``mean_count`` but for its fraction.

    A user's sessions lie in different parts of the day, so that one rarely runs into the next.
    """
    count = int(mean_count + rng.random())
    user = np.sort(Sampler(weight).draw(rng, count))
    first = np.searchsorted(user, user, side="left")
    rank = np.arange(count) - first
    of = np.searchsorted(user, user, side="right") - first
    start = np.interp((rank + rng.random(count)) / of, _REACHED, _HOURS) * 3600
    previous = np.where(rank > 0, np.roll(start, 1), np.nan)
    return Sessions(user, start, previous, rng.standard_normal(count, dtype=np.float32))


def drift(rng: np.random.Generator, mood: np.ndarray) -> np.ndarray:
    """Move moods by one step; they stay standard normal."""
    noise = rng.standard_normal(mood.shape, dtype=np.float32)
    return np.float32(MOOD_MEMORY) * mood + np.float32(np.sqrt(1 - MOOD_MEMORY**2)) * noise


def hour_of(second: np.ndarray) -> np.ndarray:
    """Return the hour (0 to 23) of seconds of the day."""
    return (np.asarray(second) // 3600).astype(np.int64)


class Sampler:
    """Draws indices in proportion to fixed weights, with repeats.

    A guide table leads a uniform draw close to its index, a few steps do the rest: several times faster than a binary
    search per draw.
    """

    def __init__(self, weight: np.ndarray) -> None:
        self._index = np.flatnonzero(weight > 0)
        if not len(self._index):
            raise ValueError(f"none of {len(weight)} weights is positive")
        reached = np.cumsum(weight[self._index], dtype=np.float64)
        self._reached = (reached / reached[-1]).astype(np.float32)
        self._reached[-1] = 1.0
        self._buckets = 4 * len(self._index)
        edges = np.arange(self._buckets, dtype=np.float32) / np.float32(self._buckets)
        self._guide = np.searchsorted(self._reached, edges, side="right")

    def draw(self, rng: np.random.Generator, shape: int | tuple[int, ...]) -> np.ndarray:
        """Return indices into the weights, int64 of ``shape``."""
        luck = rng.random(shape, dtype=np.float32).ravel()
        bucket = np.minimum((luck * np.float32(self._buckets)).astype(np.int64), self._buckets - 1)
        at = self._guide[bucket]
        behind = np.flatnonzero(self._reached[at] <= luck)
        while len(behind):
            at[behind] += 1
            behind = behind[self._reached[at[behind]] <= luck[behind]]
        return self._index[at].reshape(shape)


def gumbel(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw standard Gumbel noise: the largest of (log weight + noise) is a draw in proportion to the weights."""
    return -np.log(rng.standard_exponential(shape, dtype=np.float32) + np.float32(1e-12))


def running_total(value: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return, per row, the sum of ``value`` over earlier rows of the same ``group`` (rows of a group are adjacent)."""
    if not len(value):
        return np.zeros(0)
    before = np.concatenate([[0.0], np.cumsum(value, dtype=np.float64)[:-1]])
    starts = np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1]]))
    return before - np.repeat(before[starts], np.diff(np.concatenate([starts, [len(value)]])))
