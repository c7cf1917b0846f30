"""What a live experiment varies: worlds, variants, traffic."""

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ml.foundation.ids import id63
from ml.lab.study.design import Preset, World, named_entry, refuse_renamed_keys
from ml.surfaces.spec import Surface

DESIGNS_FILE = Path(__file__).with_name("designs.yaml")

Role = Literal["control", "student"]
SimulatedSurface = Literal["homepage", "radio"]


class Design(BaseModel):
    """A live experiment; see ``designs.yaml``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str
    preset: Preset
    worlds: tuple[int, ...] = Field(min_length=1)
    variants: dict[str, Role] = Field(min_length=2, max_length=2, description="Baseline first")
    surfaces: tuple[SimulatedSurface, ...] = ("homepage", "radio")
    surfaces_dir: str | None = Field(default=None, description="Other surfaces than the simulator's, from the project")
    days: int = Field(ge=1, description="Last days of the world, on which the variants serve")
    requests_per_day: int = Field(ge=1, description="Per world and surface, both variants together")
    candidates: int = Field(default=100, ge=1, description="Items of a pool")
    shown: int = Field(default=10, ge=1, description="Items that the user sees of it")
    paired_share: float = Field(default=0.1, ge=0, le=1, description="Share of requests that both variants answer")
    interleaved_share: float = Field(default=0, ge=0, le=1, description="Share that both answer in one list as well")
    seed: int = Field(default=1, ge=1)

    _renamed = model_validator(mode="before")(refuse_renamed_keys)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.shown > self.candidates:
            raise ValueError(f"experiment {self.name}: {self.shown} shown of {self.candidates} candidates")
        if len(set(self.worlds)) < len(self.worlds):
            raise ValueError(f"experiment {self.name}: a world stands twice in {list(self.worlds)}")
        return self

    @property
    def baseline(self) -> str:
        """Name of the variant that the other is compared with."""
        return next(iter(self.variants))

    @property
    def is_aa(self) -> bool:
        """Whether both variants are the same ranker."""
        return len(set(self.variants.values())) == 1

    @property
    def traffic(self) -> dict[str, object]:
        """What says which users ask for what, and who belongs to which variant."""
        traffic = self.model_dump(
            mode="json", exclude={"name", "description", "variants", "paired_share", "interleaved_share"}
        )
        return {**traffic, "arms": len(self.variants)}

    @property
    def paired_per_day(self) -> int:
        """Requests of a day, world and surface that both variants answer."""
        return round(self.paired_share * self.requests_per_day)

    @property
    def interleaved_per_day(self) -> int:
        """Requests of a day, world and surface that both variants answer in one list."""
        return round(self.interleaved_share * self.requests_per_day)

    @property
    def calls_per_surface(self) -> int:
        """Requests over HTTP of one world and surface."""
        return self.days * (self.requests_per_day + self.paired_per_day + self.interleaved_per_day)

    def in_worlds(self) -> Iterator[World]:
        """Yield the worlds."""
        for seed in self.worlds:
            yield World(preset=self.preset, seed=seed, surfaces_dir=self.surfaces_dir)

    def live_days(self, last_day: date) -> list[date]:
        """Return the days on which the variants serve, oldest first."""
        return [last_day - timedelta(days=i) for i in reversed(range(self.days))]

    def partition(self, surface: Surface, last_day: date) -> date:
        """Return the partition of the students: the last one that trains on no day from the first live day on."""
        return self.live_days(last_day)[0] + timedelta(days=surface.reach_days - surface.window.train_days)

    def variant_of(self, users: list[str]) -> np.ndarray:
        """Return each user's index into ``variants``, int64 [n]: a seeded hash, the same wherever asked."""
        return np.array([id63(f"{self.seed}/{user}") % len(self.variants) for user in users], dtype=np.int64)


def load_design(name: str, path: Path = DESIGNS_FILE) -> Design:
    """Return an experiment by name.

    Raises:
        ValueError: There is none of that name, or it breaks a rule.
    """
    return Design(name=name, **named_entry(path, "experiment", name))
