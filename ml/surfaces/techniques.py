"""The techniques that a surface may name: every file of ``ml/distillation`` that states its ``HEADS``.

A surface is checked while the definitions load, and a technique's module loads torch. So its name, its first line and
the literal ``HEADS`` are read from the file's text.
"""

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ml.foundation.settings import PROJECT_ROOT
from ml.surfaces.own import own_file

NO_TECHNIQUE = "none"
"""Technique of the control, and of a surface that learns nothing from the teacher."""


class HeadRules(BaseModel):
    """What a technique asks of its heads in the YAML; a file states it as a literal dictionary named ``HEADS``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: bool
    """Whether each head stands beside a task of the surface; else none does."""
    centre_by: bool = True
    """Whether soft labels may be centred."""
    branch: bool = False
    """Whether the heads stand on ``network.interaction``, which must be there then."""


@dataclass(frozen=True)
class Listed:
    """A technique as its file declares it.

    Attributes:
        summary: First line of the file's docstring.
        heads: What it asks of its heads.
    """

    summary: str
    heads: HeadRules


@cache
def techniques(folder: Path = PROJECT_ROOT / "ml" / "distillation") -> Mapping[str, Listed]:
    """Return {technique: how its file declares it}, by name.

    Raises:
        ValueError: A file's ``HEADS`` is no literal, or breaks ``HeadRules``; names the file.
    """
    listed = {path.stem: declared(path) for path in sorted(folder.glob("*.py"))}
    return {name: found for name, found in listed.items() if found is not None}


def declared(path: Path) -> Listed | None:
    """Return what a technique's file declares; None of a file that states no ``HEADS``.

    Raises:
        ValueError: ``HEADS`` is no literal, or breaks ``HeadRules``, or the file is no Python; names the file.
    """
    try:
        module = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise ValueError(f"{path}: {error}") from error
    for node in module.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["HEADS"]:
            try:
                rules = HeadRules.model_validate(ast.literal_eval(node.value))
            except ValueError as error:
                raise ValueError(f"{path}: HEADS: {error}") from error
            return Listed((ast.get_docstring(module) or path.stem).splitlines()[0], rules)
    return None


@cache
def own_rules(name: str, code: str) -> HeadRules:
    """Return what an app's own technique asks of its heads.

    Raises:
        ValueError: The app has no such file, or it states no ``HEADS``; names the file.
    """
    path = own_file("techniques", name, code)
    if (found := declared(path)) is None:
        raise ValueError(f'{path}: states no HEADS, such as HEADS = {{"task": True}} below its imports')
    return found.heads


def known(name: str, own: Iterable[str] = ()) -> str:
    """Return the name of one of our techniques, or ``none``; ``own`` are names of the app's.

    Raises:
        ValueError: There is no such technique; names the nearest.
    """
    ours = [NO_TECHNIQUE, *techniques()]
    if name not in ours:
        names = [*ours, *own]
        near = "".join(f" {match!r} is near;" for match in get_close_matches(name, names, n=1))
        raise ValueError(f"{name!r} is no technique;{near} there are {', '.join(names)}")
    return name
