"""Runs a study: worlds in parallel, every finished trial a commit in the lake, so that a rerun does what is missing."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml.lake import ALIAS, ML, Lake
from ml.settings import Settings
from ml.study.design import TEACHER, Design, TeacherVariant, Trial, World
from ml.study.pool import run_worlds
from ml.study.worlds import is_ready, prepare_teacher, prepare_world

TRIALS_TABLE = f"{ML}.study_trials"
WORLD_SECONDS = {"tiny": 25.0, "demo": 100.0, "paper": 900.0}
TEACHER_SECONDS = {"tiny": 3.0, "demo": 30.0, "paper": 300.0}
TRIAL_SECONDS = {"tiny": 1.0, "demo": 6.0, "paper": 10.0}
"""What a world, a further teacher of it and a trial take on one core, for the estimate before a study starts."""


@dataclass(frozen=True)
class Progress:
    """How far a study is.

    Attributes:
        what: What was just finished or begun.
        done: Trials done, those of earlier runs included.
        total: Trials in all.
        seconds_left: Estimate, None before anything was done.
    """

    what: str
    done: int
    total: int
    seconds_left: float | None


@dataclass(frozen=True)
class Plan:
    """What a study costs before it starts.

    Attributes:
        worlds: Worlds in all.
        worlds_to_make: Those that have to be made.
        teachers_to_make: Further teachers of these worlds that have to be made.
        trials: Trainings in all; those already in the lake are found once the worlds are there.
        workers: Processes.
        seconds: Estimated wall time if nothing but the made worlds is there.
    """

    worlds: int
    worlds_to_make: int
    teachers_to_make: int
    trials: int
    workers: int
    seconds: float


def worlds_dir(settings: Settings) -> Path:
    """Return the folder of the worlds of studies."""
    return settings.home / "study" / "worlds"


def plan(settings: Settings, design: Design, workers: int | None = None) -> Plan:
    """Return what ``run_study`` would do."""
    found = design.by_world()
    root, preset = worlds_dir(settings), design.preset
    own = TeacherVariant()
    to_make = sum(not is_ready(root, world, own) for world in found)
    teachers = {(world, trial.teacher) for world, trials in found.items() for trial in trials}
    more = sum(not is_ready(root, world, teacher) for world, teacher in teachers if teacher != own)
    trials = sum(len(trials) for trials in found.values())
    count = min(workers or os.cpu_count() or 1, len(found))
    work = to_make * WORLD_SECONDS[preset] + more * TEACHER_SECONDS[preset] + trials * TRIAL_SECONDS[preset]
    return Plan(len(found), to_make, more, trials, count, work / count)


def run_study(
    settings: Settings,
    design: Design,
    *,
    workers: int | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> list[str]:
    """Run every trial of a study that the lake of ``settings`` does not hold yet.

    Args:
        settings: The home that keeps worlds and trials.
        design: What to run.
        workers: Processes; default one per core. A world is made and used by one process.
        report: Told of every stage and trial.

    Returns:
        The digests of all trials of the study, those of earlier runs included.

    Raises:
        RuntimeError: A world failed; the message names it. The trials of the others are kept.
    """
    init_trials(settings)
    planned = plan(settings, design, workers)
    began, done, fresh = time.monotonic(), 0, 0
    trials: list[str] = []

    def hear(message: tuple[str, str | None, bool]) -> None:
        nonlocal done, fresh
        what, trial, new = message
        if trial:
            trials.append(trial)
            done, fresh = done + 1, fresh + new
        left = (time.monotonic() - began) / fresh * (planned.trials - done) if fresh else None
        report(Progress(what, done, planned.trials, left))

    run_worlds(
        _run_world,
        {world: (settings.home, world, own) for world, own in design.by_world().items()},
        planned.workers,
        hear,
        lambda reason: report(Progress(reason, done, planned.trials, None)),
    )
    return sorted(set(trials))


def init_trials(settings: Settings) -> None:
    """Create the table of trials if it is not there."""
    from ml.study.trials import TRIALS_SCHEMA

    with Lake(settings) as lake:
        if lake.table_exists(TRIALS_TABLE):
            return

        def step() -> None:
            with lake.transaction("study: create table") as connection:
                connection.register("_empty", TRIALS_SCHEMA.empty_table())
                connection.execute(f"create table if not exists {ALIAS}.{TRIALS_TABLE} as select * from _empty")
                connection.unregister("_empty")

        lake.retry(step)


def _run_world(home: Path, world: World, trials: tuple[Trial, ...], messages: Any) -> None:
    from ml.study.trials import Bench
    from ml.surfaces.spec import load_surfaces

    settings = Settings(home=home)
    root = worlds_dir(settings)

    def say(stage: str) -> None:
        messages.put((f"{world.name}: {stage}", None, False))

    surfaces = load_surfaces(prepare_world(root, world, say))
    with Lake(settings) as lake:
        known = set(lake.sql(f"select distinct trial from {ALIAS}.{TRIALS_TABLE}")["trial"].to_pylist())
        for teacher, surface in dict.fromkeys((trial.teacher, trial.surface) for trial in trials):
            made, contract = prepare_teacher(root, world, teacher, say)
            bench = Bench(made, surfaces[surface], contract)
            for trial in trials:
                if (trial.teacher, trial.surface) == (teacher, surface):
                    _run_trial(lake, bench, trial, known, messages)


def _run_trial(lake: Lake, bench: Any, trial: Trial, known: set[str], messages: Any) -> None:
    from ml.study.trials import trial_rows

    is_teacher = trial.arm == TEACHER
    identity = bench.trial_digest(trial)
    what = f"{trial.world.name} {trial.surface} {trial.arm.name} seed {trial.seed}"
    if label := trial.condition.label:
        what = f"{what}, {label}"
    new = identity not in known
    if new:
        measured, seconds = (bench.teacher(), 0.0) if is_teacher else bench.run(trial)
        rows = trial_rows(trial, identity, measured, seconds)

        def step() -> None:
            with lake.transaction(f"study: {what}") as connection:
                connection.register("_trial", rows)
                connection.execute(f"insert into {ALIAS}.{TRIALS_TABLE} by name select * from _trial")
                connection.unregister("_trial")

        lake.retry(step, attempts=12)
    messages.put((what, identity, new))
