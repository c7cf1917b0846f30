"""A simulated world: a video platform and a music app whose users and items are partly the same.

A day is a pure function of the seed, the day and the days before it: ``World.step`` takes the state at its beginning
and returns what happened and the next state. Days are numbered from 0; a date is attached only when tables are made.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import pyarrow as pa

from ml.lab.simulator.music import MusicDay, simulate_music_day
from ml.lab.simulator.population import draw_population
from ml.lab.simulator.presets import Preset, load_preset
from ml.lab.simulator.state import KNOWN_DAYS, PROFILE_DAYS, State, empty_state
from ml.lab.simulator.tables import Tabulator
from ml.lab.simulator.truth import Truth
from ml.lab.simulator.video import VideoDay, simulate_video_day


@dataclass(frozen=True, eq=False)
class DayEvents:
    """What happened on one day, and the state that it began with."""

    state: State
    video: VideoDay
    music: MusicDay


class World:
    """Hidden truth and dynamics of one world.

    Args:
        preset: Sizes, or the name of a preset.
        seed: Seed of everything.
        shared_taste: 0 to 1: how much of taste, quality and engagement the two sides share.
        linked_share: 0 to 1: share of app users whose account on the platform is known.
        shuffled: 0 to 1: share of the homepage's shelves whose order is drawn, with the propensity of each item logged.
    """

    def __init__(
        self,
        preset: Preset | str = "demo",
        *,
        seed: int = 1,
        shared_taste: float = 1.0,
        linked_share: float = 0.9,
        shuffled: float = 0.0,
    ) -> None:
        shares = {"shared_taste": shared_taste, "linked_share": linked_share, "shuffled": shuffled}
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} {value} lies outside 0 to 1")
        self.preset = load_preset(preset) if isinstance(preset, str) else preset
        self.seed = seed
        self.shared_taste = shared_taste
        self.linked_share = linked_share
        self.shuffled = shuffled
        self.truth = Truth(draw_population(self.preset, seed, shared_taste, linked_share))

    def start(self) -> State:
        """Return the state before day 0."""
        return empty_state(self.preset)

    def step(self, state: State) -> tuple[DayEvents, State]:
        """Simulate day ``state.day``; return its events and the state of the next day."""
        video = simulate_video_day(self.preset, self.seed, self.truth, state)
        music = simulate_music_day(self.preset, self.seed, self.truth, state, self.shuffled)
        return DayEvents(state, video, music), self._next(state, video, music)

    def state(self, day: int) -> State:
        """Return the state at the beginning of day ``day``; the days before it are replayed."""
        state = self.start()
        for _ in range(day):
            _, state = self.step(state)
        return state

    def events(self, days: int) -> Iterator[DayEvents]:
        """Simulate days 0 to ``days`` - 1, one at a time."""
        state = self.start()
        for _ in range(days):
            events, state = self.step(state)
            yield events

    def tabulator(self, first_day: date) -> Tabulator:
        """Return what turns events into tables, with day 0 on ``first_day``."""
        return Tabulator(self.truth.population, self.preset.artists, first_day)

    def day(self, first_day: date, index: int) -> dict[str, pa.Table]:
        """Return the landing tables of day ``index``; the days before it are replayed."""
        events, _ = self.step(self.state(index))
        return tables_of(events, self.tabulator(first_day))

    def _next(self, state: State, video: VideoDay, music: MusicDay) -> State:
        population, listens = self.truth.population, music.listens
        liked = np.flatnonzero(video.liked)
        fans, liked_sum = video.user[liked], state.liked_sum.copy()
        np.add.at(liked_sum, fans, population.videos.embedding[video.video[liked]].astype(np.float64))
        played = listens.user * state.artists + population.tracks.artist[listens.track]
        users, videos = len(state.liked), len(population.videos.channel)
        return State(
            day=state.day + 1,
            artists=state.artists,
            listens=(*state.listens, played)[-KNOWN_DAYS:],
            user_counts=(*state.user_counts, _counts(video, video.user, users))[-PROFILE_DAYS:],
            video_counts=(*state.video_counts, _counts(video, video.video, videos))[-PROFILE_DAYS:],
            liked_sum=liked_sum,
            liked=state.liked + np.bincount(fans, minlength=users),
            last_visit_s=video.last_visit_s,
        )


def simulate(world: World, first_day: date, days: int) -> Iterator[tuple[date, dict[str, pa.Table]]]:
    """Yield the landing tables of ``days`` days from ``first_day`` on, one day at a time."""
    tabulator = world.tabulator(first_day)
    for events in world.events(days):
        yield first_day + timedelta(days=events.state.day), tables_of(events, tabulator)


def tables_of(events: DayEvents, tabulator: Tabulator) -> dict[str, pa.Table]:
    """Return the landing tables of one day."""
    day = events.state.day
    return {
        **tabulator.app_tables(day, events.music),
        **tabulator.catalogue_tables(day),
        **tabulator.impressions(day, events.video),
        **tabulator.profiles(events.state),
    }


def _counts(video: VideoDay, of: np.ndarray, rows: int) -> np.ndarray:
    """Return impressions, clicks, milliseconds and likes per user or video, int64 [rows, 4]."""
    weights = (None, video.clicked, video.watched_ms, video.liked)
    return np.stack([np.bincount(of, w, rows).astype(np.int64) for w in weights], axis=1)
