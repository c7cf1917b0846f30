"""Training of control and student: one seeded, resumable pass over the rows in (ts, exposure_id) order."""

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import safetensors
import torch
from safetensors import safe_open
from safetensors.torch import save
from sklearn.metrics import log_loss, r2_score, roc_auc_score
from torch import Tensor, nn

from ml.distillation.catalog import build_technique
from ml.distillation.technique import Scale, masked_cross_entropy, masked_mean_square
from ml.foundation.settings import Settings
from ml.students.checkpoint import Checkpoint, predict, save_checkpoint, write_atomically
from ml.students.dataset import Dataset, TrainingSet, load
from ml.students.network import Ranker
from ml.students.preprocessing import Preprocessing, key
from ml.surfaces.spec import Surface, Training
from ml.surfaces.techniques import NO_TECHNIQUE

Progress = Callable[[int, int, float], None]
"""Called with (steps done, steps in all, mean loss so far in this epoch)."""

RESUME_FILE = "resume.safetensors"

_HEAD_SEED, _UNKNOWN_SEED, _PLACEBO_SEED = 1, 2, 3
_REPORTS = 50
_CENTRE_PRIOR = 5.0


@dataclass(frozen=True)
class Losses:
    """Mean losses over the last epoch, weights included.

    Attributes:
        hard: Of the tasks.
        soft: Of the distillation heads; 0 for a control.
    """

    hard: float
    soft: float


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
    ranker, losses, steps = fit(
        data, surface, technique=technique, seed=seed, progress=progress, snapshots=snapshots, clock=clock
    )
    meta |= {
        "steps": steps,
        "loss": {"hard": losses.hard, "soft": losses.soft},
        "parameters": {
            "serving": sum(p.numel() for n, p in ranker.named_parameters() if not n.startswith("distillation.")),
            "distillation": sum(p.numel() for n, p in ranker.named_parameters() if n.startswith("distillation.")),
        },
        "validation": None,
    }
    digest = save_checkpoint(ranker, meta, out_dir)
    snapshots.clear()
    clock.lap("save")
    epochs = surface.training.epochs
    timing = {**clock.seconds, "rows_per_second": len(data) * epochs / max(clock.seconds["fit"], 1e-9)}
    return Checkpoint(path=out_dir, digest=digest, meta=meta, timing=timing)


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
) -> tuple[Ranker, Losses, int]:
    """Train one ranker on rows in memory.

    Args:
        data: n rows, in the order to learn them in.
        surface: What to train.
        technique: ``none`` or the surface's own.
        seed: Seed of parameters and unknown ids.
        progress: Told how far it is.
        snapshots: Where to keep and find snapshots of this run.
        clock: Told when preparing and fitting end.

    Returns:
        The ranker on the CPU in evaluation mode, the mean losses of the last epoch, and the number of steps.
    """
    clock = clock or Clock()
    if technique != NO_TECHNIQUE:
        data = centre_soft_labels(data, surface)
    with deterministic():
        ranker = build_ranker(data, surface, technique=technique, seed=seed)
        batches = prepare(ranker, data, _device())
        clock.lap("prepare")
        losses, steps = _run(ranker, batches, surface, seed, progress, snapshots)
        clock.lap("fit")
    return ranker.to("cpu").eval(), losses, steps


def build_ranker(data: Dataset, surface: Surface, *, technique: str, seed: int) -> Ranker:
    """Return a ranker before its first step: constants fitted on ``data``, output biases at the base rates.

    Raises:
        ValueError: A task has no label in ``data``, or a head no soft label.
    """
    if not len(data):
        raise ValueError(f"surface {surface.name}: no rows to train on")
    ranker = Ranker(surface, Preprocessing.fit(surface.inputs, data.inputs), seed)
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
        ranker.distillation = build_technique(surface, scales, ranker.widths, _seed(seed, _HEAD_SEED))
    return ranker


@dataclass(frozen=True)
class Batches:
    """Preprocessed rows on the device that trains; a batch is a slice.

    Attributes:
        rows: Embedding rows, int64 [n, ids].
        dense: Standardised numbers, float32 [n, width].
        labels: {task: [n]}, NaN where masked.
        soft_labels: {teacher output: [n]}, NaN where missing.
        users: User of each row, int64 [n].
    """

    rows: Tensor
    dense: Tensor
    labels: dict[str, Tensor]
    soft_labels: dict[str, Tensor]
    users: Tensor


def prepare(ranker: Ranker, data: Dataset, device: torch.device) -> Batches:
    """Look up every id and standardise every number once, and move all to the device."""
    with torch.no_grad():
        rows, dense = ranker.preprocessing.convert(data.inputs)
    ranker.to(device)
    return Batches(
        rows=rows.to(device),
        dense=dense.to(device),
        labels={name: label.to(device) for name, label in data.labels.items()},
        soft_labels={name: label.to(device) for name, label in data.soft_labels.items()},
        users=data.user_id.to(device),
    )


def task_loss(ranker: Ranker, outputs: dict[str, Tensor], labels: dict[str, Tensor]) -> Tensor:
    r"""Return the weighted sum of the tasks' losses, a scalar.

    .. math:: L = \sum_t w_t \frac{1}{|P_t|} \sum_{i \in P_t} \ell_t(o_{t,i}, y_{t,i})

    with binary cross-entropy or square error, over the rows P that have the label.

    Args:
        ranker: Gives kinds and weights.
        outputs: {task: logit or value [n]}.
        labels: {task: [n]}, NaN where masked.
    """
    total = next(iter(outputs.values())).new_zeros(())
    for name, task in ranker.surface.tasks.items():
        loss_of = masked_mean_square if task.kind == "regression" else masked_cross_entropy
        total = total + task.weight * loss_of(outputs[name], labels[name])
    return total


def _run(
    ranker: Ranker,
    batches: Batches,
    surface: Surface,
    seed: int,
    progress: Progress | None,
    snapshots: "Snapshots | None",
) -> tuple[Losses, int]:
    recipe = surface.training
    n, size = len(batches.rows), recipe.batch_size
    per_epoch = -(-n // size)
    steps = per_epoch * recipe.epochs
    report_every = max(1, steps // _REPORTS)
    optimizer = build_optimizer(ranker, recipe)
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    sums = torch.zeros(2, device=batches.rows.device)
    step = snapshots.restore(ranker, optimizer, sums) if snapshots else 0
    ranker.train()
    serving = [parameter for name, parameter in ranker.named_parameters() if not name.startswith("distillation.")]
    rows, epoch_of_rows = batches.rows, -1
    while step < steps:
        epoch, index = divmod(step, per_epoch)
        if epoch != epoch_of_rows:
            rows = forget_ids(batches.rows, recipe.unknown_share, _seed(seed, _UNKNOWN_SEED, epoch))
            epoch_of_rows = epoch
        if index == 0:
            sums.zero_()
        part = slice(index * size, min((index + 1) * size, n))
        decay = remaining_rate(step, steps, recipe.final_rate)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * decay
        optimizer.zero_grad(set_to_none=True)
        activations = ranker.activations(rows[part], batches.dense[part])
        hard = task_loss(ranker, dict(activations.outputs), {k: v[part] for k, v in batches.labels.items()})
        if ranker.distillation is not None:
            soft_labels = {k: v[part] for k, v in batches.soft_labels.items()}
            soft = ranker.distillation.loss(activations, soft_labels, batches.users[part])
            ranker.distillation.backward(hard, soft, serving)
            sums[1] += soft.detach()
        else:
            hard.backward()
        optimizer.step()
        sums[0] += hard.detach()
        step += 1
        if snapshots and step < steps:
            snapshots.keep(ranker, optimizer, sums, step)
        if progress and (step % report_every == 0 or step == steps):
            progress(step, steps, float(sums.sum()) / (index + 1))
    hard, soft = (sums / per_epoch).tolist()
    if not np.isfinite(hard + soft):
        raise ValueError(f"surface {surface.name}: training loss became {hard} (tasks), {soft} (distillation)")
    return Losses(hard, soft), steps


def build_optimizer(ranker: Ranker, recipe: Training) -> torch.optim.Optimizer:
    """Return Adam with the embedding tables at a learning rate of their own."""
    tables = [module.weight for module in ranker.modules() if isinstance(module, nn.Embedding)]
    others = [p for p in ranker.parameters() if not any(p is table for table in tables)]
    groups = [{"params": others}, {"params": tables, "lr": recipe.embedding_learning_rate or recipe.learning_rate}]
    return torch.optim.Adam(groups, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)


def remaining_rate(step: int, steps: int, final_rate: float) -> float:
    """Return the share of the learning rates at ``step`` of ``steps``: 1 at the first, ``final_rate`` at the last."""
    return 1.0 - (1.0 - final_rate) * step / max(steps - 1, 1)


class Snapshots:
    """The state of a run on disk, so that a killed run goes on to the same bytes.

    Args:
        path: File of the newest snapshot.
        identity: Digest of everything that determines the run; a snapshot of another run is ignored.
        every: Steps between snapshots.
    """

    def __init__(self, path: Path, *, identity: str, every: int) -> None:
        self.path = path
        self.identity = identity
        self.every = every

    def keep(self, ranker: Ranker, optimizer: torch.optim.Optimizer, sums: Tensor, step: int) -> None:
        """Write a snapshot, if one is due after ``step`` steps."""
        if step % self.every:
            return
        tensors = {f"parameter.{name}": parameter.detach() for name, parameter in ranker.named_parameters()}
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        tensors["sums"] = sums
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = save(
            {name: tensor.cpu().contiguous() for name, tensor in tensors.items()},
            metadata={"identity": self.identity, "step": str(step)},
        )
        write_atomically(self.path, content)

    def restore(self, ranker: Ranker, optimizer: torch.optim.Optimizer, sums: Tensor) -> int:
        """Load the snapshot of this run into ranker, optimizer and loss sums; return its step, 0 without one."""
        if not self.path.exists():
            return 0
        with safe_open(self.path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("identity") != self.identity:
                return 0
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        state: dict[int, dict[str, Tensor]] = {}
        with torch.no_grad():
            for name, parameter in ranker.named_parameters():
                parameter.copy_(tensors[f"parameter.{name}"])
            sums.copy_(tensors["sums"])
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, entry = name.split(".")
                state.setdefault(int(index), {})[entry] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        return int(metadata["step"])

    def clear(self) -> None:
        """Delete the snapshot."""
        self.path.unlink(missing_ok=True)


def forget_ids(rows: Tensor, share: float, seed: int) -> Tensor:
    """Return embedding rows [n, ids] with a seeded share of them set to 0, so that the unknown vectors are learnt."""
    if share == 0.0:
        return rows
    generator = torch.Generator().manual_seed(seed)
    kept = torch.empty(rows.shape, dtype=torch.bool)
    for start in range(0, len(rows), 65_536):
        part = kept[start : start + 65_536]
        part.copy_(torch.rand(part.shape, generator=generator) >= share)
    return rows * kept.to(rows.device)


def shuffle_soft_labels(data: Dataset, seed: int) -> Dataset:
    """Return the data with the soft labels of each day permuted among its rows, all outputs of a row together."""
    generator = np.random.default_rng(_seed(seed, _PLACEBO_SEED))
    day = data.day.numpy()
    order = np.arange(len(day))
    for value in np.unique(day):
        place = np.flatnonzero(day == value)
        order[place] = generator.permutation(place)
    shuffled = {name: label[torch.from_numpy(order)] for name, label in data.soft_labels.items()}
    return replace(data, soft_labels=shuffled)


def centre_soft_labels(data: Dataset, surface: Surface) -> Dataset:
    r"""Return the data with each soft label less its mean within the head's ``centre_by``.

    .. math:: t'_i = t_i - \frac{\sum_{j \in G(i)} (t_j - \bar t)}{|G(i)| + 5}

    over the rows G(i) of the same id that have the label. A user who clicks much on the sister platform need not click
    much here, but the order in which the teacher sees that user's items may hold; the 5 keeps ids with few rows near
    the mean of all.
    """
    soft = dict(data.soft_labels)
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
        soft[head.teacher_output] = (label - (total / (count + _CENTRE_PRIOR))[group]).to(torch.float32)
    return replace(data, soft_labels=soft)


def validation_metrics(ranker: Ranker, data: Dataset) -> dict[str, dict[str, float]]:
    """Return {task: metrics} on labelled rows: AUC and log loss, or R2 and RMSE; ``base`` scores the mean label.

    A metric that the rows do not define (one class only) is left out.
    """
    scores = predict(ranker, {name: column.numpy() for name, column in data.inputs.items()})
    found: dict[str, dict[str, float]] = {}
    for name, task in ranker.surface.tasks.items():
        labels = data.labels[name].numpy().astype(np.float64)
        present = ~np.isnan(labels)
        label, score = labels[present], scores[name][present].astype(np.float64)
        metrics: dict[str, float] = {"rows": float(len(label))}
        if task.kind == "regression" and len(label) > 1:
            metrics["r2"] = float(r2_score(label, score))
            metrics["rmse"] = float(np.sqrt(np.mean((label - score) ** 2)))
        elif task.kind == "binary" and len(label):
            probability = np.clip(1.0 / (1.0 + np.exp(-score)), 1e-7, 1 - 1e-7)
            metrics["positives"] = float(label.sum())
            metrics["log_loss"] = float(log_loss(label, probability, labels=[0.0, 1.0]))
            if 0 < label.sum() < len(label):
                metrics["auc"] = float(roc_auc_score(label, score))
                rate = label.mean()
                metrics["base_log_loss"] = float(-rate * np.log(rate) - (1 - rate) * np.log(1 - rate))
        found[name] = metrics
    return found


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


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "safetensors": safetensors.__version__,
    }


def _identity(meta: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()
