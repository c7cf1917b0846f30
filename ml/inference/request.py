"""From a ranking request to model inputs: ids are hashed, `daily` inputs looked up, `request` inputs read."""

import reprlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any

import numpy as np

from ml.foundation.documents import is_list
from ml.foundation.ids import NO_ID, id63
from ml.inference.snapshot import BoundFeatures
from ml.surfaces.columns import Input

OUTCOMES = {"completed": 1, "skipped": 2, "stopped": 3}
"""Codes of listen outcomes in event lists; 0 pads."""

USER, ITEM, HOUR = "user_id", "item_id", "hour"
EXPOSURE = "exposure_id"
"""What a candidate may name beside its inputs, unseen by the model: the exposure that it becomes if it is shown."""

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_INT64_MAX = 2**63 - 1
_MAX_STRING = 256
_MAX_SHOWN = 80
_RESERVED = ("surface", "candidates", "session", "ts", USER)

_ID = Input(kind="request", type="id", embedding=1)

_hashed = lru_cache(maxsize=1 << 17)(id63)


def show(value: object) -> str:
    """Return a short picture of an offending value, which may be large and deep."""
    text = reprlib.repr(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


class RequestError(ValueError):
    """A request that does not fit the model's inputs; the message names key and value."""


class RequestPlan:
    """How requests of one model become its inputs.

    Args:
        inputs: The model's inputs by name. `request` inputs are read from the request by their name, those that are
            ``per_candidate`` from each candidate; ``session: {x: ...}`` is another spelling of an input ``session_x``.
    """

    def __init__(self, inputs: Mapping[str, Input]) -> None:
        asked = {name: item for name, item in inputs.items() if item.kind == "request"}
        self._readers = {name: _reader(name, item) for name, item in asked.items()}
        self._shared = {name: item for name, item in asked.items() if not item.per_candidate}
        self._each = {name: item for name, item in asked.items() if item.per_candidate}
        self._fixed = [(n, item.serving_value, item) for n, item in inputs.items() if item.kind == "after_ranking"]
        self._daily = {name for name, item in inputs.items() if item.kind == "daily"}
        self._keys = {*_RESERVED, *self._shared}
        self._candidate_keys = {ITEM, *self._each}
        self._read_id = _reader("an id", _ID)

    def feeds(
        self, request: Mapping[str, object], candidates: Sequence[Mapping[str, object]], features: BoundFeatures
    ) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        """Build every input of the model.

        Args:
            request: ``user_id``, ``session``, ``ts`` and shared `request` inputs; what is missing takes its default.
            candidates: n mappings with ``item_id`` and the `request` inputs of each candidate.
            features: Features bound to the same inputs.

        Returns:
            Inputs [n] or [n, length] by name, and {feature table: how many users or items it lacks}.

        Raises:
            RequestError: A key that is no `request` input, or a value of another type.
        """
        rows = len(candidates)
        values = self._request_values(request)
        users = np.array([self._read_id(values.get(USER))], dtype=np.int64)
        columns = self._candidate_columns(candidates)
        feeds: dict[str, np.ndarray] = {}
        for name, item in self._shared.items():
            feeds[name] = np.full((rows, *item.shape), self._readers[name](values.get(name)), dtype=item.dtype)
        for name, item in self._each.items():
            feeds[name] = _column(item, self._readers[name], columns[name])
        items = feeds.get(ITEM)
        if items is None:
            items = _column(_ID, self._read_id, columns[ITEM])
        for name, value, item in self._fixed:
            feeds[name] = np.full((rows, *item.shape), value, dtype=item.dtype)
        found, unknown = features.lookup(users, items)
        return feeds | found, unknown

    def _request_values(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if unknown := [key for key in request if key not in self._keys]:
            raise RequestError(f"unknown key {show(unknown[0])}: {self._explain(unknown[0], self._keys)}")
        values = dict(request)
        session = values.pop("session", None) or {}
        for key, value in session.items():
            name = f"session_{key}"
            if name not in self._shared:
                raise RequestError(f"unknown key session.{key[:_MAX_SHOWN]}: {self._explain(name, self._keys)}")
            if name in values:
                raise RequestError(f"session.{key} and {name} are the same input; send one of them")
            values[name] = value
        if HOUR in self._shared and values.get(HOUR) is None:
            values[HOUR] = as_utc(values.get("ts")).hour
        return values

    def _candidate_columns(self, candidates: Sequence[Mapping[str, object]]) -> dict[str, list[Any]]:
        named: set[str] = set().union(*candidates)
        if unknown := named - self._candidate_keys - {EXPOSURE}:
            i, key = next((i, key) for i, candidate in enumerate(candidates) for key in candidate if key in unknown)
            raise RequestError(
                f"unknown key candidates[{i}].{key[:_MAX_SHOWN]}: {self._explain(key, self._candidate_keys)}"
            )
        if EXPOSURE in named:
            _check_exposures(candidates)
        try:
            columns = {name: list(map(itemgetter(name), candidates)) for name in self._candidate_keys}
        except KeyError:  # what some candidate lacks takes its default
            columns = {name: [candidate.get(name) for candidate in candidates] for name in self._candidate_keys}
        if None in columns[ITEM]:
            raise RequestError(f"candidates[{columns[ITEM].index(None)}] has no item_id")
        return columns

    def _explain(self, key: str, allowed: set[str]) -> str:
        if key in self._daily:
            return "the server looks it up"
        if any(key == name for name, *_ in self._fixed):
            return "it is known only after ranking and has a fixed value here"
        if key in self._each:
            return "it belongs into each candidate"
        if key in self._shared or key in _RESERVED:
            return "it belongs beside the candidates, not into them"
        return f"known are {', '.join(sorted(allowed))}"


def _check_exposures(candidates: Sequence[Mapping[str, object]]) -> None:
    for i, candidate in enumerate(candidates):
        if (value := candidate.get(EXPOSURE)) is not None and type(value) not in (str, int):
            raise RequestError(f"candidates[{i}].{EXPOSURE} must be a string or an integer, got {show(value)}")


def as_utc(ts: datetime | None) -> datetime:
    """Return a request's time in UTC, the present one where it names none.

    Raises:
        RequestError: It is no time of the calendar there.
    """
    if ts is None:
        return datetime.now(UTC)
    try:
        return ts.astimezone(UTC) if ts.tzinfo else ts
    except (OverflowError, ValueError) as error:  # the first or last hours of the calendar, from another zone
        raise RequestError(f"ts {ts.isoformat()} is no time of the calendar in UTC") from error


def _column(item: Input, read: Callable[[object], object], values: list[Any]) -> np.ndarray:
    if item.type in ("id", "category") and set(map(type, values)) == {str} and max(map(len, values)) <= _MAX_STRING:
        return np.fromiter(map(_hashed, values), np.int64, len(values))  # the common case; ``read`` does the same
    return np.array([read(value) for value in values], dtype=item.dtype)


def _reader(name: str, item: Input) -> Callable[[object], object]:
    """Return the function that checks and converts one value; null and missing take the default as in training."""
    match item.type:
        case "category" if name == HOUR:
            return _hour
        case "id" | "category":
            return _category_reader(name, hash_integers=item.type == "id" or name.endswith("_id"))
        case "number":
            return _number_reader(name, item.default)
        case "vector":
            return _vector_reader(name, item.length)
        case _:
            return _events_reader(name, item.length)


def _category_reader(name: str, *, hash_integers: bool) -> Callable[[object], int]:
    """Strings are hashed; so are integers where the app's ids are meant, elsewhere (as ``hour``) they are the value."""

    def read(value: object) -> int:
        if type(value) is str and len(value) <= _MAX_STRING:
            return _hashed(value)
        if value is None:
            return NO_ID
        if type(value) is int and abs(value) <= _INT64_MAX:
            return _hashed(str(value)) if hash_integers else value
        cure = ": a float loses digits of an id" if type(value) is float else ""
        raise RequestError(
            f"{name} must be a string of at most {_MAX_STRING} characters or an integer, got {show(value)}{cure}"
        )

    return read


def _hour(value: object) -> int:
    """Text would be hashed as another category's is, and be an hour that no training row has."""
    if value is None:
        return NO_ID
    if type(value) is int and 0 <= value < 24:
        return value
    raise RequestError(f"{HOUR} must be an integer from 0 to 23, got {show(value)}")


def _number_reader(name: str, default: float) -> Callable[[object], float]:
    def read(value: object) -> float:
        return default if value is None else _number(name, value)

    return read


def _vector_reader(name: str, length: int) -> Callable[[object], list[float]]:
    def read(value: object) -> list[float]:
        if value is None:
            return [0.0] * length
        if not is_list(value) or len(value) != length:
            raise RequestError(f"{name} must be a list of {length} numbers, got {show(value)}")
        return [_number(name, entry) for entry in value]

    return read


def _events_reader(name: str, length: int) -> Callable[[object], list[int]]:
    def read(value: object) -> list[int]:
        if value is None:
            return [0] * length
        if not is_list(value):
            raise RequestError(f"{name} must be a list, newest first, got {show(value)}")
        codes = [_event(name, entry) for entry in value[:length]]
        return codes + [0] * (length - len(codes))

    return read


def _event(name: str, value: object) -> int:
    if isinstance(value, str) and value in OUTCOMES:
        return OUTCOMES[value]
    if type(value) is int and 0 <= value <= _INT64_MAX:
        return value
    raise RequestError(f"{name} holds {show(value)}; known are {', '.join(OUTCOMES)} and their codes")


def _number(name: str, value: object) -> float:
    if type(value) is bool:
        return float(value)
    if (type(value) is int or type(value) is float) and abs(value) <= _FLOAT32_MAX:
        return value
    raise RequestError(f"{name} must be a finite number, got {show(value)}")
