"""``crossfade plan``: what a change of the app would build again, before it does."""

import json
from dataclasses import asdict
from pathlib import Path

from assets.manifest import MANIFEST, parse_project
from deploy.cli.shared import AsJson, home_settings
from deploy.cli.terminal import note, show_json, show_table
from ml.foundation.settings import Settings


def plan(as_json: AsJson = False) -> None:
    """Say which days, soft labels and students a change of SQL, YAML or contract would build again; do nothing.

    SQL is compared with that of the `crossfade init` before, contract and surfaces with what lake and artifacts hold.
    """
    from ml.operations.plan import changed_models
    from ml.operations.plan import plan as run

    settings = home_settings()
    pair = _manifests(settings)
    changed = changed_models(*(json.loads(path.read_bytes()) for path in pair)) if pair else {}
    found = [asdict(rebuild) for rebuild in run(settings, changed)]
    if as_json:
        show_json(found)
        return
    show_table("what would be built again", found, right=("days",))
    if pair is None:
        note("the SQL was parsed once, so there is none before it to compare with")


def _manifests(settings: Settings) -> tuple[Path, Path] | None:
    """Return dbt's manifests of the state before and of the state now; None where there is no state before."""
    folder = settings.home / "dbt" / "manifests"
    known = sorted(folder.glob(f"*/{MANIFEST}"), key=lambda path: path.stat().st_mtime)
    now = parse_project(settings)
    before = [path for path in known if path != now]
    return (before[-1], now) if before else None
