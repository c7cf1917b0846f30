"""A training step by the number of ids that have an embedding: it should cost what its batch costs.

    python -m benchmarks.vocabulary [--steps 60] [--repeats 5] [--surface homepage] [--quick]

Control and student of a surface with ids in the proportions of the simulator's, batches of random ids, one thread, the
steps of ``ml.students.train``; the sizes take turns step by step, in CPU milliseconds, and a repeat is a median over
its steps. The last line is the ratio of a step of 256 rows of the control with 1.1 million ids to one with 4 thousand.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.record import HISTORY, Row, keep, rows
from ml.distillation.catalog import build_technique
from ml.distillation.technique import Scale
from ml.foundation.settings import PROJECT_ROOT
from ml.students.loop import Batches, training_step
from ml.students.network import Ranker
from ml.students.optimizer import Recipe, build_optimizer
from ml.students.preprocessing import Preprocessing
from ml.students.train import deterministic
from ml.surfaces.files import load_surface
from ml.surfaces.spec import Surface

FEW, MANY = 4_000, 1_100_000
SIZES = (FEW, 350_000, MANY, 5_000_000)
BATCHES = (256, 4_096)
SHARES = {"user_id": 0.6, "item_id": 0.35, "creator_id": 0.05}
CATEGORIES = 12
WARM = 5
"""Steps that are not measured: the first ones meet cold memory."""


def ranker_of(surface: Surface, ids: int, technique: str) -> Ranker:
    """Return a ranker with so many ids in its vocabularies."""
    counts = {
        name: round(SHARES.get(name, 0) * ids) or CATEGORIES
        for name, spec in surface.inputs.items()
        if spec.type in ("id", "category") and spec.vocabulary is None
    }
    vocabularies = {name: np.arange(1, count + 1) for name, count in counts.items()}
    ranker = Ranker(surface, Preprocessing(surface.inputs, vocabularies), seed=1)
    if technique != "none":
        scales = {head.teacher_output: Scale(0.0, 1.0) for head in surface.distillation.heads}
        ranker.distillation = build_technique(surface, scales, ranker.widths, seed=1)
    return ranker.train()


def batch_of(ranker: Ranker, size: int, seed: int) -> Batches:
    """Return a batch of random rows with every label."""
    generator = torch.Generator().manual_seed(seed)
    pre, surface = ranker.preprocessing, ranker.surface
    places = [torch.randint(pre.sizes[pre.vocabulary[name]], (size,), generator=generator) for name in pre.ids]
    outputs = {head.teacher_output for head in surface.distillation.heads}
    return Batches(
        rows=torch.stack(places, dim=1),
        dense=torch.randn(size, pre.width, generator=generator),
        labels={name: torch.randint(2, (size,), generator=generator).float() for name in surface.tasks},
        soft_labels={name: torch.randn(size, generator=generator) for name in sorted(outputs)},
        users=places[pre.ids.index("user_id")],
    )


def stepper(surface: Surface, ids: int, technique: str, size: int) -> Callable[[int], float]:
    """Return a function that does the step of a seed and returns its CPU milliseconds."""
    ranker = ranker_of(surface, ids, technique)
    optimizer = build_optimizer(ranker, Recipe.of(surface.training, size))

    def step(seed: int) -> float:
        batch = batch_of(ranker, size, seed)
        start = time.thread_time()
        training_step(ranker, optimizer, batch)
        return 1e3 * (time.thread_time() - start)

    return step


def measure(surface: Surface, technique: str, size: int, sizes: tuple[int, ...], steps: int, repeats: int) -> list[Row]:
    """Return the milliseconds of a step for each number of ids, beside those of the fewest."""
    with deterministic():
        run = {ids: stepper(surface, ids, technique, size) for ids in sizes}
        for seed in range(WARM):
            for step in run.values():
                step(seed)
        taken: dict[int, list[float]] = {ids: [] for ids in sizes}
        for repeat in range(repeats):
            seeds = range(WARM + repeat * steps, WARM + (repeat + 1) * steps)
            times = [[step(seed) for step in run.values()] for seed in seeds]
            for ids, own in zip(sizes, zip(*times, strict=True), strict=True):
                taken[ids].append(statistics.median(own))
    names = {ids: f"{_role(technique)}, {ids:,} ids" for ids in sizes}
    found = {names[ids]: values for ids, values in taken.items()}
    return rows(found, size=size, of="rows a step", unit="CPU ms", reference=names[sizes[0]])


def _role(technique: str) -> str:
    return "control" if technique == "none" else "student"


def main() -> None:
    """Record every size, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--surface", default="homepage")
    parser.add_argument("--quick", action="store_true", help="256 rows, two sizes, control only; nothing recorded")
    given = parser.parse_args()
    surface = load_surface(PROJECT_ROOT / f"examples/simulator/surfaces/{given.surface}.yaml")
    found: list[Row] = []
    if given.quick:
        found += measure(surface, "none", BATCHES[0], (FEW, MANY), given.steps, 3)
    else:
        for technique in ("none", surface.distillation.technique):
            for size in BATCHES:
                found += measure(surface, technique, size, SIZES, given.steps, given.repeats)
    keep("vocabulary", found, None if given.quick else HISTORY)
    print(f"ratio {ratio(found):.2f}")


def ratio(found: list[Row]) -> float:
    """Return the control's step of 256 rows with many ids by the one with few."""
    wanted = f"control, {MANY:,} ids"
    return next(row.ratio for row in found if row.name == wanted and row.size == BATCHES[0])


if __name__ == "__main__":
    main()
