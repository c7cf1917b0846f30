"""Evaluation of one partition: the metrics of every model and their paired differences, per task, slice and inputs."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
from scipy.special import expit

from ml.evaluation import metrics
from ml.evaluation.bootstrap import Interval, UserWeights, effective_users, interval
from ml.evaluation.importance import InputValue
from ml.evaluation.predictions import (
    MODELS,
    RANK_TASK,
    PredictionError,
    ScoreKey,
    Scores,
    baseline_predictions,
    stored_scores,
    write_predictions,
)
from ml.evaluation.transfer import REPLICATES, Transfer, hints, stacked_transfer
from ml.foundation.lake import ALIAS, FEATURES, ML, Lake, quoted
from ml.surfaces.condition import condition
from ml.surfaces.expression import parse
from ml.surfaces.spec import ALL_ROWS, HISTORY_SLICES, Surface, Task

ALL = ALL_ROWS
PRIMARY = {"binary": "auc", "regression": "r2"}
"""The metric of each kind of task that gates and heads every report."""

RANKING = "rank_ndcg_10"
"""NDCG@10 of the order by the ranking score, what users see; its gain is the label of a binary task."""

LOWER_IS_BETTER = frozenset({"log_loss", "rmse", "ece"})
COMPARISONS = (
    ("student", "control"),
    ("student", "champion"),
    ("control", "champion"),
    ("student", "reference"),
    ("control", "reference"),
    ("student", "baseline"),
    ("control", "baseline"),
    ("control", "teacher"),
    ("student", "teacher"),
)
HISTOGRAM_BINS = 40

_RANKERS = frozenset({"student", "control", "champion", "reference"})
_NAN = float("nan")


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


Curve = TypeVar("Curve", Calibration, Histogram)


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

    def to_table(self) -> pa.Table:
        """Return the results as the tidy rows of ``ml.evaluation_<surface>``; NaN becomes null."""
        columns = {
            name: pa.array([_null(getattr(r, name)) for r in self.results], kind) for name, kind in _RESULT_COLUMNS
        }
        return pa.table({"partition": pa.repeat(pa.scalar(self.partition, pa.date32()), len(self.results)), **columns})

    def to_json(self) -> str:
        """Return the whole evaluation as JSON; NaN becomes null."""
        content = asdict(self)
        content["partition"] = self.partition.isoformat()
        content["days"] = [d.isoformat() for d in self.days]
        for part in ("results", "transfer", "inputs"):
            content[part] = [{k: _null(v) for k, v in row.items()} for row in content[part]]
        return json.dumps(content, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Evaluation":
        """Read what ``to_json`` wrote."""
        content = json.loads(text)
        floats = ("value", "lo", "hi", "se", "mde")  # NaN stands as null
        rows: list[dict[str, Any]] = [row | {k: _NAN for k in floats if row[k] is None} for row in content["results"]]
        return cls(
            **content
            | {
                "transfer": tuple(Transfer(**_nan(row)) for row in content.get("transfer", ())),
                "inputs": tuple(InputValue(**_nan(row)) for row in content.get("inputs", ())),
                "partition": date.fromisoformat(content["partition"]),
                "days": tuple(map(date.fromisoformat, content["days"])),
                "results": tuple(Result(**row) for row in rows),
                "calibration": tuple(Calibration(**row) for row in content["calibration"]),
                "histograms": tuple(Histogram(**row) for row in content["histograms"]),
            }
        )


_RESULT_COLUMNS = [(n, pa.string()) for n in ("model", "reference", "inputs", "slice", "task", "metric")]
_RESULT_COLUMNS += [(n, pa.float64()) for n in ("value", "lo", "hi", "se", "mde")]
_RESULT_COLUMNS += [(n, pa.int64()) for n in ("n", "positives", "users")] + [("flag", pa.string())]
_RESULT_COLUMNS += [("positive_users", pa.int64()), ("effective_users", pa.float64())]


def evaluation_table(surface: str) -> str:
    """Return the ``schema.table`` that holds a surface's results."""
    return f"{ML}.evaluation_{surface}"


def evaluate(
    lake: Lake,
    surface: Surface,
    partition: date,
    *,
    teacher_outputs: Mapping[str, str],
    seed: int,
    replicates: int = 1000,
    snapshot: int | None = None,
    days: Sequence[date] | None = None,
) -> Evaluation:
    """Evaluate a partition and replace its rows in ``ml.evaluation_<surface>``.

    The popularity baseline is written to the predictions first, so that they alone give every figure.

    Args:
        lake: Lake with ``ml.predictions_<surface>`` and ``features.examples_<surface>``.
        surface: Tasks, slices, thresholds and evaluation days.
        partition: Partition that is evaluated.
        teacher_outputs: Kind of each output of the teacher's contract (``logit``, ``probability`` or ``value``) by its
            task name. A task whose ``teacher_output`` is not among them has no teacher figure.
        seed: Seed of the bootstrap.
        replicates: Bootstrap samples.
        snapshot: Snapshot of the lake that the evaluation rows are read from; predictions are always the newest.
        days: Evaluation days without a gap; default those that the surface begins with.

    Raises:
        PredictionError: No predictions, or predictions that do not cover the evaluation rows.
    """
    baseline = baseline_predictions(lake, surface, partition, days)
    if baseline.num_rows:
        write_predictions(lake, surface.name, partition, baseline)
    scores = stored_scores(lake, surface.name, partition)
    with nullcontext(lake) if snapshot is None else Lake(lake.settings, snapshot=snapshot) as rows:
        evaluation = compute_evaluation(
            rows,
            surface,
            partition,
            teacher_outputs=teacher_outputs,
            seed=seed,
            replicates=replicates,
            scores=scores,
            days=days,
        )
    table = evaluation.to_table()
    lake.add_columns(evaluation_table(surface.name), table.schema)
    lake.replace_days(
        evaluation_table(surface.name),
        table,
        [partition],
        day_column="partition",
        message=f"evaluation of {surface.name} {partition}",
    )
    return evaluation


def compute_evaluation(
    lake: Lake,
    surface: Surface,
    partition: date,
    *,
    teacher_outputs: Mapping[str, str],
    seed: int,
    replicates: int = 1000,
    scores: Scores | None = None,
    days: Sequence[date] | None = None,
) -> Evaluation:
    """Compute what ``evaluate`` stores, writing nothing, from rows of ``lake``, which may be a snapshot.

    The scores are those that are stored there, where none are given.
    """
    if scores is None:
        scores = stored_scores(lake, surface.name, partition)
    days = days or surface.evaluation_days(partition)
    frame = _read(lake, surface, partition, teacher_outputs, days, scores)
    weights = UserWeights(frame.users, seed=seed, replicates=replicates)
    measures = _Measures(frame, weights)
    results: list[Result] = []
    calibration: list[Calibration] = []
    histograms: list[Histogram] = []
    for inputs in sorted({inputs for inputs, _, _ in frame.scores}, reverse=True):
        for task, spec in surface.tasks.items():
            models = [m for m in MODELS if (inputs, m, task) in frame.scores]
            logits = teacher_outputs.get(spec.teacher_output or "") in ("logit", "probability")
            probabilistic = _RANKERS | {"teacher"} if logits else _RANKERS
            for name in frame.slices:
                results += _Cell(measures, surface, inputs, task, name, probabilistic).results(models)
            labelled = np.isfinite(frame.labels[task])
            calibration += _calibration(frame, spec, inputs, task, [m for m in models if m in _RANKERS], labelled)
            histograms += _histograms(frame, spec, inputs, task, [m for m in models if m != "baseline"], labelled)
    return Evaluation(
        surface=surface.name,
        partition=partition,
        days=tuple(days),
        rows=len(frame.users),
        users=weights.users,
        seed=seed,
        replicates=replicates,
        models=frame.hashes,
        kinds={name: task.kind for name, task in surface.tasks.items()},
        results=tuple(results),
        calibration=tuple(calibration),
        histograms=tuple(histograms),
        transfer=_transfer(frame, surface, UserWeights(frame.users, seed=seed, replicates=REPLICATES), seed),
        history=frame.history,
        effective_users=effective_users(weights.codes),
    )


def _transfer(frame: "_Frame", surface: Surface, weights: UserWeights, seed: int) -> tuple[Transfer, ...]:
    """Return what every task gains where the teacher's scores are added to the control's, with serving inputs."""
    told = {
        spec.teacher_output or "": frame.scores["serving", "teacher", task]
        for task, spec in surface.tasks.items()
        if ("serving", "teacher", task) in frame.scores
    }
    found: list[Transfer] = []
    for task, spec in surface.tasks.items():
        scores = {model: frame.scores.get(("serving", model, task)) for model in ("control", "student")}
        both = {model: score for model, score in scores.items() if score is not None}
        if told and len(both) == len(scores):
            teacher, binary = hints(told, frame.users), spec.kind == "binary"
            found += filter(
                None, [stacked_transfer(task, frame.labels[task], both, teacher, weights, binary=binary, seed=seed)]
            )
    return tuple(found)


def choose_candidate(evaluation: Evaluation, surface: Surface) -> Literal["student", "control"]:
    """Choose the ranker to release: the student, unless the control is better.

    All rows, serving inputs, by the interval of ``student - control``. What serves has a veto: the control is chosen
    where the student loses a task of ``rank_by``, or the order by the ranking score. Another gated task that it loses
    counts only where it gains none.
    """
    ranked = parse(surface.rank_by, surface.tasks).names
    tasks = dict.fromkeys((*surface.gate.quality, *surface.tasks))
    figures = {(t, None): t in ranked for t in tasks if t in ranked or t in surface.gate.quality}
    figures |= {(t, RANKING): True for t in ranking_tasks(surface)}
    differences = [
        (evaluation.difference("student", "control", task, metric=metric), vetoes)
        for (task, metric), vetoes in figures.items()
    ]
    if any(d.hi < 0 for d, vetoes in differences if vetoes):
        return "control"
    worse = any(d.hi < 0 for d, _ in differences)
    better = any(d.lo > 0 for d, _ in differences)
    return "control" if worse and not better else "student"


def ranking_tasks(surface: Surface) -> list[str]:
    """Return the binary tasks of ``rank_by``: the gains that the order of the ranking score is judged by."""
    ranked = parse(surface.rank_by, surface.tasks).names
    return [name for name, task in surface.tasks.items() if name in ranked and task.kind == "binary"]


@dataclass(frozen=True)
class _Frame:
    """Evaluation rows in the order of exposure_id, arrays [n]; scores by (inputs, model, task), NaN where missing."""

    users: np.ndarray
    sessions: np.ndarray
    labels: dict[str, np.ndarray]
    slices: dict[str, np.ndarray]
    scores: dict[ScoreKey, np.ndarray]
    hashes: dict[str, str]
    history: dict[str, str]


def _read(
    lake: Lake,
    surface: Surface,
    partition: date,
    teacher_outputs: Mapping[str, str],
    days: Sequence[date],
    scores: Scores,
) -> _Frame:
    rows = _rows(lake, surface, partition, days)

    def column(name: str) -> np.ndarray:
        return rows[name].to_numpy()

    exposure_ids = column("exposure_id")
    strangers = len(np.setdiff1d(scores.exposure_ids, exposure_ids))
    if strangers:
        raise PredictionError(
            f"{strangers} exposures with predictions of {surface.name} {partition} are no examples "
            f"of {days[0]} to {days[-1]}"
        )
    known = _known(surface, scores, teacher_outputs).on(exposure_ids)
    for (inputs, model, task), values in known.items():
        missing = int(np.isnan(values).sum())
        if missing and model != "teacher":
            raise PredictionError(
                f"{model} of {surface.name} {partition} lacks {task} scores ({inputs} inputs) "
                f"of {missing} of {len(values)} rows"
            )
    own_slices = {name: column(f"slice_{i}").astype(bool) for i, name in enumerate(surface.slices)}
    by_history, history = history_slices(column("user_id"), column("training_rows"))
    frame = _Frame(
        users=column("user_id"),
        sessions=column("list"),
        labels={task: column(f"label_{i}").astype(np.float64) for i, task in enumerate(surface.tasks)},
        slices={ALL: np.ones(rows.num_rows, bool)} | own_slices | by_history,
        scores=known,
        hashes=scores.hashes,
        history=history,
    )
    for task, spec in surface.tasks.items():
        values = frame.labels[task]
        odd = values[np.isfinite(values) & (values != 0) & (values != 1)]
        if spec.kind == "binary" and len(odd):
            raise PredictionError(f"{spec.label} of {surface.name} is no binary label: it holds {odd[0]}")
    return frame


def history_slices(users: np.ndarray, training_rows: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Cut the evaluated users into thirds by how many training rows each has; equal numbers stay together.

    Args:
        users: User of each evaluation row [n].
        training_rows: Training rows of that user [n].

    Returns:
        {slice: mask [n]} of the thirds that hold users but not all of them, and {slice: numbers of its users}.
    """
    if len(users) == 0:
        return {}, {}
    _, first = np.unique(users, return_index=True)
    cuts = np.quantile(training_rows[first], [1 / 3, 2 / 3], method="lower")
    third = np.searchsorted(cuts, training_rows, side="left")
    masks = {name: third == place for place, name in enumerate(HISTORY_SLICES)}
    masks = {name: mask for name, mask in masks.items() if mask.any() and not mask.all()}
    ends = {name: (training_rows[mask].min(), training_rows[mask].max()) for name, mask in masks.items()}
    return masks, {name: f"{low:,} to {high:,}" if high > low else f"{low:,}" for name, (low, high) in ends.items()}


def _known(surface: Surface, scores: Scores, teacher_outputs: Mapping[str, str]) -> Scores:
    """Return the scores that count: of the surface's tasks, and of outputs that the teacher's contract has."""

    def counts(model: str, task: str) -> bool:
        if task not in surface.tasks:
            return task == RANK_TASK
        return model != "teacher" or surface.tasks[task].teacher_output in teacher_outputs

    values = {key: values for key, values in scores.values.items() if counts(key[1], key[2])}
    return replace(scores, values=values)


def _conditions(lake: Lake, surface: Surface) -> list[str]:
    """Return the SQL of each slice's condition, whose columns the examples have.

    Raises:
        PredictionError: It names another one.
    """
    columns = {column.lower() for column in lake.columns(f"{FEATURES}.examples_{surface.name}")}
    found = []
    for name, text in surface.slices.items():
        stated = condition(text)
        if strange := [column for column in sorted(stated.columns) if column.lower() not in columns]:
            near = ", ".join(get_close_matches(strange[0], columns)) or f"one of {', '.join(sorted(columns))}"
            raise PredictionError(
                f"surface {surface.name}, slices.{name}: {text!r} names {strange[0]!r}, which is no column of its "
                f"examples; is {near} meant?"
            )
        found.append(stated.sql)
    return found


def _rows(lake: Lake, surface: Surface, partition: date, days: Sequence[date]) -> pa.Table:
    """Return labels and slices of the evaluation rows, each by its place, in the order of exposure_id.

    A list to rank is a session; of rows without one, a user's day. ``training_rows`` counts the user's rows on the
    training days.
    """
    learnt = surface.training_days(partition)
    table = f"{ALIAS}.{FEATURES}.examples_{surface.name}"
    labels = ", ".join(f"{quoted(task.label)}::double as label_{i}" for i, task in enumerate(surface.tasks.values()))
    conditions = _conditions(lake, surface)
    slices = "".join(f", coalesce(({sql}), false) as slice_{i}" for i, sql in enumerate(conditions))
    return lake.sql(
        f"""
        with examples as (
            select exposure_id, user_id, {labels}{slices},
                dense_rank() over (
                    order by session_id, if(session_id is null, user_id, null), if(session_id is null, day, null)
                ) as list
            from {table} where day between ? and ?
        ), history as (
            select user_id, count(*) as training_rows from {table} where day between ? and ? group by user_id
        )
        select * exclude (training_rows), coalesce(training_rows, 0) as training_rows
        from examples left join history using (user_id) order by exposure_id
        """,
        [days[0], days[-1], learnt[0], learnt[-1]],
    )


@dataclass(frozen=True)
class _Measured:
    """Metrics of one model on some rows, and the replicates of those that are bootstrapped."""

    values: dict[str, float]
    replicates: dict[str, np.ndarray]


class _Measures:
    """Measures a model's scores on rows of a task, each distinct array of scores once.

    Two models with the same scores share their replicates, so that their difference is exactly 0.
    """

    def __init__(self, frame: _Frame, weights: UserWeights) -> None:
        self.frame, self.weights = frame, weights
        self._known: dict[bytes, _Measured] = {}

    def of(self, spec: Task, task: str, inputs: str, model: str, rows: np.ndarray, probabilistic: bool) -> _Measured:
        """Measure ``model`` on ``rows`` [n] (a mask); ``probabilistic`` tells whether a binary score is a logit."""
        scores = self.frame.scores[inputs, model, task][rows]
        rank = self.frame.scores.get((inputs, model, RANK_TASK), np.empty(0))
        parts = [task.encode(), rows.tobytes(), scores.tobytes(), rank.tobytes(), bytes([probabilistic])]
        key = hashlib.blake2b(b"|".join(parts)).digest()
        if key not in self._known:
            labels, codes = self.frame.labels[task][rows], self.weights.codes[rows]
            if spec.kind == "regression":
                self._known[key] = self._regression(labels, scores, codes)
            else:
                rank = rank[rows] if len(rank) else None
                self._known[key] = self._binary(labels, scores, codes, self.frame.sessions[rows], rank, probabilistic)
        return self._known[key]

    def _binary(
        self,
        labels: np.ndarray,
        scores: np.ndarray,
        codes: np.ndarray,
        sessions: np.ndarray,
        rank: np.ndarray | None,
        probabilistic: bool,
    ) -> _Measured:
        w = self.weights
        groups = metrics.user_aucs(labels, scores, codes)
        values = {"auc": metrics.auc(labels, scores), "gauc": metrics.gauc(labels, scores, codes)}
        linear = {"gauc": w.mean(groups.users, groups.values, groups.impressions)}
        for name, order in (("ndcg_10", scores), (RANKING, rank)):
            if order is not None:
                found = metrics.session_ndcgs(labels, order, sessions)
                values[name] = float(found.values.mean()) if len(found.values) else _NAN
                linear[name] = w.mean(codes[found.rows], found.values)
        if probabilistic:
            values |= {
                "log_loss": metrics.log_loss(labels, scores),
                "ece": metrics.expected_calibration_error(labels, scores),
                "predicted_over_observed": metrics.predicted_over_observed(labels, scores),
            }
            predicted = expit(scores)
            linear["log_loss"] = w.mean(codes, metrics.log_losses(labels, scores))
            linear["ece"] = w.calibration_error(codes, metrics.bin_codes(predicted), labels, predicted)
            linear["predicted_over_observed"] = w.ratio(codes, predicted, labels)
        replicates = {"auc": w.auc(codes, labels, scores)}
        replicates |= zip(linear, w.replicate(list(linear.values())), strict=True)
        return _Measured(values, replicates)

    def _regression(self, labels: np.ndarray, scores: np.ndarray, codes: np.ndarray) -> _Measured:
        w = self.weights
        values = {
            "r2": metrics.r2(labels, scores),
            "r2_affine": metrics.r2_affine(labels, scores),
            "rmse": metrics.rmse(labels, scores),
            "xauc": metrics.xauc(labels, scores),
        }
        linear = [
            w.r2(codes, labels, scores),
            w.r2_affine(codes, labels, scores),
            w.mean(codes, np.square(labels - scores)),
        ]
        r2, r2_affine, mse = w.replicate(linear)
        return _Measured(values, {"r2": r2, "r2_affine": r2_affine, "rmse": np.sqrt(mse)})


class _Cell:
    """One task on one slice and one kind of inputs."""

    def __init__(
        self, measures: _Measures, surface: Surface, inputs: str, task: str, name: str, probabilistic: frozenset[str]
    ) -> None:
        self.measures, self.frame, self.gate = measures, measures.frame, surface.gate.slices
        self.inputs, self.task, self.name = inputs, task, name
        self.spec = surface.tasks[task]
        self.probabilistic = probabilistic
        self.mask = self.frame.slices[name] & np.isfinite(self.frame.labels[task])

    def results(self, models: list[str]) -> list[Result]:
        """Return every metric of ``models`` and every difference among them."""
        found = []
        for model in models:
            rows = self._rows(model)
            measured, effective = self._measure(model, rows), effective_users(self.measures.weights.codes[rows])
            spreads = {
                metric: interval(value, measured.replicates[metric], effective)
                if metric in measured.replicates
                else Interval(value, _NAN, _NAN, _NAN, _NAN)
                for metric, value in measured.values.items()
            }
            found += self._results(model, None, spreads, rows, effective)
        for model, reference in COMPARISONS:
            if model in models and reference in models:
                rows = self._rows(model) & self._rows(reference)
                a, b = self._measure(model, rows), self._measure(reference, rows)
                effective = effective_users(self.measures.weights.codes[rows])
                spreads = {
                    metric: interval(a.values[metric] - b.values[metric], spread - b.replicates[metric], effective)
                    for metric, spread in a.replicates.items()
                    if metric in b.replicates
                }
                found += self._results(model, reference, spreads, rows, effective)
        return found

    def _rows(self, model: str) -> np.ndarray:
        return self.mask & np.isfinite(self.frame.scores[self.inputs, model, self.task])

    def _measure(self, model: str, rows: np.ndarray) -> _Measured:
        return self.measures.of(self.spec, self.task, self.inputs, model, rows, model in self.probabilistic)

    def _results(
        self, model: str, reference: str | None, spreads: dict[str, Interval], rows: np.ndarray, effective: float
    ) -> list[Result]:
        n, codes = int(rows.sum()), self.measures.weights.codes
        positive = rows & (self.frame.labels[self.task] > 0.5) if self.spec.kind == "binary" else rows
        positives = int(positive.sum())
        users, positive_users = (int(np.count_nonzero(np.bincount(codes[chosen]))) for chosen in (rows, positive))
        weak = [f"{n} rows, fewer than {self.gate.min_rows}"] if n < self.gate.min_rows else []
        if positives < self.gate.min_positives:
            weak.append(f"{positives} positives, fewer than {self.gate.min_positives}")
        return [
            Result(
                model=model,
                reference=reference,
                inputs=self.inputs,
                slice=self.name,
                task=self.task,
                metric=metric,
                value=spread.estimate,
                lo=spread.lo,
                hi=spread.hi,
                se=spread.se,
                mde=spread.mde,
                n=n,
                positives=positives,
                users=users,
                flag="; ".join(weak) or None,
                positive_users=positive_users,
                effective_users=effective,
            )
            for metric, spread in spreads.items()
        ]


def _calibration(
    frame: _Frame, spec: Task, inputs: str, task: str, models: list[str], rows: np.ndarray
) -> list[Calibration]:
    labels = frame.labels[task][rows]
    found = []
    for model in models:
        scores = frame.scores[inputs, model, task][rows]
        bins = metrics.calibration_bins(labels, expit(scores) if spec.kind == "binary" else scores)
        found.append(
            Calibration(model, inputs, task, bins.predicted.tolist(), bins.observed.tolist(), bins.rows.tolist())
        )
    return found


def _histograms(
    frame: _Frame, spec: Task, inputs: str, task: str, models: list[str], rows: np.ndarray
) -> list[Histogram]:
    labels = frame.labels[task][rows]
    scores = {m: frame.scores[inputs, m, task][rows] for m in models}
    pooled = np.concatenate([s[np.isfinite(s)] for s in scores.values()]) if scores else np.empty(0)
    if len(pooled) == 0:
        return []
    lo, hi = np.quantile(pooled, [0.001, 0.999])
    edges = np.linspace(lo, hi if hi > lo else lo + 1, HISTOGRAM_BINS + 1)
    positive = (labels > 0.5) if spec.kind == "binary" else np.zeros(len(labels), bool)
    found = []
    for model, values in scores.items():
        inside = np.clip(values, edges[0], edges[-1])
        counts = [np.histogram(inside[m & np.isfinite(values)], edges)[0].tolist() for m in (positive, ~positive)]
        found.append(Histogram(model, inputs, task, edges.tolist(), *counts))
    return found


def _only(items: tuple[Curve, ...], model: str, task: str, inputs: str) -> Curve:
    for item in items:
        if (item.model, item.task, item.inputs) == (model, task, inputs):
            return item
    raise KeyError(f"there is no curve of {model!r} for {task!r} with {inputs} inputs")


def _nan(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row in which what ``to_json`` wrote as null is NaN again."""
    return {name: _NAN if value is None else value for name, value in row.items()}


def _null(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
