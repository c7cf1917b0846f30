"""What a study varies: worlds, seeds and arms. Everything of a trial that matters for its result is in its digest."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from ml.settings import PROJECT_ROOT
from ml.surfaces.spec import ON_TASKS, Surface, Technique

DESIGNS_FILE = Path(__file__).with_name("designs.yaml")

CONTROL = "control"

Labels = Literal["as_is", "shuffled", "noise", "within_item", "within_user"]
"""What an arm learns from: the teacher's labels; the same swapped among the rows of a day, of an item and day, or of a
user and day; or standard normal noise. ``shuffled`` and ``noise`` are nulls, the rest keep a part of what is known."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Arm:
    """One way to train a ranker.

    Attributes:
        name: As in a design.
        distils: Whether it has distillation heads at all.
        technique: How it learns, in place of the surface's own technique.
        labels: What it learns from.
        weight: Factor on the weights of all heads.
        ids: Whether embeddings of ids, and their products, are among the inputs. Compared with a control that lacks
            them too.
        centred: Whether soft labels are centred as the surface's heads say.
        null: Whether its true lift is 0 by construction.
    """

    name: str
    distils: bool = True
    technique: Technique | None = None
    labels: Labels = "as_is"
    weight: float = 1.0
    ids: bool = True
    centred: bool = True
    null: bool = False

    @property
    def control(self) -> str:
        """Name of the arm that it is compared with."""
        return CONTROL if self.ids else "control_without_ids"

    def surface(self, surface: Surface) -> Surface:
        """Return the surface that this arm trains."""
        content = surface.model_dump(mode="json", by_alias=True)
        distillation = content["distillation"]
        distillation["technique"] = self.technique or distillation["technique"]
        for head in distillation["heads"]:
            head["weight"] *= self.weight
            head["task"] = self._task_of(head, surface)
            if not self.centred or self.technique == "direct":
                head["centre_by"] = None
        if not self.ids:
            ids = {name for name, spec in content["inputs"].items() if spec["type"] == "id"}
            content["inputs"] = {name: spec for name, spec in content["inputs"].items() if name not in ids}
            content["network"]["products"] = [p for p in content["network"]["products"] if not ids & set(p)]
            for head in content["distillation"]["heads"]:
                if head["centre_by"] in ids:
                    head["centre_by"] = None
        return Surface.model_validate(content)

    def _task_of(self, head: dict[str, Any], surface: Surface) -> str | None:
        """Return the task that a head stands beside: its own, or the one whose counterpart the teacher has."""
        if (self.technique or surface.distillation.technique) not in ON_TASKS:
            return None
        counterparts = (name for name, task in surface.tasks.items() if task.teacher_output == head["teacher_output"])
        return head["task"] or next(counterparts, None)


ARMS = {
    arm.name: arm
    for arm in (
        Arm(CONTROL, distils=False),
        Arm("control_without_ids", distils=False, ids=False),
        Arm("student"),
        Arm("shuffled", labels="shuffled", null=True),
        Arm("noise", labels="noise", null=True),
        Arm("within_item", labels="within_item"),
        Arm("within_user", labels="within_user"),
        Arm("without_ids", ids=False),
        Arm("uncentred", centred=False),
        *(
            Arm(technique, technique=technique)
            for technique in ("auxiliary", "non_serving", "direct", "representation", "interaction", "listwise")
        ),
        Arm("weight_x0.3", weight=0.3),
        Arm("weight_x3", weight=3.0),
    )
}


TEACHER = Arm("teacher", distils=False)
"""Stands for the teacher's own scores among the arms; it is not trained."""


class World(_Model):
    """One simulated world and its teacher."""

    preset: Literal["tiny", "demo", "paper"]
    seed: int = Field(ge=0)
    shared_taste: float = Field(default=1.0, ge=0, le=1)
    linked_share: float = Field(default=0.9, ge=0, le=1)
    surfaces_dir: str | None = None

    @property
    def name(self) -> str:
        """A folder name that tells worlds apart."""
        return f"{self.preset}-{self.seed}-taste{self.shared_taste:g}-linked{self.linked_share:g}"


@dataclass(frozen=True)
class Trial:
    """One training and its evaluation."""

    world: World
    surface: str
    arm: Arm
    seed: int


class Design(_Model):
    """A study; see ``designs.yaml``."""

    name: str
    description: str
    preset: Literal["tiny", "demo", "paper"]
    worlds: tuple[int, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    arms: tuple[str, ...] = Field(min_length=1)
    surfaces: tuple[str, ...] = ("homepage", "radio")
    surfaces_dir: str | None = Field(default=None, description="Other surfaces than the simulator's, from the project")

    def model_post_init(self, context: object) -> None:
        """Refuse arms that do not exist."""
        if unknown := set(self.arms) - set(ARMS):
            raise ValueError(f"study {self.name}: no arms {sorted(unknown)}; there are {sorted(ARMS)}")

    @property
    def all_arms(self) -> tuple[Arm, ...]:
        """The arms and the controls that they are compared with, controls first."""
        chosen = [ARMS[name] for name in self.arms]
        controls = dict.fromkeys(ARMS[arm.control] for arm in chosen)
        return tuple(dict.fromkeys([*controls, *chosen]))

    def in_worlds(self) -> Iterator[World]:
        """Yield the worlds."""
        for seed in self.worlds:
            yield World(preset=self.preset, seed=seed, surfaces_dir=self.surfaces_dir)

    def trials(self, world: World) -> Iterator[Trial]:
        """Yield the trials of one world, the scores of its teacher among them."""
        for surface in self.surfaces:
            yield Trial(world, surface, TEACHER, 0)
            for seed in self.seeds:
                for arm in self.all_arms:
                    yield Trial(world, surface, arm, seed)


def load_design(name: str, path: Path = DESIGNS_FILE) -> Design:
    """Return a study by name.

    Raises:
        ValueError: There is none of that name, or it breaks a rule.
    """
    designs = yaml.safe_load(path.read_text(encoding="utf-8"))
    if name not in designs:
        raise ValueError(f"no study {name!r}; there are {sorted(designs)}")
    return Design(name=name, **designs[name])


def digest(value: object) -> str:
    """Return a hash of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:32]


def code_hash(places: Sequence[str]) -> str:
    """Return a hash of source files, given as files and folders of the project."""
    files: list[Path] = []
    for place in places:
        path = PROJECT_ROOT / place
        files += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return digest([[str(f.relative_to(PROJECT_ROOT)), hashlib.sha256(f.read_bytes()).hexdigest()] for f in files])


def surfaces_dir(world: World) -> Path | None:
    """Return the folder of a world's surfaces, or None for those of the project."""
    return PROJECT_ROOT / world.surfaces_dir if world.surfaces_dir else None
