"""Teacher, control, student, champion and reference release of a partition, scored and compared."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from math import isfinite
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from ml.evaluation.choice import choose_candidate
from ml.evaluation.evaluate import evaluate
from ml.evaluation.importance import input_values
from ml.evaluation.incumbent import incumbent_predictions, incumbent_scores
from ml.evaluation.linear import MAX_ROWS, against_control, linear_scores
from ml.evaluation.plots import data_uri, figures
from ml.evaluation.predictions import (
    INPUTS,
    ScoreKey,
    Scores,
    as_scores,
    baseline_query,
    beside,
    student_predictions,
    teacher_predictions,
    teacher_query,
    write_predictions,
)
from ml.evaluation.report import markdown_summary
from ml.evaluation.results import Evaluation, InputValue, LinearGain
from ml.export.onnx import session_of
from ml.foundation.artifacts import Artifact, ArtifactStore
from ml.foundation.lake import ALIAS, FEATURES, Lake, quoted
from ml.foundation.settings import Settings
from ml.releases.manifest import Manifest
from ml.releases.release import Champion, Release
from ml.releases.store import ReleaseStore
from ml.stages.artifacts import MissingInput, artifact_name, find
from ml.stages.training import load_ranker
from ml.stages.widening import ROWS, rows_to_evaluate
from ml.students.checkpoint import predict
from ml.students.columns import to_arrays
from ml.students.dataset import Dataset, TrainingSet, TrainingSetError, load
from ml.surfaces.spec import Role, Surface
from ml.teacher.teachers import LabelsOf, kinds_of, labels_of

Arrays = dict[str, np.ndarray]
Scoring = Callable[[Mapping[str, np.ndarray]], Arrays]
Ranker = tuple[str, Scoring]
"""Content hash of a ranker's checkpoint or ONNX file, and its raw outputs by task for raw columns."""

_BATCH = 8192


@dataclass(frozen=True)
class Evaluated:
    """An evaluation: numbers to plot, plots as data URIs by name, a summary in Markdown."""

    numbers: dict[str, float]
    plots: dict[str, str]
    summary: str
    digest: str


def evaluate_models(settings: Settings, surface: Surface, partition: date) -> Evaluated:
    """Score the evaluation days with teacher, control, student, champion and reference release, and compare them.

    The days of an undecided candidate are those since its last evaluation too: see ``ml.stages.widening``.
    """
    training_set = rows_to_evaluate(settings, surface, partition)
    checkpoints = {role: find(settings, surface, role, partition) for role in get_args(Role)}
    rankers: dict[str, Ranker] = {role: checkpoint_ranker(checkpoint) for role, checkpoint in checkpoints.items()}
    store = ReleaseStore.of(settings)
    rankers |= released_models(store.champion(surface.name), store.past_reference(surface.name))
    with Lake(settings, snapshot=training_set.snapshot) as lake:
        scored = score_rows(lake, surface, training_set.eval_days, rankers)
        incumbent = incumbent_predictions(lake, surface, partition, training_set.eval_days, settings.app)
    if len(scored.scores.exposure_ids) != training_set.eval_rows:
        raise TrainingSetError(
            f"{surface.name} {partition}: snapshot {training_set.snapshot} has {len(scored.scores.exposure_ids)} "
            f"evaluation rows, the training set has {training_set.eval_rows}"
        )
    with Lake(settings) as lake:
        teacher = teacher_predictions(lake, surface, partition, training_set.labels, training_set.eval_days)
        tables = [*scored.tables(partition), teacher, incumbent]
        write_predictions(lake, surface.name, partition, pa.concat_tables(tables))
        evaluation = evaluate(
            lake,
            surface,
            partition,
            teacher_outputs=kinds_of(settings, surface),
            seed=settings.seed,
            snapshot=training_set.snapshot,
            days=training_set.eval_days,
        )
    _, score = rankers[choose_candidate(evaluation, surface)]
    judged = load(settings, training_set, surface, training_set.eval_days, soft_labels=False, after_ranking="serving")
    _, control = rankers["control"]
    evaluation = replace(
        evaluation,
        inputs=tuple(_input_values(settings, surface, judged, score)),
        linear=_linear(settings, surface, training_set, judged, control),
    )
    widened = len(training_set.eval_days) > surface.window.eval_days
    plots = figures(evaluation)
    stored = ArtifactStore(settings.artifacts_dir).put(
        artifact_name(surface, "evaluation"),
        partition.isoformat(),
        {
            "evaluation.json": evaluation.to_json().encode(),
            **({ROWS: training_set.to_json().encode()} if widened else {}),
            **{f"{name}.png": png for name, png in plots.items()},
        },
        {"hashes": {role: checkpoint.digest for role, checkpoint in checkpoints.items()}},
    )
    return Evaluated(
        numbers=numbers_of(evaluation, surface),
        plots={name: data_uri(png) for name, png in plots.items()},
        summary=markdown_summary(evaluation, surface),
        digest=stored.digest[:32],
    )


@dataclass(frozen=True)
class Scored:
    """Rows as rankers scored them: their scores, and the day of each row [n]."""

    scores: Scores
    days: np.ndarray

    def tables(self, partition: date) -> Iterator[pa.Table]:
        """Return the scores as rows of the predictions."""
        for (inputs, model, task), values in self.scores.values.items():
            yield student_predictions(
                {task: values},
                partition=partition,
                days=self.days,
                exposure_ids=self.scores.exposure_ids,
                model=model,
                model_hash=self.scores.hashes[model],
                inputs=inputs,
            )


def score_rows(lake: Lake, surface: Surface, days: Sequence[date], rankers: Mapping[str, Ranker]) -> Scored:
    """Score rows with every ranker: with position at its serving value, and as it was logged.

    Rows are streamed, so that no more than their scores are held.

    Args:
        lake: The lake, or a snapshot of it.
        surface: The surface; gives the columns.
        days: Days to score.
        rankers: Hash and scoring function by model.
    """
    columns = ", ".join(f"{quoted(name)}" for name in dict.fromkeys(["day", "exposure_id", *surface.inputs]))
    table = f"{ALIAS}.{FEATURES}.examples_{surface.name}"
    query = f"select {columns} from {table} where day in (select unnest(?::date[])) order by ts, exposure_id"
    parts: dict[ScoreKey, list[np.ndarray]] = {}
    keys: list[np.ndarray] = [np.empty((2, 0), dtype=np.int64)]
    for batch in lake.batches(query, [list(days)]):
        of_row = batch["exposure_id"].to_numpy(), batch["day"].cast(pa.int32()).to_numpy().astype(np.int64)
        keys.append(np.stack(of_row))
        for inputs in INPUTS:
            arrays = to_arrays(batch, surface.inputs, inputs)
            for model, (_, score) in rankers.items():
                for task, values in score(arrays).items():
                    parts.setdefault((inputs, model, task), []).append(values)
    exposure_ids, days_of = np.concatenate(keys, axis=1)
    order = np.argsort(exposure_ids)
    scores = Scores(
        exposure_ids=exposure_ids[order],
        values={key: np.concatenate(found).astype(np.float64)[order] for key, found in parts.items()},
        hashes={model: model_hash for model, (model_hash, _) in rankers.items()},
    )
    return Scored(scores, days_of[order].astype("datetime64[D]"))


def score_again(
    lake: Lake,
    settings: Settings,
    surface: Surface,
    manifest: Manifest,
    rankers: Mapping[str, Ranker],
) -> Scores:
    """Score every evaluation row of a candidate again, with rankers, teachers and baseline.

    Args:
        lake: The snapshot that the manifest's evaluation read.
        settings: The home: its pinned teachers, and its app, which may have a file of its present ranker.
        surface: The surface.
        manifest: The candidate's; names the teachers whose soft labels are read.
        rankers: Hash and scoring function by model.

    Returns:
        What the stored predictions should be.
    """
    partition, days = manifest.partition, manifest.eval_days
    scored = score_rows(lake, surface, days, rankers)
    queries = [baseline_query(surface, partition, days)]
    if manifest.teachers:
        queries.append(teacher_query(surface, partition, _stated_labels(settings, surface, manifest), days))
    others = [as_scores(lake, f"({query})", told) for query, told in queries if query]
    return beside(scored.scores, [*others, incumbent_scores(lake, surface, partition, days, settings.app)])


def _stated_labels(settings: Settings, surface: Surface, manifest: Manifest) -> list[LabelsOf]:
    """Return whose labels a candidate says that it was evaluated with, their outputs as the surface calls them."""
    pinned, stated = labels_of(settings, surface), {teacher.name: teacher for teacher in manifest.teachers}
    found = [(of, manifest.teacher if of.teacher is None else stated.get(of.teacher)) for of in pinned]
    return [
        of.model_copy(update={"version": teacher.version, "contract_hash": teacher.contract_hash})
        for of, teacher in found
        if teacher is not None
    ]


def checkpoint_ranker(checkpoint: Artifact) -> Ranker:
    """Return hash and scoring function of a checkpoint."""
    ranker, _ = load_ranker(checkpoint)
    return checkpoint.digest, partial(predict, ranker)


def _linear(
    settings: Settings, surface: Surface, training_set: TrainingSet, judged: Dataset, control: Scoring
) -> tuple[LinearGain, ...]:
    """Hold the control against a linear model of the same inputs, which learns from the newest training days."""
    days: list[date] = []
    for day in reversed(training_set.train_days):
        if sum(training_set.rows[taken] for taken in days) < MAX_ROWS:
            days.insert(0, day)
    newest = load(settings, training_set, surface, days, soft_labels=False)
    with threadpool_limits(1):
        scores = control({name: column.numpy() for name, column in judged.inputs.items()})
        return against_control(linear_scores(newest, judged, surface), scores, judged, surface, settings.seed)


def _input_values(settings: Settings, surface: Surface, data: Dataset, score: Scoring) -> list[InputValue]:
    """Return what every input that is known before ranking is worth to a ranker on the evaluation days.

    On one thread, like training: the same figures on any number of cores, and small batches gain nothing from more.
    """
    with threadpool_limits(1):
        found = input_values(
            score,
            {name: column.numpy() for name, column in data.inputs.items()},
            {task: data.labels[task].numpy() for task in surface.tasks},
            {task: spec.kind == "binary" for task, spec in surface.tasks.items()},
            users=data.user_id.numpy(),
            days=data.day.numpy(),
            seed=settings.seed,
        )
    return [value for value in found if surface.inputs[value.input].kind != "after_ranking"]


def numbers_of(evaluation: Evaluation, surface: Surface) -> dict[str, float]:
    """Return the finite figures to plot: each task's primary metric by model, and the student's lift."""
    numbers: dict[str, float] = {}
    for task in surface.tasks:
        metric = evaluation.primary(task)
        for model in ("teacher", "control", "student", "champion"):
            if evaluation.has(model, task):
                numbers[f"{task}_{metric}_{model}"] = evaluation.metric(model, task)
        numbers[f"{task}_{metric}_student_minus_control"] = evaluation.difference("student", "control", task).estimate
    return {name: float(value) for name, value in numbers.items() if isfinite(value)}


def read_evaluation(settings: Settings, surface: Surface, partition: date) -> Evaluation:
    """Return the stored ``Evaluation`` of a partition."""
    return Evaluation.from_json(find(settings, surface, "evaluation", partition).read("evaluation.json").decode())


def released_models(champion: Champion | None, reference: Release | None) -> dict[str, Ranker]:
    """Return hash and scoring function of the champion, and of the reference release where that is another one."""
    found: dict[str, Ranker] = {}
    if champion is not None:
        found["champion"] = (champion.pointer.onnx_sha256, scoring(champion.release.model))
    if reference is not None:
        found["reference"] = (reference.manifest.onnx_sha256, scoring(reference.model))
    return found


def scoring(onnx: Path) -> Scoring:
    """Return a function that scores raw columns with an exported model; a release's path names it."""
    model = session_of(onnx)
    names = [item.name for item in model.get_inputs()]
    outputs = [item.name for item in model.get_outputs()]

    def score(arrays: Mapping[str, np.ndarray]) -> Arrays:
        if absent := [name for name in names if name not in arrays]:
            raise MissingInput(f"{onnx} wants {absent}, which the surface no longer has")
        n = len(next(iter(arrays.values())))
        found: dict[str, list[np.ndarray]] = {name: [np.empty(0, np.float32)] for name in outputs}
        for start in range(0, n, _BATCH):  # what a layer needs for a row is much more than the row
            values = model.run(outputs, {name: arrays[name][start : start + _BATCH] for name in names})
            for name, value in zip(outputs, values, strict=True):
                found[name].append(np.asarray(value))
        return {name: np.concatenate(values) for name, values in found.items()}

    return score
