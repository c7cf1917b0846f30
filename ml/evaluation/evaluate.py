"""Evaluation of one partition: reads its rows, measures every model, stores the figures, and chooses the candidate."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import date

import numpy as np

from ml.evaluation.bootstrap import UserWeights, effective_users
from ml.evaluation.frame import Frame, read_frame
from ml.evaluation.measures import Cell, Measures, calibration_curves, histograms_of
from ml.evaluation.off_policy import off_policy, read_logged
from ml.evaluation.predictions import (
    MODELS,
    Scores,
    baseline_predictions,
    stored_scores,
    write_predictions,
)
from ml.evaluation.results import Calibration, Evaluation, Histogram, Result, Transfer
from ml.evaluation.transfer import REPLICATES, hints, stacked_transfer
from ml.foundation.lake import ML, Lake
from ml.surfaces.spec import Surface

UNSCALED = frozenset({"baseline", "incumbent"})
"""Models whose scores order rows, and are neither logits nor values by contract."""
_RANKERS = frozenset({"student", "control", "champion", "reference"})


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
        days = days or surface.evaluation_days(partition)
        frame = read_frame(rows, surface, partition, teacher_outputs, days, scores)
        figures = _figures(rows, surface, frame, partition, days, teacher_outputs, seed=seed, replicates=replicates)
    evaluation = replace(figures, transfer=_transfer(frame, surface, seed))
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
    """Compute the figures that ``evaluate`` stores, writing nothing, from rows of ``lake``, which may be a snapshot.

    The scores are those that are stored there, where none are given. ``transfer`` is empty: it decides nothing.
    """
    if scores is None:
        scores = stored_scores(lake, surface.name, partition)
    days = days or surface.evaluation_days(partition)
    frame = read_frame(lake, surface, partition, teacher_outputs, days, scores)
    return _figures(lake, surface, frame, partition, days, teacher_outputs, seed=seed, replicates=replicates)


def _figures(
    lake: Lake,
    surface: Surface,
    frame: Frame,
    partition: date,
    days: Sequence[date],
    teacher_outputs: Mapping[str, str],
    *,
    seed: int,
    replicates: int,
) -> Evaluation:
    weights = UserWeights(frame.users, seed=seed, replicates=replicates)
    measures = Measures(frame, weights)
    results: list[Result] = []
    calibration: list[Calibration] = []
    histograms: list[Histogram] = []
    for inputs in sorted({inputs for inputs, _, _ in frame.scores}, reverse=True):
        for task, spec in surface.tasks.items():
            models = [m for m in MODELS if (inputs, m, task) in frame.scores]
            logits = teacher_outputs.get(spec.teacher_output or "") in ("logit", "probability")
            probabilistic = _RANKERS | {"teacher"} if logits else _RANKERS
            for name in frame.slices:
                results += Cell(measures, surface, inputs, task, name, probabilistic).results(models)
            labelled = np.isfinite(frame.labels[task])
            calibration += calibration_curves(frame, spec, inputs, task, [m for m in models if m in _RANKERS], labelled)
            histograms += histograms_of(frame, spec, inputs, task, [m for m in models if m not in UNSCALED], labelled)
    binary = [name for name, task in surface.tasks.items() if task.kind == "binary"]
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
        history=frame.history,
        effective_users=effective_users(weights.codes),
        off_policy=off_policy(frame, binary, weights, read_logged(lake, surface, days)),
    )


def _transfer(frame: Frame, surface: Surface, seed: int) -> tuple[Transfer, ...]:
    """Return what every task gains where the teacher's scores are added to the control's, with serving inputs."""
    weights = UserWeights(frame.users, seed=seed, replicates=REPLICATES)
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
