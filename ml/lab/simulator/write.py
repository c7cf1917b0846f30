"""Writes a simulated world into the landing zone, day by day."""

import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ml.foundation.progress import Progress, Step, silent
from ml.foundation.settings import Settings
from ml.lab.simulator.tables import TABLES
from ml.lab.simulator.world import World, tables_of
from ml.landing.patterns import SUCCESS
from ml.landing.readiness import table_folder

MARKER = ".simulator.json"
"""File in the landing zone that names the world in it."""

FORMAT = 1
"""Raised when the same settings make another world."""

PART = "part-0.parquet"


class LandingZoneError(ValueError):
    """The landing zone holds something else than the world asked for."""


def world_of(settings: Settings) -> World:
    """Return the world that the settings describe."""
    return World(
        settings.simulator_preset,
        seed=settings.simulator_seed,
        shared_taste=settings.simulator_shared_taste,
        linked_share=settings.simulator_linked_share,
        shuffled=settings.simulator_shuffled_share,
    )


def days_of(settings: Settings, world: World) -> int:
    """Return how many days the settings ask for: up to ``last_day``, else the preset's window."""
    if settings.last_day is None:
        return world.preset.days
    return (settings.last_day - settings.first_day).days + 1


def write_landing(settings: Settings, days: int | None = None, progress: Progress = silent) -> list[Path]:
    """Write the world of ``settings`` into its landing zone as Parquet files, one per table and day.

    Complete days are kept as they are, so that a stopped run goes on where it ended and more days can be added.

    Args:
        settings: Name the landing zone, the first day and the world.
        days: Days to have; default: up to ``settings.last_day``, else the preset's window.
        progress: Told of each day that was made.

    Returns:
        The data files written, oldest day first; those of days that were complete are not among them.

    Raises:
        LandingZoneError: The landing zone holds another world, or files that no simulator wrote.
    """
    landing = settings.landing_dir
    if landing is None:
        raise LandingZoneError("settings name no landing_dir")
    world = world_of(settings)
    count = days_of(settings, world) if days is None else days
    _claim(landing, _identity(settings, world))
    missing = [i for i in range(count) if not _complete(settings, settings.first_day + timedelta(days=i))]
    written: list[Path] = []
    if not missing:
        return written
    tabulator = world.tabulator(settings.first_day)
    # A day is written while the next one is made: compressing takes a third of the time, and holds no lock of Python.
    with ThreadPoolExecutor(1, thread_name_prefix="simulate") as writer:
        before: Future[list[Path]] | None = None
        for events in world.events(missing[-1] + 1):
            index = events.state.day
            if index in missing:
                tables = tables_of(events, tabulator)
                written += before.result() if before else []
                before = writer.submit(_write_day, settings, settings.first_day + timedelta(days=index), tables)
            progress(Step("simulate", index + 1, missing[-1] + 1))
        return written + (before.result() if before else [])


def _identity(settings: Settings, world: World) -> dict[str, object]:
    return {
        "format": FORMAT,
        "first_day": settings.first_day.isoformat(),
        "preset": settings.simulator_preset,
        "sizes": world.preset.model_dump(),
        "seed": world.seed,
        "shared_taste": world.shared_taste,
        "linked_share": world.linked_share,
        **({"shuffled": world.shuffled} if world.shuffled else {}),  # worlds of earlier versions had none
    }


def _claim(landing: Path, identity: dict[str, object]) -> None:
    """Mark the landing zone as this world's, or refuse."""
    marker = landing / MARKER
    if marker.exists():
        found = json.loads(marker.read_text(encoding="utf-8"))
        named = {**dict.fromkeys(found), **identity}
        different = [f"{k} {found.get(k)!r} instead of {v!r}" for k, v in named.items() if found.get(k) != v]
        if different:
            raise LandingZoneError(f"{landing} holds another world: {'; '.join(different)}; empty it or use another")
        return
    if any(landing.glob("*/day=*")):
        raise LandingZoneError(f"{landing} holds days that the simulator did not write; empty it or use another")
    landing.mkdir(parents=True, exist_ok=True)
    _replace(marker, lambda scratch: scratch.write_text(json.dumps(identity, indent=2) + "\n", encoding="utf-8"))


def _complete(settings: Settings, day: date) -> bool:
    folders = [table_folder(settings, table, day) for table in TABLES]
    return all((folder / SUCCESS).exists() and (folder / PART).exists() for folder in folders)


def _write_day(settings: Settings, day: date, tables: Mapping[str, pa.Table]) -> list[Path]:
    return [_write(settings, name, day, table) for name, table in tables.items()]


def _write(settings: Settings, name: str, day: date, table: pa.Table) -> Path:
    folder = table_folder(settings, name, day)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / PART
    _replace(path, lambda scratch: pq.write_table(table, scratch, compression="zstd"))
    _replace(folder / SUCCESS, lambda scratch: scratch.touch())
    return path


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a temporary name and move it into place, so that no reader sees half of it."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    write(scratch)
    scratch.replace(path)
