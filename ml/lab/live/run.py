"""Runs a live experiment: worlds in parallel, every finished surface of a world a commit in the lake."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from ml.experiments.user_days import USER_DAYS_SCHEMA, USER_DAYS_TABLE
from ml.foundation.lake import ALIAS, Lake
from ml.foundation.settings import Settings
from ml.lab.live.design import Design
from ml.lab.live.live import LiveWorld, Serve
from ml.lab.study.design import World
from ml.lab.study.pool import Messages, Progress, run_worlds
from ml.lab.study.run import WORLD_SECONDS
from ml.lab.study.worlds import is_ready, prepare_world, world_settings
from ml.surfaces.files import load_surfaces

TRAINING_SECONDS = {"tiny": 6.0, "demo": 35.0, "paper": 60.0}
CALL_SECONDS = 0.005
"""What the variants of a surface and a request take on one core, server included, for the estimate before."""


class NotRun(ValueError):
    """An experiment that was not run to its end here; the message names the command."""


@dataclass(frozen=True)
class Plan:
    """What an experiment costs before it starts.

    Attributes:
        worlds: Worlds in all, and how many of them have to be made.
        requests: Per variant, world and surface, about; users are split by a hash.
        calls: Requests over HTTP in all, those that both variants answer twice; finished ones are found when it runs.
        workers: Processes, each with a server beside it.
        seconds: Estimated wall time if nothing but the made worlds is there.
    """

    worlds: int
    worlds_to_make: int
    requests: int
    calls: int
    workers: int
    seconds: float


def plan(settings: Settings, design: Design, workers: int | None = None) -> Plan:
    """Return what ``run_experiment`` would do."""
    worlds = list(design.in_worlds())
    to_make = [w for w in worlds if not is_ready(settings, w)]
    cores = os.cpu_count() or 1
    count = min(workers or cores, len(worlds))
    surfaces = len(worlds) * len(design.surfaces)
    calls = surfaces * design.calls_per_surface
    work = (
        len(to_make) * WORLD_SECONDS[design.preset] + surfaces * TRAINING_SECONDS[design.preset] + calls * CALL_SECONDS
    )
    per_variant = design.days * design.requests_per_day // len(design.variants)
    return Plan(len(worlds), len(to_make), per_variant, calls, count, work / min(count, cores))


def run_experiment(
    settings: Settings,
    design: Design,
    serve: Serve,
    *,
    workers: int | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """Run what the lake of ``settings`` does not hold yet of an experiment.

    Args:
        settings: The home that keeps worlds and rows.
        design: What to run.
        serve: Starts a server; called in the process of each world, so it must be a function of a module.
        workers: Processes; default one per core. A world is made and served by one process.
        report: Told of every stage and of requests answered.

    Raises:
        RuntimeError: A world failed; the message names it. What the others finished is kept.
    """
    init_user_days(settings)
    planned = plan(settings, design, workers)
    began, done, fresh = 0.0, 0, 0

    def hear(message: tuple[str, int, bool]) -> None:
        nonlocal began, done, fresh
        what, answered, new = message
        done = done + answered
        # From the first answer on: how long worlds took to make says nothing of how long the rest takes.
        if answered and new:
            began, fresh = (began, fresh + answered) if began else (time.monotonic(), 0)
        left = (time.monotonic() - began) / fresh * (planned.calls - done) if fresh else None
        report(Progress(what, done, planned.calls, left))

    run_worlds(
        _run_world,
        {world: (settings.home, design, world, serve) for world in design.in_worlds()},
        planned.workers,
        hear,
        lambda reason: report(Progress(reason, done, planned.calls, None)),
    )


def init_user_days(settings: Settings) -> None:
    """Create the table of results if it is not there."""
    with Lake(settings) as lake:
        if not lake.table_exists(USER_DAYS_TABLE):
            lake.append(USER_DAYS_TABLE, USER_DAYS_SCHEMA.empty_table(), "experiment: create table")


def experiment_rows(settings: Settings, design: Design) -> pa.Table:
    """Return the lake's rows of an experiment, of the present code, worlds and surfaces; see ``USER_DAYS_SCHEMA``.

    Raises:
        NotRun: A world of the experiment or one of its surfaces is missing.
    """
    wanted: list[str] = []
    for world in design.in_worlds():
        made = world_settings(settings, world)
        if not is_ready(settings, world):
            raise NotRun(
                f"experiment {design.name}: world {world.name} is missing; run `crossfade experiment run {design.name}`"
            )
        live, surfaces = LiveWorld(made, world, design), load_surfaces(made)
        wanted += [live.identity(live.placement(surfaces[name])) for name in design.surfaces]
    init_user_days(settings)
    with Lake(settings) as lake:
        rows = lake.sql(
            f"select * from {ALIAS}.{USER_DAYS_TABLE} where list_contains(?::varchar[], experiment) "
            "order by surface, estimate desc, world, arm, day, user_id",
            [wanted],
        )
    if missing := set(wanted) - set(rows["experiment"].unique().to_pylist()):
        raise NotRun(
            f"experiment {design.name}: {len(missing)} of {len(wanted)} surfaces of worlds are missing; "
            f"run `crossfade experiment run {design.name}`"
        )
    return rows


def _run_world(home: Path, design: Design, world: World, serve: Serve, messages: Messages) -> None:
    settings = Settings(home=home)

    def tell(what: str, answered: int = 0, new: bool = True) -> None:
        messages.put((f"{world.name} {what}", answered, new))

    made = prepare_world(settings, world, tell)
    live, surfaces = LiveWorld(made, world, design), load_surfaces(made)
    for name in design.surfaces:
        placement = live.placement(surfaces[name])
        with Lake(settings) as lake:
            known = lake.connection.execute(
                f"select 1 from {ALIAS}.{USER_DAYS_TABLE} where experiment = ? limit 1", [live.identity(placement)]
            ).fetchone()
        if known:
            tell(f"{name}: done before", design.calls_per_surface, new=False)
            continue
        rows = live.run(placement, serve, tell)
        with Lake(settings) as lake:
            lake.append(USER_DAYS_TABLE, rows, f"experiment {design.name}: {world.name} {name}")
        tell(f"{name}: done")
