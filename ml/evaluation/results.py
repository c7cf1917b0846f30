"""What an evaluation holds: figures with their intervals, curves, and how they are stored."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict, TypeVar

from ml.surfaces.spec import ALL_ROWS

if TYPE_CHECKING:
    import pyarrow as pa

ALL = ALL_ROWS
PRIMARY = {"binary": "auc", "regression": "r2"}
"""The metric of each kind of task that gates and heads every report."""
RANKING = "rank_ndcg_10"
"""NDCG@10 of the order by the ranking score, what users see; its gain is the label of a binary task."""

SHOWN = "shown"
"""What was shown, where something is compared with it."""

LOWER_IS_BETTER = frozenset({"log_loss", "rmse", "ece"})
NAN = float("nan")


@dataclass(frozen=True)
class Result:
    """One figure: a model's metric (``reference`` null), or the paired difference ``model - reference``.

    Attributes:
        model: Model that is measured.
        reference: Model that is subtracted, or None.
        inputs: ``serving`` or ``logged``.
        slice: ``all`` or a slice of the surface.
        task: Task of the surface.
        metric: Name of the metric.
        value: Estimate in the metric's unit; NaN where it is undefined.
        lo: Lower end of the 95 % interval; NaN for xauc, which has no bootstrap.
        hi: Upper end.
        se: Standard error.
        mde: Minimal detectable effect, 80 % power.
        n: Rows with a label and a score.
        positives: Positive rows; of a regression, all labelled rows.
        users: Users of those rows.
        flag: Why the figure is weak (too few rows or positives), or None.
        positive_users: Users with a positive row; None in an evaluation of an earlier version, like the next.
        effective_users: Users with equally many rows who would say as much; see ``effective_users``.
    """

    model: str
    reference: str | None
    inputs: str
    slice: str
    task: str
    metric: str
    value: float
    lo: float
    hi: float
    se: float
    mde: float
    n: int
    positives: int
    users: int
    flag: str | None
    positive_users: int | None = None
    effective_users: float | None = None


@dataclass(frozen=True)
class Difference:
    """Paired difference of two models on the same rows, in the metric's unit; see ``Result`` for the fields."""

    estimate: float
    lo: float
    hi: float
    se: float
    mde: float
    n: int
    positives: int
    users: int
    flag: str | None = None
    positive_users: int | None = None
    effective_users: float | None = None


@dataclass(frozen=True)
class Calibration:
    """Equal-mass bins of one model's predictions of one task, on all rows; lists of equal length, rising."""

    model: str
    inputs: str
    task: str
    predicted: list[float]
    observed: list[float]
    rows: list[int]


@dataclass(frozen=True)
class Histogram:
    """Counts of one model's raw scores, on edges that all models of a task share.

    ``positives`` and ``negatives`` split a binary task by label; a regression counts all rows in ``negatives``.
    """

    model: str
    inputs: str
    task: str
    edges: list[float]
    positives: list[int]
    negatives: list[int]


@dataclass(frozen=True)
class Transfer:
    """What the stacked teacher gains over the control on one task, and the student's share of that; NaN if undefined.

    Attributes:
        task: Name of the task.
        metric: ``auc`` or ``r2``, in which the gain is.
        stacked: Gain of the stacked teacher, cross-fitted over users.
        stacked_lo: Lower end of its 95 % interval.
        stacked_hi: Upper end.
        kept: The student's gain over it, the transfer ratio; may lie above 1, since stacking only adds scores up.
        kept_lo: Lower end of its 95 % interval.
        kept_hi: Upper end.
        n: Rows with a label and all scores of the teacher.
    """

    task: str
    metric: str
    stacked: float
    stacked_lo: float
    stacked_hi: float
    kept: float
    kept_lo: float
    kept_hi: float
    n: int


@dataclass(frozen=True)
class InputValue:
    """What one input is worth to one task.

    Attributes:
        input: Name of the input.
        task: Name of the task.
        metric: ``auc`` or ``r2``, in which the drop is.
        drop: Metric with the input as it is less that with it permuted; NaN where the rows do not define it.
        lo: Lower end of its 95 % interval over users.
        hi: Upper end.
        n: Labelled rows.
    """

    input: str
    task: str
    metric: str
    drop: float
    lo: float
    hi: float
    n: int


Curve = TypeVar("Curve", Calibration, Histogram)


@dataclass(frozen=True)
class LinearGain:
    """A linear model against the control on one task.

    Attributes:
        task: Name of the task.
        metric: ``auc`` or ``r2``.
        linear: Figure of the linear model.
        control: Figure of the control.
        gain: The first less the second.
        lo: Lower end of its 95 % interval over users.
        hi: Upper end.
        n: Labelled rows.
    """

    task: str
    metric: str
    linear: float
    control: float
    gain: float
    lo: float
    hi: float
    n: int

    @property
    def undertrained(self) -> bool:
        """Whether the control lies below by the interval."""
        return self.lo > 0

    def __str__(self) -> str:
        return (
            f"{self.task}: the control is undertrained, a linear model of the same inputs has "
            f"{self.metric.upper()} {100 * self.linear:.2f}, the control {100 * self.control:.2f} "
            f"({100 * self.gain:+.2f} [{100 * self.lo:+.2f}, {100 * self.hi:+.2f}]): `crossfade tune`"
        )


@dataclass(frozen=True)
class OffPolicyValue:
    """What a model's first choice of a list would earn at its places, or how much more than something else.

    Attributes:
        model: Model whose first choice it is.
        reference: What is subtracted: another model's, what was shown (``SHOWN``), or None.
        task: Binary task whose label is earned.
        estimator: ``snips`` or ``dr``, see ``ml.evaluation.off_policy``.
        value: Mean label; NaN where no row has weight.
        lo: Lower end of its 95 % interval over users.
        hi: Upper end.
        se: Standard error.
        n: Rows with a label, in lists of which every model concerned scored all candidates.
        effective_rows: Rows with equal weight that would say as much.
        effective_positives: Likewise, of the positive ones alone: with few of them intervals are too narrow.
        effective_users: Users with equal weight who would say as much.
        clipped: Share of the rows whose weight was clipped.
    """

    model: str
    reference: str | None
    task: str
    estimator: Literal["snips", "dr"]
    value: float
    lo: float
    hi: float
    se: float
    n: int
    effective_rows: float
    effective_positives: float
    effective_users: float
    clipped: float


@dataclass(frozen=True)
class OffPolicy:
    """Estimates from the evaluation rows whose chance to be shown is known.

    Attributes:
        rows: Such rows, of lists with at least two.
        random: Rows of them that chance alone put there.
        alone: Such rows besides them, whose list has no other: they leave no choice.
        lists: Lists.
        users: Their users.
        added: Mean of ``1 / (items of the list x propensity)``, 1 where propensities are right and anything can happen.
        added_lo: Lower end of its 95 % interval.
        added_hi: Upper end.
        values: Every model's, and differences.
    """

    rows: int
    random: int
    alone: int
    lists: int
    users: int
    added: float
    added_lo: float
    added_hi: float
    values: tuple[OffPolicyValue, ...] = field(repr=False)

    @property
    def adds_up(self) -> bool:
        """Whether propensities may be right: the interval of what they add up to holds 1."""
        return self.added_lo - 1e-6 <= 1 <= self.added_hi + 1e-6

    def value(
        self, model: str, task: str, reference: str | None = None, estimator: str = "dr"
    ) -> OffPolicyValue | None:
        """Return one estimate, None where it was not made."""
        wanted = (model, reference, task, estimator)
        return next((v for v in self.values if (v.model, v.reference, v.task, v.estimator) == wanted), None)


@dataclass(frozen=True)
class Evaluation:
    """All figures of one partition of one surface, with look-ups.

    Attributes:
        surface: Name of the surface.
        partition: Partition of the candidate.
        days: Evaluation days, oldest first.
        rows: Exposures of those days.
        users: Their users.
        seed: Seed of the bootstrap.
        replicates: Bootstrap samples.
        models: Content hash of each model that was evaluated.
        kinds: Kind of each task.
        results: All figures.
        calibration: Calibration curves.
        histograms: Score histograms.
        transfer: Per task, what control and teacher gain together and which share the student keeps; serving inputs.
        inputs: What each input is worth to the candidate, the most valuable first; empty before it was chosen.
        history: {slice by a user's number of training rows: the numbers of its users}, such as ``4 to 11``.
        effective_users: Users with equally many exposures who would say as much; None of an earlier version.
        linear: A linear model of the same inputs against the control; empty of an earlier version.
        off_policy: What models' choices would earn, from exposures whose chance to be shown landed; None without any.
    """

    surface: str
    partition: date
    days: tuple[date, ...]
    rows: int
    users: int
    seed: int
    replicates: int
    models: dict[str, str]
    kinds: dict[str, Literal["binary", "regression"]]
    results: tuple[Result, ...] = field(repr=False)
    calibration: tuple[Calibration, ...] = field(repr=False)
    histograms: tuple[Histogram, ...] = field(repr=False)
    transfer: tuple[Transfer, ...] = field(default=(), repr=False)
    inputs: tuple[InputValue, ...] = field(default=(), repr=False)
    history: dict[str, str] = field(default_factory=dict)
    effective_users: float | None = None
    linear: tuple[LinearGain, ...] = field(default=(), repr=False)
    off_policy: OffPolicy | None = None

    @cached_property
    def _index(self) -> dict[tuple[str | None, ...], Result]:
        return {(r.model, r.reference, r.task, r.slice, r.metric, r.inputs): r for r in self.results}

    @cached_property
    def slices(self) -> list[str]:
        """Slices, ``all`` first."""
        return list(dict.fromkeys(r.slice for r in self.results))

    def primary(self, task: str) -> str:
        """Return the metric that gates ``task``."""
        return PRIMARY[self.kinds[task]]

    def has(self, model: str, task: str, inputs: str = "serving") -> bool:
        """Tell whether ``model`` was scored on ``task``."""
        return self.computed(model, task, ALL, self.primary(task), inputs)

    def computed(self, model: str, task: str, slice: str, metric: str, inputs: str) -> bool:
        """Tell whether a figure is there; a baseline, for one, has no log loss."""
        return (model, None, task, slice, metric, inputs) in self._index

    def result(
        self, model: str, task: str, slice: str = ALL, metric: str | None = None, inputs: str = "serving"
    ) -> Result:
        """Return one model's figure with interval and counts; ``metric`` defaults to the task's primary one.

        Raises:
            KeyError: It was not computed; names what was asked for.
        """
        return self._lookup(model, None, task, slice, metric, inputs)

    def metric(
        self, model: str, task: str, slice: str = ALL, metric: str | None = None, inputs: str = "serving"
    ) -> float:
        """Return the value of ``result``; NaN where the metric is undefined on those rows."""
        return self.result(model, task, slice, metric, inputs).value

    def difference(
        self, a: str, b: str, task: str, slice: str = ALL, metric: str | None = None, inputs: str = "serving"
    ) -> Difference:
        """Return the paired difference ``a - b``; see ``result``. Pairs are stored once and turned round if asked."""
        metric = metric or self.primary(task)
        turned = (b, a, task, slice, metric, inputs) in self._index
        r = self._lookup(*((b, a) if turned else (a, b)), task, slice, metric, inputs)
        ends = (-r.value, -r.hi, -r.lo) if turned else (r.value, r.lo, r.hi)
        users = (r.users, r.flag, r.positive_users, r.effective_users)
        return Difference(*ends, r.se, r.mde, r.n, r.positives, *users)

    def calibration_of(self, model: str, task: str, inputs: str = "serving") -> Calibration:
        """Return the calibration curve of one model."""
        return _only(self.calibration, model, task, inputs)

    def histogram_of(self, model: str, task: str, inputs: str = "serving") -> Histogram:
        """Return the score histogram of one model."""
        return _only(self.histograms, model, task, inputs)

    def _lookup(
        self, model: str, reference: str | None, task: str, slice: str, metric: str | None, inputs: str
    ) -> Result:
        key = (model, reference, task, slice, metric or self.primary(task), inputs)
        if key not in self._index:
            raise KeyError(f"{self.surface} {self.partition} was not evaluated for {key}")
        return self._index[key]

    def to_table(self) -> "pa.Table":
        """Return the results as the tidy rows of ``ml.evaluation_<surface>``; NaN becomes null."""
        import pyarrow as pa

        columns = {
            name: pa.array([_null(getattr(r, name)) for r in self.results], pa.type_for_alias(kind))
            for name, kind in _RESULT_COLUMNS
        }
        return pa.table({"partition": pa.repeat(pa.scalar(self.partition, pa.date32()), len(self.results)), **columns})

    def to_json(self) -> str:
        """Return the whole evaluation as JSON; NaN becomes null."""
        content = asdict(self)
        content["partition"] = self.partition.isoformat()
        content["days"] = [d.isoformat() for d in self.days]
        for part in ("results", "transfer", "inputs", "linear"):
            content[part] = [{k: _null(v) for k, v in row.items()} for row in content[part]]
        if known := content["off_policy"]:
            values = [{k: _null(v) for k, v in row.items()} for row in known["values"]]
            content["off_policy"] = {**{k: _null(v) for k, v in known.items()}, "values": values}
        return json.dumps(content, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Evaluation":
        """Read what ``to_json`` wrote."""
        content = json.loads(text)
        floats = ("value", "lo", "hi", "se", "mde")  # NaN stands as null
        rows: list[dict[str, Any]] = [row | {k: NAN for k in floats if row[k] is None} for row in content["results"]]
        return cls(
            **content
            | {
                "transfer": tuple(Transfer(**_nan(row)) for row in content.get("transfer", ())),
                "linear": tuple(LinearGain(**_nan(row)) for row in content.get("linear", ())),
                "inputs": tuple(InputValue(**_nan(row)) for row in content.get("inputs", ())),
                "off_policy": _off_policy(content.get("off_policy")),
                "partition": date.fromisoformat(content["partition"]),
                "days": tuple(map(date.fromisoformat, content["days"])),
                "results": tuple(Result(**row) for row in rows),
                "calibration": tuple(Calibration(**row) for row in content["calibration"]),
                "histograms": tuple(Histogram(**row) for row in content["histograms"]),
            }
        )


class FigureRow(TypedDict):
    """A ``Result`` in the JSON of an evaluation, where NaN is null; a file of an earlier version lacks the last two."""

    model: str
    reference: str | None
    inputs: str
    slice: str
    task: str
    metric: str
    value: float | None
    lo: float | None
    hi: float | None
    se: float | None
    mde: float | None
    n: int
    positives: int
    users: int
    flag: str | None
    positive_users: NotRequired[int | None]
    effective_users: NotRequired[float | None]


class TransferRow(TypedDict):
    """A ``Transfer`` there."""

    task: str
    metric: str
    stacked: float | None
    stacked_lo: float | None
    stacked_hi: float | None
    kept: float | None
    kept_lo: float | None
    kept_hi: float | None
    n: int


class InputRow(TypedDict):
    """An ``InputValue`` there."""

    input: str
    task: str
    metric: str
    drop: float | None
    lo: float | None
    hi: float | None
    n: int


class LinearRow(TypedDict):
    """A ``LinearGain`` there."""

    task: str
    metric: str
    linear: float
    control: float
    gain: float
    lo: float | None
    hi: float | None
    n: int


class OffPolicyRow(TypedDict):
    """An ``OffPolicyValue`` there."""

    model: str
    reference: str | None
    task: str
    estimator: Literal["snips", "dr"]
    value: float | None
    lo: float | None
    hi: float | None
    se: float | None
    n: int
    effective_rows: float
    effective_positives: float
    effective_users: float
    clipped: float


class OffPolicyFile(TypedDict):
    """An ``OffPolicy`` there."""

    rows: int
    random: int
    alone: int
    lists: int
    users: int
    added: float | None
    added_lo: float | None
    added_hi: float | None
    values: list[OffPolicyRow]


class EvaluationFile(TypedDict, total=False):
    """What a model card reads of the JSON that ``Evaluation.to_json`` writes; earlier versions lack some of it."""

    users: int
    effective_users: float | None
    results: list[FigureRow]
    transfer: list[TransferRow]
    inputs: list[InputRow]
    linear: list[LinearRow]
    off_policy: OffPolicyFile | None


_RESULT_COLUMNS = [(n, "string") for n in ("model", "reference", "inputs", "slice", "task", "metric")]
_RESULT_COLUMNS += [(n, "float64") for n in ("value", "lo", "hi", "se", "mde")]
_RESULT_COLUMNS += [(n, "int64") for n in ("n", "positives", "users")] + [("flag", "string")]
_RESULT_COLUMNS += [("positive_users", "int64"), ("effective_users", "float64")]


def _only(items: tuple[Curve, ...], model: str, task: str, inputs: str) -> Curve:
    for item in items:
        if (item.model, item.task, item.inputs) == (model, task, inputs):
            return item
    raise KeyError(f"there is no curve of {model!r} for {task!r} with {inputs} inputs")


def _off_policy(content: OffPolicyFile | None) -> OffPolicy | None:
    if content is None:
        return None
    values = tuple(OffPolicyValue(**{**_nan(row), "reference": row["reference"]}) for row in content["values"])
    return OffPolicy(**_nan({**content, "values": values}))


def _nan(row: Mapping[str, object]) -> dict[str, Any]:
    """Return a row in which what ``to_json`` wrote as null is NaN again."""
    return {name: NAN if value is None else value for name, value in row.items()}


def _null(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
