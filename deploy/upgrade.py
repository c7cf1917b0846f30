"""Bringing an instance directory along: what an earlier version left behind, and the step that mends it.

A step looks at the state itself, not at a version's number. So what is done is done whoever did it, a step that was
killed is begun again by the next call, and a directory of any earlier version is brought along by the same list.
"""

import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from deploy.home import instance_file, prepare_instance
from ml.foundation.file_stores import open_files
from ml.foundation.lake import Lake, OldCatalog
from ml.foundation.settings import SETTINGS_FILE, Settings
from ml.landing.load import init_tables, lacking
from ml.operations.backup import back_up, copy_database, note_copy
from ml.operations.verify import verify
from ml.releases.ownership import owner_of, require_owner
from ml.teacher.contract import ContractError
from ml.teacher.labels import name_labels, nameless_labels
from ml.teacher.teachers import home_contracts


class UpgradeRefused(ValueError):
    """An upgrade that was not begun; the message says why, and nothing was changed."""


@dataclass(frozen=True)
class Step:
    """One thing that an earlier version left otherwise.

    Attributes:
        what: Its name.
        lacks: Says what is to be done, a line each; nothing where the step is done.
        mend: Does it; safe to repeat after a kill.
    """

    what: str
    lacks: Callable[[Settings], Sequence[str]]
    mend: Callable[[Settings], object]


def _catalog(settings: Settings) -> list[str]:
    try:
        Lake(settings).close()
    except OldCatalog as old:
        return [f"its format is {old.version} of DuckLake, {old.wanted} is wanted"]
    return []


def _migrate(settings: Settings) -> None:
    Lake(settings, migrate=True).close()


def _tables(settings: Settings) -> list[str]:
    with Lake(settings) as lake:
        return lacking(lake)


def _add_tables(settings: Settings) -> None:
    with Lake(settings) as lake:
        init_tables(lake)


def _hashes(settings: Settings) -> list[str]:
    with Lake(settings) as lake:
        unknown = sum(file.sha256 is None for file in lake.files.named(every=True))
    return [f"{unknown:,} have no recorded hash; they are taken as they are now"] if unknown else []


def _names(settings: Settings) -> list[str]:
    with Lake(settings) as lake:
        return [f"{table}: who gave a label" for table in nameless_labels(lake)]


def _name(settings: Settings) -> None:
    """Add who gave a label: the only teacher that the home has; not said where it has several or cannot be read."""
    try:
        names = list(home_contracts(settings))
    except ContractError:
        names = []
    with Lake(settings) as lake:
        name_labels(lake, names[0] if len(names) == 1 else None)


def _owner(settings: Settings) -> list[str]:
    return [] if owner_of(open_files(settings.artifacts_dir)) else ["they belong to no lake yet"]


def _own(settings: Settings) -> None:
    with Lake(settings) as lake:
        require_owner(open_files(settings.artifacts_dir), lake.id())


def _instance(settings: Settings) -> list[str]:
    from dagster import DagsterInstance

    written = settings.dagster_home / "dagster.yaml"
    if not written.exists():
        return ["there is none"]
    told = [] if written.read_text(encoding="utf-8") == instance_file(settings) else ["dagster.yaml is another"]
    with DagsterInstance.from_config(str(settings.dagster_home)) as instance:
        storages = {
            "runs": instance.run_storage,
            "events": instance.event_log_storage,
            "schedules": instance.schedule_storage,
        }
        for name, storage in storages.items():
            found, head = (storage.alembic_version() if storage else None) or (None, None)
            if found != head:
                told.append(f"tables of {name} are of revision {found}, {head} is wanted")
    return told


def _upgrade_instance(settings: Settings) -> None:
    from dagster import DagsterInstance

    prepare_instance(settings)
    with DagsterInstance.from_config(str(settings.dagster_home)) as instance:
        instance.upgrade()


STEPS = (
    Step("catalog of the lake", _catalog, _migrate),
    Step("data files", _hashes, verify),
    Step("tables of the landing", _tables, _add_tables),
    Step("soft labels", _names, _name),
    Step("artifacts", _owner, _own),
    Step("Dagster's instance", _instance, _upgrade_instance),
)
"""In the order in which they are done: one may need those before it."""


def pending(settings: Settings) -> Iterator[tuple[Step, list[str]]]:
    """Yield each step that is to be done, with what it would do; change nothing.

    Raises:
        UpgradeRefused: There is no lake to be brought along.
    """
    if not settings.has_lake:
        raise UpgradeRefused(f"{settings.catalog_path} is not there; `crossfade init` makes a new instance directory")
    for step in STEPS:
        try:
            told = list(step.lacks(settings))
        except OldCatalog:
            told = ["is looked at when the catalog is of this version"]
        if told:
            yield step, told


def copy_state(settings: Settings, folder: Path) -> Path:
    """Copy what an upgrade may change into a new folder of ``folder``: catalog, settings, Dagster's instance.

    Data files, releases and other artifacts are immutable: an upgrade adds beside them.

    Raises:
        UpgradeRefused: A part of it is a Postgres database, which has its own tools.
    """
    if settings.catalog_url or settings.dagster_url:
        raise UpgradeRefused(
            "catalog or Dagster's storage is a Postgres database: back it up with pg_dump, then say --backed-up"
        )
    target = folder / f"upgrade-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"
    scratch = target.with_name(f".{target.name}.tmp")
    scratch.mkdir(parents=True)
    back_up(settings, scratch)
    if (kept := settings.home / SETTINGS_FILE).exists():
        shutil.copy2(kept, scratch)
    for file in sorted(settings.dagster_home.rglob("*")):
        place = scratch / "dagster" / file.relative_to(settings.dagster_home)
        if file.suffix == ".db":
            place.parent.mkdir(parents=True, exist_ok=True)
            copy_database(file, place)
        elif file.name == "dagster.yaml":
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, place)
    scratch.replace(target)
    note_copy(settings, target)
    return target


def upgrade(settings: Settings) -> Generator[tuple[Step, list[str]], None, None]:
    """Do what is pending, step by step; yield each step when it is done, with what it did."""
    for step in STEPS:
        if told := list(step.lacks(settings)):
            step.mend(settings)
            if left := list(step.lacks(settings)):
                raise RuntimeError(f"{step.what}: after its step, still {'; '.join(left)}")
            yield step, told
