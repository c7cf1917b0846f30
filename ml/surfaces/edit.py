"""Changing single values of a surface's file: every other byte, comments included, stays as it is."""

from collections.abc import Mapping, Sequence

import yaml
from pydantic import JsonValue

from ml.surfaces.spec import Surface

Change = tuple[tuple[str, ...], JsonValue]
"""A path of keys, and the value to stand there; None takes the key out."""


def changes(before: Surface, after: Surface) -> list[Change]:
    """Return what differs between two surfaces in training, sizes and distillation, key by key."""
    found: list[Change] = []
    for section in ("network", "training"):
        old, new = (getattr(surface, section) for surface in (before, after))
        for name in type(new).model_fields:
            if getattr(old, name) != getattr(new, name):
                value = new.model_dump(mode="json")[name]
                found.append(((section, name), value))
    for name, spec in after.inputs.items():
        if spec.embedding != before.inputs[name].embedding:
            found.append((("inputs", name, "embedding"), spec.embedding))
    if before.distillation != after.distillation:
        heads: list[JsonValue] = [head.model_dump(mode="json", exclude_none=True) for head in after.distillation.heads]
        found.append((("distillation", "technique"), after.distillation.technique))
        if before.distillation.unshown != after.distillation.unshown:
            unshown = after.distillation.unshown
            found.append((("distillation", "unshown"), unshown.model_dump(mode="json") if unshown else None))
        if before.distillation.heads != after.distillation.heads:
            found.append((("distillation", "heads"), heads))
    return found


def changed(text: str, made: Sequence[Change]) -> str:
    """Return a surface's file with some values changed, one after the other.

    Raises:
        ValueError: The file is no mapping where a path goes.
    """
    for path, value in made:
        text = _change(text, path, value)
    return text


def _change(text: str, path: tuple[str, ...], value: JsonValue) -> str:
    at = yaml.compose(text, Loader=yaml.SafeLoader)
    extends = isinstance(at, yaml.MappingNode) and _entry(at, "extends") is not None
    for depth, name in enumerate(path):
        if not isinstance(at, yaml.MappingNode):
            raise ValueError(f"{'.'.join(path[:depth]) or 'the file'} is no mapping; write {'.'.join(path)}: {value!r}")
        entry, last = _entry(at, name), depth == len(path) - 1
        if entry is None:
            if value is None and not extends:
                return text
            for inner in reversed(path[depth + 1 :]):
                value = {inner: value}
            return _insert(text, at, name, value)
        if last:
            if value is None and not extends:
                return _remove(text, at, entry)
            return text[: entry[1].start_mark.index] + _rendered(value, entry[1]) + text[_end(entry[1]) :]
        at = entry[1]
    return text


def _entry(mapping: yaml.MappingNode, name: str) -> tuple[yaml.Node, yaml.Node] | None:
    return next((pair for pair in mapping.value if pair[0].value == name), None)


def _end(node: yaml.Node) -> int:
    """Return where a node ends: a block's own mark lies behind the comments that follow it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return node.end_mark.index


def _insert(text: str, mapping: yaml.MappingNode, name: str, value: JsonValue) -> str:
    end = _end(mapping)
    line = f"{name}: {_flow(value)}"
    if mapping.flow_style:
        end = mapping.value[-1][1].end_mark.index if mapping.value else mapping.end_mark.index - 1
        return text[:end] + (", " if mapping.value else "") + line + text[end:]
    place = text.find("\n", end)
    place = len(text) if place < 0 else place
    return text[:place] + "\n" + " " * mapping.start_mark.column + line + text[place:]


def _remove(text: str, mapping: yaml.MappingNode, entry: tuple[yaml.Node, yaml.Node]) -> str:
    start, end = entry[0].start_mark.index, _end(entry[1])
    if len(mapping.value) == 1:
        return text[: mapping.start_mark.index] + "{}" + text[_end(mapping) :]
    place = mapping.value.index(entry)
    if not mapping.flow_style:
        start = text.rfind("\n", 0, start) + 1
        following = text.find("\n", end)
        return text[:start] + (text[following + 1 :] if following >= 0 else "")
    if place:
        return text[: _end(mapping.value[place - 1][1])] + text[end:]
    return text[:start] + text[mapping.value[1][0].start_mark.index :]


def _rendered(value: JsonValue, there: yaml.Node) -> str:
    """Return a value to stand in the place of a node, items of a block below each other."""
    if isinstance(value, list) and value and isinstance(there, yaml.SequenceNode) and not there.flow_style:
        return ("\n" + " " * there.start_mark.column).join(f"- {_flow(item)}" for item in value)
    return _flow(value)


def _flow(value: JsonValue) -> str:
    if isinstance(value, Mapping | list):
        return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6).strip()
    return yaml.safe_dump([value], default_flow_style=True, width=10**6).strip()[1:-1]
