"""What a day of 10^9 exposures would cost: the measured costs carried on, with what that assumes."""

from collections.abc import Mapping, Sequence
from statistics import linear_regression
from typing import Any

from benchmarks.record import number

EXPOSURES = 1e9
"""Exposures a day."""
SMALLER = (3e5, 3e6, 3e7)
"""Exposures a day of smaller apps, for which the same costs are told in seconds."""
MILLION = 1e6
ROW_BYTES = 540
"""What a row of the homepage takes in the file that training reads (``benchmarks.memory``)."""
WINDOW_DAYS = 28
"""Days that a student learns from."""
_FEATURES = ("features", "dbt build with tests, on the lake", "exposures a day")
_FEATURES_STEP = "features of the day (`feat_*`)"

History = Mapping[str, Sequence[Mapping[str, Any]]]

HEAD = """# At 10^9 exposures a day

Costs measured at small sizes, carried on in a straight line; `python -m benchmarks page` computes every figure here
from `benchmarks/history/`, and a test does so again. It is an estimate for planning. What it assumes:

- The line of least squares through the measured sizes gives the cost of one more exposure; fixed costs fall away, and
  nothing gets slower with size. Nothing at this size was run. Where fixed costs are most of what was measured, as in
  building features, the line is a rough guess.
- Hours are core hours of the machine that [benchmarks.md](benchmarks.md) describes: CPU time of one thread.
- The shape of the data stays: exposures per user, clicks per exposure, days in a window.
"""

TAIL = """
## What breaks first, and what to change then

The order is what the design leads one to expect; none of it was run.

1. **Memory of one DuckDB process**, when the aggregates of a trailing window no longer fit: DuckDB then
   spills to disk and the costs above no longer hold. Partition `int_user_item_day` by a hash of the user beside the
   day, and build `feat_user` and `feat_user_creator` a share at a time; their SQL groups by user, so
   that shares are independent.
2. **The file of a training window**, on the disk of the instance directory. Train on a sample of exposures, or read
   batches from the files of the snapshot; the training set is already a query and a snapshot.
3. **One writer of the lake** (the pool `lake_writer`). Features and labels of other days wait. With a Postgres catalog
   `CROSSFADE_LAKE_WRITERS` steps write at once; the landing stays one step.
4. **The catalog's list of files.** Each read with a condition goes through a row per file of the lake. DuckLake asks a
   Postgres catalog by an index on `ducklake_file_column_stats (table_id, column_id)` where somebody has made one
   (<https://github.com/duckdb/ducklake/pull/1147>), and a SQLite catalog never.
5. **Labelling** needs no change of design: days and batches are independent, and a teacher behind an endpoint moves
   the cost to its own machines.

Serving does not depend on the exposures of a day but on requests per second; it grows by more processes
behind one address.
"""


def marginal(found: History, stage: str, name: str, of: str, unit: str) -> float | None:
    """Return the cost of one more of the size: the slope of the line through all sizes of the newest record.

    None when the history has fewer than two.
    """
    line = _line(found, stage, name, of, unit)
    return line and line[0]


def _line(found: History, stage: str, name: str, of: str, unit: str) -> tuple[float, float] | None:
    """Return slope and fixed cost of the line of least squares; None when the history has fewer than two sizes."""
    records = found.get(stage)
    if not records:
        return None
    rows = [row for row in records[-1]["rows"] if (row["name"], row["of"], row["unit"]) == (name, of, unit)]
    points = sorted((row["size"], row["value"]) for row in rows)
    if len(points) < 2:
        return None
    slope, fixed = linear_regression(*zip(*points, strict=True))
    return max(slope, 0.0), fixed


def costs(found: History) -> dict[str, float]:
    """Return {step: core hours for a day of ``EXPOSURES``}; a step that was not measured is left out."""
    hours = {}
    landing = _value(found, "landing", "landing, every row checked", "CPU s / M exposures")
    if landing is not None:
        hours["landing of the day, every row checked"] = landing * EXPOSURES / MILLION / 3600
    features = marginal(found, *_FEATURES, "CPU s")
    if features is not None:
        hours[_FEATURES_STEP] = features * EXPOSURES / 3600
    training = _value(found, "training", "our loop", "CPU s / M rows")  # of the largest batch, which so many rows have
    if training is not None:
        hours["control or student, one epoch over one day's exposures"] = training * EXPOSURES / MILLION / 3600
        hours[f"the same over {WINDOW_DAYS} days"] = WINDOW_DAYS * training * EXPOSURES / MILLION / 3600
    before = [_part(found, part) for part in ("reading", "preparing")]
    if all(before):
        name = f"reading and preparing {WINDOW_DAYS} days, once for each ranker (elapsed)"
        hours[name] = WINDOW_DAYS * sum(map(float, before)) * EXPOSURES / 3600
    labelling = _value(found, "labelling", "labelling, with its hashes", "CPU s / M rows")
    if labelling is not None:
        hours["soft labels of the day, the demo's teacher"] = labelling * EXPOSURES / MILLION / 3600
    return hours


def scale_page(found: History) -> str:
    """Return the Markdown of a history."""
    lines, estimated = [HEAD], costs(found)
    if not estimated:
        return (
            "\n".join([HEAD, "**Nothing is estimated yet**: no record of a stage that it takes is in the history."])
            + "\n"
            + TAIL
        )
    lines += ["| step | core hours | cores, to be done in 4 hours |", "|---|---:|---:|"]
    lines += [f"| {step} | {number(hours)} | {number(max(hours / 4, 1))} |" for step, hours in estimated.items()]
    absent = [stage for stage in ("landing", "features", "labelling", "training") if not found.get(stage)]
    absent += ["the `int_*` tables", "the gate"]
    lines += ["", f"Not in the table, since no record of theirs is in the history: {', '.join(absent)}."]
    memory = marginal(found, *_FEATURES, "MB")
    if memory is not None:
        needed = memory * EXPOSURES / 1024
        lines += ["", f"Peak memory of building features, carried on without spilling: {number(needed)} GB."]
    history = _range(found, "features", "same SQL, bare DuckDB on Parquet", "days of history", "CPU s")
    if history:
        (short, first), (long, last) = history
        told = f"{number(first)} CPU s with {number(short)} days, {number(last)} with {number(long)}"
        lines += ["", f"Length of history: features of equal days took {told} (bare SQL; fixed costs are least there)."]
    return "\n".join([*lines, *_smaller(found, estimated)]) + "\n" + TAIL


def _smaller(found: History, estimated: Mapping[str, float]) -> list[str]:
    """Return the section of smaller apps: the same costs by their exposures in CPU seconds, memory and disk."""
    lines = [
        "",
        "## At smaller sizes",
        "",
        "The same costs in CPU seconds of one core; features here with their fixed cost. Starting the processes of",
        "a day takes about a minute besides, whatever is in it. A student trains for at most 8 passes, and so does its",
        "control. What users and items cost beside their exposures was not measured.",
        "",
        "| exposures a day | " + " | ".join(f"{size:,.0f}" for size in SMALLER) + " |",
        "|---|" + "---:|" * len(SMALLER),
    ]
    _, fixed = _line(found, *_FEATURES, "CPU s") or (0.0, 0.0)
    for step, hours in estimated.items():
        begun = max(fixed, 0.0) if step == _FEATURES_STEP else 0.0
        lines.append(f"| {step} | " + " | ".join(number(begun + hours * 3600 * n / EXPOSURES) for n in SMALLER) + " |")
    for told, stage, name, of in (
        ("memory of landing files", "landing", "landing, every row checked", "exposures"),
        ("memory of building features", *_FEATURES),
    ):
        if line := _line(found, stage, name, of, "MB"):
            slope, fixed = line
            lines.append(
                f"| {told} | " + " | ".join(f"{number((fixed + slope * n) / 1024)} GB" for n in SMALLER) + " |"
            )
    needed = " | ".join(f"{number(WINDOW_DAYS * size * ROW_BYTES / 1e9)} GB" for size in SMALLER)
    lines.append(f"| disk while a ranker trains on {WINDOW_DAYS} days, {ROW_BYTES} bytes a row (homepage) | {needed} |")
    return lines


def _value(found: History, stage: str, name: str, unit: str) -> float | None:
    records = found.get(stage)
    rows = [row for row in records[-1]["rows"] if (row["name"], row["unit"]) == (name, unit)] if records else []
    return max(rows, key=lambda row: row["size"])["value"] if rows else None


def _part(found: History, part: str) -> float:
    """Return the seconds that a part of the training takes for a row; 0 if it was not measured."""
    records = found.get("training")
    rows = [row for row in records[-1]["rows"] if (row["name"], row["unit"]) == (part, "s")] if records else []
    return rows[-1]["value"] / rows[-1]["size"] if rows else 0.0


def _range(found: History, stage: str, name: str, of: str, unit: str) -> list[tuple[float, float]]:
    records = found.get(stage)
    rows = records[-1]["rows"] if records else []
    points = sorted((r["size"], r["value"]) for r in rows if (r["name"], r["of"], r["unit"]) == (name, of, unit))
    return [points[0], points[-1]] if len(points) > 1 else []
