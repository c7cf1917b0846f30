"""How the rankers of a surface learn: distillation, network and optimisation."""

from collections.abc import Iterable, Mapping
from typing import Literal, Self, cast

from pydantic import (
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from ml.foundation.names import nearest
from ml.surfaces.keys import Keys
from ml.surfaces.own import Kind
from ml.surfaces.techniques import NO_TECHNIQUE, HeadRules, known, own_rules, techniques


class DistillationHead(Keys):
    """One soft label to learn: beside ``task``, or for its own sake where the technique has no place for a task."""

    task: str | None = None
    teacher_output: str
    weight: float = Field(gt=0)
    centre_by: str | None = Field(
        default=None,
        description="Id input within which the soft label is centred: a level there is the sister platform's",
    )


def _own_names(info: ValidationInfo, kind: Kind) -> Iterable[str]:
    """Return the names of the app's own files, where the surface was read from one of its folder."""
    return cast("Mapping[Kind, Iterable[str]]", info.context or {}).get(kind, ())


class FewRows(Keys):
    """Whose soft labels are learnt: those of the ids of an input that have the fewest training rows."""

    input: str = Field(description="Id input whose rows are counted, such as user_id")
    share: float = Field(gt=0, lt=1, description="Share of its ids, the ones with the fewest rows first; ties stay")


class Unshown(Keys):
    """Pairs of a user and an item that nobody was shown, for the branch: the teacher labels them as it does exposures.

    Each exposure of a day lends its user, time and place to items that others were shown on that day.
    """

    per_exposure: int = Field(ge=1, le=64, description="Pairs that are drawn for each exposure")
    rule: Literal["uniform", "popular"] = Field(
        default="uniform",
        description="Which item of the day: each alike, or each as often as it was shown on that day",
    )

    def __str__(self) -> str:
        return f"{self.rule} {self.per_exposure}"


class Distillation(Keys):
    """How a student learns soft labels; the control ignores it."""

    code: str | None = Field(default=None, description="Hash of the app's own file of the technique; not written")
    technique: str = Field(description="A file of ml/distillation, or of the app's techniques/, or none")
    heads: tuple[DistillationHead, ...] = ()
    few_rows: FewRows | None = Field(
        default=None, description="Leaves out the soft labels of ids that the app knows well; default: all are learnt"
    )
    unshown: Unshown | None = Field(
        default=None, description="Pairs beside the exposures, for techniques that teach the branch; none by default"
    )

    @field_validator("technique")
    @classmethod
    def _there(cls, name: str, info: ValidationInfo) -> str:
        if info.data.get("code") is None:
            return known(name, _own_names(info, "techniques"))
        if name in (NO_TECHNIQUE, *techniques()):
            raise ValueError(f"{name!r} is one of ours; give the app's file techniques/{name}.py another name")
        return name

    @model_serializer(mode="wrap")
    def _without_code(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave out what is not set: a surface without the key has the digest that it had before there was one."""
        unset = {"code", "unshown"}
        return {name: value for name, value in dump(self).items() if name not in unset or value is not None}

    @property
    def rules(self) -> HeadRules:
        """What the technique asks of its heads; where there is none, heads are idle and name no task."""
        if self.technique == NO_TECHNIQUE:
            return HeadRules(task=False)
        if self.code is not None:
            return own_rules(self.technique, self.code)
        return techniques()[self.technique].heads


class InteractionBranch(Keys):
    """Embeddings of its own for the pairs of ``products``, and layers over their products that feed the bottom."""

    embedding: int = Field(ge=1, description="Size of every id of the branch")
    layers: tuple[int, ...] = Field(min_length=1)


class Network(Keys):
    """Shared bottom and towers; ``products`` are pairs of inputs whose embeddings are multiplied elementwise."""

    bottom: tuple[int, ...] = (48,)
    tower: tuple[int, ...] = (24,)
    products: tuple[tuple[str, str], ...] = ()
    interaction: InteractionBranch | None = None
    module: str | None = Field(default=None, description="The app's own network: a file of its networks/")
    code: str | None = Field(default=None, description="Hash of that file; not written")
    options: dict[str, JsonValue] = Field(default={}, description="What the app's own network reads; with `module`")

    @model_validator(mode="after")
    def _own(self, info: ValidationInfo) -> Self:
        if self.module is None and (self.options or self.code):
            raise ValueError("options are read by the app's own network, which `module` names")
        if self.module is not None and self.code is None:
            near = nearest(self.module, _own_names(info, "networks"))
            raise ValueError(f"module: the app's folder has no networks/{self.module}.py{near}")
        return self

    @model_serializer(mode="wrap")
    def _without_own(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave the app's own network out where there is none: such a surface keeps its digest."""
        unset = () if self.module else ("module", "code", "options")
        return {name: value for name, value in dump(self).items() if name not in unset}


class Training(Keys):
    """Optimisation of control and student alike."""

    optimizer: Literal["rowwise", "adam"] = Field(
        default="rowwise", description="adam: stored rankers of version 0.1, nothing is trained with it"
    )
    learning_rate: float | None = Field(default=None, gt=0, description="Of the layers; default from the batch size")
    embedding_learning_rate: float | None = Field(
        default=None,
        gt=0,
        description="Of the embedding tables, doubled where the teacher alone feeds them; default from the rows",
    )
    final_rate: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="Share of the learning rates that is left at the end of a pass; the fall is linear",
    )
    weight_decay: float = Field(
        default=0.0, ge=0, description="Decoupled; embeddings that only the teacher feeds do not decay"
    )
    batch_size: int | None = Field(default=None, ge=1, description="Default from the number of rows")
    epochs: int = Field(default=8, ge=1, description="Passes over the rows at most")
    patience: int = Field(default=1, ge=1, description="Passes that may fail to lower the loss on the validation days")
    unknown_share: float = Field(default=0.01, ge=0, lt=1, description="Share of ids trained as unknown")
