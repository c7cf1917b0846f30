"""Sealed JSON: a document that carries the hash of its content, so that an edit is found when it is read."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_SEAL = "content_hash"


class DamagedError(ValueError):
    """A stored document or file whose content is not what its hash says."""


def canonical(content: object) -> bytes:
    """Return JSON with sorted keys; equal content gives equal bytes. NaN and infinities are refused."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(content: object) -> str:
    """Return the SHA-256 in hex of the canonical JSON of ``content``."""
    return hashlib.sha256(canonical(content)).hexdigest()


def seal(content: Mapping[str, object]) -> bytes:
    """Return ``content`` as readable JSON with its hash under ``content_hash``."""
    sealed = {**content, _SEAL: digest(content)}
    return (json.dumps(sealed, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def unseal(data: bytes, name: str) -> tuple[dict[str, Any], str]:
    """Return (content, its hash) of sealed JSON.

    Args:
        data: Bytes written by ``seal``.
        name: Names the document in errors.

    Raises:
        DamagedError: No JSON object, no hash, or another hash than that of the content.
    """
    try:
        content = json.loads(data)
        stated = content.pop(_SEAL)
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(f"{name} is no sealed document: {error!r}") from error
    actual = digest(content)
    if stated != actual:
        raise DamagedError(f"{name} was edited: it states {stated}, its content has {actual}")
    return content, actual
