"""What came of landed files: the quarantine, and the rows that wait for their day."""

from datetime import datetime
from typing import Annotated

import typer

from deploy.cli.shared import TablesAsJson, home_settings
from deploy.cli.terminal import note, show_table
from ml.foundation.lake import Lake


def quarantine(
    day: Annotated[
        datetime | None, typer.Argument(formats=["%Y-%m-%d"], help="One day's rows; default: reasons of every day.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Most rows to show.")] = 20,
    as_json: TablesAsJson = False,
) -> None:
    """Show why rows did not land: by day and reason, or the rows of one day with file, number and content."""
    from ml.landing.late import waiting
    from ml.landing.quarantine import quarantined, reasons

    with Lake(home_settings()) as lake:
        found = quarantined(lake, day.date(), rows) if day else reasons(lake, rows)
        waits = waiting(lake)
    show_table(f"quarantine of {day.date()}" if day else "quarantine", found, right=("rows", "row"))
    for own, count in waits.items():
        note(f"{count:,} late rows wait for {own} to land")
    if found and day is None:
        note("crossfade quarantine DAY shows the rows of a day")
