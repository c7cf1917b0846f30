"""The graph, landing to soft labels: ranges of days, a day with little and with much history, and nothing to do.

    python -m benchmarks.graph [--days 30] [--history 300] [--repeats 3] [--folder FOLDER] [--prepare] [--quick]

The app is the simulator's smallest, in files, with a teacher from elsewhere. A range is what a backfill of the UI and
the sensors ask for: one run of ``base_tables_job``, one of ``ranking_tables_job``, each `dagster job execute` in a
process of its own. One by one is the single day of the same run, times the range's days. What one day costs is told
by part: Dagster's record of its steps and dbt's of its models say how long each took. Nothing to do is a look of the
landing sensor at a home in which every day is as it landed: the first of its process, which reads all files, and a
later one, which looks at their times and sizes. Seconds are elapsed ones, the CPU seconds of processes and their
children stand beside them. The history takes a quarter of an hour; in a ``--folder`` it is kept and gone on with, and
``--prepare`` stops before anything is timed.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import yaml

from benchmarks import labelling
from benchmarks.record import HISTORY, Row, keep, rows
from deploy.automation.days import range_tags
from deploy.automation.jobs import BASE_JOB, RANKING_JOB
from deploy.home import prepare
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.lab.simulator.write import write_landing

FIRST = date(2026, 1, 1)
RANGES = (1, 3, 8, 15, 30)
STEP = 90
"""Days of a range in which a long history is built."""
JOBS = (BASE_JOB, RANKING_JOB)
LAST_DAYS = 3
"""Times at least that the newest day is built with each history."""
ONE_RANGE, ONE_BY_ONE = "one range", "one by one"
PARTS = (
    "whole day",
    "processes start, definitions load",
    "dbt starts and parses",
    "dbt's models and tests",
    "steps of Python",
    "Dagster",
)
SENSOR = (
    "import dagster as dg\n"
    "from deploy.definitions import Settings, build_definitions\n"
    "defs, settings = build_definitions(Settings()), Settings()\n"
    "sensor = defs.resolve_sensor_def('landing_sensor')\n"
    "import time\n"
    "with dg.DagsterInstance.get() as instance:\n"
    "    for _ in range(2):\n"
    "        began = time.perf_counter()\n"
    "        with dg.build_sensor_context(instance, definitions=defs, resources={'settings': settings}) as context:\n"
    "            data = sensor.evaluate_tick(context)\n"
    "        assert not data.run_requests, data.run_requests\n"
    "        print(time.perf_counter() - began)\n"
)


@dataclass(frozen=True)
class Taken:
    """Elapsed and CPU seconds of one range, and its elapsed seconds by part."""

    wall: float
    cpu: float
    parts: Mapping[str, float]


def environment(settings: Settings) -> dict[str, str]:
    """Return the variables of a process that works on the home."""
    assert settings.last_day
    return {
        **os.environ,
        "CROSSFADE_HOME": str(settings.home),
        "CROSSFADE_SOURCE": "files",
        "CROSSFADE_LANDING_DIR": str(settings.landing_dir),
        "CROSSFADE_FIRST_DAY": str(FIRST),
        "CROSSFADE_LAST_DAY": str(settings.last_day),
        "CROSSFADE_TEACHER": str(settings.teacher),
        "CROSSFADE_SURFACES_DIR": str(settings.surfaces_dir),
        "DAGSTER_HOME": str(settings.dagster_home),
    }


def home(folder: Path, name: str, days: int) -> Settings:
    """Make a home on the landing zone of the folder, whose source ends after so many days."""
    settings = Settings(
        home=folder / name,
        source="files",
        landing_dir=folder / "landing",
        first_day=FIRST,
        last_day=FIRST + timedelta(days=days - 1),
        teacher=folder / "teacher" / "contract.yaml",
        surfaces_dir=folder / "surfaces",
    )
    surfaces = folder / "surfaces"
    surfaces.mkdir(exist_ok=True)
    for path in (PROJECT_ROOT / "examples" / "simulator" / "surfaces").glob("*.yaml"):
        small = {"extends": str(path), "gate": {"data": {"min_rows": 1}}}  # the smallest app has days of 200 rows
        (surfaces / path.name).write_text(yaml.safe_dump(small), encoding="utf-8")
    prepare(settings)
    return settings


def history_of(folder: Path, days: int, landed: int) -> Settings:
    """Return the home of the folder in which so many days are built; go on where an earlier call ended."""
    if not (folder / "teacher").exists():
        labelling.prepare(folder, 1_000, 1, None, {"x1": 1})
    landing = Settings(home=folder / "simulator", landing_dir=folder / "landing", simulator_preset="tiny")
    write_landing(landing.model_copy(update={"first_day": FIRST}), days=landed)
    settings = home(folder, f"{days} days", days)
    for job in JOBS:  # labels of a day look into the next one: every day lands first
        done = settings.home / f"{job}.days"
        for start in range(int(done.read_text()) if done.exists() else 0, days, STEP):
            end = min(start + STEP, days)
            taken = execute(settings, job, start, end - 1)
            done.write_text(str(end))
            print(f"{job}: {end} of {days} days, {taken.wall:.0f} s", flush=True)
    return settings


def build(settings: Settings, first: int, last: int) -> Taken:
    """Build a range of days, landing to soft labels, as the sensors ask for it."""
    base, ranking = (execute(settings, job, first, last) for job in JOBS)
    parts = {part: base.parts[part] + ranking.parts[part] for part in PARTS}
    return Taken(base.wall + ranking.wall, base.cpu + ranking.cpu, parts)


def execute(settings: Settings, job: str, first: int, last: int) -> Taken:
    """Execute a job for a range of days, in a process of its own.

    Raises:
        SystemExit: It failed; the message has the end of what it printed.
    """
    days = range_tags(FIRST + timedelta(days=first), FIRST + timedelta(days=last))
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "deploy.definitions", "-j", job]
    before, began = _cpu(), time.perf_counter()
    done = subprocess.run(
        [*command, "--tags", json.dumps(days)],
        env=environment(settings),
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    wall, cpu = time.perf_counter() - began, _cpu() - before
    if done.returncode:
        raise SystemExit(f"{job} of {days} failed: {done.stdout[-2000:]}{done.stderr[-4000:]}")
    return Taken(wall, cpu, _parts(settings, job, wall))


def _parts(settings: Settings, job: str, wall: float) -> dict[str, float]:
    """Divide the seconds of the newest run of a job."""
    with dg.DagsterInstance.from_config(str(settings.dagster_home)) as instance:
        [record] = instance.get_run_records(dg.RunsFilter(job_name=job), limit=1)
        told = instance.get_run_step_stats(record.dagster_run.run_id)
        steps = {s.step_key: s.end_time - s.start_time for s in told if s.start_time and s.end_time}
    assert record.start_time and record.end_time
    run, target = record.end_time - record.start_time, settings.home / "dbt" / "runs" / record.dagster_run.run_id
    [results] = target.glob("**/run_results.json")
    models = json.loads(results.read_text(encoding="utf-8"))["elapsed_time"]
    of_dbt = sum(seconds for step, seconds in steps.items() if step in ("base_tables", "ranking_tables"))
    every = sum(steps.values())
    divided = (wall, wall - run, of_dbt - models, models, every - of_dbt, run - every)
    return dict(zip(PARTS, divided, strict=True))


def nothing(settings: Settings) -> tuple[float, float]:
    """Return the seconds of a landing sensor's first look and of its second, when every day is as it landed."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SENSOR],
        env=environment(settings),
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr[-4000:])
    first, later = map(float, done.stdout.splitlines()[-2:])
    return first, later


def beside(found: Mapping[str, Sequence[Taken]], *, size: float, of: str, reference: str) -> list[Row]:
    """Return rows of elapsed and of CPU seconds."""
    walls = {name: [t.wall for t in taken] for name, taken in found.items()}
    cpus = {name: [t.cpu for t in taken] for name, taken in found.items()}
    given = {"size": size, "of": of, "reference": reference}
    return [*rows(walls, unit="s", **given), *rows(cpus, unit="CPU s", **given)]


def times(day: Taken, days: int) -> Taken:
    """Return what so many days of one day's cost would take."""
    return Taken(day.wall * days, day.cpu * days, {part: s * days for part, s in day.parts.items()})


def ranges(settings: Settings, sizes: Sequence[int], repeats: int) -> list[Row]:
    """Compare ranges that end with the source's last day with their days one by one."""
    assert settings.last_day
    end = (settings.last_day - FIRST).days
    taken: dict[int, dict[str, list[Taken]]] = {size: {ONE_RANGE: [], ONE_BY_ONE: []} for size in sizes}
    for run in range(repeats):
        day = build(settings, end - run, end - run)
        for size, found in taken.items():
            found[ONE_RANGE].append(day if size == 1 else build(settings, end - size + 1, end))
            found[ONE_BY_ONE].append(times(day, size))
            print(f"{size} days: {found[ONE_RANGE][-1].wall:.0f} s", flush=True)
    compared = [
        row for size, found in taken.items() for row in beside(found, size=size, of="days", reference=ONE_BY_ONE)
    ]
    shares = {part: [day.parts[part] for day in taken[1][ONE_RANGE]] for part in PARTS}
    return compared + rows(shares, size=1, of="day by part", unit="s", reference=PARTS[0])


def main() -> None:
    """Record ranges, parts, history and nothing to do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=RANGES[-1], help="longest range, and days of the short history")
    parser.add_argument("--history", type=int, default=300, help="days of the long history")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the homes are kept; default a temporary folder")
    parser.add_argument("--prepare", action="store_true", help="only build the homes")
    parser.add_argument("--quick", action="store_true", help="three days of three and six, once; nothing recorded")
    given = parser.parse_args()
    days, history, repeats = (3, 6, 1) if given.quick else (given.days, given.history, given.repeats)
    with tempfile.TemporaryDirectory(prefix="crossfade-graph-") as scratch:
        folder = given.folder.absolute() if given.folder else Path(scratch)
        homes = {number: history_of(folder, number, history) for number in (days, history)}
        if given.prepare:
            return
        found = ranges(homes[days], [size for size in RANGES if size <= days], repeats)
        last: dict[str, list[Taken]] = {f"day {number}": [] for number in homes}
        looks: dict[str, dict[str, list[float]]] = {"first looks": {}, "later looks": {}}
        for _ in range(1 if given.quick else max(repeats, LAST_DAYS)):
            for number, settings in homes.items():
                last[f"day {number}"].append(build(settings, number - 1, number - 1))
                for seconds, taken in zip(nothing(settings), looks.values(), strict=True):
                    taken.setdefault(f"nothing to do, {number} days landed", []).append(seconds)
        found += beside(last, size=1, of="newest day", reference=f"day {days}")
        for of, taken in looks.items():
            found += rows(taken, size=1, of=of, unit="s", reference=next(iter(taken)))
    keep("graph", found, None if given.quick else HISTORY)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
