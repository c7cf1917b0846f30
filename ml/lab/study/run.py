"""Runs a study: worlds in parallel, every finished trial a commit in the lake, so that a rerun does what is missing."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ml.foundation.lake import ALIAS, ML, Lake
from ml.foundation.settings import Settings
from ml.lab.study.design import OWN_TEACHER, TEACHER, Design, Trial, World
from ml.lab.study.pool import Messages, Progress, run_worlds
from ml.lab.study.trials import TRIALS_SCHEMA, Bench, trial_rows
from ml.lab.study.worlds import is_ready, prepare_teacher, prepare_world
from ml.surfaces.files import load_surfaces

TRIALS_TABLE = f"{ML}.study_trials"
WORLD_SECONDS = {"tiny": 25.0, "demo": 100.0, "paper": 900.0, "kuairand": 60.0}
TEACHER_SECONDS = {"tiny": 3.0, "demo": 30.0, "paper": 300.0, "kuairand": 30.0}
TRIAL_SECONDS = {"tiny": 1.0, "demo": 6.0, "paper": 10.0, "kuairand": 1.5}
"""What a world, a further teacher of it and a trial take on one core, for the estimate before a study starts."""


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


def plan(settings: Settings, design: Design, workers: int | None = None) -> Plan:
    """Return what ``run_study`` would do."""
    found = design.by_world()
    preset = design.preset
    to_make = sum(not is_ready(settings, world) for world in found)
    teachers = {(world, trial.teacher) for world, trials in found.items() for trial in trials}
    more = sum(not is_ready(settings, world, teacher) for world, teacher in teachers if teacher != OWN_TEACHER)
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
        workers: Processes; default one per core. A world is made and used by one process. Where the settings name a
            Ray cluster, its nodes work instead; they see the home under the same path.
        report: Told of every stage and trial.

    Returns:
        The digests of all trials of the study, those of earlier runs included.

    Raises:
        RuntimeError: A world failed; the message names it. The trials of the others are kept.
    """
    init_trials(settings)
    planned = plan(settings, design, workers)
    began, done, fresh = time.monotonic(), 0, 0
    trials: set[str] = set()

    def hear(message: tuple[str, str | None, bool]) -> None:
        nonlocal done, fresh
        what, trial, new = message
        if trial:
            trials.add(trial)
            done, fresh = len(trials), fresh + new
        left = (time.monotonic() - began) / fresh * (planned.trials - done) if fresh else None
        report(Progress(what, done, planned.trials, left))

    run_worlds(
        _run_world,
        {world: (settings.home, world, own) for world, own in design.by_world().items()},
        planned.workers,
        hear,
        lambda reason: report(Progress(reason, done, planned.trials, None)),
        settings.ray_address,
    )
    return sorted(trials)


def init_trials(settings: Settings) -> None:
    """Create the table of trials if it is not there."""
    with Lake(settings) as lake:
        if not lake.table_exists(TRIALS_TABLE):
            lake.append(TRIALS_TABLE, TRIALS_SCHEMA.empty_table(), "study: create table")


def _run_world(home: Path, world: World, trials: tuple[Trial, ...], messages: Messages) -> None:
    settings = Settings(home=home)

    def say(stage: str) -> None:
        messages.put((f"{world.name}: {stage}", None, False))

    made = prepare_world(settings, world, say)
    surfaces = load_surfaces(made)
    with Lake(settings) as lake:
        known = set(lake.sql(f"select distinct trial from {ALIAS}.{TRIALS_TABLE}")["trial"].to_pylist())
        for teacher, surface in dict.fromkeys((trial.teacher, trial.surface) for trial in trials):
            bench = Bench(made, surfaces[surface], prepare_teacher(made, world, teacher, say))
            for trial in trials:
                if (trial.teacher, trial.surface) == (teacher, surface):
                    _run_trial(lake, bench, trial, known, messages)


def _run_trial(lake: Lake, bench: Bench, trial: Trial, known: set[str], messages: Messages) -> None:
    is_teacher = trial.variant == TEACHER
    identity = bench.trial_digest(trial)
    what = f"{trial.world.name} {trial.surface} {trial.variant.name} seed {trial.seed}"
    if label := trial.condition.label:
        what = f"{what}, {label}"
    new = identity not in known
    if new:
        measured, seconds = (bench.teacher(), 0.0) if is_teacher else bench.run(trial)
        lake.append(TRIALS_TABLE, trial_rows(trial, identity, measured, seconds), f"study: {what}")
    messages.put((what, identity, new))
