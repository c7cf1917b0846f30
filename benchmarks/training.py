"""Rows per second of training a control, against a bare loop over tensors in memory and a per-row ``DataLoader``.

Same rows, network, batch size, optimiser and one thread; the variants take turns, and medians are reported.

    python -m benchmarks.training [--rows 180000] [--repeats 5] [--surface homepage]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as RowDataset

from benchmarks.synthetic import CONTRACT_HASH, OUTPUTS, TEACHER_VERSION, write_world
from ml.lake import Lake
from ml.settings import PROJECT_ROOT, Settings
from ml.students.dataset import Dataset, TrainingSet, build_training_set, load
from ml.students.network import Ranker
from ml.students.train import Batches, Clock, build_optimizer, build_ranker, deterministic, fit, prepare, train
from ml.surfaces.spec import Surface, load_surface

FIRST_DAY = date(2026, 1, 1)
ROW_LOADER_SHARE = 10
"""The per-row loader sees one in so many rows; it is slow, and its speed does not depend on how many."""


class Rows(RowDataset):
    """One item per row, as a stock trainer reads them."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        labels = {name: label[index] for name, label in self.batches.labels.items()}
        return {"rows": self.batches.rows[index], "dense": self.batches.dense[index]} | labels


def step(ranker: Ranker, optimizer: torch.optim.Optimizer, rows: Tensor, dense: Tensor, labels: dict[str, Tensor]):
    """Do one step with the plainest masked losses."""
    optimizer.zero_grad(set_to_none=True)
    outputs = ranker.activations(rows, dense).outputs
    losses = []
    for name, task in ranker.surface.tasks.items():
        present = ~torch.isnan(labels[name])
        loss = functional.mse_loss if task.kind == "regression" else functional.binary_cross_entropy_with_logits
        losses.append(task.weight * loss(outputs[name][present], labels[name][present]))
    torch.stack(losses).nansum().backward()
    optimizer.step()


def bare_loop(ranker: Ranker, batches: Batches, surface: Surface) -> int:
    """Train one epoch over tensors in memory; nothing else."""
    optimizer = build_optimizer(ranker, surface.training)
    size, n = surface.training.batch_size, len(batches.rows)
    for start in range(0, n, size):
        part = slice(start, start + size)
        labels = {name: label[part] for name, label in batches.labels.items()}
        step(ranker, optimizer, batches.rows[part], batches.dense[part], labels)
    return n


def row_loader(ranker: Ranker, batches: Batches, surface: Surface) -> int:
    """Train over a ``DataLoader`` of single rows."""
    optimizer = build_optimizer(ranker, surface.training)
    few = len(batches.rows) // ROW_LOADER_SHARE
    labels = {name: label[:few] for name, label in batches.labels.items()}
    part = Batches(batches.rows[:few], batches.dense[:few], labels, {}, batches.users[:few])
    for batch in DataLoader(Rows(part), batch_size=surface.training.batch_size):
        step(ranker, optimizer, batch.pop("rows"), batch.pop("dense"), batch)
    return few


def main() -> None:
    """Run the comparison and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=180_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--surface", default="homepage")
    options = parser.parse_args()
    surface = load_surface(PROJECT_ROOT / f"ml/surfaces/{options.surface}.yaml")
    surface = surface.model_copy(update={"training": surface.training.model_copy(update={"epochs": 1})})
    window = surface.window
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder), first_day=FIRST_DAY, threads=1)
        training_set = _world(settings, surface, options.rows // window.train_days)
        compare(settings, training_set, surface, options.repeats)


def compare(settings: Settings, training_set: TrainingSet, surface: Surface, repeats: int) -> None:
    """Let the variants take turns and print medians."""
    data = load(settings, training_set, surface, training_set.train_days, soft_labels=False)
    technique = surface.distillation.technique
    taught = load(settings, training_set, surface, training_set.train_days, soft_labels=True)
    variants: dict[str, Callable[[int], tuple[int, float]]] = {
        "bare loop over tensors in memory": lambda _: _timed(bare_loop, data, surface),
        "our loop (fit without preparing)": lambda _: _fit(data, surface, "none"),
        f"our loop with {technique} heads": lambda _: _fit(taught, surface, technique),
        "ours, reading, preparing and saving included": lambda i: _whole(settings, training_set, surface, i),
        "DataLoader of rows": lambda _: _timed(row_loader, data, surface),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for index in range(repeats):
        for name, variant in variants.items():
            rows, spent = variant(index)
            seconds[name].append(spent)
            rates[name].append(rows / spent)
    bare = rates["bare loop over tensors in memory"]
    print(f"{len(data):,} rows x {len(surface.inputs)} inputs, batch {surface.training.batch_size}, one thread")
    print(f"{'':46}{'rows/s':>10}{'ratio':>8}{'CPU s':>8}")
    for name, found in rates.items():
        ratio = statistics.median(a / b for a, b in zip(found, bare, strict=True))
        print(f"{name:46}{statistics.median(found):10,.0f}{ratio:8.2f}{statistics.median(seconds[name]):8.2f}")


def _world(settings: Settings, surface: Surface, rows_per_day: int) -> TrainingSet:
    window = surface.window
    days = window.train_days + window.eval_days
    with Lake(settings) as lake:
        write_world(lake, surface, first_day=FIRST_DAY, days=days, rows_per_day=rows_per_day, users=2500, items=1500)
        partition = FIRST_DAY + timedelta(days=days)
        return build_training_set(lake, surface, partition, TEACHER_VERSION, CONTRACT_HASH, OUTPUTS)


def _timed(run: Callable[[Ranker, Batches, Surface], int], data: Dataset, surface: Surface) -> tuple[int, float]:
    with deterministic():
        ranker = build_ranker(data, surface, technique="none", seed=1)
        batches = prepare(ranker, data, torch.device("cpu"))
        start = time.process_time()
        rows = run(ranker, batches, surface)
        return rows, time.process_time() - start


def _fit(data: Dataset, surface: Surface, technique: str) -> tuple[int, float]:
    clock = Clock(time.process_time)
    fit(data, surface, technique=technique, seed=1, progress=lambda step, steps, loss: None, clock=clock)
    return len(data), clock.seconds["fit"]


def _whole(settings: Settings, training_set: TrainingSet, surface: Surface, index: int) -> tuple[int, float]:
    start = time.process_time()
    out_dir = settings.home / f"run{index}"
    checkpoint = train(settings, training_set, surface, technique="none", seed=1, out_dir=out_dir)
    return checkpoint.meta["rows"], time.process_time() - start


if __name__ == "__main__":
    main()
