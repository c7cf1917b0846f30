"""Private memory of a training by the number of its rows: it should not grow with them.

    python -m benchmarks.memory [--rows 60000 600000] [--surface homepage] [--limit 300MB]

Control of a surface, read from a lake with a planted taste and trained for one pass, each size in a process of its own.
Private is memory that no file backs (``RssAnon``), sampled every 10 ms while rows are read, and while they are prepared
and learnt; DuckDB sorts within ``--limit``. The last line is the ratio of the most by the least rows.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path

from benchmarks.synthetic import LABELS, Shape, write_world
from ml.foundation.lake import Lake
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.surfaces.files import load_surface
from ml.surfaces.spec import Surface

FIRST_DAY = date(2026, 1, 1)
_STEP_S = 0.01
_USERS, _ITEMS = 3_000, 2_000


def private_mb() -> float:
    """Return the memory of this process that no file backs, in MB."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no RssAnon")


@contextmanager
def most() -> Iterator[list[float]]:
    """Give a list that holds the greatest private memory of the block, in MB, once it has ended."""
    seen, ended = [private_mb()], threading.Event()

    def watch() -> None:
        while not ended.wait(_STEP_S):
            seen[0] = max(seen[0], private_mb())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def surface_of(name: str) -> Surface:
    """Return a surface of the simulator that makes one pass."""
    content = load_surface(PROJECT_ROOT / f"examples/simulator/surfaces/{name}.yaml").model_dump(by_alias=True)
    content["training"] |= {"epochs": 1, "batch_size": 4_096}
    return Surface.model_validate(content)


def write(settings: Settings, surface: Surface, rows: int) -> None:
    """Write a window's examples into a lake, a day at a time."""
    days = surface.window.train_days + surface.window.eval_days
    with Lake(settings) as lake:
        for day in range(days):
            first, many = FIRST_DAY + timedelta(days=day), -(-rows // surface.window.train_days)
            write_world(
                lake, surface, Shape(first_day=first, days=1, rows_per_day=many, users=_USERS, items=_ITEMS, seed=day)
            )


def child(settings: Settings, surface: Surface) -> None:
    """Train on what the lake holds, and print what it took as a line of JSON."""
    from ml.students.dataset import build_training_set, load
    from ml.students.train import fit

    partition = FIRST_DAY + timedelta(days=surface.window.train_days + surface.window.eval_days)
    with Lake(settings) as lake:
        chosen = build_training_set(lake, surface, partition, LABELS)
    with most() as reading:
        data = load(settings, chosen, surface, chosen.train_days, soft_labels=False)
    began = time.process_time()
    with most() as training:
        fit(data, surface, technique="none", seed=1)
    seconds = time.process_time() - began
    found = {"rows": len(data), "reading": reading[0], "training": training[0], "per_s": len(data) / seconds}
    print(json.dumps(found))


def main() -> None:
    """Print a line for each number of rows, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[60_000, 600_000])
    parser.add_argument("--surface", default="homepage")
    parser.add_argument("--limit", default="300MB")
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    surface = surface_of(given.surface)

    def settings_of(home: Path) -> Settings:
        return Settings(home=home, first_day=FIRST_DAY, threads=1, memory_limit=given.limit)

    if given.home:
        child(settings_of(given.home), surface)
        return
    found = []
    for rows in given.rows:
        with tempfile.TemporaryDirectory() as folder:
            write(settings_of(Path(folder)), surface, rows)
            command = [sys.executable, __file__, "--surface", given.surface, "--limit", given.limit, "--home", folder]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
        one = found[-1]
        print(
            f"{one['rows']:>11,} rows: {one['reading']:,.0f} MB private while reading, "
            f"{one['training']:,.0f} MB while training, {one['per_s']:,.0f} rows a CPU second",
            flush=True,
        )
    peaks = [max(one["reading"], one["training"]) for one in found]
    print(f"ratio {peaks[-1] / peaks[0]:.2f}")


if __name__ == "__main__":
    main()
