"""Every command in a block of the README and the site is run by a test, or its comment says why none runs it.

A test runs a command by taking its words from ``as_shown``, follows whole pages (``test_new_surface.py``) or the steps
below a heading. What such a test asserts is its own matter; that the words are those of the page is held here.
"""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml.foundation.settings import PROJECT_ROOT
from tests.docs.test_blocks import faults_of_crossfade
from tests.docs.test_new_surface import PAGE, RATINGS
from tests.support.pages import KEYS, SIGN, SITE, Shown, as_shown, lines, shown, steps_of

FOLLOWED = {str(page.relative_to(PROJECT_ROOT)) for page in (PAGE, RATINGS)}
OUTSIDE = re.compile(r"^    (?:\.venv/bin/)?((?:crossfade|make|dagster|python|docker|helm|kubectl) .+)$", re.M)
CI = {"make install", "make dev", "make test", 'make test ARGS="-k sabotage"'}
"""What every run of the tests begins with: CI makes the environment and calls them so (``.ci/run``)."""


def calls(text: str) -> Iterator[str]:
    """The commands that the tests and fixtures of a file take from pages."""
    for function in ast.parse(text).body:
        if isinstance(function, ast.FunctionDef) and (function.name.startswith("test_") or function.decorator_list):
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == as_shown.__name__:
                    yield ast.literal_eval(node.args[0])


def taken() -> set[str]:
    """The commands that tests take from pages."""
    texts = (path.read_text(encoding="utf-8") for path in (PROJECT_ROOT / "tests").rglob("test_*.py"))
    return {line for text in texts if f"{as_shown.__name__}(" in text for line in calls(text)}


def suite_of(line: str) -> Path | None:
    """The file of tests that a command runs, if it is that."""
    begin = "python -m pytest "
    return PROJECT_ROOT / line.removeprefix(begin) if line.startswith(begin) else None


def untried(commands: Iterator[Shown] | tuple[Shown, ...], run: set[str]) -> list[str]:
    """The commands that neither a test runs nor their comment excuses."""
    return [
        f"{one.page}: {one.line}"
        for one in commands
        if not (
            one.line in run or one.marked or one.line.startswith("export ") or (one.action and one.page in FOLLOWED)
        )
    ]


def test_every_command_of_a_block_is_run_by_a_test_or_says_why_not() -> None:
    stepped = {line for title in KEYS for line in steps_of(SIGN, title)}
    suites = {one.line for one in shown() if (file := suite_of(one.line)) and file.is_file()}
    followed = {one.line for one in shown() if one.action and one.page in FOLLOWED}
    run = taken() | stepped | suites | followed | CI
    assert untried(shown(), run) == []
    assert not [one.line for one in shown() if one.marked and one.line in taken()], (
        "a test runs what says that none does"
    )


def test_a_command_outside_of_a_fence_is_the_one_that_wrote_its_page_of_results() -> None:
    """Such a command measured for minutes to hours, and stands on the page as its origin; the command line takes it."""
    found = {path: OUTSIDE.findall(path.read_text(encoding="utf-8")) for path in SITE}
    assert {path.parent for path, commands in found.items() if commands} == {PROJECT_ROOT / "docs" / "results"}
    measured = [shlex.split(line)[1:] for commands in found.values() for line in commands]
    assert len(measured) > 10 and not [fault for words in measured for fault in faults_of_crossfade(words)]


def test_a_command_that_no_test_runs_would_be_noticed() -> None:
    block = "crossfade a \\\n  --such\ncrossfade b  # no test runs it: takes a week\ncrossfade c  # no test runs it\n"
    found = tuple(Shown("a page", line, comment, "run") for line, comment in lines(block))
    assert untried(found, {"crossfade c more"}) == ["a page: crossfade a --such", "a page: crossfade c"]
    text = (
        'def test_a():\n    run(*as_shown("crossfade a", {"b": "c"}))\n\ndef helper():\n    as_shown("crossfade b")\n'
    )
    assert list(calls(text)) == ["crossfade a"]
    with pytest.raises(AssertionError, match="no page shows"):
        as_shown("crossfade nothing")
