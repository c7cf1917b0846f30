"""Setting up a home: settings file, lake, Dagster's instance with its pools, the parsed dbt project."""

import os
import shutil
from pathlib import Path

from assets.manifest import parse_project
from assets.names import LAKE_WRITER, LANDER, TRAINING
from ml.foundation.file_stores import open_files
from ml.foundation.lake import Lake
from ml.foundation.settings import PROJECT_ROOT, SETTINGS_FILE, Settings, app_values, kept_values, write_settings_file
from ml.landing.ledger import LEDGER, landed_days
from ml.releases.ownership import require_owner

REBUILT = (
    "lake",
    "artifacts",
    "dagster",
    "dbt",
    "landing",
    "serving",
    "teacher",
    "models",
    "reports",
    "tuning",
    "crossfade.toml",
)
"""What a demo may remove from a home that an earlier demo made."""


OF_A_PROCESS = {
    "home",
    "serve_host",
    "serve_port",
    "serve_token",
    "signing_key",
    "signing_key_file",
    "signing",
    "signing_token",
    "signing_token_file",
    "alerts",
    "catalog_url",
    "dagster_url",
    "ray_address",
    "threads",
    "memory_limit",
    "build_rows",
}
"""Settings of one machine or process, or secret: a home does not keep them."""


_EVENT_LOG = """
# Many events of a run are one transaction.
event_log_storage:
  module: deploy.event_log
  class: BatchedEventLog
"""

_POSTGRES_STORAGE = """
# The address holds a password: every process reads it from its environment.
storage:
  postgres:
    postgres_url:
      env: CROSSFADE_DAGSTER_URL
"""


def given(settings: Settings) -> dict[str, object]:
    """Return the settings that somebody gave and that say what the home holds, for every process to agree on them.

    What the app's own file says is left to it: a change there holds in every home of the app.
    """
    assert settings.app is not None
    of_app = app_values(settings.app)
    there = Settings(home=settings.home, app=settings.app, **of_app)
    kept = {name: getattr(settings, name) for name in sorted(settings.model_fields_set - OF_A_PROCESS)}
    return {name: value for name, value in kept.items() if name not in of_app or value != getattr(there, name)}


def require_same_data(settings: Settings) -> None:
    """Refuse settings that name other data than the days that a home holds.

    Raises:
        ValueError: Names what differs, with both values.
    """
    if not (settings.home / SETTINGS_FILE).exists() or not settings.has_lake:
        return
    with Lake(settings) as lake:
        days = landed_days(lake, "exposures") if lake.table_exists(LEDGER) else set()
    kept = kept_values(settings.home)
    app = Path(kept.get("app") or settings.app or "")
    kept = (app_values(app) if app.is_dir() else {}) | kept
    told = []
    for name in ("source", "first_day", "simulator_preset", "simulator_seed"):
        before = kept.get(name, Settings.model_fields[name].default)
        if str(before) != str(now := getattr(settings, name)):
            told.append(f"{name} is {before} there, and {now} now")
    if days and told:
        raise ValueError(
            f"{settings.home} holds {len(days)} landed days, {min(days)} to {max(days)}, of other data: "
            f"{'; '.join(told)}. Name another CROSSFADE_HOME, or unset what differs; "
            "`crossfade init --change` changes it all the same"
        )


def prepare(settings: Settings, values: dict[str, object] | None = None) -> Settings:
    """Make a home ready for use; safe to call again, and after a kill.

    Args:
        settings: Names the home.
        values: Settings to keep in the home's file.

    Returns:
        The settings as every later process of this home reads them.
    """
    from ml.landing.load import init_tables

    if values:
        write_settings_file(settings.home, values)
        settings = Settings(home=settings.home)
    else:
        settings.home.mkdir(parents=True, exist_ok=True)
    with Lake(settings) as lake:
        init_tables(lake)
        require_owner(open_files(settings.artifacts_dir), lake.id())
    prepare_instance(settings)
    parse_project(settings)
    return settings


def instance_file(settings: Settings) -> str:
    """Return the content of Dagster's instance file, ``dagster.yaml``."""
    written = (PROJECT_ROOT / "deploy" / "dagster.yaml").read_text(encoding="utf-8")
    return written + (_POSTGRES_STORAGE if settings.dagster_url else _EVENT_LOG)


def prepare_instance(settings: Settings) -> None:
    """Write Dagster's instance file, create its storage and set the pool limits before any run."""
    from dagster import DagsterInstance

    folder = settings.dagster_home
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f"dagster.yaml.{os.getpid()}.tmp"
    scratch.write_text(instance_file(settings), encoding="utf-8")
    scratch.replace(folder / "dagster.yaml")
    with DagsterInstance.from_config(str(folder)) as instance:
        for pool, limit in pool_limits(settings).items():
            instance.event_log_storage.set_concurrency_slots(pool, limit)


def pool_limits(settings: Settings) -> dict[str, int]:
    """Return how many steps of each pool may run at once."""
    return {LAKE_WRITER: settings.lake_writers, LANDER: 1, TRAINING: 2}


def require_rebuildable(settings: Settings) -> None:
    """Refuse to rebuild a home that no demo made, or what of it lies elsewhere.

    Raises:
        ValueError: The home was not made by a demo, or its releases lie elsewhere.
    """
    if not settings.demo:
        raise ValueError(
            f"{settings.home} holds other data (source {settings.source}, first day {settings.first_day}) and was not "
            "made by a demo; nothing was changed: choose another CROSSFADE_HOME"
        )
    for name in ("artifacts_url", "lake_url", "catalog_url", "dagster_url"):
        if getattr(settings, name):
            raise ValueError(f"CROSSFADE_{name.upper()} holds another demo; choose another address, or empty it")


def rebuild(settings: Settings) -> None:
    """Remove what an earlier demo left in its home.

    Raises:
        ValueError: See ``require_rebuildable``.
    """
    require_rebuildable(settings)
    for name in REBUILT:
        path = settings.home / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
