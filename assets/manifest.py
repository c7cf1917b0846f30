"""The parsed dbt project: made once per state of ``dbt_project/``, never at import, never stale."""

import os
import shutil
from pathlib import Path

from ml.features import project_hash, run_dbt
from ml.settings import Settings

MANIFEST, PARSED = "manifest.json", "partial_parse.msgpack"
"""What dbt's parser writes: for Dagster, and for dbt itself."""


def manifest_path(settings: Settings) -> Path:
    """Return where the manifest of the project as it is now belongs; its folder is named by the project's hash."""
    return settings.home / "dbt" / "manifests" / project_hash() / MANIFEST


def parse_project(settings: Settings) -> Path:
    """Parse the dbt project unless this state of it was parsed before; return the manifest's path."""
    path = manifest_path(settings)
    if path.exists() and path.with_name(PARSED).exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.parent / f"parse-{os.getpid()}"
    run_dbt(settings, ["parse", "--target-path", str(scratch)])
    for name in (PARSED, MANIFEST):
        (scratch / name).replace(path.with_name(name))
    shutil.rmtree(scratch)
    return path
