"""The one hash that turns an app's string ids into int64.

``id63(s)`` is the low 64 bits of MD5 over the UTF-8 bytes of ``s`` read as a little-endian pair of words, masked to
63 bits, so that ids are non-negative in every engine. 0 is reserved for "no id". DuckDB computes the same value in
``ID63_SQL``; a golden test pins both.
"""

import hashlib
from collections.abc import Iterable

import numpy as np

NO_ID = 0
_MASK = (1 << 63) - 1

ID63_SQL = "(md5_number_lower({column}) & 9223372036854775807::ubigint)::bigint"
"""DuckDB expression of ``id63`` for one VARCHAR column; null stays null."""


def id63(value: str) -> int:
    """Hash one string id to a non-negative int64."""
    return int.from_bytes(hashlib.md5(value.encode(), usedforsecurity=False).digest()[8:], "little") & _MASK


def id63_array(values: Iterable[str | None]) -> np.ndarray:
    """Hash string ids to an int64 array [n]; ``None`` becomes ``NO_ID``."""
    return np.fromiter((NO_ID if v is None else id63(v) for v in values), dtype=np.int64)
