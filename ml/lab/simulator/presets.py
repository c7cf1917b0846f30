"""Sizes of simulated worlds, read from ``presets.yaml``."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ml.foundation.documents import load_yaml

PRESETS_FILE = Path(__file__).with_name("presets.yaml")


class Preset(BaseModel):
    """Sizes of one world; rates are means per day."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    days: int = Field(ge=1, description="Window in which tracks are released and users sign up")
    platform_users: int = Field(ge=1, description="Users of the video platform")
    app_users: int = Field(ge=1, description="Users of the music app, all of them on the platform too")
    sign_up_share: float = Field(ge=0, le=1, description="Share of app users who sign up within the window")
    artists: int = Field(ge=1)
    tracks: int = Field(ge=1)
    twin_share: float = Field(ge=0, le=1, description="Share of tracks that exist as a video too")
    released_share: float = Field(ge=0, le=0.9, description="Share of tracks and videos released within the window")
    videos: int = Field(ge=0, description="Videos that are no track")
    channels: int = Field(ge=1, description="Channels of the videos that are no track")
    source_impressions: float = Field(gt=0)
    homepage_exposures: float = Field(gt=0)
    radio_exposures: float = Field(gt=0)

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        if self.app_users > self.platform_users:
            raise ValueError(f"app_users {self.app_users} exceeds platform_users {self.platform_users}")
        if round(self.tracks * self.twin_share) + self.videos < 1:
            raise ValueError("a platform needs videos: raise videos or twin_share")
        return self


def load_preset(name: str) -> Preset:
    """Return the preset called ``name``.

    Raises:
        ValueError: No preset has that name.
    """
    presets = load_yaml(PRESETS_FILE)
    if name not in presets:
        raise ValueError(f"unknown preset {name!r}; {PRESETS_FILE.name} has {', '.join(presets)}")
    return Preset.model_validate(presets[name])
