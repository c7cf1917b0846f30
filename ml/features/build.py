"""How dbt is called: its environment, variables and arguments, from the settings of a home.

Models build in two stages: ``base`` (``stg_*``, ``int_*``) of a day reads that landed day; ``ranking`` (features,
examples, teacher inputs) of a day reads the base tables of its trailing window, its own and those of its label window.
"""

import json
import logging
import os
import random
import time
from collections.abc import Callable, Collection, Generator, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

from ml.features import contracts
from ml.features.projects import DBT_PROJECT_DIR, app_projects, link_packages, packages_dir
from ml.features.tables import feature_tables, for_dbt
from ml.foundation.lake import (
    ALIAS,
    FEATURES,
    LANDING,
    Lake,
    attach_options,
    attach_path,
    catalog_secret,
    duckdb_settings,
    extensions,
    is_conflict,
    lake_environment,
)
from ml.foundation.settings import Settings
from ml.surfaces.spec import Surface

if TYPE_CHECKING:  # dbt is loaded where it is called
    from dbt.artifacts.schemas.results import NodeResult
    from dbt_common.events.base_types import EventMsg

Stage = Literal["base", "ranking"]
T = TypeVar("T")
log = logging.getLogger(__name__)


class DbtVars(TypedDict):
    """Variables of a run; ``dbt_project.yml`` says what each is."""

    from_day: str
    to_day: str
    first_day: str
    feature_window_days: int
    smoothing_impressions: float
    smoothing_plays: float
    click_outcomes: list[str]
    labels: Mapping[str, Mapping[str, float]]
    label_rules: list[list[str]]
    outcomes: list[str]
    label_window_days: Mapping[str, int]
    column_types: Mapping[contracts.ColumnType, str]
    contracts: Mapping[str, Mapping[contracts.ColumnType, list[str]]]


class DbtError(RuntimeError):
    """A dbt call that failed; the message names the failed nodes and their errors."""


def dbt_environment(settings: Settings) -> dict[str, str]:
    """Return the environment of a dbt process: what ``profiles.yml`` reads, and where dbt writes."""
    options = duckdb_settings(settings) | {"preserve_insertion_order": "false"}
    spill = {"temp_directory": options.pop("temp_directory")}
    return {
        **lake_environment(settings),
        "CROSSFADE_LAKE": attach_path(settings),
        "CROSSFADE_LAKE_OPTIONS": json.dumps(attach_options(settings)),
        "CROSSFADE_LAKE_EXTENSIONS": json.dumps(extensions(settings)),
        "CROSSFADE_DUCKDB_OPTIONS": json.dumps(spill),
        "CROSSFADE_DUCKDB_SETTINGS": json.dumps(options),
        "CROSSFADE_DBT_PACKAGES": str(packages_dir(settings)),
        "DBT_TARGET_PATH": str(settings.home / "dbt" / "target"),
        "DBT_LOG_PATH": str(settings.home / "dbt" / "logs"),
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    }


def dbt_vars(settings: Settings, surfaces: Mapping[str, Surface], from_day: date, to_day: date) -> DbtVars:
    """Return the dbt variables of a run that replaces the days [from_day, to_day].

    Raises:
        ValueError: The range is empty.
    """
    if to_day < from_day:
        raise ValueError(f"to_day {to_day} lies before from_day {from_day}")
    return {
        "from_day": from_day.isoformat(),
        "to_day": to_day.isoformat(),
        "first_day": settings.first_day.isoformat(),
        "feature_window_days": settings.feature_window_days,
        "smoothing_impressions": settings.smoothing_impressions,
        "smoothing_plays": settings.smoothing_plays,
        "click_outcomes": list(settings.click_outcomes),
        "labels": {name: surface.label_parameters for name, surface in surfaces.items()},
        "label_rules": [
            [name, label, *rule.rule]
            for name, surface in surfaces.items()
            for label, rule in surface.label_rules.items()
        ],
        "outcomes": sorted({outcome for surface in surfaces.values() for outcome in surface.outcomes}),
        "label_window_days": {
            name: surface.label_window_days for name, surface in surfaces.items() if surface.label_window_days > 1
        },
        "column_types": contracts.TYPES,
        "contracts": contracts.for_dbt(settings, surfaces),
    }


def day_ranges(rows: Mapping[date, int], days: Sequence[date], bound: int) -> list[tuple[date, date]]:
    """Split consecutive days into ranges of at most ``bound`` rows, each as long as it can be and at least one day.

    Args:
        rows: Rows of each day; a day that is not there has none.
        days: The days, oldest first.
        bound: Most rows of a range of several days.
    """
    ranges: list[tuple[date, date]] = []
    held = 0
    for day in days:
        count = rows.get(day, 0)
        if ranges and held + count <= bound:
            ranges[-1] = (ranges[-1][0], day)
            held += count
        else:
            ranges.append((day, day))
            held = count
    return ranges


def build_ranges(lake: Lake, days: Sequence[date], *, share: int = 1) -> list[tuple[date, date]]:
    """Return the ranges of consecutive days that are built by a dbt call each, so that memory stays bounded.

    What a day costs follows from its exposures and listens. ``share``: rows that are made of each of them.
    """
    landed = " union all ".join(f"select day from {ALIAS}.{LANDING}.{table}" for table in ("exposures", "listens"))
    query = f"select day, count(*) from ({landed}) where day between ? and ? group by day"
    rows = dict(lake.connection.execute(query, [days[0], days[-1]]).fetchall())
    return day_ranges(rows, days, lake.settings.build_rows // share)


def empty_days(lake: Lake, surface: str, days: Collection[date]) -> set[date]:
    """Return the days that are built, and on which nothing was shown on the surface.

    A day whose exposures landed but whose examples are missing is not empty; neither is one that was not built.
    """
    tables = [f"{FEATURES}.{name}" for name in ("int_day", "stg_exposures", f"examples_{surface}")]
    if not all(map(lake.table_exists, tables)):
        return set()
    built, exposures, examples = (
        f"select day from {ALIAS}.{table} where day in (select unnest($1))" for table in tables
    )
    query = f"({built}) except ({exposures} and surface = $2) except ({examples})"
    return {day for (day,) in lake.connection.execute(query, [sorted(days), surface]).fetchall()}


def excluded_surfaces(settings: Settings, surfaces: Mapping[str, Surface]) -> list[str]:
    """Return dbt selectors of the surfaces that have models in the app's folder but are not configured in this home."""
    folders = (folder / "models" / "surfaces" for folder in app_projects(settings).values())
    found = {path.name for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_dir()}
    return [f"fqn:surfaces.{name}" for name in sorted(found - surfaces.keys())]


def build_arguments(
    settings: Settings,
    surfaces: Mapping[str, Surface],
    stages: Sequence[Stage],
    from_day: date,
    to_day: date,
) -> list[str]:
    """Return the dbt arguments that build and test the stages for the days [from_day, to_day] in one call."""
    arguments = ["build", "--select", *(f"tag:{stage}" for stage in stages), "--exclude-resource-types", "unit_test"]
    if excluded := excluded_surfaces(settings, surfaces):
        arguments += ["--exclude", *excluded]
    return [*arguments, "--vars", json.dumps(dbt_vars(settings, surfaces, from_day, to_day))]


def run_dbt(
    settings: Settings,
    arguments: Sequence[str],
    *,
    project_dir: Path = DBT_PROJECT_DIR,
    parsed: Path | None = None,
    told: "Callable[[EventMsg], None] | None" = None,
) -> "Sequence[NodeResult]":
    """Run dbt in this process, quietly, and return what it says of each node that it ran.

    Args:
        settings: Name the lake, and the app, whose SQL is built too.
        arguments: The command and its options.
        project_dir: Our dbt project.
        parsed: The project's parser's output (``partial_parse.msgpack``), for the same SQL. Without it dbt parses anew,
            as it does whenever a variable has another value, and every day is another value.
        told: Called with each of dbt's events (``EventMsg``), those for debugging too.

    Raises:
        DbtError: A model or test failed, or the project does not compile.
    """
    from dbt.cli.main import dbtRunner
    from dbt.contracts.graph.manifest import Manifest

    from ml.features import secret

    manifest = Manifest.from_msgpack(parsed.read_bytes()) if parsed else None
    if manifest:
        manifest.build_flat_graph()
        manifest.rebuild_ref_lookup()
    folders = ["--project-dir", str(project_dir), "--profiles-dir", str(project_dir)]
    link_packages(settings)
    declared = json.dumps(for_dbt(feature_tables(settings)))
    secret.statements = catalog_secret(settings)
    with _environment({**dbt_environment(settings), "CROSSFADE_FEATURE_TABLES": declared}):
        outcome = dbtRunner(manifest, [told] if told else []).invoke(["--quiet", *arguments, *folders])
    if arguments[0] in ("build", "run"):
        with Lake(settings) as lake:  # also where it failed: what was committed before stays
            lake.retry(lake.files.record)
    results: Sequence[NodeResult] = getattr(outcome.result, "results", ())
    if not outcome.success:
        failed = [f"{r.node.name}: {r.message}" for r in results if str(r.status) in ("error", "fail", "runtime error")]
        raise DbtError("; ".join(failed) or str(outcome.exception or outcome.result))
    return results


def stream_dbt(
    settings: Settings, arguments: Sequence[str], *, parsed: Path | None = None
) -> Generator[dict[str, Any], None, None]:
    """Run dbt as ``run_dbt`` does, in a thread of this process, and yield its events for people as they happen.

    They are as its JSON log has them; those for debugging, nine of ten, are left out.

    In this process dbt ends with it: a process of its own would outlive a killed worker and write on. Whoever leaves
    the events early stops dbt after the query that is running.

    Raises:
        DbtError: At the end, as ``run_dbt`` does.
    """
    from dbt_common.events.functions import msg_to_dict

    events: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
    stopped, failed = Event(), list[BaseException]()

    def tell(event: "EventMsg") -> None:
        # The one kind of event at which dbt expects an error: the node fails, as do all after it.
        if stopped.is_set() and event.info.name == "SQLQuery":
            raise DbtError("stopped")
        if event.info.level != "debug":
            events.put(msg_to_dict(event))

    def work() -> None:
        try:
            run_dbt(settings, arguments, parsed=parsed, told=tell)
        except BaseException as error:  # raised where the events are read
            failed.append(error)
        finally:
            events.put(None)

    thread = Thread(target=work, name="dbt", daemon=True)
    thread.start()
    try:
        yield from iter(events.get, None)
    finally:
        stopped.set()
        thread.join()
    if failed:
        raise failed[0]


def retried(
    build: Callable[[], Iterator[T]], key: Callable[[T], Hashable | None], *, attempts: int = 6, pause_s: float = 2
) -> Iterator[T]:
    """Yield what a dbt call tells; where another writer committed first, call it again as a whole.

    Args:
        build: Makes the call. The same input gives the same tables, so that it may be repeated.
        key: By which something is told once, though several calls tell it; None for what may be told again.
        attempts: Calls until a conflict is raised.
        pause_s: Mean pause before the second call; it doubles, and varies so that two do not meet again.
    """
    told = set[Hashable]()
    for attempt in range(1, attempts + 1):
        try:
            for event in build():
                found = key(event)
                if found is None or found not in told:
                    told.add(found)
                    yield event
            return
        except DbtError as error:
            if attempt == attempts or not is_conflict(error):
                raise
            log.warning("another writer committed first, so it is built again: %s", error)
            time.sleep(pause_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
