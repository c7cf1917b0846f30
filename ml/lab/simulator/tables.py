"""Simulated days as tables of the landing contract."""

from collections.abc import Iterable
from datetime import date, timedelta
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml.foundation.documents import load_yaml
from ml.lab.simulator.music import MusicDay
from ml.lab.simulator.population import AGE_BANDS, CATEGORIES, COUNTRIES, DEVICES, GENRES, Population
from ml.lab.simulator.state import CLICKS, IMPRESSIONS, LIKES, WATCH_MS, State
from ml.lab.simulator.truth import NETWORKS, PAGES, SHELVES
from ml.lab.simulator.video import VideoDay
from ml.landing.contract import CONTRACT_FILE

TABLES = (
    "exposures",
    "listens",
    "items",
    "users",
    "source_impressions",
    "source_user_profiles",
    "source_item_profiles",
)
"""What the simulator lands every day."""

SURFACES = ("homepage", "radio")
OUTCOMES = ("completed", "skipped", "stopped")
FEEDBACK = (None, "like", "dislike")
SEGMENTS = ("inactive", "light", "medium", "heavy")

_TYPES = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "timestamp": pa.timestamp("us"),
    "float_vector[8]": pa.list_(pa.float32()),
}


@cache
def schema_of(table: str) -> pa.Schema:
    """Return the Arrow schema of a table of the landing contract, column order and nullability included."""
    columns = load_yaml(CONTRACT_FILE)["tables"][table]["columns"]
    return pa.schema(
        [pa.field(name, _TYPES[spec["type"]], nullable=spec.get("nullable", False)) for name, spec in columns.items()]
    )


class Tabulator:
    """Turns days of one population into tables; holds the id strings."""

    def __init__(self, population: Population, artists: int, first_day: date) -> None:
        self.population = population
        self.first_day = first_day
        self.users = _ids("u", len(population.app.activity))
        self.viewers = _ids("p", len(population.platform.activity))
        self.tracks = _ids("t", len(population.tracks.artist))
        self.videos = _ids("v", len(population.videos.channel))
        self.artists = _ids("a", artists)
        self.channels = _ids("c", len(population.channel_content))

    def app_tables(self, day: int, music: MusicDay) -> dict[str, pa.Table]:
        """Return ``exposures`` and ``listens`` of a day."""
        shown, played = music.exposures, music.listens
        exposure_ids = _ids(f"e{day}-", len(shown.second))
        exposures = {
            "exposure_id": exposure_ids,
            "ts": self._time(day, shown.second),
            "surface": _take(SURFACES, shown.surface),
            "user_id": _take(self.users, shown.user),
            "session_id": _strings(f"s{day}-", shown.session),
            "item_id": _take(self.tracks, shown.track),
            "container_id": _take(SHELVES, shown.shelf),
            "row": _numbers(shown.row, shown.row >= 0),
            "column": pa.array(shown.column),
            "seed_item_id": _take(self.tracks, shown.seed),
            "list_id": pc.call_function(
                "if_else",
                [pa.array(shown.shuffled >= 0), _strings(f"x{day}-", shown.shuffled), pa.scalar(None, pa.string())],
            ),
            "propensity": _numbers(shown.propensity, shown.shuffled >= 0),
        }
        listens = {
            "listen_id": _ids(f"l{day}-", len(played.second)),
            "ts": self._time(day, played.second),
            "user_id": _take(self.users, played.user),
            "session_id": _strings(f"s{day}-", played.session),
            "item_id": _take(self.tracks, played.track),
            "exposure_id": _take(exposure_ids, played.exposure),
            "played_s": pa.array(played.played_ms / 1000),
            "outcome": _take(OUTCOMES, played.outcome),
            "feedback": _take(FEEDBACK, played.feedback),
        }
        return {"exposures": _table("exposures", exposures), "listens": _table("listens", listens)}

    def catalogue_tables(self, day: int) -> dict[str, pa.Table]:
        """Return the rows of ``items`` and ``users`` that are new or changed on a day; the first day has all so far."""
        tracks, app = self.population.tracks, self.population.app
        at = _changed(day, tracks.release_day, tracks.genre_day)
        items = {
            "item_id": _take(self.tracks, at),
            "creator_id": _take(self.artists, tracks.artist[at]),
            "genre": _take(GENRES, np.where(tracks.genre_day[at] <= day, tracks.genre[at], -1)),
            "duration_s": pa.array(tracks.duration_s[at]),
            "released_at": self._time(tracks.release_day[at], np.zeros(len(at))),
            "source_item_id": _take(self.videos, tracks.video[at]),
            "content_embedding": _vectors(tracks.embedding[at]),
        }
        at = _changed(day, app.sign_up_day, app.profile_day)
        users = {
            "user_id": _take(self.users, at),
            "country": _take(COUNTRIES, app.country[at]),
            "age_band": _take(AGE_BANDS, np.where(app.profile_day[at] <= day, app.age_band[at], -1)),
            "signed_up_at": self._time(app.sign_up_day[at], app.sign_up_s[at]),
            "source_user_id": _take(self.viewers, np.where(app.linked[at], app.platform_user[at], -1)),
        }
        return {"items": _table("items", items), "users": _table("users", users)}

    def impressions(self, day: int, video: VideoDay) -> dict[str, pa.Table]:
        """Return ``source_impressions`` of a day; what follows a click is null without one."""
        columns = {
            "impression_id": _ids(f"i{day}-", len(video.second)),
            "ts": self._time(day, video.second),
            "source_user_id": _take(self.viewers, video.user),
            "source_item_id": _take(self.videos, video.video),
            "page": _take(PAGES, video.page),
            "position": pa.array(video.position),
            "device": _take(DEVICES, video.device),
            "network": _take(NETWORKS, video.network),
            "autoplay": pa.array(video.autoplay),
            "subscribed": pa.array(video.subscribed),
            "session_depth": pa.array(video.session_depth),
            "session_watch_s": pa.array(video.session_watch_s),
            "hours_since_visit": _numbers(video.hours_since_visit, ~np.isnan(video.hours_since_visit)),
            "clicked": pa.array(video.clicked),
            "watched_s": _numbers(video.watched_ms / 1000, video.clicked),
            "continued": pa.array(video.continued, mask=~video.clicked),
            "liked": pa.array(video.liked, mask=~video.clicked),
        }
        return {"source_impressions": _table("source_impressions", columns)}

    def profiles(self, state: State) -> dict[str, pa.Table]:
        """Return the source profiles of day ``state.day``: what was known when it began."""
        platform, videos = self.population.platform, self.population.videos
        counts = state.profile_counts(state.user_counts, len(platform.activity))
        seen = counts[:, IMPRESSIONS]
        mean = max(float(seen.mean()), 1.0)
        segment = np.where(seen == 0, 0, 1 + (seen > 0.5 * mean).astype(np.int64) + (seen > 1.5 * mean))
        history = state.liked_sum / np.maximum(state.liked, 1)[:, None]
        users = {
            "source_user_id": self.viewers,
            "segment": _take(SEGMENTS, segment),
            "tenure_days": pa.array(platform.tenure_days + state.day),
            **_counted(counts),
            "history_embedding": _vectors(history.astype(np.float32), state.liked > 0),
        }
        at = np.flatnonzero(videos.release_day < state.day)
        items = {
            "source_item_id": _take(self.videos, at),
            "source_creator_id": _take(self.channels, videos.channel[at]),
            "category": _take(CATEGORIES, videos.category[at]),
            "duration_s": pa.array(videos.duration_s[at]),
            "age_days": pa.array((state.day - videos.release_day[at]).astype(np.float64)),
            **_counted(state.profile_counts(state.video_counts, len(videos.channel))[at]),
            "content_embedding": _vectors(videos.embedding[at]),
        }
        return {
            "source_user_profiles": _table("source_user_profiles", users),
            "source_item_profiles": _table("source_item_profiles", items),
        }

    def _time(self, day: np.ndarray | int, second: np.ndarray) -> pa.Array:
        epoch = (self.first_day - date(1970, 1, 1)) // timedelta(days=1)
        midnight = (epoch + np.asarray(day, dtype=np.int64)) * 86_400_000_000
        microseconds = midnight + np.floor(second * 1e6).astype(np.int64)
        return pa.array(microseconds, pa.timestamp("us"))


def indices_of(ids: Iterable[str]) -> np.ndarray:
    """Return the index of each user, track or video in the population from its id, such as 12 of ``u12``; int64 [n]."""
    return np.fromiter((int(i[1:]) for i in ids), dtype=np.int64)


def _table(name: str, columns: dict[str, pa.Array]) -> pa.Table:
    schema = schema_of(name)
    rows = len(next(iter(columns.values())))
    return pa.Table.from_arrays(
        [columns[f.name] if f.name in columns else pa.nulls(rows, f.type) for f in schema], schema=schema
    )


def _changed(day: int, born: np.ndarray, completed: np.ndarray) -> np.ndarray:
    if day == 0:
        return np.flatnonzero(born <= 0)
    return np.flatnonzero((born == day) | ((completed == day) & (born < day)))


def _ids(prefix: str, count: int) -> pa.Array:
    return _strings(prefix, np.arange(count))


def _strings(prefix: str, numbers: np.ndarray) -> pa.Array:
    texts = pc.cast(pa.array(numbers), pa.string())
    return pc.call_function("binary_join_element_wise", [pa.scalar(prefix), texts, pa.scalar("")])


def _take(names: pa.Array | tuple[str | None, ...], index: np.ndarray) -> pa.Array:
    """Return names by index; null where the index is -1."""
    values = pa.array(names, pa.string()) if isinstance(names, tuple) else names
    return values.take(pa.array(np.maximum(index, 0), mask=index < 0))


def _numbers(values: np.ndarray, valid: np.ndarray) -> pa.Array:
    return pa.array(values, mask=~valid)


def _vectors(values: np.ndarray, valid: np.ndarray | None = None) -> pa.Array:
    rows, width = values.shape
    kept = np.full(rows, True) if valid is None else valid
    ends = np.concatenate([[0], np.cumsum(kept * width)]).astype(np.int32)
    flat = pa.array(np.ascontiguousarray(values[kept]).ravel(), pa.float32())
    return pa.ListArray.from_arrays(pa.array(ends), flat, mask=pa.array(~kept))


def _counted(counts: np.ndarray) -> dict[str, pa.Array]:
    return {
        "impressions_7d": pa.array(counts[:, IMPRESSIONS]),
        "clicks_7d": pa.array(counts[:, CLICKS]),
        "watch_ms_7d": pa.array(counts[:, WATCH_MS]),
        "likes_7d": pa.array(counts[:, LIKES]),
    }
