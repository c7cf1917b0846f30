"""The runbook: every recipe names tests that exist; its commands are run as ``test_commands_of_pages.py`` says."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from ml.foundation.settings import PROJECT_ROOT, Settings

TEXT = (PROJECT_ROOT / "docs" / "how-to" / "operate.md").read_text(encoding="utf-8")
RECIPES = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]


@cache
def functions(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("recipe", RECIPES, ids=[recipe.splitlines()[0] for recipe in RECIPES])
def test_a_recipe_is_executed_by_tests_that_exist(recipe: str) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", recipe)
    assert named, "a recipe that no test executes"
    assert not [f"{file}::{test}" for file, test in named if test not in functions(PROJECT_ROOT / file)]


def test_every_variable_of_the_runbook_is_a_setting() -> None:
    known = {f"CROSSFADE_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"CROSSFADE_\w+", TEXT)) <= known
