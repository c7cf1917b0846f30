"""The runbook: every recipe names tests that exist, and every command in it is one that the command line takes."""

import ast
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from typer import TyperException

from ml.foundation.settings import PROJECT_ROOT, Settings
from tests.support.command_line import assert_taken

TEXT = (PROJECT_ROOT / "docs" / "how-to" / "operate.md").read_text(encoding="utf-8")
RECIPES = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]
COMMANDS = [line.split("#")[0].strip() for line in re.findall(r"^\.venv/bin/crossfade (.+)$", TEXT, flags=re.MULTILINE)]


@cache
def functions(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("recipe", RECIPES, ids=[recipe.splitlines()[0] for recipe in RECIPES])
def test_a_recipe_is_executed_by_tests_that_exist(recipe: str) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", recipe)
    assert named, "a recipe that no test executes"
    assert not [f"{file}::{test}" for file, test in named if test not in functions(PROJECT_ROOT / file)]


@pytest.fixture(autouse=True)
def _login_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "ann")  # who promotes, unless the command says it


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_runbook_is_taken_by_the_command_line(line: str) -> None:
    assert_taken(shlex.split(line))


def test_a_command_that_there_is_none_of_would_be_noticed() -> None:
    for line in ("nothing", "release nothing homepage", "tidy --nothing", "release show"):
        with pytest.raises((AssertionError, TyperException)):
            assert_taken(line.split())


def test_every_variable_of_the_runbook_is_a_setting() -> None:
    known = {f"CROSSFADE_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"CROSSFADE_\w+", TEXT)) <= known
