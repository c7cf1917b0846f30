"""The hidden laws: what a user does, given an item and a context. Logs follow from them, and nothing else does.

Arguments are index arrays (users, tracks or videos) and contexts that broadcast against each other; results are
float32. A live experiment asks the same functions how users answer a ranked slate.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ml.lab.simulator.population import Population

SHELVES = ("listen_again", "popular", "new", "discover")
PAGES = ("home", "search", "subscriptions", "watch_next")
NETWORKS = ("wifi", "cellular")

TRAIL_BASE = 5.0
"""log1p(seconds) of an average trail: about two and a half minutes."""
TRAIL_NOISE = 1.1
MAX_TRAIL_S = 3 * 3600.0
HYPE_DAYS = 7.0

_CLICK, _VIDEO_CLICK, _RADIO = -4.05, -2.4, -0.75
_WATCH_BASE = 4.0
_SHELF_CLICK = np.array([-0.2, 0.1, 0.1, 0.1], dtype=np.float32)
_SHELF_TRAIL = np.array([0.1, 0.0, -0.1, 0.1], dtype=np.float32)
_PAGE_CLICK = np.array([0.0, 1.0, 0.5, -0.5], dtype=np.float32)
_DEVICE_WATCH = np.array([-0.5, 0.3, 1.5, 0.3], dtype=np.float32)
_NETWORK_WATCH = np.array([0.2, -0.5], dtype=np.float32)


def sigmoid(logit: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-logit)) as float32."""
    return (1 / (1 + np.exp(-np.asarray(logit, dtype=np.float32)))).astype(np.float32)


def evening(hour: np.ndarray) -> np.ndarray:
    """Return the time of day as a wave: 1 at 20:00, -1 at 08:00."""
    return np.cos((np.asarray(hour, dtype=np.float32) - 20) * np.float32(2 * np.pi / 24))


def _dot(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the products of rows over the root of their length: mean 0, standard deviation 1."""
    return np.einsum("...i,...i->...", left, right) / np.float32(np.sqrt(left.shape[-1]))


class Slot(NamedTuple):
    """Where a homepage shows a track; ``shelf`` indexes ``SHELVES``."""

    shelf: np.ndarray
    row: np.ndarray
    column: np.ndarray


@dataclass(frozen=True)
class Truth:
    """The laws of one world.

    ``known`` is whether the user played the track's artist in the trailing window, ``plays`` how often; both come from
    ``State``. ``mood`` is the hidden state of a session and is never logged.
    """

    population: Population

    def taste(self, user: np.ndarray, track: np.ndarray) -> np.ndarray:
        """Return the shared taste <z_u, x_i> / sqrt(6) of app users for tracks."""
        return _dot(self.population.app.taste[user], self.population.tracks.content[track])

    def music_taste(self, user: np.ndarray, track: np.ndarray) -> np.ndarray:
        """Return the taste <m_u, y_i> / 2 that only matters for music."""
        return _dot(self.population.app.own_taste[user], self.population.tracks.own_content[track])

    def similarity(self, seed: np.ndarray, track: np.ndarray) -> np.ndarray:
        """Return <x_seed, x_i> / sqrt(6) of two tracks."""
        return _dot(self.population.tracks.content[seed], self.population.tracks.content[track])

    def hype(self, track: np.ndarray, day: np.ndarray | int) -> np.ndarray:
        """Return the hype of tracks on a day: 1 on the release day, decaying over a week, 0 before."""
        return _hype(day - self.population.tracks.release_day[track])

    def homepage_click_probability(
        self,
        user: np.ndarray,
        track: np.ndarray,
        *,
        day: np.ndarray | int,
        slot: Slot,
        hour: np.ndarray,
        mood: np.ndarray,
        known: np.ndarray,
        plays: np.ndarray,
    ) -> np.ndarray:
        """Return the probability that a shown track is clicked."""
        tracks, app = self.population.tracks, self.population.app
        return sigmoid(
            _CLICK
            + 0.9 * self.taste(user, track)
            + 0.7 * tracks.quality[track]
            + 0.6 * self.music_taste(user, track)
            + known
            + 0.15 * np.log1p(plays)
            + 0.5 * evening(hour) * mood
            + 0.5 * self.hype(track, day)
            - 0.22 * slot.column * np.where(slot.row == 0, 1.5, 1.0)
            - 0.25 * slot.row
            + _SHELF_CLICK[slot.shelf]
            + app.click_bias[user]
        )

    def trail_mean(
        self,
        user: np.ndarray,
        track: np.ndarray,
        *,
        shelf: np.ndarray,
        hour: np.ndarray,
        mood: np.ndarray,
        known: np.ndarray,
    ) -> np.ndarray:
        """Return the mean of log1p(seconds) listened on after a click; the noise has sd ``TRAIL_NOISE``."""
        tracks, app = self.population.tracks, self.population.app
        return (
            TRAIL_BASE
            + 0.5 * self.taste(user, track)
            + 0.45 * tracks.quality[track]
            + 0.35 * self.music_taste(user, track)
            + 0.45 * app.engagement[user]
            + 0.3 * known
            + 0.2 * evening(hour) * mood
            + _SHELF_TRAIL[shelf]
        ).astype(np.float32)

    def radio_engagement_probability(
        self,
        user: np.ndarray,
        track: np.ndarray,
        *,
        seed: np.ndarray,
        index: np.ndarray,
        mood: np.ndarray,
        known: np.ndarray,
    ) -> np.ndarray:
        """Return the probability that a track played by the radio is listened to; ``index`` counts from 0."""
        tracks, app = self.population.tracks, self.population.app
        return sigmoid(
            _RADIO
            + 1.6 * mood
            + 0.9 * app.engagement[user]
            + 1.5 * self.taste(user, track)
            + 1.2 * tracks.quality[track]
            + 0.6 * self.music_taste(user, track)
            + 0.4 * self.similarity(seed, track)
            + 0.4 * known
            - 0.05 * index
        )

    def app_like_probability(self, user: np.ndarray, track: np.ndarray) -> np.ndarray:
        """Return the probability that a completed track gets a like."""
        return sigmoid(-3.0 + self.taste(user, track) + 0.8 * self.population.tracks.quality[track])

    def video_taste(self, user: np.ndarray, video: np.ndarray) -> np.ndarray:
        """Return the taste <z_u, x_i> / sqrt(6) of platform users for videos."""
        return _dot(self.population.platform.taste[user], self.population.videos.content[video])

    def video_own_taste(self, user: np.ndarray, video: np.ndarray) -> np.ndarray:
        """Return the taste <v_u, w_i> / 2 that only matters for video."""
        return _dot(self.population.platform.own_taste[user], self.population.videos.own_content[video])

    def video_hype(self, video: np.ndarray, day: np.ndarray | int) -> np.ndarray:
        """Return the hype of videos on a day."""
        return _hype(day - self.population.videos.release_day[video])

    def subscribed(self, user: np.ndarray, video: np.ndarray, luck: np.ndarray) -> np.ndarray:
        """Tell whether users follow the channels of videos; ``luck`` in [0, 1) is fixed per user and channel."""
        channel = self.population.videos.channel[video]
        liking = _dot(self.population.platform.taste[user], self.population.channel_content[channel])
        return luck < sigmoid(-2.5 + liking)

    def session_drive(self, watch_s: np.ndarray, hours_since_visit: np.ndarray) -> np.ndarray:
        """Return how the session so far moves a viewer: up with seconds watched, down after a long absence."""
        absence = np.nan_to_num(np.asarray(hours_since_visit, dtype=np.float32), nan=24.0)
        return np.log1p(watch_s) / 4 - 0.5 - 0.2 * np.log1p(np.minimum(absence, 168) / 24)

    def video_click_probability(
        self,
        user: np.ndarray,
        video: np.ndarray,
        *,
        day: np.ndarray | int,
        page: np.ndarray,
        position: np.ndarray,
        autoplay: np.ndarray,
        subscribed: np.ndarray,
        drive: np.ndarray,
    ) -> np.ndarray:
        """Return the probability that a video is clicked; ``page`` indexes ``PAGES``; see ``session_drive``."""
        videos = self.population.videos
        return sigmoid(
            _VIDEO_CLICK
            + self.video_taste(user, video)
            + 0.7 * videos.quality[video]
            + 0.5 * self.video_own_taste(user, video)
            + 0.6 * videos.bait[video]
            + 0.6 * self.video_hype(video, day)
            - 0.1 * position
            + 0.8 * subscribed
            + 0.4 * drive
            + 0.3 * (_PAGE_CLICK[page] + 2.0 * autoplay)
            + self.population.platform.click_bias[user]
        )

    def watch_mean(
        self, user: np.ndarray, video: np.ndarray, *, device: np.ndarray, network: np.ndarray, mood: np.ndarray
    ) -> np.ndarray:
        """Return the mean of log1p(seconds watched) after a click; the noise has sd ``TRAIL_NOISE``."""
        videos = self.population.videos
        return (
            _WATCH_BASE
            + 0.7 * self.video_taste(user, video)
            + 0.55 * videos.quality[video]
            + 0.3 * self.video_own_taste(user, video)
            - 0.4 * videos.bait[video]
            + 0.6 * self.population.platform.engagement[user]
            + 0.4 * mood
            + 0.3 * (_DEVICE_WATCH[device] + _NETWORK_WATCH[network])
        ).astype(np.float32)

    def continue_probability(
        self, user: np.ndarray, video: np.ndarray, *, mood: np.ndarray, drive: np.ndarray
    ) -> np.ndarray:
        """Return the probability that a viewer of a clicked video watches on afterwards."""
        videos = self.population.videos
        return sigmoid(
            -0.2
            + 0.9 * self.video_taste(user, video)
            + 0.7 * videos.quality[video]
            - 0.4 * videos.bait[video]
            + 0.8 * self.population.platform.engagement[user]
            + 0.8 * mood
            + 0.3 * drive
        )

    def like_probability(self, user: np.ndarray, video: np.ndarray, *, subscribed: np.ndarray) -> np.ndarray:
        """Return the probability that a clicked video is liked."""
        return sigmoid(
            -2.6
            + 0.8 * self.video_taste(user, video)
            + 0.8 * self.population.videos.quality[video]
            + 0.3 * self.video_own_taste(user, video)
            + 0.4 * subscribed
        )


def _hype(age_days: np.ndarray) -> np.ndarray:
    age = np.asarray(age_days, dtype=np.float32)
    return np.where(age >= 0, np.exp(-np.maximum(age, 0) / np.float32(HYPE_DAYS)), np.float32(0))
