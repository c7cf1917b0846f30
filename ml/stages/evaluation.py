"""Teacher, control, student, champion and reference release of a partition, scored and compared."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from math import isfinite
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from ml.evaluation.evaluate import Evaluation, choose_candidate, evaluate
from ml.evaluation.importance import InputValue, input_values
from ml.evaluation.plots import data_uri, figures
from ml.evaluation.predictions import Model, student_predictions, teacher_predictions, write_predictions
from ml.evaluation.report import markdown_summary
from ml.export.onnx import session_of
from ml.foundation.artifacts import Artifact, ArtifactStore
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.releases.store import ReleaseStore
from ml.stages.artifacts import MissingInput, artifact_name, find
from ml.stages.training import load_ranker
from ml.stages.training_set import read_training_set
from ml.students.checkpoint import predict
from ml.students.dataset import TrainingSet, load
from ml.surfaces.spec import Role, Surface
from ml.teacher.contract import teacher_contract

Arrays = dict[str, np.ndarray]
Scoring = Callable[[Mapping[str, np.ndarray]], Arrays]


@dataclass(frozen=True)
class Evaluated:
    """An evaluation: numbers to plot, plots as data URIs by name, a summary in Markdown."""

    numbers: dict[str, float]
    plots: dict[str, str]
    summary: str
    digest: str


def evaluate_models(settings: Settings, surface: Surface, partition: date) -> Evaluated:
    """Score the evaluation days with teacher, control, student, champion and reference release, and compare them."""
    training_set = read_training_set(settings, surface, partition)
    contract = teacher_contract(settings)
    checkpoints = {role: find(settings, surface, role, partition) for role in get_args(Role)}
    rankers = _rankers(checkpoints) | _released_models(settings, surface)
    tables = _ranker_predictions(settings, surface, partition, training_set, rankers)
    with Lake(settings) as lake:
        teacher = teacher_predictions(
            lake,
            surface,
            partition,
            outputs=training_set.teacher_outputs,
            teacher_version=training_set.teacher_version,
            contract_hash=training_set.contract_hash,
        )
        write_predictions(lake, surface.name, partition, pa.concat_tables([*tables, teacher]))
        evaluation = evaluate(
            lake,
            surface,
            partition,
            teacher_outputs={output.task: output.kind for output in contract.outputs},
            seed=settings.seed,
            snapshot=training_set.snapshot,
        )
    _, score = rankers[choose_candidate(evaluation, surface)]
    evaluation = replace(evaluation, inputs=tuple(_input_values(settings, surface, training_set, score)))
    plots = figures(evaluation)
    stored = ArtifactStore(settings.artifacts_dir).put(
        artifact_name(surface, "evaluation"),
        partition.isoformat(),
        {"evaluation.json": evaluation.to_json().encode(), **{f"{name}.png": png for name, png in plots.items()}},
        {"hashes": {role: checkpoint.digest for role, checkpoint in checkpoints.items()}},
    )
    return Evaluated(
        numbers=_numbers(evaluation, surface),
        plots={name: data_uri(png) for name, png in plots.items()},
        summary=markdown_summary(evaluation, surface),
        digest=stored.digest[:32],
    )


def _rankers(checkpoints: Mapping[Role, Artifact]) -> dict[Model, tuple[str, Scoring]]:
    """Return hash and scoring function of control and student."""
    found: dict[Model, tuple[str, Scoring]] = {}
    for role, checkpoint in checkpoints.items():
        ranker, _ = load_ranker(checkpoint)
        found[role] = (checkpoint.digest, partial(predict, ranker))
    return found


def _ranker_predictions(
    settings: Settings,
    surface: Surface,
    partition: date,
    training_set: TrainingSet,
    rankers: Mapping[Model, tuple[str, Scoring]],
) -> list[pa.Table]:
    """Score the evaluation days with every ranker: with position at its serving value, and as it was logged."""
    tables: list[pa.Table] = []
    for inputs in ("serving", "logged"):
        data = load(settings, training_set, surface, training_set.eval_days, soft_labels=False, after_ranking=inputs)
        arrays = {name: column.numpy() for name, column in data.inputs.items()}
        for model, (model_hash, score) in rankers.items():
            tables.append(
                student_predictions(
                    score(arrays),
                    partition=partition,
                    days=data.day.numpy().astype("datetime64[D]"),
                    exposure_ids=data.exposure_id.numpy(),
                    model=model,
                    model_hash=model_hash,
                    inputs=inputs,
                )
            )
    return tables


def _input_values(settings: Settings, surface: Surface, training_set: TrainingSet, score: Scoring) -> list[InputValue]:
    """Return what every input that is known before ranking is worth to a ranker on the evaluation days.

    On one thread, like training: the same figures on any number of cores, and small batches gain nothing from more.
    """
    data = load(settings, training_set, surface, training_set.eval_days, soft_labels=False, after_ranking="serving")
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


def _numbers(evaluation: Evaluation, surface: Surface) -> dict[str, float]:
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


def _released_models(settings: Settings, surface: Surface) -> dict[Model, tuple[str, Scoring]]:
    """Return hash and scoring function of the champion, and of the reference release where that is another one."""
    store = ReleaseStore(settings.artifacts_dir)
    champion, reference = store.champion(surface.name), store.reference(surface.name)
    found: dict[Model, tuple[str, Scoring]] = {}
    if champion is not None:
        found["champion"] = (champion.pointer.onnx_sha256, scoring(champion.release.model))
        if reference is not None and reference != champion.release.id:
            release = store.release(surface.name, reference)
            found["reference"] = (release.manifest.onnx_sha256, scoring(release.model))
    return found


def scoring(onnx: Path) -> Scoring:
    """Return a function that scores raw columns with an exported model; a release's path names it."""
    model = session_of(onnx)
    names = [item.name for item in model.get_inputs()]
    outputs = [item.name for item in model.get_outputs()]

    def score(arrays: Mapping[str, np.ndarray]) -> Arrays:
        if absent := [name for name in names if name not in arrays]:
            raise MissingInput(f"{onnx} wants {absent}, which the surface no longer has")
        values = model.run(outputs, {name: arrays[name] for name in names})
        return {name: np.asarray(value) for name, value in zip(outputs, values, strict=True)}

    return score
