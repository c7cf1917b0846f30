"""Loading of the definitions against ``import dagster, dagster_dbt``, in fresh interpreters that take turns.

Run: ``python -m benchmarks.definitions [--repeats 9] [--quick]``. The definitions are those of a fresh
temporary home with the surfaces of the simulator.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.record import HISTORY, interleaved, keep, rows
from deploy.home import prepare
from ml.foundation.settings import PROJECT_ROOT, Settings

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
    """Record medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="three repeats, nothing recorded")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="crossfade-definitions-") as scratch:
        home = Path(scratch) / "home"
        prepare(Settings(home=home))
        for code in WHAT.values():
            seconds(code, home)  # bytecode and file cache
        variants = {name: lambda code=code: seconds(code, home) for name, code in WHAT.items()}
        taken = interleaved(variants, 3 if given.quick else given.repeats)
    found = rows(taken, size=1, of="homes", unit="s", reference=next(iter(WHAT)))
    keep("definitions", found, None if given.quick else HISTORY)


if __name__ == "__main__":
    main()
