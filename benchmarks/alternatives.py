"""What could be faster and is not used: torch.compile, other onnxruntime options, int8 and float16 models.

    python -m benchmarks.alternatives --home .crossfade [--surface homepage] [--rows 60000] [--repeats 5] [--quick]

Each stands beside what is used, in the same run. Training: one epoch's forward and backward passes and steps over the
same batches with one thread, compiled ones warm; what compiling costs is a row of its own. Serving: ``session.run`` of
the home's champion for 200 candidates; of a smaller model also its bytes and how far its scores lie from float32's.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch

from benchmarks.record import HISTORY, Row, interleaved, keep, median_ms, rows
from benchmarks.serving import Example
from benchmarks.training import FIRST_DAY, bare_loop, with_recipe, world
from ml.export.files import MODEL
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.inference.model import SCORE
from ml.releases.store import ReleaseStore
from ml.students.dataset import load
from ml.students.loop import Batches, task_loss
from ml.students.optimizer import Recipe, build_optimizer
from ml.students.train import build_ranker, deterministic, prepare
from ml.surfaces.files import load_surface
from ml.surfaces.spec import Surface

CANDIDATES = 200
RUNS = 300
EAGER, COMPILED = "eager (used)", "torch.compile, warm"
USED = "float32, one thread, all optimisations (used)"


def training(name: str, count: int, repeats: int) -> list[Row]:
    """Compare an eager loop with a compiled one, at the surface's batch size and at a large one."""
    found: list[Row] = []
    torch.set_num_threads(1)
    declared = load_surface(PROJECT_ROOT / f"examples/simulator/surfaces/{name}.yaml")
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder), first_day=FIRST_DAY, threads=1)
        training_set = world(settings, declared, count // declared.window.train_days)
        data = load(settings, training_set, declared, training_set.train_days, soft_labels=False)
    for size in (256, 4096):
        surface = with_recipe(declared, batch_size=size)
        with deterministic():
            ranker = build_ranker(data, surface, technique="none", seed=1)
            batches = prepare(ranker, data, torch.device("cpu"))
            torch.compiler.reset()
            began = time.process_time()
            loop = compiled(ranker, batches, surface)
            loop()
            compiling = time.process_time() - began

            def cost(run: Callable[[], object], n: int = len(data)) -> float:
                started = time.process_time()
                run()
                return 1e6 * (time.process_time() - started) / n

            eager = lambda r=ranker, b=batches, s=surface: cost(lambda: bare_loop(r, b, s))  # noqa: E731
            variants = {EAGER: eager, COMPILED: lambda run=loop: cost(run)}
            taken = interleaved(variants, repeats)
        given = {"size": size, "of": "rows a batch"}
        found += rows(taken, unit="CPU s / M rows", reference=EAGER, **given)
        epoch = float(np.median(taken[EAGER])) * len(data) / 1e6
        both = {"an epoch, eager": [epoch], "compiling and the first epoch": [compiling]}
        found += rows(both, unit="CPU s", reference="an epoch, eager", **given)
    return found


def compiled(ranker: Any, batches: Batches, surface: Surface) -> Callable[[], None]:
    """Return an epoch whose losses are computed by a compiled function."""
    recipe = Recipe.of(surface.training, len(batches.rows))
    optimizer = build_optimizer(ranker, recipe)

    @torch.compile(dynamic=False)
    def loss_of(rows: torch.Tensor, dense: torch.Tensor, labels: dict[str, torch.Tensor]) -> torch.Tensor:
        return task_loss(ranker, dict(ranker.activations(rows, dense).outputs), labels)

    def epoch() -> None:
        size = recipe.batch_size
        for start in range(0, len(batches.rows) // size * size, size):
            part = slice(start, start + size)
            optimizer.zero_grad(set_to_none=True)
            labels = {name: label[part] for name, label in batches.labels.items()}
            loss_of(batches.rows[part], batches.dense[part], labels).backward()
            optimizer.step()

    return epoch


def serving(settings: Settings, surface: str, repeats: int) -> list[Row]:
    """Compare sessions of the champion, and of smaller models made of it."""
    champion = ReleaseStore.of(settings).champion(surface)
    if champion is None:
        raise SystemExit(f"{settings.home} has no champion of {surface}; run `make demo` first")
    path = champion.release.path / MODEL
    feeds = dict(Example.of(settings, surface, CANDIDATES).feeds)
    level = ort.GraphOptimizationLevel
    with tempfile.TemporaryDirectory() as folder:
        small = {name: make(path, Path(folder) / f"{name}.onnx") for name, make in SMALLER.items()}
        sessions = {
            USED: session(path),
            "two threads": session(path, threads=2),
            "basic optimisations": session(path, level=level.ORT_ENABLE_BASIC),
            "no optimisations": session(path, level=level.ORT_DISABLE_ALL),
            **{name: session(file) for name, file in small.items()},
        }
        sizes = {USED: path.stat().st_size, **{name: file.stat().st_size for name, file in small.items()}}
    scores = {name: s.run([SCORE], feeds)[0] for name, s in sessions.items()}
    for name in small:
        print(f"{name}: scores differ by at most {np.abs(scores[name] - scores[USED]).max():.2e}")

    scoring = {name: partial(s.run, None, feeds) for name, s in sessions.items()}
    taken = interleaved({name: partial(median_ms, run, RUNS) for name, run in scoring.items()}, repeats)
    given = {"size": CANDIDATES, "of": "candidates", "reference": USED}
    kilobytes = {name: [size / 1024] for name, size in sizes.items()}
    return rows(taken, unit="ms", **given) + rows(kilobytes, unit="kB", **given)


def session(path: Path, *, threads: int = 1, level: Any = ort.GraphOptimizationLevel.ORT_ENABLE_ALL) -> Any:
    """Open a model as the server does, but for what is asked."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = level
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])


def int8(path: Path, out: Path) -> Path:
    """Write the model with weights of 8 bits."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(path)
    del model.graph.value_info[:]  # shapes that the exporter noted contradict those of the new nodes
    plain = out.with_suffix(".plain.onnx")
    onnx.save(model, plain)
    quantize_dynamic(plain, out, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm", "Gather"])
    return out


def float16(path: Path, out: Path) -> Path:
    """Write the model with numbers of 16 bits; inputs and outputs stay as they are."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=True), out)
    return out


SMALLER: dict[str, Callable[[Path, Path], Path]] = {"int8 weights": int8, "float16": float16}


def main() -> None:
    """Record both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=None, help="a home that `make demo` filled")
    parser.add_argument("--surface", default="homepage")
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows, once; nothing recorded")
    given = parser.parse_args()
    settings = Settings(**({"home": given.home} if given.home else {}))
    count, repeats = (given.rows // 10, 1) if given.quick else (given.rows, given.repeats)
    found = serving(settings, given.surface, repeats) + training(given.surface, count, repeats)
    keep("alternatives", found, None if given.quick else HISTORY)


if __name__ == "__main__":
    main()
