"""What a benchmark measured: rows beside a reference of the same run, a table, and one JSON line in the history."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from ml.foundation.settings import PROJECT_ROOT

HISTORY = PROJECT_ROOT / "benchmarks" / "history"
LIBRARIES = ("dagster", "dbt-core", "duckdb", "numpy", "onnxruntime", "polars", "pyarrow", "torch")


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        name: What was measured.
        size: How large its input was.
        of: What the size counts.
        value: Median over the repeats.
        unit: Of the value; a cost, so that less is better, unless it ends in ``/s``.
        ratio: Median over the repeats of the value by the reference's value of the same repeat.
        reference: Name of the row that the ratio refers to.
        low: Least ratio of a repeat, or lower end of its interval.
        high: Greatest, or upper end.
    """

    name: str
    size: float
    of: str
    value: float
    unit: str
    ratio: float
    reference: str
    low: float
    high: float


def interleaved(variants: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Return each variant's values; the variants take turns, so that noise of the machine meets all of them."""
    values: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, measure in variants.items():
            values[name].append(measure())
    return values


def median_ms(call: Callable[[], object], runs: int) -> float:
    """Return the median milliseconds of a call."""
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times)


def rows(values: Mapping[str, Sequence[float]], *, size: float, of: str, unit: str, reference: str) -> list[Row]:
    """Return a row per variant; repeats are paired with the reference's of the same run."""
    found = []
    for name, taken in values.items():
        ratios = [a / b for a, b in zip(taken, values[reference], strict=True)]
        middle = statistics.median(taken), unit, statistics.median(ratios), reference
        found.append(Row(name, size, of, *middle, min(ratios), max(ratios)))
    return found


def keep(stage: str, found: Sequence[Row], history: Path | None = HISTORY) -> dict[str, Any]:
    """Print the table and append the record to the history of the stage; without a history only print."""
    record = {
        "stage": stage,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "-m", f"benchmarks.{stage}", *sys.argv[1:]]),
        "commit": commit(),
        "machine": machine(),
        "rows": [asdict(row) for row in found],
    }
    print(told(record["machine"]))
    print("\n".join(table(record["rows"])), flush=True)
    if history:
        history.mkdir(parents=True, exist_ok=True)
        with (history / f"{stage}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(_rounded(record)) + "\n")
    return record


def read(history: Path = HISTORY) -> dict[str, list[dict[str, Any]]]:
    """Return the records of every stage, oldest first."""
    return {
        path.stem: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in sorted(history.glob("*.jsonl"))
    }


def table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the rows as lines of a Markdown table."""
    lines = ["| size | what | value | ratio | reference |", "|---:|---|---:|---|---|"]
    for row in found:
        ratio = f"{row['ratio']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"
        own = row["name"] == row["reference"]
        lines.append(
            f"| {row['size']:,.0f} {row['of']} | {row['name']} | {number(row['value'])} {row['unit']} "
            f"| {'1' if own else ratio} | {'' if own else row['reference']} |"
        )
    return lines


def number(value: float) -> str:
    """Return three significant digits; whole above a hundred."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def machine() -> dict[str, Any]:
    """Describe what the figures were measured on, with what else it was doing."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
    }


def told(described: Mapping[str, Any]) -> str:
    """Return the machine in a line."""
    load = ", ".join(map(str, described["load_average"]))
    cores, memory = described["cores"], described["memory_gb"]
    return f"{described['cpu']}, {cores} cores, {memory} GB; load average {load} (1, 5, 15 minutes)"


def commit() -> str:
    """Return the commit of the code; ``+`` stands for changes that are in no commit."""
    git = ["git", "-C", str(PROJECT_ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode:
        return "unknown"
    # Only code can change a figure.
    changed = [*git, "diff", "--quiet", "HEAD", "--", "*.py", "*.sql", "*.yml", "*.yaml"]
    return head.stdout.strip() + ("+" if subprocess.run(changed, check=False).returncode else "")


def _cpu() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _rounded(value: Any) -> Any:
    """Round to five significant digits: the history is read by people too."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value
