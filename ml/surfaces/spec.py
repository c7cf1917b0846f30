"""The specification of a surface: inputs, tasks, heads, ranking score and gate thresholds of one ranker.

A surface is one YAML file. ``extends: <other.yaml>`` starts from another file; mappings are merged key by key and
a null removes a key.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self, cast, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from ml.foundation.documents import Document, DocumentError, digest, is_object, load_yaml, parse_yaml
from ml.foundation.names import faults_of, near_name, nearest
from ml.foundation.settings import Settings
from ml.surfaces.condition import ConditionError, condition
from ml.surfaces.expression import ExpressionError, parse
from ml.surfaces.own import Kind, own_files, with_code
from ml.surfaces.techniques import NO_TECHNIQUE, HeadRules, known, own_rules, techniques

Role = Literal["control", "student"]
"""The two rankers of a partition: trained without and with soft labels."""


ALL_ROWS = "all"
HISTORY_SLICES = ("few_training_rows", "some_training_rows", "many_training_rows")
"""Slices that every surface has beside its own: the thirds of the evaluated users by their number of training rows."""

_SOURCE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\.[A-Za-z_][A-Za-z0-9_]*")


class SpecError(ValueError):
    """A surface file that cannot be used; the message names the file and the key."""


def _rising(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the first, {bounds[0]:g}, is above the second, {bounds[1]:g}")
    return bounds


def _shares(bounds: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= bounds[0] <= bounds[1] <= 1:
        raise ValueError(f"{bounds[0]:g} to {bounds[1]:g} are no shares of 0 to 1")
    return bounds


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")]
"""Name of a column, task or slice: it becomes part of queries and of graphs."""

Bounds = Annotated[tuple[float, float], AfterValidator(_rising)]
"""Lowest and highest value."""


class Looks(NamedTuple):
    """One look at a candidate after ``first`` evaluation days, then one with each further day, up to ``most`` days."""

    first: int
    most: int


ONE_LOOK = Looks(1, 1)
"""A candidate that is looked at once."""

E_MAX = 14
"""Evaluation days that a candidate may have in all, where a surface does not say."""


class Window(_Model):
    """Days of a student partition D: trains on [D-e-w, D-e), evaluates on [D-e, D) and further days up to ``e_max``.

    A surface whose ``label_window_days`` is more than 1 has both earlier; see ``Surface.label_lag_days``.
    """

    train_days: int = Field(ge=1, description="w")
    eval_days: int = Field(ge=1, description="e")
    e_max: int | None = Field(
        default=None,
        ge=1,
        le=90,
        description="Evaluation days, the first `eval_days` included, until which an undecided candidate's evaluation "
        f"widens; default {E_MAX}, or `eval_days` where that is more",
    )
    validation_days: int = Field(ge=1, description="Last days of the training window, for tuning")
    min_train_days: int = Field(ge=1, description="Fewer days than this are not trained on")

    @model_validator(mode="after")
    def _widens(self) -> Self:
        if self.e_max is not None and self.e_max < self.eval_days:
            raise ValueError(
                f"e_max: {self.e_max} is less than eval_days: {self.eval_days}; it counts these days too: write "
                f"{self.eval_days} to never widen, or leave it out for {max(E_MAX, self.eval_days)}"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_default(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave ``e_max`` out where it is not set: such a surface has the digest that it has without the key."""
        return {name: value for name, value in dump(self).items() if name != "e_max" or value is not None}

    @property
    def most_eval_days(self) -> int:
        """Evaluation days of a candidate in all, those of its widening included."""
        return max(E_MAX, self.eval_days) if self.e_max is None else self.e_max


class IdTable(_Model):
    """Which ids of an input have an embedding of their own, and what the others have."""

    min_count: int = Field(default=1, ge=1, description="Training rows that an id needs for an embedding of its own")
    max_ids: int | None = Field(
        default=None, ge=1, description="Most ids with an embedding of their own: the most frequent; default all"
    )
    hash_buckets: int = Field(
        default=0, ge=0, le=100_000_000, description="Embeddings that rarer ids share by a hash; 0: those are unknown"
    )
    unseen: Literal["unknown", "bucket"] = Field(
        default="unknown",
        description="What an id is that training has not seen; `bucket`: as a rarer one, of which none is stored then",
    )

    @model_validator(mode="after")
    def _buckets_to_use(self) -> Self:
        if self.unseen == "bucket" and self.hash_buckets == 0:
            raise ValueError("id_table: `unseen: bucket` needs `hash_buckets` above 0")
        return self


class Input(_Model):
    """One input column of the ranker."""

    kind: Literal["daily", "request", "after_ranking"]
    type: Literal["id", "category", "number", "vector", "event_list"]
    source: str | None = Field(default=None, alias="from", description="`<feature table>.<column>` of a daily input")
    embedding: int = Field(default=0, ge=0)
    vocabulary: str | None = None
    id_table: IdTable | None = Field(default=None, description="Bounds of the embedding table; default every id seen")
    length: int = Field(default=1, ge=1)
    transform: Literal["identity", "log1p"] = "identity"
    default: float = 0.0
    sparse: bool = Field(default=False, description="Null for most rows by nature; the data gate does not bound it")
    serving_value: float | None = None
    per_candidate: bool = Field(default=False, description="The caller sends one value per candidate, not per request")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.kind == "daily") != (self.source is not None):
            raise ValueError("a daily input needs `from: <table>.<column>`, others must not have it")
        if self.source is not None and not _SOURCE.fullmatch(self.source):
            raise ValueError(f"`from: {self.source}` is not <table>.<column>")
        if (self.kind == "after_ranking") != (self.serving_value is not None):
            raise ValueError("an after_ranking input needs `serving_value`, others must not have it")
        if self.type in ("id", "category") and self.embedding == 0:
            raise ValueError(f"an input of type {self.type} needs `embedding`")
        if self.id_table is not None and (self.type not in ("id", "category") or self.vocabulary is not None):
            of = f"{self.vocabulary}'s vocabulary" if self.vocabulary else f"type {self.type}"
            raise ValueError(f"id_table bounds the embeddings of an id or category of its own, not those of {of}")
        return self

    @model_serializer(mode="wrap")
    def _without_default(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave ``id_table`` out where it is not set: such a surface has the digest that it has without the key."""
        return {name: value for name, value in dump(self).items() if name != "id_table" or value is not None}

    @property
    def dtype(self) -> Literal["int64", "float32"]:
        """Element type of the column in tensors and in the ONNX graph."""
        return "int64" if self.type in ("id", "category", "event_list") else "float32"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row: () or (length,)."""
        return (self.length,) if self.type in ("vector", "event_list") else ()


class Task(_Model):
    """One head that serves."""

    kind: Literal["binary", "regression"]
    label: Name
    weight: float = Field(default=1.0, gt=0)
    teacher_output: str | None = Field(
        default=None, description="Teacher output reported beside the task; `teacher/output` where there are several"
    )
    baseline: str | None = Field(default=None, description="Input whose value alone is the popularity baseline")


PLAYED = ("played_s", "completed", "skipped", "stopped", "liked", "disliked")
PLAYED_OUTCOMES = tuple(f"{part}.{what}" for part in ("listen", "session") for what in PLAYED)
"""What listens say of an exposure: those that name it, and those of its item later in its session."""

Counting = Literal["any", "sum", "latest", "first"]


class Label(_Model):
    """How an exposure's outcomes of one name within the label window are its label: exactly one key is set."""

    any: str | None = Field(default=None, min_length=1, description="1 if one came whose value is not 0")
    sum: str | None = Field(default=None, min_length=1, description="Sum of their values")
    latest: str | None = Field(default=None, min_length=1, description="Value of the latest")
    first: str | None = Field(default=None, min_length=1, description="Value of the first")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.model_fields_set) != 1:
            keys = ", ".join(get_args(Counting))
            raise ValueError(f"a label says one of {keys}, and the name of an outcome: {{any: purchase}}")
        _, name = self.rule
        part = name.split(".")[0]
        if part in ("listen", "session") and name not in PLAYED_OUTCOMES:
            raise ValueError(f"listens have no outcome {name!r}{nearest(name, PLAYED_OUTCOMES)}")
        return self

    @model_serializer
    def _as_written(self) -> dict[str, str]:
        return dict([self.rule])

    @property
    def rule(self) -> tuple[Counting, str]:
        """How it counts, and the outcome that it counts."""
        [found] = [(kind, name) for kind in get_args(Counting) if (name := getattr(self, kind)) is not None]
        return found


class DistillationHead(_Model):
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


class FewRows(_Model):
    """Whose soft labels are learnt: those of the ids of an input that have the fewest training rows."""

    input: str = Field(description="Id input whose rows are counted, such as user_id")
    share: float = Field(gt=0, lt=1, description="Share of its ids, the ones with the fewest rows first; ties stay")


class Unshown(_Model):
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


class Distillation(_Model):
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


class InteractionBranch(_Model):
    """Embeddings of its own for the pairs of ``products``, and layers over their products that feed the bottom."""

    embedding: int = Field(ge=1, description="Size of every id of the branch")
    layers: tuple[int, ...] = Field(min_length=1)


class Network(_Model):
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


class Training(_Model):
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


class DataGate(_Model):
    """Thresholds of the guard ``data``."""

    min_rows: int = Field(
        ge=0,
        description="Rows a day must have. A day on which nothing was shown has none, and is told unless this is 0",
    )
    label_rate: dict[str, Annotated[Bounds, AfterValidator(_shares)]] = Field(
        description="Bounds of the daily mean label per binary task; fails beyond chance, warns within"
    )
    label_rate_change: float = Field(
        default=2.0,
        gt=1,
        description="Factor by which a day's mean label may lie above or below that of the days before it; fails "
        "beyond chance, warns within",
    )
    trailing_days: int = Field(default=28, ge=7, description="Days before it that a day's mean label is held against")
    max_null_share: float = Field(ge=0, le=1, description="Nulls allowed in any input column")


class SoftLabelGate(_Model):
    """Thresholds of the guard ``soft_labels``."""

    min_coverage: float = Field(ge=0, le=1)
    max_defaulted_share: float = Field(ge=0, le=1)
    rescore_rows: int = Field(ge=1)
    rescore_tolerance: float = Field(gt=0, le=1)
    teachers: dict[str, dict[str, float]] = Field(
        default={}, description="Of several teachers, which of these bounds are others for one, by its name"
    )

    @model_validator(mode="after")
    def _known_bounds(self) -> Self:
        bounds = [name for name in type(self).model_fields if name != "teachers"]
        for teacher, own in self.teachers.items():
            if unknown := [name for name in own if name not in bounds]:
                raise ValueError(f"teachers.{teacher}: there is no bound {unknown[0]!r}{nearest(unknown[0], bounds)}")
            self.of(teacher)
        return self

    @model_serializer(mode="wrap")
    def _without_default(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave ``teachers`` out where it is not set: such a gate has the digest that it has without the key."""
        return {name: value for name, value in dump(self).items() if name != "teachers" or value}

    def of(self, teacher: str | None) -> Self:
        """Return the bounds of one teacher."""
        own = self.teachers.get(teacher or "", {})
        return type(self).model_validate({**self.model_dump(exclude={"teachers"}), **own})


RANKING_MARGIN = 0.015
"""Loss of NDCG@10 by the ranking score that is tolerated where a surface does not say."""


class QualityGate(_Model):
    """Thresholds of the guard ``quality`` for one task, in units of its metric (AUC or R2)."""

    margin: float = Field(gt=0, le=1)
    min: float = Field(le=1)
    reference_margin: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Loss against the reference release that all releases since may sum to; default the margin",
    )
    ranking_margin: float = Field(
        default=RANKING_MARGIN,
        gt=0,
        description="Loss of NDCG@10 by the ranking score, with this task's label as gain; of a task of `rank_by`",
    )


class SliceGate(_Model):
    """Thresholds of the guard ``slices``."""

    margin_factor: float = Field(gt=1)
    min_rows: int = Field(ge=1)
    min_positives: int = Field(ge=1)


class CalibrationGate(_Model):
    """Thresholds of the guard ``calibration``."""

    max_ece: float = Field(gt=0, le=1)
    max_relative_ece: float = Field(
        default=0.4, gt=0, description="Calibration error over the base rate; fails by the interval, warns within it"
    )
    log_loss_margin: float = Field(
        default=0.02, gt=0, description="Loss of log loss against control and champion, as a share of theirs"
    )
    predicted_over_observed: Bounds


class ShiftGate(_Model):
    """Thresholds of the guard ``score_shift``: candidate against champion on the evaluation days."""

    max_psi: float = Field(default=0.25, gt=0, description="Population stability index of any output that blocks")
    warn_psi: float = Field(default=0.1, gt=0, description="And one that warns")
    top: int = Field(default=5, ge=1, description="Places of a user's ranking that are compared")
    min_overlap: float = Field(default=0.5, ge=0, le=1, description="Share of these places that both rankings fill")
    min_users: int = Field(default=50, ge=1, description="Fewer users with enough rows are a warning")


class OnnxGate(_Model):
    """Thresholds of the guard ``onnx``."""

    tolerance: float = Field(gt=0, le=1)
    max_megabytes: float = Field(gt=0)
    max_batch: int = Field(ge=3, le=100_000)


class ServingGate(_Model):
    """Thresholds of the guard ``serving``."""

    max_ready_s: float = Field(default=60, gt=0, description="Start of a clean process to the first answer")
    max_milliseconds: float = Field(default=20, gt=0, description="Median time of the model on 200 candidates")
    min_speed: float = Field(default=0.5, gt=0, description="The champion's time over the candidate's")


class ProvenanceGate(_Model):
    """Thresholds of the guard ``provenance``."""

    max_plausible_auc: float = Field(gt=0.5, le=1)


class PromotionGate(_Model):
    """Who promotes a candidate that passed, and how many overrule the gate."""

    mode: Literal["automatic", "manual"] = Field(
        default="automatic",
        description="`manual`: a named person has to approve it first (`crossfade release approve`)",
    )
    approve_within_hours: float = Field(
        default=72, gt=0, le=8760, description="Hours after the verdict in which one may; then it is judged again"
    )
    override_names: int = Field(default=1, ge=1, le=2, description="People who have to ask for an override")


class Gate(_Model):
    """Thresholds of the gate."""

    data: DataGate
    soft_labels: SoftLabelGate
    quality: dict[str, QualityGate] = Field(min_length=1)
    slices: SliceGate
    calibration: CalibrationGate
    shift: ShiftGate = ShiftGate()
    onnx: OnnxGate
    serving: ServingGate = ServingGate()
    provenance: ProvenanceGate
    promotion: PromotionGate = PromotionGate()
    guards: dict[str, dict[str, JsonValue]] = Field(
        default={}, description="Thresholds of further guards by name; the file of each declares which it takes"
    )

    @model_serializer(mode="wrap")
    def _without_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave out what version 0.1 did not know, where it is not set: such a gate keeps its digest."""
        unset: dict[str, object] = {"guards": {}, "promotion": PromotionGate().model_dump()}
        return {name: value for name, value in dump(self).items() if name not in unset or value != unset[name]}

    @property
    def digest(self) -> str:
        """Content hash of the thresholds."""
        return digest(self.model_dump(mode="json"))


RANKING_SCORE = "score"
"""Name of the ranking score beside the tasks."""


class IncumbentInput(_Model):
    """What an input of the incumbent's graph reads: a column, or several side by side as one vector."""

    columns: tuple[str, ...] = Field(min_length=1, description="Columns of the examples, in the order of the vector")
    default: float | str | None = Field(
        default=None, description="Where a column has no value; default that of the surface's input, or 0"
    )
    keep_nan: bool = Field(default=False, description="A missing value reaches the graph as NaN, as trees want it")
    min: float | None = Field(default=None, description="Least value; a smaller one takes the default")
    max: float | None = Field(default=None, description="Largest value; a larger one takes the default")

    @model_validator(mode="before")
    @classmethod
    def _columns_alone(cls, given: object) -> object:
        if is_object(given):
            columns = given.get("columns")
            return {**given, "columns": [columns]} if isinstance(columns, str) else given
        return {"columns": [given] if isinstance(given, str) else given}

    @model_serializer(mode="wrap")
    def _as_written(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        return {name: value for name, value in dump(self).items() if value is not None and value is not False}


_GRAPH_OUTPUT = re.compile(r"(?P<name>[^\[\]]+)(\[(?P<column>\d{1,6})\])?")


class Incumbent(_Model):
    """What ranks in the app today, by its landed scores or as an ONNX file: a baseline in every evaluation."""

    version: str = Field(min_length=1, description="Its version: `ranker_version` of its rows where its scores land")
    onnx: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]*\.onnx$",
        description="Its ONNX file in the app's folder; without it, its scores land in `ranker_scores`",
    )
    inputs: dict[str, IncumbentInput] = Field(
        default={}, description="{input of the graph: column of the examples, or the columns of a vector}; with `onnx`"
    )
    scores: dict[Name, str] = Field(
        min_length=1,
        description="{task of the surface, or `score` for the order: `task` of its rows, or output of the graph, such "
        "as `probabilities[1]`}",
    )
    kind: Literal["probability", "logit"] = Field(
        default="probability", description="What its scores of binary tasks are, where it becomes a release"
    )
    must_not_lose: bool = Field(
        default=False,
        description="Whether guard 3 refuses a candidate that loses against it, and guard 8 one slower than its file",
    )
    min_coverage: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="Share of the evaluation rows that must have its score where a candidate must not lose",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.onnx is None) != (not self.inputs):
            raise ValueError(
                "`onnx: ranker.onnx` and `inputs: {input of the graph: column}` belong together; leave both out where "
                "its scores land in `ranker_scores`"
            )
        if self.onnx is not None:
            if ".." in self.onnx.split("/"):
                raise ValueError(f"onnx: {self.onnx!r} leads out of the app's folder")
            for key, name in self.scores.items():
                if not _GRAPH_OUTPUT.fullmatch(name):
                    raise ValueError(f"scores.{key}: {name!r} is neither an output of the graph nor output[column]")
        return self

    @model_serializer(mode="wrap")
    def _without_graph(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave the graph out where there is none: a surface with landed scores keeps its digest."""
        unset = () if self.onnx else ("onnx", "inputs", "kind")
        return {name: value for name, value in dump(self).items() if name not in unset}

    @property
    def graph_outputs(self) -> dict[str, tuple[str, int | None]]:
        """{key of ``scores``: output of the graph, and its column where that is said}."""
        found = {key: _GRAPH_OUTPUT.fullmatch(name) for key, name in self.scores.items()}
        return {key: (m["name"], int(m["column"]) if m["column"] else None) for key, m in found.items() if m}


IN_LAKE = "lake"
_PLACES = "lake, {parquet: out/{day}.parquet} or {database: shop, table: rankings}"
RANKING_COLUMNS = ("day", "surface", "user_id", "rank", "item_id", "score", "release", "features_day")
"""What a ranked row has beside the outputs of its tasks."""


class Destination(_Model):
    """Where rankings are written: the lake unless it says otherwise."""

    parquet: str | None = Field(
        default=None,
        min_length=1,
        description="File of each day, with {day}: an absolute path, or one below the instance directory",
    )
    database: str | None = Field(default=None, description="Name under `attach` of `sources.yaml`; with `table`")
    table: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?$",
        description="Table of that database, `schema.table` or `table`; made if it is not there",
    )

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: object) -> object:
        if given == IN_LAKE:
            return {}
        if isinstance(given, str):
            near = f"did you mean {IN_LAKE!r}?" if near_name(given, [IN_LAKE]) else f"there are {_PLACES}"
            raise ValueError(f"{given!r} is no place of rankings; {near}")
        return given

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.database is None) != (self.table is None) or (self.parquet and self.database):
            raise ValueError(f"rankings have one place: {_PLACES}")
        if self.parquet is not None:
            if "{day}" not in self.parquet:
                raise ValueError(f"parquet: {self.parquet!r} has no {{day}}: each day's file replaces its own")
            if "://" in self.parquet or set(re.findall(r"\{\w*\}", self.parquet)) != {"{day}"}:
                raise ValueError(f"parquet: {self.parquet!r} is no path of a local file with {{day}} and no other")
        return self

    @model_serializer
    def _as_written(self) -> str | dict[str, str]:
        written = {name: value for name, value in dict(self).items() if value is not None}
        return written or IN_LAKE

    def __str__(self) -> str:
        return self.parquet or (f"{self.database}.{self.table}" if self.database else IN_LAKE)


class Rankings(_Model):
    """What is ranked each day without a server, for whom, and where the first of it goes."""

    candidates: str = Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]*$",
        description="A query in the app's folder, such as `rankings/homepage.sql`, or the name of a model with `day`",
    )
    top_k: int = Field(default=50, ge=1, le=10_000, description="Items of each user that are written")
    to: Destination = Destination()

    @field_validator("candidates")
    @classmethod
    def _inside(cls, name: str) -> str:
        if not name.endswith(".sql") and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(f"{name!r} is neither a file *.sql of the app's folder nor the name of a model")
        if ".." in name.split("/"):
            raise ValueError(f"{name!r} leads out of the app's folder")
        return name

    @property
    def model(self) -> str | None:
        """Name of the model that holds the candidates; None where a query gives them."""
        return None if self.candidates.endswith(".sql") else self.candidates

    def __str__(self) -> str:
        return f"the first {self.top_k} of {self.candidates} to {self.to}"


class Experiment(_Model):
    """What is fixed before an experiment on the surface starts."""

    shares: dict[str, float] = Field(
        default={},
        description="Share of the users that each variant should have, by its name in `arm`; even by default",
    )
    expected_lift: float = Field(
        default=0.1, gt=0, le=1, description="Relative difference for which the intervals of daily looks are narrowest"
    )

    @field_validator("shares")
    @classmethod
    def _positive(cls, shares: dict[str, float]) -> dict[str, float]:
        if len(shares) == 1 or any(not share > 0 for share in shares.values()):
            raise ValueError(f"{shares} are no shares: name every variant, the baseline too, each above 0")
        return shares


class Surface(_Model):
    """One surface; see ``homepage.yaml`` for the meaning of every key."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")
    description: str
    owner: str
    window: Window
    label_window_days: int = Field(
        default=1,
        ge=1,
        le=30,
        description="Days after an exposure's own until whose end what follows it counts; its day is final then",
    )
    inputs: dict[Name, Input]
    network: Network
    tasks: dict[Name, Task]
    distillation: Distillation
    training: Training
    rank_by: str
    slices: dict[Name, str] = {}
    labels: dict[Name, float | Label] = {}
    outcomes: tuple[str, ...] = Field(
        default=(), description="Names of outcomes that may land; a label that counts another is refused"
    )
    gate: Gate
    incumbent: Incumbent | None = Field(
        default=None, description="The app's present ranker, which every evaluation is held against; none by default"
    )
    rankings: Rankings | None = Field(
        default=None, description="Candidates that are ranked for a day's users without a server; none by default"
    )
    experiment: Experiment = Field(default=Experiment(), description="How users are split, and what is expected of it")
    first_release: Literal["popularity"] | None = Field(
        default=None, description="What may serve while nothing does and the gate refuses the student; none by default"
    )

    @model_validator(mode="after")
    def _references(self) -> Self:
        faults = [*self._input_faults(), *self._head_faults(), *self._task_faults(), *self._slice_faults()]
        faults += [*self._label_faults(), *self._incumbent_faults(), *self._popularity_faults()]
        if self.rankings and (taken := sorted(set(RANKING_COLUMNS) & self.tasks.keys())):
            faults.append(f"tasks.{taken[0]}: rankings have a column of this name; choose another")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _incumbent_faults(self) -> Iterator[str]:
        if self.incumbent is None:
            return
        known = [*self.tasks, RANKING_SCORE]
        for name in self.incumbent.scores:
            if name not in known:
                yield f"incumbent.scores names {name!r}, which is no task{nearest(name, known)}"
        labels = {task.label for task in self.tasks.values()}
        for name, item in self.incumbent.inputs.items():
            for column in item.columns:
                if column in labels or column.startswith("label_"):
                    yield f"incumbent.inputs.{name} reads {column!r}, a label: it would know what it is judged by"
        if self.incumbent.must_not_lose and not self.gate.quality.keys() & self.incumbent.scores.keys():
            yield "incumbent.must_not_lose: incumbent.scores has no task that gate.quality judges"

    def incumbent_gives_probability(self, name: str) -> bool:
        """Return whether the present ranker's score of a task, or of the order, is a probability; else it stays."""
        task = self.tasks.get(name)
        binary = task is not None and task.kind == "binary"
        return binary and self.incumbent is not None and self.incumbent.kind == "probability"

    def _popularity_faults(self) -> Iterator[str]:
        if self.first_release and not any(task.baseline for name, task in self.tasks.items() if name in self.ranked):
            yield f"first_release: popularity needs a task of rank_by that names its baseline: {self.rank_by!r}"

    def _label_faults(self) -> Iterator[str]:
        for name, label in self.label_rules.items():
            _, outcome = label.rule
            if self.outcomes and outcome not in (*self.outcomes, *PLAYED_OUTCOMES):
                near = nearest(outcome, [*self.outcomes, *PLAYED_OUTCOMES])
                yield f"labels.{name} counts {outcome!r}, which is no outcome of the surface{near}"

    def _input_faults(self) -> Iterator[str]:
        for left, right in self.network.products:
            for name in (left, right):
                if name not in self.inputs:
                    yield f"network.products names {name!r}, which is no input{nearest(name, self.inputs)}"
        named = [name for pair in self.network.products for name in pair]
        paired = {self.inputs[name].type for name in named if name in self.inputs}
        if self.network.interaction and not paired & {"id", "category"}:
            yield "network.interaction needs network.products of ids or categories"
        for name, item in self.inputs.items():
            if item.vocabulary is not None and item.vocabulary not in self.inputs:
                near = nearest(item.vocabulary, self.inputs)
                yield f"inputs.{name}.vocabulary names {item.vocabulary!r}, which is no input{near}"

    def _head_faults(self) -> Iterator[str]:
        technique, rules = self.distillation.technique, self.distillation.rules
        if rules.branch and not self.network.interaction:
            yield f"technique {technique} teaches network.interaction, which is missing"
        ids = [name for name, item in self.inputs.items() if item.dtype == "int64"]
        few = self.distillation.few_rows
        if few is not None and few.input not in ids:
            yield f"distillation.few_rows names {few.input!r}, which is no id input{nearest(few.input, ids)}"
        if self.distillation.unshown and not rules.branch:
            able = ", ".join(name for name, listed in techniques().items() if listed.heads.branch)
            yield (
                f"distillation.unshown is for the branch, which technique {technique} does not teach: leave it out, or "
                f"take a technique that does: {able}"
            )
        if self.distillation.unshown and self.network.module:
            yield (
                f"distillation.unshown is read by the branch of our network alone, and network.module is "
                f"{self.network.module!r}: leave one of them out"
            )
        for head in self.distillation.heads:
            if rules.task and head.task not in self.tasks:
                near = nearest(head.task or "", self.tasks)
                yield f"distillation head names task {head.task!r}, which is no task{near}"
            if not rules.task and head.task is not None:
                yield f"a head of technique {technique} names no task, this one names {head.task!r}"
            if not rules.centre_by and head.centre_by is not None:
                yield f"technique {technique} learns the teacher's level and cannot centre it"
            if head.centre_by is not None and head.centre_by not in ids:
                near = nearest(head.centre_by, ids)
                yield f"distillation head centres by {head.centre_by!r}, which is no id input{near}"
        plain = [name for name in self.teacher_outputs if "/" not in name]
        if self.prefixes_outputs and plain:
            named = next(name for name in self.teacher_outputs if "/" in name)
            yield f"teacher_output names {named!r} with its teacher and {plain[0]!r} without: write all of them alike"
        centred = {(head.teacher_output, head.centre_by) for head in self.distillation.heads}
        if len(centred) > len({output for output, _ in centred}):
            yield "distillation heads of one teacher_output must centre it by the same input"

    def _task_faults(self) -> Iterator[str]:
        for name, task in self.tasks.items():
            if task.baseline is not None and task.baseline not in self.inputs:
                near = nearest(task.baseline, self.inputs)
                yield f"tasks.{name}.baseline names {task.baseline!r}, which is no input{near}"
        judged = {"gate.quality": self.gate.quality, "gate.data.label_rate": self.gate.data.label_rate}
        for key, named in judged.items():
            for name in named:
                if name not in self.tasks:
                    yield f"{key} names {name!r}, which is no task{nearest(name, self.tasks)}"
        try:
            ranks = parse(self.rank_by, self.tasks).names
        except ExpressionError as error:
            yield f"rank_by: {error}"
            return
        if unjudged := sorted(ranks - self.gate.quality.keys()):
            yield f"gate.quality judges no {', '.join(unjudged)}, by which rank_by ranks: {self.rank_by!r}"

    def _slice_faults(self) -> Iterator[str]:
        for name, text in self.slices.items():
            if name in (ALL_ROWS, *HISTORY_SLICES):
                yield f"slices.{name}: every surface has a slice of this name; choose another"
            try:
                condition(text)
            except ConditionError as error:
                yield f"slices.{name}: {error}"

    @model_serializer(mode="wrap")
    def _without_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave keys out that are not set: a surface without them has the digest that it had before there were any."""
        unset: dict[str, tuple[object, ...]] = {
            "label_window_days": (1,),
            "outcomes": ((), []),
            "rankings": (None,),
            "incumbent": (None,),
            "experiment": (Experiment().model_dump(),),
            "first_release": (None,),
        }
        return {name: value for name, value in dump(self).items() if value not in unset.get(name, ())}

    @property
    def label_parameters(self) -> dict[str, float]:
        """The numbers among ``labels``, which the SQL reads by name."""
        return {name: value for name, value in self.labels.items() if not isinstance(value, Label)}

    @property
    def label_rules(self) -> dict[str, Label]:
        """The labels among ``labels`` that are counted from outcomes."""
        return {name: value for name, value in self.labels.items() if isinstance(value, Label)}

    @property
    def named_outputs(self) -> dict[str, str]:
        """{key: output of a teacher that it names}, of tasks and heads; ``teacher/output`` where there are several."""
        tasks = {f"tasks.{name}.teacher_output": task.teacher_output for name, task in self.tasks.items()}
        heads = {
            f"distillation.heads.{place}.teacher_output": head.teacher_output
            for place, head in enumerate(self.distillation.heads)
        }
        return {key: name for key, name in {**tasks, **heads}.items() if name is not None}

    @property
    def teacher_outputs(self) -> tuple[str, ...]:
        """The outputs of teachers that heads learn, or that are reported beside tasks."""
        heads = [head.teacher_output for head in self.distillation.heads]
        tasks = [task.teacher_output for task in self.tasks.values() if task.teacher_output]
        return tuple(dict.fromkeys([*heads, *tasks]))

    @property
    def prefixes_outputs(self) -> bool:
        """Whether outputs are named with their teacher."""
        return any("/" in name for name in self.teacher_outputs)

    @property
    def branch_inputs(self) -> tuple[str, ...]:
        """The inputs of a pair that nobody was shown: what the branch reads, and by what its labels are chosen."""
        paired = [name for pair in self.network.products for name in pair]
        centred = [head.centre_by for head in self.distillation.heads if head.centre_by]
        few = self.distillation.few_rows
        return tuple(dict.fromkeys([*paired, *centred, *([few.input] if few else [])]))

    @property
    def digest(self) -> str:
        """Content hash of the whole specification, but for where answers go, what serves first, how experiments go."""
        others = {"rankings", "experiment", "first_release"}
        return digest(self.model_dump(mode="json", by_alias=True, exclude=others))

    @property
    def ranker_digest(self) -> str:
        """Content hash of what rankers and their figures depend on: all but what judges and writes."""
        others = {"description", "owner", "gate", "incumbent", "rankings", "experiment", "first_release"}
        content = self.model_dump(mode="json", by_alias=True, exclude=others)
        content["window"].pop("e_max", None)
        return digest(content)

    @property
    def ranked(self) -> frozenset[str]:
        """Tasks that ``rank_by`` names; none where it is no expression."""
        try:
            return parse(self.rank_by, self.tasks).names
        except ExpressionError:
            return frozenset()

    @property
    def looks(self) -> Looks:
        """When an undecided candidate is looked at: after its first evaluation days, then with each further one."""
        return Looks(self.window.eval_days, self.window.most_eval_days)

    @property
    def label_lag_days(self) -> int:
        """Days by which labels are final later than those of a label window of one day.

        A partition D knows the outcomes through D, so that its newest evaluated day lies so much earlier; and between
        training and evaluation lie so many days, since what a label learnt later is not known when evaluation begins.
        """
        return self.label_window_days - 1

    @property
    def reach_days(self) -> int:
        """Days before its partition that a student's rows reach back to."""
        return self.window.train_days + self.window.eval_days + 2 * self.label_lag_days

    def training_days(self, partition: date) -> list[date]:
        """Return the days that a student of ``partition`` may train on, oldest first."""
        end = self.evaluation_days(partition)[0] - timedelta(days=self.label_lag_days)
        return [end - timedelta(days=i) for i in range(self.window.train_days, 0, -1)]

    def evaluation_days(self, partition: date, further: int = 0) -> list[date]:
        """Return the days that a student of ``partition`` is evaluated on, ``further`` ones included, oldest first."""
        end = partition - timedelta(days=self.label_lag_days)
        return [end + timedelta(days=i) for i in range(-self.window.eval_days, further)]

    def further_days(self, partition: date, last: date) -> int:
        """Return how many evaluation days after its first ones a student of ``partition`` has if ``last`` is one."""
        return (last - self.evaluation_days(partition)[-1]).days

    def last_evaluation_day(self, partition: date) -> date:
        """Return the last day that the evaluation of a student of ``partition`` may widen to."""
        return self.evaluation_days(partition, self.window.most_eval_days - self.window.eval_days)[-1]

    def partition_of(self, newest: date) -> date:
        """Return the partition whose evaluation begins with days that end with ``newest``, the newest final one."""
        return newest + timedelta(days=self.label_window_days)

    def first_partition(self, first_day: date) -> date:
        """Return the first day that can have a student."""
        return first_day + timedelta(days=self.reach_days - self.window.train_days + self.window.min_train_days)


def output_name(teacher: str, output: str, *, prefixed: bool) -> str:
    """Return what heads and tasks call an output: with its teacher where there are several."""
    return f"{teacher}/{output}" if prefixed else output


def load_surface(path: Path, text: str | None = None, app: Path | None = None) -> Surface:
    """Read one surface file.

    Args:
        path: The file.
        text: What would stand in it; default what does.
        app: The app's folder, whose own techniques and networks it may name; default the one above the file's.

    Raises:
        SpecError: The file is missing, is no YAML mapping, or breaks a rule; names file and key.
    """
    try:
        app = app or path.resolve().parent.parent
        own = {"techniques": own_files(app, "techniques"), "networks": own_files(app, "networks")}
        return Surface.model_validate(with_code(_read(path, (), text), app), context=own)
    except ValidationError as error:
        raise SpecError(f"{path}: {faults_of(error, Surface, text.encode() if text else path.read_bytes())}") from error
    except ValueError as error:
        raise error if isinstance(error, SpecError) else SpecError(f"{path}: {error}") from error


def load_surfaces(settings: Settings) -> dict[str, Surface]:
    """Read every surface of ``settings.surfaces_dir`` by name, sorted.

    Raises:
        SpecError: There is none, or files cannot be used, or two are of one name; says all that is wrong.
    """
    folder = settings.surfaces_dir
    if folder is None or not folder.is_dir():
        raise SpecError(f"no folder of surfaces at {folder}")
    surfaces: dict[str, Surface] = {}
    faults: list[str] = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            surface = load_surface(path, app=settings.app)
        except SpecError as error:
            faults.append(str(error))
            continue
        if surface.name in surfaces:
            faults.append(f"{path}: name: another file of this folder has {surface.name!r} too")
        if surface.label_window_days > max(settings.late_horizon_days, 1):
            faults.append(
                f"{path}: label_window_days: {surface.label_window_days} is more than "
                f"CROSSFADE_LATE_HORIZON_DAYS={settings.late_horizon_days}: what lands late within the label window "
                f"would not count. Set late_horizon_days to {surface.label_window_days} or more"
            )
        surfaces[surface.name] = surface
    if faults:
        raise SpecError("\n".join(faults))
    if not surfaces:
        more = "".join(f"; {path.name} is not read, it ends in .yml" for path in sorted(folder.glob("*.yml")))
        raise SpecError(f"{folder} holds no surface (*.yaml){more}")
    return surfaces


def surface_file(settings: Settings, name: str) -> Path:
    """Return the file of a surface of ``settings.surfaces_dir``."""
    assert settings.surfaces_dir is not None
    return next(path for path in sorted(settings.surfaces_dir.glob("*.yaml")) if load_surface(path).name == name)


def teacher_end(settings: Settings, surfaces: Mapping[str, Surface]) -> date:
    """Return the last day that a demo teacher may learn from, before the first validation day of any surface."""
    assert settings.last_day is not None
    days = max(s.window.eval_days + s.window.validation_days + 2 * s.label_lag_days for s in surfaces.values())
    return settings.last_day - timedelta(days=days + 1)


def _read(path: Path, seen: tuple[Path, ...], text: str | None = None) -> Document:
    path = path.resolve()
    if path in seen:
        raise SpecError(f"{path} extends itself")
    try:
        content = load_yaml(path) if text is None else parse_yaml(text)
    except DocumentError as error:
        raise SpecError(str(error)) from error
    except OSError as error:
        raise SpecError(f"{path}: {error}") from error
    if not is_object(content):
        raise SpecError(f"{path} holds no mapping")
    training = content.get("training")
    if is_object(training) and training.get("optimizer") == "adam":
        raise SpecError(
            f"{path}: training.optimizer: adam has ended: embeddings of ids are trained row by row, and rates "
            "and decays that were tuned for adam mislead it. Write `training: {}`, which takes all of them from the "
            f"number of rows, and look for better ones with `crossfade tune {path.stem}`"
        )
    base = content.pop("extends", None)
    if base is None:
        return content
    return _merge(_read(path.parent / base, (*seen, path)), content)


def _merge(base: Document, over: Document) -> Document:
    merged = dict(base)
    for key, value in over.items():
        if value is None:
            merged.pop(key, None)
        elif is_object(value) and is_object(merged.get(key)):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged
