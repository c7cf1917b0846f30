"""``crossfade check``: what is wrong in an app's folder, before a run finds it."""

import logging
import sys
import tempfile
import time
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.findings import require_good, show_findings
from deploy.cli.shared import AsJson
from deploy.cli.terminal import note, show_json
from ml.foundation.settings import Settings
from ml.operations.app_files import examine_files
from ml.operations.findings import State


def check(
    app: Annotated[Path | None, typer.Argument(help="The app's folder; default CROSSFADE_APP.")] = None,
    files_only: Annotated[
        bool, typer.Option("--files-only", help="Read the files alone: open no model, build no SQL.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find what is wrong in an app's folder: settings, YAML, contract, model, SQL, columns, a sample day.

    Needs no lake and no instance directory, and changes nothing: the SQL is built in a lake of its own, on a complete
    day of the landing zone if there is one, else on an empty day. Exit status 1 where something is bad.
    """
    started = time.perf_counter()
    logging.getLogger("ml.foundation.lake_files").setLevel(logging.ERROR)  # a lake of minutes has no hashes to miss
    with tempfile.TemporaryDirectory(prefix="crossfade-check-") as folder:
        settings = _settings(app, Path(folder))
        found = list(examine_files(settings))
        if not files_only:
            from ml.operations.app_trial import examine_trial, trial_settings

            spoilt = [finding.what for finding in found if finding.state is State.BAD]
            with redirect_stdout(sys.stderr):  # dbt says there, beside the result, which SQL it could not build
                found += examine_trial(trial_settings(settings, Path(folder)), spoilt)
    if as_json:
        show_json({"app": settings.app, "findings": [asdict(finding) for finding in found]})
    else:
        show_findings(f"the app in {settings.app}", found)
        note(f"{time.perf_counter() - started:.1f} s")
    require_good(found)


def _settings(app: Path | None, home: Path) -> Settings:
    """Return the settings of the app alone: no instance directory adds to them."""
    app = app or Settings().app
    assert app is not None
    return Settings(home=home, app=app)
