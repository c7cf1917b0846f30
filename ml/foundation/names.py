"""The nearest right name for a wrong one, and what a document has wrong, all of it at once."""

import difflib
import re
import typing
from collections.abc import Iterable, Iterator

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ml.foundation.documents import line_of

_TOLD = 12
"""Right names that are listed where none is near."""


def near_name(name: str, names: Iterable[str]) -> str | None:
    """Return the one of some names that a wrong name is near to, if one is."""
    lower = {one.lower(): one for one in sorted(set(names))}
    near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.6)
    return lower[near[0]] if near else None


def nearest(name: str, names: Iterable[str]) -> str:
    """Say which of some names is meant, as the end of a sentence; the names themselves where none is near."""
    known = sorted(set(names))
    if near := near_name(name, known):
        return f"; did you mean {near!r}?"
    more = ", ..." if len(known) > _TOLD else ""
    return f"; there are {', '.join(known[:_TOLD])}{more}" if known else ""


def faults_of(error: ValidationError, model: type[BaseModel], text: bytes | None = None) -> str:
    """Say every fault of a document: line, key, value, what is expected, and the nearest key for an unknown one.

    Args:
        error: What the model says of it.
        model: What the document is to be.
        text: The YAML that was read; without it no lines are told.
    """
    faults = error.errors(include_url=False)
    # A list whose only entry is wrong counts as empty too: the entry's own fault says what to mend.
    told = [fault for fault in faults if fault["type"] != "too_short" or not _is_within(fault, faults)]
    return "; ".join(f"{_line(text, fault)}{fault_of(fault, model)}" for fault in told)


def _is_within(fault: ErrorDetails, faults: Iterable[ErrorDetails]) -> bool:
    """Tell whether something inside of what a fault is about has a fault of its own."""
    own = fault["loc"]
    return any(other["loc"][: len(own)] == own and len(other["loc"]) > len(own) for other in faults)


def fault_of(fault: ErrorDetails, model: type[BaseModel], place: str | None = None, *, shown: bool = True) -> str:
    """Say one fault of a document.

    Args:
        fault: As pydantic has it.
        model: What the document is to be.
        place: Where it is; default the keys that lead there.
        shown: Whether the value may be told.
    """
    place = ".".join(str(part) for part in fault["loc"]) if place is None else place
    if fault["type"] == "extra_forbidden":
        *path, key = fault["loc"]
        return f"{place}: unknown key{nearest(str(key), _keys(model, path))}"
    if fault["type"] in ("value_error", "missing"):
        message = fault["msg"].removeprefix("Value error, ")
        message = "is missing" if fault["type"] == "missing" else message[:1].lower() + message[1:]
        return f"{place}: {message}" if place else message
    value = f", not {fault['input']!r:.200}" if shown else ""
    return f"{place}: {_expected(fault)}{value}{_meant(fault) if shown else ''}"


def _expected(fault: ErrorDetails) -> str:
    kind = fault["type"]
    if kind.startswith("date"):
        return "must be a day such as 2026-03-01"
    if kind.startswith("bool"):
        return "must be true or false"
    message = fault["msg"].replace("Input should be", "must be")
    return message[:1].lower() + message[1:]


def _meant(fault: ErrorDetails) -> str:
    """Say which of a few values is meant."""
    if fault["type"] not in ("literal_error", "enum") or not isinstance(fault["input"], str):
        return ""
    choices = re.findall(r"'([^']*)'", str(fault.get("ctx", {}).get("expected", "")))
    near = near_name(fault["input"], choices)
    return f"; did you mean {near!r}?" if near else ""


def _line(text: bytes | None, fault: ErrorDetails) -> str:
    found = line_of(text, fault["loc"]) if text is not None and fault["loc"] else None
    return "" if found is None else f"line {found}: "


def _keys(model: type[BaseModel], path: Iterable[str | int]) -> list[str]:
    """Return the keys that the model has at a place of the document."""
    found: list[type[BaseModel]] = [model]
    for part in path:
        inside: list[type[BaseModel]] = []
        for one in found:
            fields = {field.alias or name: field for name, field in one.model_fields.items()}
            if part in fields:
                inside += _models(fields[str(part)].annotation)
        found = inside or found
    return [field.alias or name for one in found for name, field in one.model_fields.items()]


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models(argument)
