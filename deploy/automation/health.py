"""Does the server take up what was promoted? Asked over HTTP, as a load balancer would."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from ml.foundation.settings import Settings
from ml.releases.champions import Pointer
from ml.releases.store import ReleaseStore

_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Unserved:
    """A champion that the server does not serve.

    Attributes:
        surface: Name of the surface.
        pointer: The champion.
        serves: Release that the server answers with instead; None where it answers with none.
        reason: What it does instead, for people.
    """

    surface: str
    pointer: Pointer
    serves: str | None
    reason: str


def unserved(settings: Settings) -> list[Unserved]:
    """Return the champions that the server at ``serve_url`` does not answer with, a server that is down included."""
    import httpx

    store, found = ReleaseStore.of(settings), []
    with httpx.Client(base_url=str(settings.serve_url), headers=_headers(settings), timeout=_TIMEOUT_S) as client:
        for surface in store.surfaces():
            pointer = store.pointer(surface)
            if pointer is None:
                continue
            try:
                answer = client.get(f"/v2/models/{surface}")
                serves = answer.json()["parameters"]["release"] if answer.status_code == 200 else None
                reason = f"it serves {serves}" if serves else f"it answers {answer.status_code}"
            except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
                serves, reason = None, f"it does not answer: {error}"
            if serves != pointer.release:
                found.append(Unserved(surface, pointer, serves, reason))
    return found


def unready(settings: Settings) -> tuple[str, dict[str, str]]:
    """Return why the server at ``serve_url`` is not ready, empty where it is, and what it says is wrong."""
    import httpx

    url = f"{settings.serve_url}/v2/health/ready"
    try:
        answer = httpx.get(url, headers=_headers(settings), timeout=_TIMEOUT_S)
    except httpx.HTTPError as error:
        return f"{settings.serve_url} does not answer: {error}", {}
    try:
        told = answer.json()
        troubles = {str(what): str(of) for what, of in told.get("details", {}).items()}
    except (ValueError, AttributeError):
        return f"{url} answers {answer.status_code} and no JSON", {}
    reason = "" if answer.status_code == 200 else str(told.get("error") or f"it answers {answer.status_code}")
    return reason, troubles


def _headers(settings: Settings) -> dict[str, str]:
    token = settings.serve_token
    return {} if token is None else {"Authorization": f"Bearer {token.get_secret_value()}"}


def overdue(missing: list[Unserved], cursor: str | None, now: float, patience_s: float) -> tuple[list[Unserved], str]:
    """Return the champions that have been unserved for longer than ``patience_s``, and the cursor of the next look.

    Args:
        missing: From ``unserved``.
        cursor: From the last look.
        now: Seconds since the epoch.
        patience_s: Seconds that a server may take to load a model, or to come back.
    """
    since: Mapping[str, float] = json.loads(cursor) if cursor else {}
    seen = {_key(item): since.get(_key(item), now) for item in missing}
    return [item for item in missing if now - seen[_key(item)] >= patience_s], json.dumps(seen, sort_keys=True)


def _key(item: Unserved) -> str:
    return f"{item.surface} {item.pointer.number}"
