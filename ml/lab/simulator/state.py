"""What a day needs to know about the days before it; all of it follows from the logs."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ml.lab.simulator.population import CONTENT
from ml.lab.simulator.presets import Preset

KNOWN_DAYS = 14
"""An artist is known to a user who played one of its tracks within so many days before today."""

PROFILE_DAYS = 7

IMPRESSIONS, CLICKS, WATCH_MS, LIKES = range(4)
"""Columns of the counts behind source profiles."""


@dataclass(frozen=True, eq=False)
class State:
    """State at 00:00 of day ``day``; never changed, each day makes a new one."""

    day: int
    artists: int
    listens: tuple[np.ndarray, ...]
    """Per day of the trailing ``KNOWN_DAYS``: user * artists + artist of every listen."""
    user_counts: tuple[np.ndarray, ...]
    """Per day of the trailing ``PROFILE_DAYS``: counts of platform users, int64 [users, 4]."""
    video_counts: tuple[np.ndarray, ...]
    """The same for videos, int64 [videos, 4]."""
    liked_sum: np.ndarray
    """Sum of the content embeddings of liked videos, float64 [platform_users, 8]."""
    liked: np.ndarray
    """Number of liked videos [platform_users]."""
    last_visit_s: np.ndarray
    """Start of a platform user's last session in seconds since the first day, nan if none."""

    @cached_property
    def _played(self) -> tuple[np.ndarray, np.ndarray]:
        return np.unique(np.concatenate(self.listens or (np.zeros(0, np.int64),)), return_counts=True)

    def plays(self, user: np.ndarray, artist: np.ndarray) -> np.ndarray:
        """Return how often app users played artists within the trailing ``KNOWN_DAYS``; float32, broadcast."""
        keys, counts = self._played
        wanted = np.asarray(user) * self.artists + artist
        if not len(keys):
            return np.zeros(wanted.shape, dtype=np.float32)
        at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
        return np.where(keys[at] == wanted, counts[at], 0).astype(np.float32)

    def known_artist(self, user: np.ndarray, luck: np.ndarray) -> np.ndarray:
        """Return one known artist per user, -1 where none is known; ``luck`` in [0, 1) chooses."""
        keys, _ = self._played
        first = np.searchsorted(keys, np.asarray(user) * self.artists)
        last = np.searchsorted(keys, (np.asarray(user) + 1) * self.artists)
        if not len(keys):
            return np.full(np.broadcast(first, luck).shape, -1)
        at = (first + (luck * (last - first)).astype(np.int64)).clip(max=len(keys) - 1)
        return np.where(last > first, keys[at] % self.artists, -1)

    def profile_counts(self, counts: tuple[np.ndarray, ...], rows: int) -> np.ndarray:
        """Return the sums of daily counts, int64 [rows, 4]."""
        return sum(counts, start=np.zeros((rows, 4), dtype=np.int64))


def empty_state(preset: Preset) -> State:
    """Return the state before the first day: nobody has played, watched or liked anything."""
    users = preset.platform_users
    return State(
        day=0,
        artists=preset.artists,
        listens=(),
        user_counts=(),
        video_counts=(),
        liked_sum=np.zeros((users, CONTENT)),
        liked=np.zeros(users, dtype=np.int64),
        last_visit_s=np.full(users, np.nan),
    )
