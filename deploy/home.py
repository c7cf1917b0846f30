"""Setting up a home: settings file, lake, Dagster's instance with its pools, the parsed dbt project."""

import os
import shutil
from typing import Any

from assets.manifest import parse_project
from assets.names import LAKE_WRITER, TRAINING
from ml.foundation.settings import PROJECT_ROOT, Settings, app_values, write_settings_file

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
    "crossfade.toml",
)
"""What a demo may remove from a home that an earlier demo made."""


OF_A_PROCESS = {
    "home",
    "serve_host",
    "serve_port",
    "serve_token",
    "alert_url",
    "catalog_url",
    "dagster_url",
    "ray_address",
    "threads",
    "memory_limit",
    "build_rows",
}
"""Settings of one machine or process, or secret: a home does not keep them."""


_POSTGRES_STORAGE = """
# The address holds a password: every process reads it from its environment.
storage:
  postgres:
    postgres_url:
      env: CROSSFADE_DAGSTER_URL
"""


def given(settings: Settings) -> dict[str, Any]:
    """Return the settings that somebody gave and that say what the home holds, for every process to agree on them.

    What the app's own file says is left to it: a change there holds in every home of the app.
    """
    assert settings.app is not None
    of_app = app_values(settings.app)
    there = Settings(home=settings.home, app=settings.app, **of_app)
    kept = {name: getattr(settings, name) for name in sorted(settings.model_fields_set - OF_A_PROCESS)}
    return {name: value for name, value in kept.items() if name not in of_app or value != getattr(there, name)}


def prepare(settings: Settings, values: dict[str, Any] | None = None) -> Settings:
    """Make a home ready for use; safe to call again, and after a kill.

    Args:
        settings: Names the home.
        values: Settings to keep in the home's file.

    Returns:
        The settings as every later process of this home reads them.
    """
    from ml.foundation.file_stores import open_files
    from ml.foundation.lake import Lake
    from ml.landing.load import init_tables
    from ml.releases.ownership import require_owner

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


def prepare_instance(settings: Settings) -> None:
    """Write Dagster's instance file, create its storage and set the pool limits before any run."""
    from dagster import DagsterInstance

    folder = settings.dagster_home
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f"dagster.yaml.{os.getpid()}.tmp"
    instance_file = (PROJECT_ROOT / "deploy" / "dagster.yaml").read_text(encoding="utf-8")
    scratch.write_text(instance_file + (_POSTGRES_STORAGE if settings.dagster_url else ""), encoding="utf-8")
    scratch.replace(folder / "dagster.yaml")
    with DagsterInstance.from_config(str(folder)) as instance:
        for pool in (LAKE_WRITER, TRAINING):
            instance.event_log_storage.set_concurrency_slots(pool, 1)


def rebuild(settings: Settings) -> None:
    """Remove what an earlier demo left in its home.

    Raises:
        ValueError: The home was not made by a demo, or its releases lie elsewhere.
    """
    if not settings.demo:
        raise ValueError(f"{settings.home} was not made by a demo; choose another CROSSFADE_HOME")
    for name in ("artifacts_url", "lake_url", "catalog_url", "dagster_url"):
        if getattr(settings, name):
            raise ValueError(f"CROSSFADE_{name.upper()} holds another demo; choose another address, or empty it")
    for name in REBUILT:
        path = settings.home / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
