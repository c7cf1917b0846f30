"""YAML files (contracts, surfaces, designs), and the digest of what such documents say."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeGuard

import yaml

# The parser in C reads the same documents in a tenth of the time; a PyYAML that was built without it has the other.
_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_EVENTS: Any = yaml.parse  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
_COMPOSE: Any = yaml.compose  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


class _Loader(_BASE):
    """Refuses a key that stands twice in a mapping: the one that counts might not be the one that a person reads."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        found = set[object]()
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            if name in found:
                told = f"key {key.value!r:.80} stands twice"
                raise yaml.constructor.ConstructorError(None, None, told, key.start_mark)
            found |= {name} - {None}
        return _BASE.construct_mapping(self, node, deep)


MAX_BYTES = 1_000_000
MAX_DEPTH = 50
MAX_VALUES = 100_000
"""Values of a document, those of an alias counted each time that it stands for them."""
MAX_TEXT, MAX_NUMBER = 50_000, 1_000
"""Characters of one value, and of one without quotes or spaces that could be a number."""


Document = dict[str, Any]
"""A mapping of YAML, TOML or JSON before it is validated: its values may be anything."""


class DocumentError(yaml.YAMLError, ValueError):
    """A document that is not YAML, or larger than any that this project has a use for; the message says where."""


def load_yaml(path: Path) -> Any:
    """Return the content of a YAML file: plain values, no code.

    Raises:
        OSError: The file cannot be read.
        DocumentError: It is not YAML, or exceeds a bound; the message names the file, and line and column.
    """
    try:
        if not path.is_file() and path.exists() and not path.is_dir():
            raise DocumentError("it is no regular file")
        with path.open("rb") as file:
            return parse_yaml(file.read(MAX_BYTES + 1))
    except DocumentError as error:
        raise DocumentError(f"{path}: {error}") from error


def parse_yaml(text: str | bytes) -> Any:
    """Return the content of YAML text, as ``load_yaml`` does."""
    content = text.encode() if isinstance(text, str) else text
    if len(content) > MAX_BYTES:
        raise DocumentError(f"it is longer than {MAX_BYTES:,} bytes, the most that is read")
    try:
        _check_bounds(content)
        return yaml.load(content, Loader=_Loader)
    except DocumentError:
        raise
    except yaml.YAMLError as error:
        raise DocumentError(str(error)) from error
    except (ValueError, OverflowError, RecursionError) as error:  # a number or a date that there is not
        raise DocumentError(f"a value cannot be read: {error}") from error


def _check_bounds(content: bytes) -> None:
    """Refuse a document that is too deep or, with its aliases written out, too large, before any of it is built."""
    opened: list[tuple[str | None, int]] = []
    sizes: dict[str, int | None] = {}
    values = 0
    for event in _EVENTS(content, Loader=_BASE):
        anchor: str | None = getattr(event, "anchor", None)
        if isinstance(event, yaml.AliasEvent):
            size = sizes.get(event.anchor, 1)
            if size is None:
                raise DocumentError(f"*{event.anchor} stands inside of what it stands for{_at(event)}")
            values += size
        elif isinstance(event, yaml.ScalarEvent):
            most = MAX_NUMBER if event.implicit[0] and " " not in event.value else MAX_TEXT
            if len(event.value) > most:
                raise DocumentError(f"a value of {len(event.value):,} characters, at most {most:,}{_at(event)}")
            values += 1
            if anchor:
                sizes[anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((anchor, values))
            values += 1
            if anchor:
                sizes[anchor] = None
            if len(opened) > MAX_DEPTH:
                raise DocumentError(f"lists and mappings more than {MAX_DEPTH} deep{_at(event)}")
        elif isinstance(event, yaml.CollectionEndEvent):
            name, before = opened.pop()
            if name:
                sizes[name] = values - before
        if values > MAX_VALUES:
            raise DocumentError(f"more than {MAX_VALUES:,} values, aliases written out{_at(event)}")


def _at(event: yaml.Event) -> str:
    mark = event.start_mark
    return f" (line {mark.line + 1}, column {mark.column + 1})"


def line_of(content: bytes, keys: Iterable[str | int]) -> int | None:
    """Return the line of a YAML document that some keys lead to; of the last that is there, None where none is."""
    node: Any = _COMPOSE(content, Loader=_BASE)
    line = None
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            pairs: list[tuple[Any, Any]] = node.value
            found = next(((name, value) for name, value in pairs if name.value == str(key)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            found = node.value[key], node.value[key]
        else:
            found = None
        if found is None:
            return line
        line, node = found[0].start_mark.line + 1, found[1]
    return line


def digest(value: object) -> str:
    """Return a hash of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:32]


def is_object(value: object) -> TypeGuard[Document]:
    """Tell whether a value of YAML or JSON is a mapping; its keys are taken to be strings."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[object]]:
    """Tell whether a value of YAML or JSON is a list."""
    return isinstance(value, list)
