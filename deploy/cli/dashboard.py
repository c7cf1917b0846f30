"""``crossfade dashboard``: the app's weeks on one page."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.shared import TablesAsJson, home_settings
from deploy.cli.terminal import note, show_table


def dashboard(
    out: Annotated[
        Path | None, typer.Option(help="HTML page to write; default $CROSSFADE_HOME/reports/dashboard.html.")
    ] = None,
    days: Annotated[int, typer.Option(help="How many of the newest days.", min=1, max=3650)] = 60,
    as_json: TablesAsJson = False,
) -> None:
    """Show the app's weeks: lift over the control, calibration, coverage of labels, releases and refusals, by day.

    One page that needs no other file, made of lake and stores. The table is of the newest day of each surface; as JSON,
    of all days.
    """
    from ml.operations.dashboard import as_page, rows
    from ml.operations.weeks import weeks

    settings = home_settings()
    found = weeks(settings, days)
    page = out or settings.reports_dir / "dashboard.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    name = settings.app.name if settings.app else "Crossfade"
    page.write_text(as_page(found, f"{name}, {days} days", datetime.now(UTC)), encoding="utf-8")
    table = rows(found)
    newest = {row["surface"]: row["day"] for row in table}
    shown = table if as_json else [row for row in table if row["day"] == newest[row["surface"]]]
    show_table("student and control", shown)
    note(f"read {page}")
