"""The parsed dbt project: made once per state of ``dbt_project/``, never at import, never stale."""

import hashlib
import os
import shutil
from functools import lru_cache
from pathlib import Path

from ml.features import DBT_PROJECT_DIR, run_dbt
from ml.settings import Settings

_SUFFIXES = (".sql", ".yml", ".yaml")


def manifest_path(settings: Settings) -> Path:
    """Return where the manifest of the project as it is now belongs; its folder is named by the project's hash."""
    return settings.home / "dbt" / "manifests" / project_hash() / "manifest.json"


@lru_cache(maxsize=1)
def project_hash() -> str:
    """Return the content hash of every SQL and YAML file of the dbt project."""
    digest = hashlib.sha256()
    for path in sorted(p for p in DBT_PROJECT_DIR.rglob("*") if p.suffix in _SUFFIXES):
        digest.update(str(path.relative_to(DBT_PROJECT_DIR)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:32]


def parse_project(settings: Settings) -> Path:
    """Parse the dbt project unless this state of it was parsed before; return the manifest's path."""
    project_hash.cache_clear()
    path = manifest_path(settings)
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.parent / f"parse-{os.getpid()}"
    run_dbt(settings, ["parse", "--target-path", str(scratch)])
    (scratch / "manifest.json").replace(path)
    shutil.rmtree(scratch)
    return path
