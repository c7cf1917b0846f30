"""What a larger network costs: labelling by the teacher's parameters, training and scoring by the student's.

    python -m benchmarks.parameters [--rows 60000] [--repeats 3] [--quick]

Teachers grow by the width of their two bottom layers, students by the widths of bottom and towers; embeddings stay,
and are most of the smallest. Labelling stands beside a bare onnxruntime loop over rows in memory, and training beside a
bare loop over tensors in memory, as in ``labelling`` and ``training``; ``session.run`` scores 200 candidates.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import torch

from benchmarks import labelling
from benchmarks.record import HISTORY, Row, interleaved, keep, median_ms, rows
from benchmarks.training import BARE, FIRST_DAY, OURS, bare_loop, per_million, timed_fit, timed_loop, with_recipe, world
from ml.export.onnx import export_ranker, session_of
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.students.dataset import load
from ml.students.train import build_ranker
from ml.surfaces.files import load_surface
from ml.surfaces.spec import Surface

TEACHERS = (64, 256, 512, 1024, 2048)
STUDENTS = (0.25, 1, 4, 8, 16)
DAYS, THREADS = 2, 2
CANDIDATES, RUNS = 200, 300
REFERENCE = "all threads"
"""The way of ``labelling`` to score that stands beside labelling."""


def teachers(count: int, repeats: int, widths: tuple[int, ...]) -> list[Row]:
    """Label so many rows with a teacher of each width."""
    ways = {labelling.WHAT[what]: what for what in (REFERENCE, "label")}
    found = []
    for width in widths:
        with tempfile.TemporaryDirectory(prefix="crossfade-parameters-") as folder:
            parameters = labelling.prepare(Path(folder), count, DAYS, [width, width], {"x1": 1})
            print(f"a teacher of {parameters:,} parameters", flush=True)

            def label(what: str, folder: str = folder) -> float:
                measured = labelling.spawn("--measure", what, folder, "x1", "--days", DAYS, "--threads", THREADS)
                return 1e6 / measured["rows_per_second"]

            seconds = interleaved({name: partial(label, what) for name, what in ways.items()}, repeats)
        given = {"size": parameters, "of": "parameters of the teacher", "reference": labelling.WHAT[REFERENCE]}
        found += rows(seconds, unit="s / M rows", **given)
    return found


def students(count: int, repeats: int, factors: tuple[float, ...]) -> list[Row]:
    """Train one epoch of a student of each width, and score with it."""
    declared = with_recipe(load_surface(PROJECT_ROOT / "examples/simulator/surfaces/homepage.yaml"), epochs=1)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder), first_day=FIRST_DAY, threads=1)
        training_set = world(settings, declared, count // declared.window.train_days)
        data = load(settings, training_set, declared, training_set.train_days, soft_labels=False)
        feeds = {name: column[:CANDIDATES].numpy() for name, column in data.inputs.items()}
        found: list[Row] = []
        for factor in factors:
            surface = widened(declared, factor)
            ranker = build_ranker(data, surface, technique="none", seed=1)
            parameters = sum(parameter.numel() for parameter in ranker.parameters())
            print(f"a student of {parameters:,} parameters", flush=True)
            session = session_of(export_ranker(ranker, Path(folder) / "model.onnx").path)
            loops = {
                BARE: lambda surface=surface: per_million(timed_loop(bare_loop, data, surface)),
                OURS: lambda surface=surface: per_million(timed_fit(data, surface, "none")),
            }
            trained = interleaved(loops, repeats)
            score = partial(session.run, None, feeds)
            scored = {"session.run": [median_ms(score, RUNS) for _ in range(repeats)]}
            given = {"size": parameters, "of": "parameters of the student"}
            found += rows(trained, unit="CPU s / M rows", reference=BARE, **given)
            found += rows(scored, unit=f"ms, {CANDIDATES} candidates", reference="session.run", **given)
    return found


def widened(surface: Surface, factor: float) -> Surface:
    """Return the surface with every layer so many times as wide."""
    network = surface.network
    wide: dict[str, object] = {
        part: [round(factor * width) for width in getattr(network, part)] for part in ("bottom", "tower")
    }
    if network.interaction:
        layers = [round(factor * width) for width in network.interaction.layers]
        wide["interaction"] = network.interaction.model_copy(update={"layers": layers})
    return surface.model_copy(update={"network": network.model_copy(update=wide)})


def main() -> None:
    """Record both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows, the two smallest, nothing recorded")
    given = parser.parse_args()
    torch.set_num_threads(1)
    count, repeats, sizes = (given.rows // 10, 1, 2) if given.quick else (given.rows, given.repeats, len(TEACHERS))
    found = teachers(count, repeats, TEACHERS[:sizes]) + students(count, repeats, STUDENTS[:sizes])
    keep("parameters", found, None if given.quick else HISTORY)


if __name__ == "__main__":
    main()
