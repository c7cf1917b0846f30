"""What a study varies: worlds, seeds and variants. All of a trial that matters for its result is in its digest."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ml.foundation.documents import Document, is_object, load_yaml
from ml.foundation.settings import PROJECT_ROOT
from ml.surfaces.learning import Distillation
from ml.surfaces.spec import Surface
from ml.surfaces.techniques import techniques

DESIGNS_FILE = Path(__file__).with_name("designs.yaml")

OWN, SECOND = "own", "noise"
"""What heads call the world's own teacher, and one beside it that knows nothing."""
CONTROL = "control"
STUDENT = "student"
TECHNIQUES = tuple(techniques())
CEILING = "ceiling"
PLACEBOS = ("shuffled", "noise")
"""Labels that know nothing: the true lift is 0."""
FEW = {"few_users": "user_id", "few_items": "item_id"}
"""Input of which only the ids with few rows have soft labels, by the word of a variant."""
FEW_SHARE = 2 / 3
_UNSHOWN = re.compile(r"unshown(_popular)?(?:_(\d+))?")
_PAIRS = 4
"""Pairs that nobody was shown per exposure, where a variant's word does not say."""
Vectors = Literal["as_is", "shuffled", "noise"]
VECTORS: dict[str, Vectors] = {"vectors": "as_is", "vectors_shuffled": "shuffled", "vectors_noise": "noise"}
"""Words of variants that read the teacher's vectors, or placebos of them."""
_CHANGES = (
    *("without_ids", "branchless", "uncentred", *FEW, "unshown", "unshown_popular", "unshown_<number>", *VECTORS),
    "beside_noise",
)
_RENAMED = {"nulls": "placebos"}

KUAIRAND = "kuairand"
Preset = Literal["tiny", "demo", "paper", "kuairand"]
"""Sizes of simulated worlds, or the logs of KuaiRand-Pure in ``kuairand_dir``: one world, the teacher's seed."""

Labels = Literal["as_is", "shuffled", "noise", "within_item", "within_user"]
"""What a variant learns from: the teacher's labels; the same swapped among the rows of a day, of an item and day, or
of a user and day; or normal noise. ``shuffled`` and ``noise`` are placebos, the rest keep part of what is known."""


def refuse_renamed_keys(content: object) -> object:
    """Refuse a key of a design that has another name; used before a model is validated."""
    if is_object(content) and "arms" in content:
        raise ValueError(f"arms: {content['arms']}: this key is called `variants`")
    return content


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Variant:
    """One way to train a ranker.

    Attributes:
        name: As in a design; see ``parse_variant``.
        distils: Whether it has distillation heads at all.
        technique: How it learns, in place of the surface's own technique.
        labels: What it learns from.
        ids: Whether embeddings of ids, and their products, are among the inputs. Compared with a control that lacks
            them too. An interaction branch has nothing to multiply then; its heads move to the shared bottom.
        branch: Whether it has the interaction branch. Without it the embeddings of the ids that are paired are wider by
            the branch's, so that there are as many parameters; heads that teach a branch move to the shared bottom.
        centred: Whether soft labels are centred as the surface's heads say.
        weights: Of the heads under another technique than the surface's own: ((surface, teacher output), weight).
        reads_teacher: Whether the teacher's scores are among the inputs. It cannot serve: nobody has them in time.
        few: Id input whose ids with many rows have no soft labels; the third with the most is left out.
        unshown: Pairs that nobody was shown: how many per exposure, and by which rule.
        vectors: The teacher's vectors of user and item among the inputs, as features have them; or placebos of them,
            which are another user's or item's, or noise, and the same on all days.
        beside_noise: Whether a second teacher that knows nothing teaches beside the world's own, by as many heads of
            the same weights.
    """

    name: str
    distils: bool = True
    technique: str | None = None
    labels: Labels = "as_is"
    ids: bool = True
    branch: bool = True
    centred: bool = True
    weights: tuple[tuple[tuple[str, str], float], ...] = ()
    reads_teacher: bool = False
    few: str | None = None
    unshown: tuple[int, str] | None = None
    vectors: Vectors | None = None
    beside_noise: bool = False

    @property
    def placebo(self) -> bool:
        """Whether its true lift is 0 by construction."""
        learns_nothing = self.labels in PLACEBOS or not (self.distils or self.reads_teacher)
        return learns_nothing if self.vectors in PLACEBOS else self.vectors is None and self.labels in PLACEBOS

    @property
    def control(self) -> str:
        """Name of the variant that it is compared with."""
        return CONTROL if self.ids else f"{CONTROL} without_ids"

    def surface(self, surface: Surface) -> Surface:
        """Return the surface that this variant trains."""
        content = surface.model_dump(mode="json", by_alias=True)
        distillation = content["distillation"]
        own = distillation["technique"]
        used = self.technique or own
        rules = surface.distillation.rules if used == own else Distillation(technique=used).rules
        if not (self.ids and self.branch) and rules.branch:
            used = "non_serving"
            rules = Distillation(technique=used).rules
        if used != own:
            distillation.pop("code", None)
        distillation["technique"] = used
        if self.unshown:
            distillation["unshown"] = dict(zip(("per_exposure", "rule"), self.unshown, strict=True))
        elif not rules.branch:
            distillation.pop("unshown", None)
        if self.few:
            distillation["few_rows"] = {"input": self.few, "share": FEW_SHARE}
        weights = {} if used == own else dict(self.weights)
        for head in distillation["heads"]:
            head["weight"] = weights.get((surface.name, head["teacher_output"]), head["weight"])
            head["task"] = self._task_of(head, surface) if rules.task else None
            if not self.centred or not rules.centre_by:
                head["centre_by"] = None
        if not self.branch:
            _without_branch(content)
        if not self.ids:
            ids = {name for name, spec in content["inputs"].items() if spec["type"] == "id"}
            content["inputs"] = {name: spec for name, spec in content["inputs"].items() if name not in ids}
            content["network"]["products"] = [p for p in content["network"]["products"] if not ids & set(p)]
            content["network"]["interaction"] = None
            for head in content["distillation"]["heads"]:
                if head["centre_by"] in ids:
                    head["centre_by"] = None
            content["distillation"]["few_rows"] = None
        if self.reads_teacher:
            read = {score_input(output): {"kind": "request", "type": "number"} for output in outputs_of(surface)}
            content["inputs"] = content["inputs"] | read
        if self.vectors:
            content["inputs"] = content["inputs"] | VECTOR_INPUTS
            content["network"]["products"] = [*content["network"]["products"], VECTOR_PAIR]
        if self.beside_noise:
            _with_second(content)
        return Surface.model_validate(content)

    def _task_of(self, head: Document, surface: Surface) -> str | None:
        """Return the task that a head stands beside: its own, or the one whose counterpart the teacher has."""
        counterparts = (name for name, task in surface.tasks.items() if task.teacher_output == head["teacher_output"])
        return head["task"] or next(counterparts, None)


def outputs_of(surface: Surface) -> tuple[str, ...]:
    """Return the teacher outputs that a surface names, for its heads or beside its tasks."""
    named = [head.teacher_output for head in surface.distillation.heads]
    named += [task.teacher_output for task in surface.tasks.values() if task.teacher_output]
    return tuple(dict.fromkeys(named))


VECTOR_LENGTH = 64
VECTOR_INPUTS: dict[str, Document] = {
    f"teacher_{entity}_{column}": {"kind": "daily", "from": f"feat_teacher_{entity}.{column}", **kind}
    for entity in ("user", "item")
    for column, kind in (("vector", {"type": "vector", "length": VECTOR_LENGTH}), ("known", {"type": "number"}))
}
"""Inputs of a variant that reads the teacher's vectors, as an app would declare them."""
VECTOR_PAIR = ["teacher_user_vector", "teacher_item_vector"]


def score_input(output: str) -> str:
    """Return the name of the input that holds the teacher's score of an output."""
    return f"teacher_{output}"


def _with_second(content: Document) -> None:
    """Name the outputs of a surface with its teacher, and give each head one beside it that a second teacher fills."""
    for task in content["tasks"].values():
        if task["teacher_output"]:
            task["teacher_output"] = f"{OWN}/{task['teacher_output']}"
    heads = content["distillation"]["heads"]
    names = ((OWN, head) for head in heads), ((SECOND, head) for head in heads)
    content["distillation"]["heads"] = [
        {**head, "teacher_output": f"{teacher}/{head['teacher_output']}"} for of in names for teacher, head in of
    ]


def _without_branch(content: Document) -> None:
    """Take the branch out of a surface, and give its embeddings' sizes to the ids that are paired."""
    branch = content["network"]["interaction"]
    content["network"]["interaction"] = None
    paired = {name for pair in content["network"]["products"] for name in pair} if branch else set()
    for name, spec in content["inputs"].items():
        if {name, spec["vocabulary"]} & paired and spec["embedding"]:
            spec["embedding"] += branch["embedding"]


def parse_variant(name: str) -> Variant:
    """Return the variant of a name: who learns, then what is different, for example ``auxiliary shuffled``.

    The first word is ``control``, ``student`` (the surface's own technique), a technique, or ``ceiling``, a control
    that reads the teacher's scores. The others are labels (``shuffled``, ``noise``, ``within_item``, ``within_user``),
    ``without_ids``, ``branchless``, ``uncentred``, ``few_users``, ``few_items``, and pairs that nobody was shown:
    ``unshown``, ``unshown_popular``, with another number than four per exposure ``unshown_1``; in any order.
    ``vectors``, ``vectors_shuffled`` and ``vectors_noise`` read the teacher's vectors, or placebos of them.
    ``beside_noise`` is taught by a second teacher too, which knows nothing.

    Raises:
        ValueError: A word is none of these.
    """
    who, *changes = name.split()
    variant = Variant(name)
    if who == CONTROL:
        variant = replace(variant, distils=False)
    elif who == CEILING:
        variant = replace(variant, distils=False, reads_teacher=True)
    elif who in TECHNIQUES:
        variant = replace(variant, technique=who)
    elif who != STUDENT:
        raise ValueError(f"variant {name!r}: {who!r} is none of {[CONTROL, CEILING, STUDENT, *TECHNIQUES]}")
    for change in changes:
        if change == "without_ids":
            variant = replace(variant, ids=False)
        elif change == "branchless":
            variant = replace(variant, branch=False)
        elif change == "uncentred":
            variant = replace(variant, centred=False)
        elif change in FEW:
            variant = replace(variant, few=FEW[change])
        elif drawn := _UNSHOWN.fullmatch(change):
            rule, count = drawn.groups()
            variant = replace(variant, unshown=(int(count or _PAIRS), "popular" if rule else "uniform"))
        elif change in VECTORS:
            variant = replace(variant, vectors=VECTORS[change])
        elif change == "beside_noise":
            variant = replace(variant, beside_noise=True)
        elif change in get_args(Labels):
            variant = replace(variant, labels=change)
        else:
            raise ValueError(f"variant {name!r}: {change!r} is none of {[*get_args(Labels), *_CHANGES]}")
    if variant.vectors and variant.unshown:
        raise ValueError(f"variant {name!r}: pairs that nobody was shown have no vectors here; choose one of both")
    if variant.beside_noise and (variant.unshown or not variant.distils):
        raise ValueError(f"variant {name!r}: beside_noise is for what learns exposures from teachers")
    return variant


TEACHER = Variant("teacher", distils=False)
"""Stands for the teacher's own scores among the variants; it is not trained."""


class WorldTeacher(_Model):
    """A world's teacher, or one that knows less: see ``Condition``."""

    days: int | None = None
    defaulted: float | None = None

    @property
    def name(self) -> str:
        """A folder name that tells the teachers of a world apart; ``teacher`` for its own."""
        parts = [f"days{self.days}"] if self.days else []
        parts += [f"defaulted{self.defaulted:g}"] if self.defaulted is not None else []
        return "-".join(["teacher", *parts])


OWN_TEACHER = WorldTeacher()


class Condition(_Model):
    """What is different from the preset and the surface, for the control as for the variants.

    Attributes:
        shared_taste: How much of taste, quality and engagement the two sides share, 0 to 1.
        linked_share: Share of app users whose account on the platform is known.
        teacher_days: Last days of the source that the teacher learns from; all of them by default.
        defaulted: Share of the teacher's inputs that take their default. 0: the teacher is trained without those that
            the app lacks; more than it lacks: further ones, drawn by the world's seed, are withheld.
        volume: Share of the app's training rows.
        capacity: Factor on embeddings, bottom and towers of the ranker.
        weight: Factor on the weights of all heads.
        homepage_tabs: Tabs of KuaiRand that are the homepage; the radio has the app's others.
    """

    shared_taste: float = Field(default=1.0, ge=0, le=1)
    linked_share: float = Field(default=0.9, ge=0, le=1)
    teacher_days: int | None = Field(default=None, ge=1)
    defaulted: float | None = Field(default=None, ge=0, le=1)
    volume: float = Field(default=1.0, gt=0, le=1)
    capacity: float = Field(default=1.0, gt=0)
    weight: float = Field(default=1.0, gt=0)
    homepage_tabs: tuple[int, ...] | None = None

    @property
    def label(self) -> str:
        """What differs, for example ``volume 0.3``; empty where nothing does."""
        changes = self.model_dump(exclude_defaults=True).items()
        return ", ".join(f"{name} {_joined(v) if isinstance(v, tuple) else format(v, 'g')}" for name, v in changes)

    def surface(self, surface: Surface) -> Surface:
        """Return the surface with the capacity and the weights of this condition."""
        if self.capacity == 1 and self.weight == 1:
            return surface
        content = surface.model_dump(mode="json", by_alias=True)
        for spec in content["inputs"].values():
            spec["embedding"] = _scaled(spec["embedding"], self.capacity)
        for part in ("bottom", "tower"):
            content["network"][part] = [_scaled(width, self.capacity) for width in content["network"][part]]
        if branch := content["network"]["interaction"]:
            branch["embedding"] = _scaled(branch["embedding"], self.capacity)
            branch["layers"] = [_scaled(width, self.capacity) for width in branch["layers"]]
        for head in content["distillation"]["heads"]:
            head["weight"] *= self.weight
        return Surface.model_validate(content)


AS_IT_IS = Condition()


def _joined(numbers: tuple[int, ...]) -> str:
    return "+".join(map(str, numbers))


def _scaled(size: int, factor: float) -> int:
    return max(1, round(size * factor)) if size else 0


class World(_Model):
    """One simulated world, or KuaiRand's logs."""

    preset: Preset
    seed: int = Field(ge=0)
    shared_taste: float = Field(default=1.0, ge=0, le=1)
    linked_share: float = Field(default=0.9, ge=0, le=1)
    surfaces_dir: str | None = None
    homepage_tabs: tuple[int, ...] | None = None
    vectors: bool = Field(default=False, description="Whether its teacher has vectors of users and items")

    @property
    def name(self) -> str:
        """A folder name that tells worlds apart."""
        return f"{self._name}-vectors" if self.vectors else self._name

    @property
    def _name(self) -> str:
        if self.preset == KUAIRAND:
            return f"{KUAIRAND}-{self.seed}" + (f"-tabs{_joined(self.homepage_tabs)}" if self.homepage_tabs else "")
        return f"{self.preset}-{self.seed}-taste{self.shared_taste:g}-linked{self.linked_share:g}"

    def has(self, surface: str) -> bool:
        """Tell whether a surface has events here; KuaiRand's radio has none where the homepage has all tabs."""
        from ml.lab.kuairand import APP_TABS

        return surface != "radio" or not set(self.homepage_tabs or ()) >= set(APP_TABS)


@dataclass(frozen=True)
class Trial:
    """One training and its evaluation."""

    world: World
    surface: str
    variant: Variant
    seed: int
    condition: Condition = AS_IT_IS

    @property
    def teacher(self) -> WorldTeacher:
        """Whose soft labels it learns from."""
        return WorldTeacher(days=self.condition.teacher_days, defaulted=self.condition.defaulted)


class Part(_Model):
    """Variants in some worlds of a study; with dials, once per level of each dial instead of as the preset is."""

    worlds: tuple[int, ...] = Field(min_length=1)
    variants: tuple[str, ...] = Field(min_length=1)
    seeds: tuple[int, ...] | None = None
    dials: dict[str, tuple[float | tuple[int, ...], ...]] = Field(default_factory=dict)

    _renamed = model_validator(mode="before")(refuse_renamed_keys)

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Every level of every dial, one at a time."""
        levels = [Condition.model_validate({dial: level}) for dial, found in self.dials.items() for level in found]
        return tuple(levels) or (AS_IT_IS,)


class Design(_Model):
    """A study; see ``designs.yaml``."""

    name: str
    description: str
    seen: str = Field(default="", description="What was chosen on these worlds, or seen of them, before")
    preset: Preset
    seeds: tuple[int, ...] = Field(min_length=1)
    parts: tuple[Part, ...] = Field(min_length=1)
    surfaces: tuple[str, ...] = ("homepage", "radio")
    surfaces_dir: str | None = Field(default=None, description="Other surfaces than the simulator's, from the project")
    against: str = Field(default="auxiliary", description="Variant that the report also compares the others with")
    weights: dict[str, dict[str, float]] = Field(
        default_factory=dict,
        description="{surface: {teacher output: weight}} of heads under another technique than the surface's own",
    )

    @property
    def worlds(self) -> tuple[int, ...]:
        """Seeds of all worlds."""
        return tuple(dict.fromkeys(seed for part in self.parts for seed in part.worlds))

    @property
    def variants(self) -> tuple[Variant, ...]:
        """All variants but the controls."""
        named = dict.fromkeys(name for part in self.parts for name in part.variants)
        return tuple(self._variant(name) for name in named)

    def variants_of(self, part: Part) -> tuple[Variant, ...]:
        """Return the variants of a part and the controls that they are compared with, controls first."""
        chosen = [self._variant(name) for name in part.variants]
        controls = [parse_variant(variant.control) for variant in chosen]
        return tuple(dict.fromkeys([*controls, *chosen]))

    def _variant(self, name: str) -> Variant:
        weights = {(surface, output): w for surface, heads in self.weights.items() for output, w in heads.items()}
        return replace(parse_variant(name), weights=tuple(weights.items()))

    @property
    def vectors(self) -> bool:
        """Whether a variant reads the teacher's vectors, so that the worlds' teachers have some."""
        return any(variant.vectors for variant in self.variants)

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """All conditions, as the preset is first."""
        return tuple(dict.fromkeys(condition for part in self.parts for condition in part.conditions))

    @property
    def dials(self) -> tuple[str, ...]:
        """All dials that are turned."""
        return tuple(dict.fromkeys(dial for part in self.parts for dial in part.dials))

    def trials(self) -> tuple[Trial, ...]:
        """Return all trials, the scores of each teacher among them, those of one world side by side."""
        found: dict[Trial, None] = {}
        for part in self.parts:
            for condition in part.conditions:
                for seed in part.worlds:
                    world = World(
                        preset=self.preset,
                        seed=seed,
                        shared_taste=condition.shared_taste,
                        linked_share=condition.linked_share,
                        surfaces_dir=self.surfaces_dir,
                        homepage_tabs=condition.homepage_tabs,
                        vectors=self.vectors,
                    )
                    for surface in filter(world.has, self.surfaces):
                        found[Trial(world, surface, TEACHER, 0, condition)] = None
                        for student_seed in part.seeds or self.seeds:
                            for variant in self.variants_of(part):
                                found[Trial(world, surface, variant, student_seed, condition)] = None
        return tuple(found)

    def by_world(self) -> dict[World, tuple[Trial, ...]]:
        """Return the trials of each world; a world is made and used by one process."""
        found: dict[World, list[Trial]] = {}
        for trial in self.trials():
            found.setdefault(trial.world, []).append(trial)
        return {world: tuple(trials) for world, trials in found.items()}


def design_names(path: Path = DESIGNS_FILE) -> list[str]:
    """Return the names of the studies of a file, in its order."""
    return list(load_yaml(path))


def load_design(name: str, path: Path = DESIGNS_FILE) -> Design:
    """Return a study by name.

    Raises:
        ValueError: There is none of that name, or it breaks a rule.
    """
    if name in _RENAMED:
        new = _RENAMED[name]
        raise ValueError(f"study {name!r} has another name, {new!r}: `crossfade study run {new}`")
    return Design(name=name, **named_entry(path, "study", name))


def named_entry(path: Path, what: str, name: str) -> Document:
    """Return one entry of a YAML file of named things; ``what`` they are stands in the error that lists them."""
    entries = load_yaml(path)
    if name not in entries:
        raise ValueError(f"no {what} {name!r}; there are {sorted(entries)}")
    return entries[name]


def surfaces_dir(world: World) -> Path | None:
    """Return the folder of a world's surfaces, or None for those of the project."""
    return PROJECT_ROOT / world.surfaces_dir if world.surfaces_dir else None
