"""Alerts: a line of JSON each in the home's reports, and a POST to a webhook where one is set."""

import json
import logging
from typing import Any

import httpx

from ml.foundation.settings import Settings

log = logging.getLogger(__name__)

_TIMEOUT_S = 10.0


def send(settings: Settings, alerts: list[dict[str, Any]]) -> None:
    """Record alerts, oldest first. A webhook that fails is logged: the record stays.

    Args:
        settings: Names the home and the webhook.
        alerts: JSON-able facts of each.
    """
    if not alerts:
        return
    path = settings.reports_dir / "alerts.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(alert) + "\n" for alert in alerts)
    if settings.alert_url is None:
        return

    try:
        httpx.post(
            settings.alert_url.get_secret_value(), json={"alerts": alerts}, timeout=_TIMEOUT_S
        ).raise_for_status()
    except httpx.HTTPError as error:
        log.error("%d alerts could not be posted: %s", len(alerts), error)
