"""Sealed JSON: a document that carries the hash of its content, so that an edit is found when it is read.

Whoever can write can seal. What somebody must answer for carries a signature of that hash too:
``ml.foundation.signing``.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ml.foundation.documents import Document

_SEAL, _SIGNATURE = "content_hash", "signature"


class DamagedError(ValueError):
    """A stored document or file whose content is not what its hash says."""


def canonical(content: object) -> bytes:
    """Return JSON with sorted keys; equal content gives equal bytes. NaN and infinities are refused."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(content: object) -> str:
    """Return the SHA-256 in hex of the canonical JSON of ``content``."""
    return hashlib.sha256(canonical(content)).hexdigest()


class Sealed(NamedTuple):
    """A sealed document: its content, the hash of that, and what it carries as a signature of the hash."""

    content: Document
    hash: str
    signature: object


def seal(content: Mapping[str, object], sign: Callable[[str], Mapping[str, object] | None] | None = None) -> bytes:
    """Return ``content`` as readable JSON with its hash under ``content_hash``.

    Args:
        content: What is sealed.
        sign: Returns the signature of that hash, or None.
    """
    sealed = {**content, _SEAL: digest(content)}
    if sign is not None and (signature := sign(digest(content))) is not None:
        sealed[_SIGNATURE] = dict(signature)
    return (json.dumps(sealed, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def unseal(data: bytes, name: str) -> tuple[Document, str]:
    """Return (content, its hash) of sealed JSON, whoever signed it.

    Args:
        data: Bytes written by ``seal``.
        name: Names the document in errors.

    Raises:
        DamagedError: No JSON object, no hash, or another hash than that of the content.
    """
    found = unseal_signed(data, name)
    return found.content, found.hash


def unseal_signed(data: bytes, name: str) -> Sealed:
    """Return a sealed document with its signature, which is not examined; arguments and errors of ``unseal``."""
    try:
        content = json.loads(data)
        stated, signature = content.pop(_SEAL), content.pop(_SIGNATURE, None)
        actual = digest(content)  # NaN and half a pair of surrogates have no canonical form
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(f"{name} is no sealed document: {error!r}") from error
    if stated != actual:
        raise DamagedError(f"{name} was edited: it states {stated}, its content has {actual}")
    return Sealed(content, actual, signature)
