"""``crossfade alert`` and ``crossfade watch``: who hears, and that somebody looks."""

import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli.shared import TablesAsJson, home_settings
from deploy.cli.terminal import note, say, show_table

if TYPE_CHECKING:
    from ml.operations.alerts import Desk

_EVERY_S = 60.0


def alert(
    test: Annotated[bool, typer.Option("--test", help="Send a message to each address, say what came back.")] = False,
    newest: Annotated[int, typer.Option(min=1, help="Most alerts to show.")] = 10,
    as_json: TablesAsJson = False,
) -> None:
    """Show the last alerts and who hears of them, or try every address of CROSSFADE_ALERTS."""
    from ml.operations.alerts import Desk, recorded

    desk = Desk.of(home_settings())
    if test:
        _try(desk)
        return
    shown = ("at", "cause", "about", "told")
    show_table("alerts", [{name: line.get(name, "") for name in shown} for line in recorded(desk.record, newest)])
    note(f"told to {', '.join(one.label for one in desk.to) or 'nobody: CROSSFADE_ALERTS is not set'}")


def _try(desk: "Desk") -> None:
    """Send a message to each address and say what came back.

    Raises:
        ValueError: There is no address, or one could not be reached.
    """
    from ml.operations.sending import Message

    if not desk.to:
        raise ValueError("CROSSFADE_ALERTS is not set: docs/how-to/alerts.md has an address of each service")
    told = "Alerts of this home arrive here. Nothing is wrong: close this one."
    message = Message(f"{desk.name}: a test", told, "warning", "crossfade-test", link=desk.ui_url)
    rows = []
    for one in desk.to:
        answer = one.send(message)
        rows.append({"address": one.label, "sent": "yes" if answer.sent else "no", "what came back": answer.told})
    show_table("a test message", rows)
    if failed := sum(row["sent"] == "no" for row in rows):
        raise ValueError(f"{failed} of {len(rows)} addresses could not be reached")


def watch(
    once: Annotated[bool, typer.Option("--once", help="Look once, for cron; fails where something is wrong.")] = False,
) -> None:
    """Look from outside that files can be read and that alert_sensor looks, and tell CROSSFADE_ALERTS where not."""
    from deploy.automation.outside import watch as look

    logging.basicConfig(level=logging.WARNING)
    before: list[str] | None = None
    while True:
        found = look(datetime.now(UTC))
        if found != before:
            say("; ".join(found) or "alert_sensor looks, and everything can be read")
            before = found
        if once:
            raise typer.Exit(bool(found))
        time.sleep(_EVERY_S)
