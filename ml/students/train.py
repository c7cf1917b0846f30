"""Training of control and student: seeded, resumable passes over the rows in (ts, exposure_id) order."""

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import safetensors
import torch
from torch import nn

from ml.distillation.catalog import build_technique
from ml.distillation.technique import Scale
from ml.foundation.settings import Settings
from ml.students.checkpoint import Checkpoint, Meta, predict, save_checkpoint
from ml.students.dataset import Dataset, TrainingSet, load
from ml.students.loop import Batches, Course, Loop, Progress, Snapshots, seed_of
from ml.students.measure import task_metrics
from ml.students.network import Ranker, build_network
from ml.students.optimizer import Recipe
from ml.students.preprocessing import Preprocessing, key
from ml.students.unshown import learns_unshown
from ml.students.unshown_batches import prepare_unshown
from ml.surfaces.spec import Surface
from ml.surfaces.techniques import NO_TECHNIQUE

RESUME_FILE = "resume.safetensors"

_HEAD_SEED, _PLACEBO_SEED = 1, 3
_CENTRE_PRIOR = 5.0


def train(
    settings: Settings,
    training_set: TrainingSet,
    surface: Surface,
    *,
    technique: str,
    seed: int,
    out_dir: Path,
    progress: Progress | None = None,
    snapshot_every: int = 500,
) -> Checkpoint:
    """Train one ranker and write its checkpoint.

    Equal arguments give equal bytes on one platform, also after a kill: while it runs, ``out_dir`` holds a snapshot
    from which the same call goes on.

    Args:
        settings: Names the lake.
        training_set: Rows to learn from.
        surface: What to train.
        technique: ``none`` for the control, or the surface's own technique.
        seed: Seed of parameters and unknown ids; a student and its control share it.
        out_dir: Folder of the checkpoint.
        progress: Told how far it is.
        snapshot_every: Steps between snapshots.

    Raises:
        ValueError: Another technique than the surface's, or a task or head without a label.
    """
    surface_technique = surface.distillation.technique
    if technique not in (NO_TECHNIQUE, surface_technique):
        raise ValueError(f"technique {technique!r} is neither 'none' nor the surface's, {surface_technique!r}")
    clock = Clock()
    data = load(settings, training_set, surface, training_set.train_days, soft_labels=technique != NO_TECHNIQUE)
    clock.lap("read")
    meta = _meta(training_set, surface, technique, seed, rows=len(data))
    snapshots = Snapshots(out_dir / RESUME_FILE, identity=_identity(meta), every=snapshot_every)
    ranker, course = fit(
        data, surface, technique=technique, seed=seed, progress=progress, snapshots=snapshots, clock=clock
    )
    if training_set.unshown and learns_unshown(surface, technique):
        meta |= {
            "unshown": {"drawn_by": training_set.unshown.drawn_by, "rows": sum(training_set.unshown.rows.values())}
        }
    meta |= {
        "steps": course.steps,
        "loss": {"hard": course.losses[0], "soft": course.losses[1]},
        "parameters": {
            "serving": sum(p.numel() for n, p in ranker.named_parameters() if not n.startswith("distillation.")),
            "distillation": sum(p.numel() for n, p in ranker.named_parameters() if n.startswith("distillation.")),
        },
        "validation": course.to_json(),
    }
    digest = save_checkpoint(ranker, meta, out_dir)
    snapshots.clear()
    clock.lap("save")
    learnt = len(data) * max(len(course.points), course.passes)
    timing = {**clock.seconds, "rows_per_second": learnt / max(clock.seconds["fit"], 1e-9)}
    return Checkpoint(path=out_dir, digest=digest, meta=cast("Meta", meta), timing=timing)


def _meta(training_set: TrainingSet, surface: Surface, technique: str, seed: int, rows: int) -> dict[str, object]:
    """Return what decides a checkpoint's bytes."""
    return {
        "surface_digest": surface.digest,
        "technique": technique,
        "teacher_labels": "as_is" if technique != NO_TECHNIQUE else None,
        "teacher_outputs": list(training_set.teacher_outputs),
        "seed": seed,
        "training_set": training_set.digest,
        "content_hash": training_set.content_hash,
        "lake_snapshot": training_set.snapshot,
        "days": [str(day) for day in training_set.train_days],
        "rows": rows,
        "device": _device().type,
        "versions": _versions(),
    }


def fit(
    data: Dataset,
    surface: Surface,
    *,
    technique: str,
    seed: int,
    progress: Progress | None = None,
    snapshots: "Snapshots | None" = None,
    clock: "Clock | None" = None,
) -> tuple[Ranker, Course]:
    """Train one ranker on rows in memory, until its last ``validation_days`` days stop improving; see ``Loop``.

    Args:
        data: n rows, in the order to learn them in.
        surface: What to train.
        technique: ``none`` or the surface's own.
        seed: Seed of parameters and unknown ids.
        progress: Told how far it is.
        snapshots: Where to keep and find snapshots of this run.
        clock: Told when preparing and fitting end.

    Returns:
        The ranker on the CPU in evaluation mode, and what its training did.
    """
    clock = clock or Clock()
    if not learns_unshown(surface, technique):
        data = replace(data, unshown=None)
    if technique != NO_TECHNIQUE:
        data = keep_few_rows(centre_soft_labels(data, surface), surface)
    with deterministic():
        ranker = build_ranker(data, surface, technique=technique, seed=seed)
        batches = prepare(ranker, data, _device())
        clock.lap("prepare")
        recipe = Recipe.of(surface.training, len(data))
        held_from = first_validation_row(data, surface.window.validation_days)
        course = Loop(ranker, batches, held_from, recipe, seed, progress, snapshots).run()
        clock.lap("fit")
    return ranker.to("cpu").eval(), course


def first_validation_row(data: Dataset, validation_days: int) -> int:
    """Return the first row of the last ``validation_days`` days with rows; n where no day would be left before them."""
    days = data.day.unique()
    if validation_days == 0 or validation_days >= len(days):
        return len(data)
    return int((data.day < days[-validation_days]).sum())


def build_ranker(data: Dataset, surface: Surface, *, technique: str, seed: int) -> Ranker:
    """Return a ranker before its first step: constants fitted on ``data``, output biases at the base rates.

    Raises:
        ValueError: A task has no label in ``data``, or a head no soft label.
    """
    if not len(data):
        raise ValueError(f"surface {surface.name}: no rows to train on")
    ranker = build_network(surface, Preprocessing.fit(surface.inputs, data.inputs), seed)
    for name, task in surface.tasks.items():
        labels = data.labels[name]
        present = labels[~torch.isnan(labels)].to(torch.float64)
        if not len(present):
            raise ValueError(f"surface {surface.name}: task {name} has no label in {len(data)} rows")
        base = float(present.mean())
        if task.kind == "binary":
            rate = min(max(base, 1.0 / (len(present) + 2)), 1.0 - 1.0 / (len(present) + 2))
            base = float(np.log(rate / (1.0 - rate)))
        head = ranker.heads[key(name)]
        assert isinstance(head, nn.Linear)
        nn.init.constant_(head.bias, base)
    if technique != NO_TECHNIQUE:
        scales = {
            head.teacher_output: Scale.fit(data.soft_labels[head.teacher_output])
            for head in surface.distillation.heads
            if head.teacher_output in data.soft_labels
        }
        ranker.distillation = build_technique(surface, scales, ranker.widths, seed_of(seed, _HEAD_SEED))
    return ranker


def prepare(ranker: Ranker, data: Dataset, device: torch.device) -> Batches:
    """Look up every id and standardise every number once, and move all to the device."""
    with torch.no_grad():
        rows, dense = ranker.preprocessing.convert(data.inputs, data.folder)
        unshown = prepare_unshown(ranker.preprocessing, ranker.surface, data, device)
    ranker.to(device)
    return Batches(
        rows=rows.to(device),
        dense=dense.to(device),
        labels={name: label.to(device) for name, label in data.labels.items()},
        soft_labels={name: label.to(device) for name, label in data.soft_labels.items()},
        users=data.user_id.to(device),
        unshown=unshown,
    )


def shuffle_soft_labels(data: Dataset, seed: int) -> Dataset:
    """Return the data with the soft labels of each day permuted among its rows, all outputs of a row together.

    Those of pairs that nobody was shown are permuted among these pairs.
    """
    generator = np.random.default_rng(seed_of(seed, _PLACEBO_SEED))
    day = data.day.numpy()
    order = np.arange(len(day))
    for value in np.unique(day):
        place = np.flatnonzero(day == value)
        order[place] = generator.permutation(place)
    shuffled = {name: label[torch.from_numpy(order)] for name, label in data.soft_labels.items()}
    pairs = data.unshown and replace(data.unshown, rows=shuffle_soft_labels(data.unshown.rows, seed))
    return replace(data, soft_labels=shuffled, unshown=pairs)


def centre_soft_labels(data: Dataset, surface: Surface) -> Dataset:
    r"""Return the data with each soft label less its mean within the head's ``centre_by``.

    .. math:: t'_i = t_i - \frac{\sum_{j \in G(i)} (t_j - \bar t)}{|G(i)| + 5}

    over the rows G(i) of the same id that have the label; of a pair that nobody was shown, over the exposures of its
    id, so that both stay comparable. A user who clicks much on the sister platform need not click
    much here, but the order in which the teacher sees that user's items may hold; the 5 keeps ids with few rows near
    the mean of all.
    """
    soft, of_pairs = dict(data.soft_labels), dict(data.unshown.rows.soft_labels) if data.unshown else {}
    for head in surface.distillation.heads:
        if head.centre_by is None or head.teacher_output not in soft:
            continue
        label = data.soft_labels[head.teacher_output].to(torch.float64)
        present = ~torch.isnan(label)
        if not present.any():
            continue
        ids, group = torch.unique(data.inputs[head.centre_by], return_inverse=True)
        apart = torch.where(present, label - label[present].mean(), 0.0)
        total = torch.zeros(len(ids), dtype=torch.float64).index_add_(0, group, apart)
        count = torch.zeros(len(ids), dtype=torch.float64).index_add_(0, group, present.to(torch.float64))
        level = total / (count + _CENTRE_PRIOR)
        soft[head.teacher_output] = (label - level[group]).to(torch.float32)
        if data.unshown:
            own = data.unshown.rows.inputs[head.centre_by]
            place = torch.searchsorted(ids, own).clamp(max=len(ids) - 1)
            apart = of_pairs[head.teacher_output].to(torch.float64) - level[place] * (ids[place] == own)
            of_pairs[head.teacher_output] = apart.to(torch.float32)
    pairs = data.unshown and replace(data.unshown, rows=replace(data.unshown.rows, soft_labels=of_pairs))
    return replace(data, soft_labels=soft, unshown=pairs)


def keep_few_rows(data: Dataset, surface: Surface) -> Dataset:
    """Return the data without the soft labels of ids that have more rows than ``few_rows`` of the surface lets learn.

    What the app itself knows of an id with many rows may be worth more than the teacher's opinion of it. Rows are
    counted in ``data``, the training rows.
    """
    few = surface.distillation.few_rows
    if few is None or not len(data):
        return data
    ids, group, count = torch.unique(data.inputs[few.input], return_inverse=True, return_counts=True)
    most = torch.quantile(count.to(torch.float64), few.share, interpolation="lower")

    def without(rows: Dataset, known: torch.Tensor) -> Dataset:
        kept = {name: label.masked_fill(known, torch.nan) for name, label in rows.soft_labels.items()}
        return replace(rows, soft_labels=kept)

    many, pairs = count > most, data.unshown
    if pairs is not None:
        pairs = replace(pairs, rows=without(pairs.rows, torch.isin(pairs.rows.inputs[few.input], ids[many])))
    return replace(without(data, many[group]), unshown=pairs)


def validation_metrics(ranker: Ranker, data: Dataset) -> dict[str, dict[str, float]]:
    """Return {task: metrics} of a ranker on labelled rows; see ``task_metrics``."""
    scores = predict(ranker, {name: column.numpy() for name, column in data.inputs.items()})
    labels = {name: label.numpy() for name, label in data.labels.items()}
    return task_metrics(ranker.surface, scores, labels)


@contextmanager
def deterministic() -> Iterator[None]:
    """Run torch deterministically on one thread: small batches gain nothing from more, and sums depend on how many."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)


class Clock:
    """Seconds per stage.

    Args:
        now: The time in seconds; wall time unless told otherwise.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = {}
        self._now = now
        self._last = now()

    def lap(self, stage: str) -> None:
        """Book the time since the last lap on ``stage``."""
        now = self._now()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "safetensors": safetensors.__version__,
    }


def _identity(meta: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()
