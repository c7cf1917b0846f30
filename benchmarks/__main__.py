"""The benchmarks: one command per stage, one for all, and the page of their history.

    python -m benchmarks                  # lists the stages
    python -m benchmarks STAGE [...]      # runs one; arguments go to the stage
    python -m benchmarks all [--quick] [--home .crossfade]
    python -m benchmarks page             # writes docs/results/benchmarks.md, its plots, and scale.md beside it

Stages that ask a served champion need a home that `make demo` filled; `nodes` needs the extra `ray`. `ways` writes
a page of its own, docs/results/the_way_in.md.
"""

import ast
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ml.foundation.settings import PROJECT_ROOT

ALONE = ("definitions", "landing", "queries", "features", "labelling", "training", "vocabulary", "parameters", "graph")
OF_STUDENTS = ("apps",)
WITH_HOME = ("serving", "distilled", "servers", "alternatives")
WITH_RAY = ("nodes",)
OF_A_PAGE = ("ways",)
STAGES = (*ALONE, *OF_STUDENTS, *WITH_HOME, *WITH_RAY, *OF_A_PAGE)


def main(arguments: Sequence[str]) -> int:
    """Do what the first word asks for; return the exit code."""
    match arguments:
        case []:
            print("\n".join(f"{stage:12} {about(stage)}" for stage in STAGES))
            return 0
        case ["page"]:
            from benchmarks.page import write

            for path in write():
                print(path.relative_to(PROJECT_ROOT))
            return 0
        case ["all", *rest]:
            quick, home = _options(rest)
            codes = [run(stage, quick) for stage in ALONE]
            if home:
                codes.append(run("serving", [*quick, *home]))
            else:
                print(f"left out, since they need --home: {', '.join(WITH_HOME)}")
            return max(codes)
        case [stage, *rest] if stage in STAGES:
            return run(stage, rest)
    print(__doc__, file=sys.stderr)
    return 2


def about(stage: str) -> str:
    """Return the first line of a stage's docstring, without importing what it imports."""
    code = (PROJECT_ROOT / "benchmarks" / f"{stage}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(code)) or "").splitlines()[0]


def run(stage: str, arguments: Sequence[str]) -> int:
    """Run a stage in a process of its own, so that no stage meets what another has imported."""
    command = [sys.executable, "-m", f"benchmarks.{stage}", *arguments]
    return subprocess.run(command, cwd=PROJECT_ROOT, check=False).returncode


def _options(rest: Sequence[str]) -> tuple[list[str], list[str]]:
    quick = ["--quick"] if "--quick" in rest else []
    home = ["--home", str(Path(rest[rest.index("--home") + 1]).absolute())] if "--home" in rest[:-1] else []
    if len(quick) + len(home) != len(rest):
        raise SystemExit(f"all takes --quick and --home FOLDER, not {' '.join(rest)}")
    return quick, home


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
