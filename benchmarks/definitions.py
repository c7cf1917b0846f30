"""Loading of the definitions against ``import dagster, dagster_dbt``, in fresh interpreters that take turns.

Run: ``python -m benchmarks.definitions [--repeats 9]``. The definitions are those of a fresh temporary home with the
surfaces of the simulator.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from deploy.home import prepare
from ml.settings import PROJECT_ROOT, Settings

WHAT = {
    "import dagster, dagster_dbt": "import dagster, dagster_dbt",
    "load the definitions": (
        "from deploy.definitions import Settings, build_definitions; build_definitions(Settings()).get_repository_def()"
    ),
}


def seconds(code: str, home: Path) -> float:
    """Return the wall time of a fresh interpreter that runs ``code``."""
    environment = {**os.environ, "CROSSFADE_HOME": str(home), "DAGSTER_HOME": str(home / "dagster")}
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PROJECT_ROOT, env=environment)
    return time.perf_counter() - started


def main() -> None:
    """Print medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="crossfade-definitions-") as scratch:
        home = Path(scratch) / "home"
        prepare(Settings(home=home))
        taken: dict[str, list[float]] = {name: [] for name in WHAT}
        for code in WHAT.values():
            seconds(code, home)  # bytecode and file cache
        for _ in range(given.repeats):
            for name, code in WHAT.items():
                taken[name].append(seconds(code, home))
    for name, values in taken.items():
        print(f"{name:30} {statistics.median(values):6.2f} s  ({min(values):.2f} to {max(values):.2f})")
    reference, load = taken.values()
    ratios = [b / a for a, b in zip(reference, load, strict=True)]
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
