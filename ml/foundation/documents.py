"""YAML files (contracts, surfaces, designs), and the digest of what such documents say."""

import hashlib
import json
from pathlib import Path
from typing import Any, TypeGuard

import yaml

# The parser in C reads the same documents in a tenth of the time; a PyYAML that was built without it has the other.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load_yaml(path: Path) -> Any:
    """Return the content of a YAML file: plain values, no code.

    Raises:
        yaml.YAMLError: It is not YAML; the message has line and column.
    """
    return parse_yaml(path.read_text(encoding="utf-8"))


def parse_yaml(text: str | bytes) -> Any:
    """Return the content of YAML text, as ``load_yaml`` does."""
    return yaml.load(text, Loader=_LOADER)


def digest(value: object) -> str:
    """Return a hash of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:32]


def is_object(value: object) -> TypeGuard[dict[str, Any]]:
    """Tell whether a value of YAML or JSON is a mapping; its keys are taken to be strings."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[object]]:
    """Tell whether a value of YAML or JSON is a list."""
    return isinstance(value, list)
