"""Who and what lives in a world: hidden tastes of users, hidden traits of tracks and videos.

Everything is drawn once from the seed. ``shared_taste`` (0 to 1) is the correlation between what a user likes on the
platform and in the app (taste x content), and scales what the two sides share of quality and engagement; at 0 the app's
latents are independent of the platform's.
"""

from dataclasses import dataclass

import numpy as np

from ml.lab.simulator.presets import Preset

TASTE, OWN, CONTENT = 6, 4, 8
"""Dimensions: shared taste, taste of one side only, public content embedding."""

CREATOR_SHARE = 0.6
CONTENT_NOISE = 0.5
CLICK_BIAS = 0.5

GENRES = ("pop", "rock", "hiphop", "electronic", "jazz", "classical", "folk", "latin")
CATEGORIES = ("music", "gaming", "news", "sports", "film", "comedy", "science", "travel", "food", "style", "autos")
COUNTRIES = ("US", "DE", "BR", "IN", "JP", "FR", "MX", "GB")
AGE_BANDS = ("18-24", "25-34", "35-44", "45-54", "55+")
DEVICES = ("phone", "desktop", "tv", "tablet")

_USERS, _ITEMS = 0, 1
VIDEO_STREAM, MUSIC_STREAM, SHUFFLE_STREAM = 2, 3, 4


def generator(seed: int, stream: int, day: int = 0) -> np.random.Generator:
    """Return the random generator of one stream of one day; no other stream or day shares its draws."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, stream, day])))


@dataclass(frozen=True)
class PlatformUsers:
    """Users of the video platform; arrays [platform_users]."""

    taste: np.ndarray
    """Taste z_u, float32 [n, 6]."""
    own_taste: np.ndarray
    """Taste v_u that matters on video only, float32 [n, 4]."""
    engagement: np.ndarray
    click_bias: np.ndarray
    activity: np.ndarray
    device: np.ndarray
    """Usual device, index into ``DEVICES``."""
    tenure_days: np.ndarray
    """Days since registration at the first day."""


@dataclass(frozen=True)
class AppUsers:
    """Users of the music app; arrays [app_users]."""

    platform_user: np.ndarray
    """Index of the same person among the platform users."""
    linked: np.ndarray
    """Whether the app knows that."""
    taste: np.ndarray
    """Taste, float32 [n, 6]."""
    own_taste: np.ndarray
    """Taste m_u that matters for music only, float32 [n, 4]."""
    engagement: np.ndarray
    click_bias: np.ndarray
    activity: np.ndarray
    sign_up_day: np.ndarray
    """Day index of the sign-up; negative before the first day."""
    sign_up_s: np.ndarray
    """Second of that day."""
    country: np.ndarray
    age_band: np.ndarray
    profile_day: np.ndarray
    """Day index on which the age band becomes known."""


@dataclass(frozen=True)
class Tracks:
    """Tracks of the music app; arrays [tracks]."""

    artist: np.ndarray
    video: np.ndarray
    """Index of the video twin, -1 if there is none."""
    content: np.ndarray
    """Traits x_i, float32 [n, 6]."""
    own_content: np.ndarray
    """Traits y_i that matter for music only, float32 [n, 4]."""
    quality: np.ndarray
    embedding: np.ndarray
    """Public content embedding, float32 [n, 8]."""
    popularity: np.ndarray
    """What the app's logging policy believes, log weight."""
    duration_s: np.ndarray
    release_day: np.ndarray
    """Day index of the release (00:00); negative before the first day."""
    genre: np.ndarray
    genre_day: np.ndarray
    """Day index on which the genre becomes known."""


@dataclass(frozen=True)
class Videos:
    """Videos of the platform, the twins of tracks first; arrays [videos]."""

    channel: np.ndarray
    """Channel; artists' channels come first, so a twin's channel equals its artist."""
    content: np.ndarray
    own_content: np.ndarray
    quality: np.ndarray
    bait: np.ndarray
    embedding: np.ndarray
    popularity: np.ndarray
    duration_s: np.ndarray
    release_day: np.ndarray
    category: np.ndarray


@dataclass(frozen=True)
class Population:
    """All hidden truth about users and items."""

    platform: PlatformUsers
    app: AppUsers
    tracks: Tracks
    videos: Videos
    channel_content: np.ndarray
    """Traits of channels, float32 [artists + channels, 6]."""


def draw_population(preset: Preset, seed: int, shared_taste: float, linked_share: float) -> Population:
    """Draw the hidden truth of one world."""
    platform, app = _draw_users(preset, generator(seed, _USERS), shared_taste, linked_share)
    tracks, videos, channel_content = _draw_items(preset, generator(seed, _ITEMS), shared_taste)
    return Population(platform, app, tracks, videos, channel_content)


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def _correlated(shared: np.ndarray, fresh: np.ndarray, correlation: float) -> np.ndarray:
    return np.float32(correlation) * shared + np.float32(np.sqrt(1 - correlation**2)) * fresh


def _draw_users(
    preset: Preset, rng: np.random.Generator, shared_taste: float, linked_share: float
) -> tuple[PlatformUsers, AppUsers]:
    n, m = preset.platform_users, preset.app_users
    platform = PlatformUsers(
        taste=_normal(rng, n, TASTE),
        own_taste=_normal(rng, n, OWN),
        engagement=_normal(rng, n),
        click_bias=CLICK_BIAS * _normal(rng, n),
        activity=rng.gamma(1.5, size=n),
        device=rng.choice(len(DEVICES), n, p=(0.6, 0.2, 0.12, 0.08)),
        tenure_days=rng.integers(30, 3650, n),
    )
    person = rng.permutation(n)[:m]
    root = float(np.sqrt(shared_taste))  # taste and content are both shared by the root, so their product by the dial
    inside = rng.permutation(m) < round(m * preset.sign_up_share)
    before = -1 - np.floor(rng.exponential(400, m)).astype(np.int64)
    sign_up_day = np.where(inside, rng.integers(0, preset.days, m), before)
    late = np.maximum(sign_up_day, 0) + rng.integers(1, 15, m)
    app = AppUsers(
        platform_user=person,
        linked=rng.permutation(m) < round(m * linked_share),
        taste=_correlated(platform.taste[person], _normal(rng, m, TASTE), root),
        own_taste=_normal(rng, m, OWN),
        engagement=_correlated(platform.engagement[person], _normal(rng, m), 0.6 * shared_taste),
        click_bias=CLICK_BIAS * _normal(rng, m),
        activity=rng.gamma(1.5, size=m),
        sign_up_day=sign_up_day,
        sign_up_s=rng.integers(0, 6 * 3600, m),
        country=rng.choice(len(COUNTRIES), m, p=(0.3, 0.15, 0.13, 0.12, 0.1, 0.08, 0.07, 0.05)),
        age_band=rng.choice(len(AGE_BANDS), m, p=(0.28, 0.3, 0.2, 0.13, 0.09)),
        profile_day=np.where(rng.random(m) < 0.1, late, sign_up_day),
    )
    return platform, app


def _draw_items(preset: Preset, rng: np.random.Generator, shared_taste: float) -> tuple[Tracks, Videos, np.ndarray]:
    n, twins = preset.tracks, round(preset.tracks * preset.twin_share)
    root = float(np.sqrt(shared_taste))
    rotation = np.linalg.qr(rng.standard_normal((CONTENT, CONTENT)))[0].astype(np.float32)
    # Every artist has a track; large artists have many.
    reach = np.arange(1, preset.artists + 1) ** -0.5
    drawn = rng.choice(preset.artists, n, p=reach / reach.sum())
    artist = np.where(np.arange(n) < preset.artists, np.arange(n) % preset.artists, drawn)
    artist = artist[rng.permutation(n)]
    channel_content = _normal(rng, preset.artists + preset.channels, TASTE)
    public = _traits(rng, channel_content, artist)
    fresh = _normal(rng, preset.artists, TASTE)
    content = _correlated(public, _traits(rng, fresh, artist), root)
    music_artists = _correlated(channel_content[: preset.artists], fresh, root)
    quality = _normal(rng, n)
    music_quality = _correlated(quality, _normal(rng, n), 0.8 * shared_taste)
    release_day = _release_days(preset, rng, n)
    late = np.maximum(release_day, 0) + rng.integers(1, 15, n)
    tracks = Tracks(
        artist=artist,
        video=np.where(np.arange(n) < twins, np.arange(n), -1),
        content=content,
        own_content=_traits(rng, _normal(rng, preset.artists, OWN), artist),
        quality=music_quality,
        embedding=_embedding(rng, rotation, content),
        popularity=0.4 * music_quality + 0.6 * _normal(rng, n),
        duration_s=np.round(rng.lognormal(np.log(210), 0.25, n).clip(60, 900), 1),
        release_day=release_day,
        genre=_labels(rng, music_artists, len(GENRES))[artist],
        genre_day=np.where(rng.random(n) < 0.1, late, release_day),
    )
    videos = _draw_videos(preset, rng, tracks, channel_content, rotation, public[:twins], quality[:twins])
    return tracks, videos, channel_content


def _draw_videos(
    preset: Preset,
    rng: np.random.Generator,
    tracks: Tracks,
    channel_content: np.ndarray,
    rotation: np.ndarray,
    twin_content: np.ndarray,
    twin_quality: np.ndarray,
) -> Videos:
    """Return the videos: first the tracks' twins, with the content and quality given, then the others."""
    twins, others = len(twin_quality), preset.videos
    channel = np.concatenate([tracks.artist[:twins], preset.artists + rng.integers(0, preset.channels, others)])
    content = np.concatenate([twin_content, _traits(rng, channel_content, channel[twins:])])
    quality = np.concatenate([twin_quality, _normal(rng, others)])
    category = np.concatenate(
        [np.zeros(preset.artists, np.int64), 1 + _labels(rng, channel_content[preset.artists :], len(CATEGORIES) - 1)]
    )
    return Videos(
        channel=channel,
        content=content,
        own_content=_traits(rng, _normal(rng, preset.artists + preset.channels, OWN), channel),
        quality=quality,
        bait=_normal(rng, twins + others),
        embedding=_embedding(rng, rotation, content),
        popularity=0.4 * quality + 0.6 * _normal(rng, twins + others),
        duration_s=np.concatenate(
            [tracks.duration_s[:twins], np.round(rng.lognormal(np.log(400), 0.7, others).clip(15, 7200), 1)]
        ),
        release_day=np.concatenate([tracks.release_day[:twins], _release_days(preset, rng, others)]),
        category=category[channel],
    )


def _traits(rng: np.random.Generator, creators: np.ndarray, creator: np.ndarray) -> np.ndarray:
    """Return the traits of items, partly those of their creators."""
    own = _normal(rng, len(creator), creators.shape[1])
    return np.float32(np.sqrt(CREATOR_SHARE)) * creators[creator] + np.float32(np.sqrt(1 - CREATOR_SHARE)) * own


def _embedding(rng: np.random.Generator, rotation: np.ndarray, content: np.ndarray) -> np.ndarray:
    """Return what the platform knows of contents: turned and blurred."""
    return content @ rotation[:TASTE] + np.float32(CONTENT_NOISE) * _normal(rng, len(content), CONTENT)


def _labels(rng: np.random.Generator, creators: np.ndarray, count: int) -> np.ndarray:
    """Return one of ``count`` labels per creator, by its content."""
    return (creators @ _normal(rng, creators.shape[1], count)).argmax(axis=1)


def _release_days(preset: Preset, rng: np.random.Generator, n: int) -> np.ndarray:
    """Return day indices: ``released_share`` within the window, the others before, ever fewer the older they are.

    The tail (Lomax) starts at about the rate of the window, so the first day has as many new releases as later ones.
    """
    inside = rng.permutation(n) < round(n * preset.released_share)
    age = 50 * ((1 - rng.random(n)) ** -1.2 - 1)
    return np.where(inside, rng.integers(0, preset.days, n), -1 - np.floor(age.clip(max=4000)).astype(np.int64))
