"""Training a control against a bare loop over tensors in memory, a ``DataLoader`` of rows, and two public libraries.

Same rows, network, batch size, optimiser and one thread; the variants take turns, in CPU seconds. Where the elapsed
seconds of a whole training go is told by part.

    python -m benchmarks.training [--rows 180000] [--repeats 5] [--surface homepage] [--quick]

The trainers of torch-rechub and DeepCTR-Torch get the radio's network, since it has one task without masked labels,
with our optimiser, at five batch sizes with a constant rate; all must reach the same AUC on later days. Each is fed as
its examples do: torch-rechub from a dictionary with a column per input (and, at its best, from two tensors), DeepCTR-
Torch from one matrix. They are installed without their dependencies into a folder of their own below
``--environments``, so that all use the same torch.
"""

import argparse
import contextlib
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as RowDataset

from benchmarks.record import HISTORY, Row, interleaved, keep, rows
from benchmarks.synthetic import LABELS, Shape, write_world
from ml.foundation.lake import Lake
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.students.dataset import Dataset, TrainingSet, build_training_set, load
from ml.students.loop import Batches
from ml.students.network import Ranker
from ml.students.optimizer import Recipe, build_optimizer
from ml.students.train import (
    Clock,
    build_ranker,
    deterministic,
    fit,
    prepare,
    train,
    validation_metrics,
)
from ml.surfaces.files import load_surface
from ml.surfaces.spec import Surface

FIRST_DAY = date(2026, 1, 1)
ROW_LOADER_SHARE = 10
"""The per-row loader sees one in so many rows; it is slow, and its speed does not depend on how many."""
BARE, OURS = "bare loop over tensors in memory", "our loop (fit without preparing)"
WHOLE = "ours, reading, preparing and saving included"
PARTS = {"read": "reading", "prepare": "preparing", "fit": "fitting", "save": "saving"}
AUC_TOLERANCE = 0.005
"""Two trainers of one network; their losses are summed in another order."""


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
    recipe = Recipe.of(surface.training, len(batches.rows))
    optimizer, size, n = build_optimizer(ranker, recipe), recipe.batch_size, len(batches.rows)
    for start in range(0, n, size):
        part = slice(start, start + size)
        labels = {name: label[part] for name, label in batches.labels.items()}
        step(ranker, optimizer, batches.rows[part], batches.dense[part], labels)
    return n


def row_loader(ranker: Ranker, batches: Batches, surface: Surface) -> int:
    """Train over a ``DataLoader`` of single rows."""
    recipe = Recipe.of(surface.training, len(batches.rows))
    optimizer = build_optimizer(ranker, recipe)
    few = len(batches.rows) // ROW_LOADER_SHARE
    labels = {name: label[:few] for name, label in batches.labels.items()}
    part = Batches(batches.rows[:few], batches.dense[:few], labels, {}, batches.users[:few])
    for batch in DataLoader(Rows(part), batch_size=recipe.batch_size):
        step(ranker, optimizer, batch.pop("rows"), batch.pop("dense"), batch)
    return few


def main() -> None:
    """Record the comparison with loops, and with the libraries' trainers over batch sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=180_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--surface", default="homepage")
    parser.add_argument("--environments", type=Path, default=Path.home() / ".cache" / "crossfade")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows, once; nothing recorded")
    options = parser.parse_args()
    count, repeats = (options.rows // 10, 1) if options.quick else (options.rows, options.repeats)
    torch.set_num_threads(1)
    found: list[Row] = []
    for name, run in ((options.surface, compare), ("radio", beside_libraries)):
        surface = load_surface(PROJECT_ROOT / f"examples/simulator/surfaces/{name}.yaml")
        surface = with_recipe(surface, epochs=1)
        with tempfile.TemporaryDirectory() as folder:
            settings = Settings(home=Path(folder), first_day=FIRST_DAY, threads=1)
            training_set = world(settings, surface, count // surface.window.train_days)
            if run is beside_libraries:
                sys.path.append(str(installed(options.environments / "trainers")))
            found += run(settings, training_set, surface, repeats)
    keep("training", found, None if options.quick else HISTORY)


def compare(settings: Settings, training_set: TrainingSet, surface: Surface, repeats: int) -> list[Row]:
    """Let the variants take turns and return CPU seconds per million rows, for five sizes."""
    technique = surface.distillation.technique
    found: list[Row] = []
    laps: list[dict[str, float]] = []
    whole = load(settings, training_set, surface, training_set.train_days, soft_labels=True)
    for share in (16, 8, 4, 2, 1):
        taught = whole.select(slice(0, len(whole) // share))
        variants: dict[str, Callable[[], tuple[int, float]]] = {
            BARE: lambda data=taught: timed_loop(bare_loop, data, surface),
            OURS: lambda data=taught: timed_fit(data, surface, "none"),
            f"our loop with {technique} heads": lambda data=taught: timed_fit(data, surface, technique),
        }
        if share == 1:
            variants[WHOLE] = lambda: _whole(settings, training_set, surface, laps)
            variants["DataLoader of rows"] = lambda data=taught: timed_loop(row_loader, data, surface)
        taken = interleaved({name: lambda run=run: per_million(run()) for name, run in variants.items()}, repeats)
        found += rows(taken, size=len(taught), of="rows", unit="CPU s / M rows", reference=BARE)
    parts = {WHOLE: [sum(lap[stage] for stage in PARTS) for lap in laps]}
    parts |= {part: [lap[stage] for lap in laps] for stage, part in PARTS.items()}
    return found + rows(parts, size=len(whole), of="rows by part", unit="s", reference=WHOLE)


def beside_libraries(settings: Settings, training_set: TrainingSet, surface: Surface, repeats: int) -> list[Row]:
    """Let each library's trainer train one network at five batch sizes.

    Raises:
        SystemExit: They do not reach the same AUC.
    """
    data = load(settings, training_set, surface, training_set.train_days, soft_labels=False)
    later = load(settings, training_set, surface, training_set.eval_days, soft_labels=False)
    found = []
    for size in (256, 512, 1024, 2048, 4096):
        same = with_recipe(surface, batch_size=size, final_rate=1.0, unknown_share=0.0)
        trained: dict[str, Ranker] = {}
        variants: dict[str, Callable[[], float]] = {}
        for name, run in (("our loop", ours), *LIBRARIES.items()):

            def measure(name: str = name, run: Trainer = run, same: Surface = same, trained: dict = trained) -> float:
                seconds, trained[name] = run(data, same)
                return per_million((len(data), seconds))

            variants[name] = measure
        taken = interleaved(variants, repeats)
        reached = {name: validation_metrics(ranker, later) for name, ranker in trained.items()}
        for task in surface.tasks:
            aucs = {name: float(metrics[task]["auc"]) for name, metrics in reached.items()}
            print(f"batch {size}, {task}: " + ", ".join(f"{name} AUC {auc:.4f}" for name, auc in aucs.items()))
            if max(aucs.values()) - min(aucs.values()) > AUC_TOLERANCE:
                raise SystemExit(f"batch {size}: the trainers do not reach the same AUC")
        found += rows(taken, size=size, of="rows a batch", unit="CPU s / M rows", reference="our loop")
    return found


def ours(data: Dataset, surface: Surface) -> tuple[float, Ranker]:
    """Train one epoch with our loop; return its CPU seconds and the network."""
    clock = Clock(time.process_time)
    ranker, _ = fit(data, surface, technique="none", seed=1, progress=lambda step, steps, loss: None, clock=clock)
    return clock.seconds["fit"], ranker


def rechub(data: Dataset, surface: Surface, *, packed: bool) -> tuple[float, Ranker]:
    """Train one epoch with torch-rechub; its data set is a dictionary of columns, here of every input or of two."""
    from torch_rechub.trainers.ctr_trainer import CTRTrainer  # pyright: ignore[reportMissingImports]
    from torch_rechub.utils.data import TorchDataset  # pyright: ignore[reportMissingImports]

    (task,) = surface.tasks
    recipe = Recipe.of(surface.training, len(data))
    with deterministic(), contextlib.redirect_stderr(io.StringIO()):
        ranker = build_ranker(data, surface, technique="none", seed=1)
        batches = prepare(ranker, data, torch.device("cpu"))
        columns = {"rows": batches.rows, "dense": batches.dense} if packed else columns_of(ranker, batches)
        trainer = CTRTrainer(Probability(ranker), optimizer_fn=lambda *_, **__: build_optimizer(ranker, recipe))
        dataset = TorchDataset(columns, batches.labels[task])
        start = time.process_time()
        trainer.train_one_epoch(DataLoader(dataset, batch_size=recipe.batch_size))
        return time.process_time() - start, ranker.eval()


def deepctr(data: Dataset, surface: Surface) -> tuple[float, Ranker]:
    """Train one epoch with DeepCTR-Torch, which lays all columns side by side as float32."""
    import requests

    # It asks PyPI for a newer version of itself, and prints that it could not.
    with mock.patch.object(requests, "get", side_effect=OSError), contextlib.redirect_stdout(io.StringIO()):
        from deepctr_torch.inputs import DenseFeat  # pyright: ignore[reportMissingImports]
        from deepctr_torch.models.basemodel import BaseModel  # pyright: ignore[reportMissingImports]

    class Adapter(BaseModel):
        def __init__(self, ranker: Ranker, ids: int, width: int) -> None:
            columns = [DenseFeat("columns", ids + width)]
            super().__init__(columns, columns, l2_reg_linear=0.0, l2_reg_embedding=0.0)
            self.network, self.ids = Probability(ranker), ids

        def forward(self, x: Tensor) -> Tensor:
            return self.network({"rows": x[:, : self.ids].long(), "dense": x[:, self.ids :]}).unsqueeze(1)

    (task,) = surface.tasks
    recipe = Recipe.of(surface.training, len(data))
    with deterministic(), contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        ranker = build_ranker(data, surface, technique="none", seed=1)
        batches = prepare(ranker, data, torch.device("cpu"))
        columns = torch.cat([batches.rows.float(), batches.dense], dim=1).numpy()
        labels = batches.labels[task].numpy()
        model = Adapter(ranker, batches.rows.shape[1], batches.dense.shape[1])
        # Its loss is the sum over a batch; neither optimiser sees the factor.
        model.compile(build_optimizer(ranker, recipe), "binary_crossentropy")
        start = time.process_time()
        model.fit({"columns": columns}, labels, recipe.batch_size, verbose=0, shuffle=False)
        return time.process_time() - start, ranker.eval()


Trainer = Callable[[Dataset, Surface], tuple[float, Ranker]]
LIBRARIES: dict[str, Trainer] = {
    "torch-rechub, a column per input": partial(rechub, packed=False),
    "torch-rechub, ids and numbers packed": partial(rechub, packed=True),
    "DeepCTR-Torch": deepctr,
}


def columns_of(ranker: Ranker, batches: Batches) -> dict[str, Tensor]:
    """Return a column per input, as the library's examples have them: an id, a number or a vector per row."""
    pre = ranker.preprocessing
    ids = {name: batches.rows[:, place] for place, name in enumerate(pre.ids)}
    return {**ids, **{name: batches.dense[:, part].squeeze(1) for name, part in pre.slices.items()}}


class Probability(torch.nn.Module):
    """The network as the libraries ask for one: columns in, a probability out."""

    def __init__(self, ranker: Ranker) -> None:
        super().__init__()
        self.ranker = ranker

    def forward(self, columns: dict[str, Tensor]) -> Tensor:
        """Return [n] probabilities of the one task; columns as those of ``columns_of``, or packed."""
        (task,) = self.ranker.surface.tasks
        if "dense" not in columns:
            pre = self.ranker.preprocessing
            dense = [c if c.dim() > 1 else c.unsqueeze(1) for c in (columns[name] for name in pre.slices)]
            columns = {"rows": torch.stack([columns[name] for name in pre.ids], 1), "dense": torch.cat(dense, 1)}
        return torch.sigmoid(self.ranker.activations(columns["rows"], columns["dense"]).outputs[task])


def installed(folder: Path) -> Path:
    """Return the folder that holds the libraries, which are installed once."""
    requirements = PROJECT_ROOT / "benchmarks" / "trainers" / "requirements.txt"
    done = folder / "installed"
    if not done.exists() or done.read_text() != requirements.read_text():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(folder)]
        subprocess.run([*command, "--requirement", str(requirements)], check=True)
        done.write_text(requirements.read_text())
    return folder


def with_recipe(surface: Surface, **recipe: float) -> Surface:
    """Return the surface with another training recipe."""
    return surface.model_copy(update={"training": surface.training.model_copy(update=recipe)})


def per_million(measured: tuple[int, float]) -> float:
    """Return seconds per million rows of (rows, seconds)."""
    count, seconds = measured
    return 1e6 * seconds / count


def world(settings: Settings, surface: Surface, rows_per_day: int) -> TrainingSet:
    """Write synthetic examples of the surface's window, and return them as a training set."""
    window = surface.window
    days = window.train_days + window.eval_days
    shape = {"rows_per_day": rows_per_day, "users": 2500, "items": 1500, "popularity": 1.0}
    with Lake(settings) as lake:
        write_world(lake, surface, Shape(first_day=FIRST_DAY, days=days, **shape))
        partition = FIRST_DAY + timedelta(days=days)
        return build_training_set(lake, surface, partition, LABELS)


def timed_loop(run: Callable[[Ranker, Batches, Surface], int], data: Dataset, surface: Surface) -> tuple[int, float]:
    """Return (rows, CPU seconds) of a loop over prepared rows."""
    with deterministic():
        ranker = build_ranker(data, surface, technique="none", seed=1)
        batches = prepare(ranker, data, torch.device("cpu"))
        start = time.process_time()
        rows = run(ranker, batches, surface)
        return rows, time.process_time() - start


def timed_fit(data: Dataset, surface: Surface, technique: str) -> tuple[int, float]:
    """Return (rows, CPU seconds) of our loop, preparing left out."""
    clock = Clock(time.process_time)
    fit(data, surface, technique=technique, seed=1, progress=lambda step, steps, loss: None, clock=clock)
    return len(data), clock.seconds["fit"]


def _whole(
    settings: Settings, training_set: TrainingSet, surface: Surface, laps: list[dict[str, float]]
) -> tuple[int, float]:
    start = time.process_time()
    with tempfile.TemporaryDirectory(dir=settings.home) as folder:
        checkpoint = train(settings, training_set, surface, technique="none", seed=1, out_dir=Path(folder) / "run")
    laps.append(checkpoint.timing)
    return checkpoint.meta["rows"], time.process_time() - start


if __name__ == "__main__":
    main()
