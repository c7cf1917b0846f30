"""The nearest right name for a wrong one, and what a document has wrong, all of it at once."""

import difflib
import typing
from collections.abc import Iterable, Iterator

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ml.foundation.documents import line_of

_TOLD = 12
"""Right names that are listed where none is near."""


def nearest(name: str, names: Iterable[str]) -> str:
    """Say which of some names is meant, as the end of a sentence; the names themselves where none is near."""
    known = sorted(set(names))
    lower = {one.lower(): one for one in known}
    if near := difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.6):
        return f"; did you mean {lower[near[0]]!r}?"
    more = ", ..." if len(known) > _TOLD else ""
    return f"; there are {', '.join(known[:_TOLD])}{more}" if known else ""


def faults_of(error: ValidationError, model: type[BaseModel], content: bytes | None = None) -> str:
    """Say every fault of a document: key, value, what is expected, and the nearest key for an unknown one.

    Args:
        error: What its reading raised.
        model: What it was read as.
        content: Its YAML, to say the lines too.
    """
    faults = error.errors(include_url=False)
    lines = ["" if content is None else f"line {line_of(content, fault['loc'])}: " for fault in faults]
    return "; ".join(line + _fault(fault, model) for line, fault in zip(lines, faults, strict=True))


def _fault(fault: ErrorDetails, model: type[BaseModel]) -> str:
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        *path, key = fault["loc"]
        return f"{place}: unknown key{nearest(str(key), _keys(model, path))}"
    message = fault["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if fault["type"] in ("value_error", "missing"):
        return f"{place}: {message}" if place else message
    return f"{place}: {message}, not {fault['input']!r}"


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
