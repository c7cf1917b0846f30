"""Settings as people see them: what each is, what it is here, who gave it, and an example file."""

import os
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from ml.foundation.settings import SETTINGS_FILE, Settings, app_values

HEADER = """\
# Every setting of Crossfade with its default. Copy this file to .env, keep the lines that you change, and load it
# before you start anything: set -a; . ./.env; set +a. What an instance directory holds is kept in its crossfade.toml by
# `crossfade init`; a variable wins over that file, and that file over crossfade.toml in the app's folder.
# `crossfade settings` shows what is in force, and who gave it.
"""


@dataclass(frozen=True)
class Row:
    """One setting in force.

    Attributes:
        variable: Name of its environment variable.
        value: Its value; a secret shows only that it is set.
        source: `environment`, `home` or `app` (their crossfade.toml), or `default`.
        meaning: What it is.
    """

    variable: str
    value: str
    source: str
    meaning: str


def rows(settings: Settings) -> Iterator[Row]:
    """Yield every setting in force, in the order of the class."""
    path = settings.home / SETTINGS_FILE
    kept = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    assert settings.app is not None
    said = {"home": kept, "app": app_values(settings.app)}
    for name, field in Settings.model_fields.items():
        variable, value = _variable(name), getattr(settings, name)
        source = "environment" if variable in os.environ else _first(name, said)
        shown = "(set)" if isinstance(value, SecretStr) else "" if value is None else str(value)
        yield Row(variable, shown, source, field.description or "")


def _first(name: str, said: Mapping[str, Mapping[str, object]]) -> str:
    """Return the first file that says what a setting is, or `default`."""
    return next((source for source, values in said.items() if name in values), "default")


def as_example() -> str:
    """Return the content of ``.env.example``."""
    parts = [HEADER]
    for name, field in Settings.model_fields.items():
        told = textwrap.wrap(field.description or "", 118)
        default = "" if field.default in (None, PydanticUndefined) else _plain(field.default)
        parts.append("\n".join([*(f"# {line}" for line in told), f"# {_variable(name)}={default}"]) + "\n")
    return "\n".join(parts)


def _variable(name: str) -> str:
    return f"CROSSFADE_{name.upper()}"


def _plain(value: object) -> str:
    """Return a default as the variable would have to hold it."""
    match value:
        case bool():
            return str(value).lower()
        case tuple():
            return "'[" + ", ".join(f'"{item}"' if isinstance(item, str) else str(item) for item in value) + "]'"
        case _:
            text = str(value)
            return f"'{text}'" if " " in text or "*" in text else text
