"""Labelling against a bare onnxruntime loop, and its memory, for 1x to 100x the rows.

Run: ``python -m benchmarks.labelling [--rows 20000] [--days 10] [--repeats 3] [--threads 2] [--bottom 64 64]``; a
teacher of six million parameters has ``--rows 2000 --bottom 2048 2048``. Everything happens in a temporary home:
synthetic rows, a demo teacher trained on them, then one process per measurement. The bare loop scores the same rows
in batches of the same size, from arrays that lie in memory already, with one intra-op thread (as each of labelling's
threads does) or with all threads; only its loop is timed. Labelling is timed from opening the teacher to the commit:
validation, reading, defaults, scoring, spooling, writing; the content hashes after it are timed apart. Where the CPU
time of labelling goes is told by part, at the largest size, with one thread.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pyarrow as pa
import yaml

from benchmarks import record
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.lab.demo_teacher import DemoInput, load_demo_spec, read_card, train_demo_teacher
from ml.students.train import Clock
from ml.teacher.columns import InputColumns
from ml.teacher.contract import Contract, load_contract
from ml.teacher.labels import BATCH_ROWS, label_days
from ml.teacher.runtime import open_teacher

FIRST_DAY = date(2026, 1, 1)
SOURCE_ROWS = 50_000
IDS = {"source_user_id": 5_000, "source_item_id": 4_500, "source_creator_id": 700}
NULL_SHARE = 0.1
PARTS = {
    "label": "labelling, with its hashes",
    "read": "reading",
    "convert": "columns to arrays",
    "score": "the teacher",
    "rest": "writing, hashes and the rest",
}
WHAT = {"all threads": "bare loop, all threads", "one thread": "bare loop, one thread", "label": "labelling"}
SURFACES = {"x1": 1, "x3": 3, "x10": 10, "x30": 30, "x100": 100}
"""Surface: how many times the rows of the first."""


def columns(inputs: Mapping[str, DemoInput], rows: int, rng: np.random.Generator, app: bool) -> dict[str, pa.Array]:
    """Return random input columns; the app has no source-only ones, and gaps in the others."""
    made = {}
    for name, item in inputs.items():
        if app and item.source_only:
            continue
        missing = rng.random(rows) < NULL_SHARE
        if item.type in ("id", "category"):
            known = np.random.default_rng(len(name)).integers(1, 2**62, IDS.get(name, 24))
            made[name] = pa.array(known[rng.integers(0, len(known), rows)], mask=missing)
        elif item.type == "vector":
            flat = pa.array(rng.normal(size=rows * item.length).astype(np.float32))
            offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * item.length)
            made[name] = pa.ListArray.from_arrays(offsets, flat, mask=pa.array(missing))
        else:
            made[name] = pa.array(rng.gamma(1.0, 100.0, rows).astype(np.int64), mask=missing)
    return made


def prepare(home: Path, rows: int, days: int, bottom: list[int] | None, surfaces: Mapping[str, int]) -> int:
    """Write the source, train a teacher on it, and write teacher inputs for surfaces of growing size.

    Returns:
        The teacher's parameters.
    """
    settings = Settings(home=home, first_day=FIRST_DAY)
    if bottom:
        content = yaml.safe_load(Path(str(settings.teacher_spec)).read_text(encoding="utf-8"))
        content["network"]["bottom"] = bottom
        home.mkdir(exist_ok=True)
        (home / "spec.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        settings = settings.model_copy(update={"teacher_spec": home / "spec.yaml"})
    spec = load_demo_spec(Path(str(settings.teacher_spec)))
    rng = np.random.default_rng(0)

    def keys(n: int, day: date, key: str) -> dict[str, Any]:
        start = np.datetime64(day, "us")
        ts = start + rng.integers(0, 86_400_000_000, n).astype("timedelta64[us]")
        return {"day": pa.repeat(pa.scalar(day, pa.date32()), n), key: rng.integers(1, 2**62, n), "ts": ts}

    with Lake(settings) as lake:
        labels = {label: rng.integers(0, 2, SOURCE_ROWS).astype(float) for label in spec.labels}
        inputs = columns(spec.inputs, SOURCE_ROWS, rng, app=False)
        source = keys(SOURCE_ROWS, FIRST_DAY, "impression_id") | inputs | labels
        lake.replace_days("features.source_examples", pa.table(source), [FIRST_DAY])
        for surface, factor in surfaces.items():
            for number in range(days):
                day, n = FIRST_DAY + timedelta(days=number), rows * factor // days
                table = pa.table(keys(n, day, "exposure_id") | columns(spec.inputs, n, rng, app=True))
                lake.replace_days(f"features.teacher_inputs_{surface}", table, [day])
    train_demo_teacher(settings, FIRST_DAY, home / "teacher", 1)
    return int(read_card(load_contract(home / "teacher"))["parameters"])


def measure(what: str, home: Path, surface: str, days: int, threads: int) -> dict[str, float]:
    """Label, or score from memory; runs in a process of its own."""
    settings = Settings(home=home, first_day=FIRST_DAY, threads=threads)
    contract = load_contract(Path(str(settings.teacher)))
    wanted = [FIRST_DAY + timedelta(days=number) for number in range(days)]
    with Lake(settings) as lake:
        if what == "label":
            started = time.perf_counter()
            report = label_days(lake, settings, surface, contract, wanted)
            print(f"with content hashes: {time.perf_counter() - started:.2f} s", file=sys.stderr)
            rows, seconds = report.rows, report.rows / report.rows_per_second
        else:
            table = f"features.teacher_inputs_{surface}"
            reader = InputColumns(contract.inputs, lake.columns(table), table)
            query = f"select exposure_id, {', '.join(reader.select)} from lake.{table} order by day, exposure_id"
            batches = [reader.read(batch, "exposure_id").inputs for batch in lake.batches(query, rows=BATCH_ROWS)]
            rows = sum(len(batch["hour"]) for batch in batches)
            seconds = bare_loop(contract, batches, threads if what == "all threads" else 1)
    return {
        "rows": rows,
        "seconds": seconds,
        "rows_per_second": rows / seconds,
        "peak_mb": peak_megabytes(),
    }


def by_part(home: Path, surface: str, days: int) -> dict[str, float]:
    """Return CPU seconds of each part of labelling; runs in a process of its own, with one thread."""
    settings = Settings(home=home, first_day=FIRST_DAY, threads=1)
    contract = load_contract(Path(str(settings.teacher)))
    wanted = [FIRST_DAY + timedelta(days=number) for number in range(days)]
    table, key = f"features.teacher_inputs_{surface}", "exposure_id"
    clock = Clock(time.process_time)
    with Lake(settings) as lake:
        clock.lap("open")
        label_days(lake, settings, surface, contract, wanted)
        clock.lap("label")
        columns = InputColumns(contract.inputs, lake.columns(table), table)
        query = f"select {key}, {', '.join(columns.select)} from lake.{table} where day in (select unnest(?::date[]))"
        teacher = open_teacher(contract)
        clock.lap("open")
        for batch in lake.batches(query, [wanted], rows=BATCH_ROWS):
            clock.lap("read")
            rows = columns.read(batch, key)
            clock.lap("convert")
            teacher.score(rows.inputs)
            clock.lap("score")
    seconds = clock.seconds
    return seconds | {"rest": seconds["label"] - seconds["read"] - seconds["convert"] - seconds["score"]}


def bare_loop(contract: Contract, batches: list[dict[str, np.ndarray]], threads: int) -> float:
    """Return the seconds of a plain onnxruntime loop with that many intra-op threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(contract.model_path, options, providers=["CPUExecutionProvider"])
    session.run(None, batches[0])
    started = time.perf_counter()
    for batch in batches:
        session.run(None, batch)
    return time.perf_counter() - started


def peak_megabytes() -> float:
    """Return this program's peak resident memory; ``ru_maxrss`` would include the parent's from before the exec."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    [kilobytes] = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(kilobytes) / 1024


def spawn(*arguments: object) -> dict[str, float]:
    """Run one measurement in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.labelling", *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def main() -> None:
    """Record seconds per million rows and peak memory over rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000, help="rows of 1x")
    parser.add_argument("--days", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bottom", type=int, nargs="+", help="widths of the teacher's bottom; default the demo's")
    parser.add_argument("--quick", action="store_true", help="the two smallest sizes once, nothing recorded")
    parser.add_argument("--measure", nargs=3, metavar=("WHAT", "HOME", "SURFACE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    shared = ("--days", given.days, "--threads", given.threads)
    if given.measure:
        what, home, surface = given.measure
        if what == "parts":
            print(json.dumps(by_part(Path(home), surface, given.days)))
        else:
            print(json.dumps(measure(what, Path(home), surface, given.days, given.threads)))
        return
    surfaces = dict(list(SURFACES.items())[:2]) if given.quick else SURFACES
    reference = WHAT["all threads"]
    found, size, times = [], 0, 1 if given.quick else given.repeats
    with tempfile.TemporaryDirectory(prefix="crossfade-labelling-") as folder:
        print(f"a teacher of {prepare(Path(folder), given.rows, given.days, given.bottom, surfaces):,} parameters")
        for surface in surfaces:
            runs = [
                {name: spawn("--measure", what, folder, surface, *shared) for what, name in WHAT.items()}
                for _ in range(times)
            ]
            size = int(runs[0][reference]["rows"])
            print(f"{size:,} rows", flush=True)
            seconds = {name: [1e6 / run[name]["rows_per_second"] for run in runs] for name in WHAT.values()}
            peaks = {name: [run[name]["peak_mb"] for run in runs] for name in WHAT.values()}
            for values, unit in ((seconds, "s / M rows"), (peaks, "MB")):
                found += record.rows(values, size=size, of="rows", unit=unit, reference=reference)
        runs = [spawn("--measure", "parts", folder, list(surfaces)[-1], *shared) for _ in range(times)]
        parts = {name: [1e6 * run[part] / size for run in runs] for part, name in PARTS.items()}
        unit, whole = "CPU s / M rows", PARTS["label"]
        found += record.rows(parts, size=size, of="rows by part", unit=unit, reference=whole)
    stage = "labelling_large" if given.bottom else "labelling"  # a history of its own: other costs, another limit
    record.keep(stage, found, None if given.quick else record.HISTORY)


if __name__ == "__main__":
    main()
