"""What an app's own technique or network has to keep to, tried on rows that are made up."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from ml.distillation.technique import Activations
from ml.export.onnx import export_ranker, inspect, parity
from ml.students.checkpoint import load_checkpoint, predict, save_checkpoint
from ml.students.dataset import Dataset
from ml.students.network import SCORE, Ranker
from ml.students.train import build_ranker, fit
from ml.surfaces.spec import Surface
from ml.surfaces.techniques import NO_TECHNIQUE

_ROWS, _IDS, _SIZES = 320, 12, (1, 2, 7)
_TOLERANCE = 1e-5


def contract_faults(surface: Surface) -> Iterator[str]:
    """Say what a surface's technique and network do not keep of what training, export and gate rely on.

    A student starts from the bits of its control; its activations have the stated widths; training is finite, also for
    rows without soft labels, and gives the same bits for the same seed; a checkpoint is read back as it was; a row's
    scores depend on no other row; the exported graph answers as torch does, and holds nothing of the heads.
    """
    training = surface.training.model_copy(update={"epochs": 1, "batch_size": 64})
    surface = surface.model_copy(update={"training": training})
    data = made_up_rows(surface)
    try:
        yield from _faults_at_start(surface, data)
        yield from _faults_of_trained(surface, data)
    except Exception as error:  # the code is not ours: whatever it raises is what is wrong with it
        yield f"{type(error).__name__}: {error}"


def made_up_rows(surface: Surface, seed: int = 0) -> Dataset:
    """Return rows with every input, label and soft label of a surface; some soft labels are missing."""
    rng = np.random.default_rng(seed)
    inputs = {
        name: torch.from_numpy(
            rng.integers(1, _IDS, (_ROWS, *item.shape))
            if item.dtype == "int64"
            else rng.normal(size=(_ROWS, *item.shape)).astype(np.float32)
        )
        for name, item in surface.inputs.items()
    }
    labels = {
        name: torch.from_numpy((rng.random(_ROWS) < 0.4 if task.kind == "binary" else rng.normal(size=_ROWS)) * 1.0)
        for name, task in surface.tasks.items()
    }
    soft = {head.teacher_output: torch.from_numpy(rng.normal(size=_ROWS)) for head in surface.distillation.heads}
    for label in soft.values():
        label[::5] = torch.nan
    return Dataset(
        inputs=inputs,
        labels={name: label.to(torch.float32) for name, label in labels.items()},
        soft_labels={name: label.to(torch.float32) for name, label in soft.items()},
        exposure_id=torch.arange(_ROWS),
        user_id=torch.from_numpy(rng.integers(1, _IDS, _ROWS)),
        day=torch.arange(_ROWS, dtype=torch.int32) // (_ROWS // 4),
    )


def _serving(ranker: Ranker) -> dict[str, torch.Tensor]:
    return {name: value for name, value in ranker.state_dict().items() if not name.startswith("distillation.")}


def _differing(one: Ranker, other: Ranker) -> list[str]:
    """Return the names of what serves and is not the same bits in both."""
    first, second = _serving(one), _serving(other)
    same = {name for name in first.keys() & second.keys() if torch.equal(first[name], second[name])}
    return sorted((first.keys() | second.keys()) - same)


def _faults_at_start(surface: Surface, data: Dataset) -> Iterator[str]:
    student = build_ranker(data, surface, technique=surface.distillation.technique, seed=1)
    control = build_ranker(data, surface, technique=NO_TECHNIQUE, seed=1)
    if differing := _differing(student, control):
        yield f"a student does not start from the bits of its control: {', '.join(differing[:3])} differ"
    activations = student.activations(*student.preprocessing.convert(data.inputs))
    yield from _faults_of_shapes(student, activations)
    if student.distillation is None:
        return
    users = data.user_id
    for what, soft in (
        ("rows with soft labels", data.soft_labels),
        (
            "rows without soft labels",
            {name: torch.full_like(label, torch.nan) for name, label in data.soft_labels.items()},
        ),
    ):
        loss = student.distillation.loss(activations, soft, users)
        if loss.shape != () or not torch.isfinite(loss):
            yield f"the loss of {what} is no finite scalar: {loss}"
    for name, prediction in student.distillation.heads(activations).items():
        if prediction.shape != (len(data),):
            yield f"head {name} predicts {list(prediction.shape)} for {len(data)} rows"


def _faults_of_shapes(ranker: Ranker, found: Activations) -> Iterator[str]:
    rows, widths = found.bottom.shape[0], ranker.widths
    wanted = {"bottom": (found.bottom, widths.bottom), "interaction": (found.interaction, widths.interaction)}
    wanted |= {f"tower of {task}": (tower, widths.tower) for task, tower in found.towers.items()}
    for what, (tensor, width) in wanted.items():
        if tensor.shape != (rows, width):
            yield f"{what} is {list(tensor.shape)}, widths say {[rows, width]}"
    for what, told in (("towers", found.towers), ("outputs", found.outputs)):
        if set(told) != set(ranker.surface.tasks):
            yield f"{what} are of {sorted(told)}, the tasks are {sorted(ranker.surface.tasks)}"
    for task, output in found.outputs.items():
        if output.shape != (rows,):
            yield f"output of {task} is {list(output.shape)} for {rows} rows"


def _faults_of_trained(surface: Surface, data: Dataset) -> Iterator[str]:
    technique = surface.distillation.technique
    ranker, course = fit(data, surface, technique=technique, seed=1)
    again, _ = fit(data, surface, technique=technique, seed=1)
    if not np.isfinite(course.losses).all():
        yield f"losses are {course.losses}"
    if differing := _differing(ranker, again):
        yield f"two trainings of one seed differ in {', '.join(differing[:3])}"
    columns = {name: column.numpy() for name, column in data.inputs.items()}
    scores = predict(ranker, columns)
    alone = predict(ranker, {name: column[:1] for name, column in columns.items()})
    for name in (*surface.tasks, SCORE):
        if not np.allclose(alone[name], scores[name][:1], rtol=_TOLERANCE, atol=_TOLERANCE):
            yield f"{name} of a row depends on the other rows of its batch"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save_checkpoint(ranker, {"technique": technique}, folder)
        loaded, _ = load_checkpoint(folder)
        if any(not np.array_equal(predict(loaded, columns)[name], scores[name]) for name in scores):
            yield "a checkpoint that is read back scores otherwise"
        yield from _faults_of_export(ranker, export_ranker(ranker, folder / "model.onnx").path)


def _faults_of_export(ranker: Ranker, onnx: Path) -> Iterator[str]:
    found, most = inspect(onnx), ranker.surface.gate.onnx.tolerance
    for what, told in (
        ("is refused by onnx.checker", found["checker"]),
        ("needs operators of other domains", found["custom_domains"]),
        ("holds what belongs to distillation heads", found["distillation"]),
        ("has weights in other files", found["external_data"]),
        ("has a fixed batch size", not found["symbolic_batch"]),
    ):
        if told:
            yield f"the exported graph {what}: {told}"
    for case, outputs in parity(ranker, onnx, _SIZES).items():
        for name, gap in outputs.items():
            if not gap <= most:
                yield f"onnxruntime and torch differ by {gap:g} in {name} ({case}); {most:g} is allowed"
