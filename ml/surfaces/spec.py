"""The specification of a surface: inputs, tasks, heads, ranking score and gate thresholds of one ranker.

A surface is one YAML file; each of its larger mappings has a module of this folder.
"""

from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from typing import Literal, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from ml.foundation.documents import digest
from ml.foundation.names import nearest
from ml.foundation.settings import Settings
from ml.surfaces.columns import PLAYED_OUTCOMES, Input, Label, Task
from ml.surfaces.condition import ConditionError, condition
from ml.surfaces.expression import ExpressionError, parse
from ml.surfaces.gate import Gate
from ml.surfaces.incumbent import Incumbent
from ml.surfaces.keys import Keys, Name
from ml.surfaces.learning import Distillation, Network, Training
from ml.surfaces.rankings import RANKING_COLUMNS, Rankings
from ml.surfaces.techniques import techniques
from ml.surfaces.window import Looks, Window

Role = Literal["control", "student"]
"""The two rankers of a partition: trained without and with soft labels."""


ALL_ROWS = "all"
HISTORY_SLICES = ("few_training_rows", "some_training_rows", "many_training_rows")
"""Slices that every surface has beside its own: the thirds of the evaluated users by their number of training rows."""


RANKING_SCORE = "score"
"""Name of the ranking score beside the tasks."""


class Experiment(Keys):
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


class Surface(Keys):
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
    slices: dict[Name, str] = Field(default={}, description="Groups of rows that the gate looks at: a condition each")
    labels: dict[Name, float | Label] = Field(
        default={}, description="Labels that are counted from outcomes, and numbers that the SQL reads by name"
    )
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


def teacher_end(settings: Settings, surfaces: Mapping[str, Surface]) -> date:
    """Return the last day that a demo teacher may learn from, before the first validation day of any surface."""
    assert settings.last_day is not None
    days = max(s.window.eval_days + s.window.validation_days + 2 * s.label_lag_days for s in surfaces.values())
    return settings.last_day - timedelta(days=days + 1)
