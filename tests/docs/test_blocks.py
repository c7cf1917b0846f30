"""Every block of code and every command that a page shows: commands exist with these options, YAML and TOML load.

The tutorial of one's own app is executed by ``test_new_surface.py``. Here nothing runs, so that all pages can be read.
"""

import ast
import json
import re
import shlex
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml
from typer._click.exceptions import UsageError
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from deploy.cli.main import app
from ml.foundation.settings import PROJECT_ROOT, Settings

DOCS = PROJECT_ROOT / "docs"
PAGES = sorted([PROJECT_ROOT / "README.md", PROJECT_ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")])
BLOCK = re.compile(r"^ *```(?P<language>\w*)[^\n`]*\n(?P<text>.*?)^ *```$", re.M | re.S)
INLINE = re.compile(r"`((?:\.venv/bin/)?crossfade [^`\n]+)`")
CHECKED = {"crossfade", "make", "python", "export"}
OTHERS = {"curl", "dagster", "dg", "model_signing", "rm"}
"""Commands of others; their tests run them, or they belong to no test of ours."""
CLUSTER = {"docker", "helm", "kubectl", "ray"}
"""What needs machines; tests render and validate what these are given."""
CLI = get_command(app)
TARGETS = set(re.findall(r"^([a-z-]+):", (PROJECT_ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
VARIABLES = set(re.findall(r"^([A-Z_]+) \??:?=", (PROJECT_ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
SETTINGS = {f"CROSSFADE_{name.upper()}" for name in Settings.model_fields}


def blocks(path: Path, *languages: str) -> list[str]:
    """The blocks of a page in these languages."""
    found = BLOCK.finditer(path.read_text(encoding="utf-8"))
    return [textwrap.dedent(block["text"]) for block in found if block["language"] in languages]


def commands(block: str) -> Iterator[list[str]]:
    """The words of each command of a block of shell."""
    for line in re.sub(r"\\\n\s*", " ", block).splitlines():
        words: list[str] = []
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
        lexer.whitespace_split = True
        for word in [*lexer, ";"]:
            if set(word) <= set("|&;"):
                if words:
                    yield words
                words = []
            else:
                words.append(word)


OF_OTHERS = ("MLFLOW_", "OPENLINEAGE_", "OTEL_")
"""Beginnings of variables that a client of ours reads by itself."""


def faults_of_crossfade(words: list[str], *, whole: bool = True) -> list[str]:
    """What the command line would refuse of a command without its program's name."""
    command: object = CLI
    rest = list(words)
    while isinstance(command, TyperGroup):
        if not rest or rest[0].startswith("-"):
            return [] if not whole else [f"{words} names no command"]
        if rest[0] not in command.commands:
            return [f"no command {rest[0]!r} in {words}"]
        command = command.commands[rest.pop(0)]
    assert isinstance(command, TyperCommand)
    context = typer.Context(command, info_name="crossfade")
    try:
        given, left, _ = command.make_parser(context).parse_args(rest)
    except UsageError as error:
        return [f"{words}: {error.format_message()}"]
    lacking = [
        parameter.name for parameter in command.params if parameter.required and not given.get(str(parameter.name))
    ]
    return [f"{words}: {left} is too much"] * bool(left) + [f"{words} lacks {name}" for name in lacking if whole]


def faults_of_make(words: list[str]) -> list[str]:
    """What make would refuse or not know."""
    given = [word.partition("=")[0] for word in words if "=" in word]
    targets = [word for word in words if "=" not in word]
    return [f"no target {name}" for name in targets if name not in TARGETS] + [
        f"no variable {name} of the Makefile" for name in given if name not in VARIABLES
    ]


def faults(words: list[str]) -> list[str]:
    """What is wrong with a command of a page."""
    name, rest = words[0].removeprefix(".venv/bin/"), words[1:]
    match name:
        case "crossfade":
            return faults_of_crossfade(rest)
        case "make":
            return faults_of_make(rest)
        case "export":
            named = {word.partition("=")[0] for word in rest}
            named = {name for name in named if not name.startswith(OF_OTHERS)}
            return [f"no setting {wrong}" for wrong in sorted(named - SETTINGS - {"DAGSTER_HOME"})]
        case "python":
            files = [word for word in rest if "/" in word and not word.startswith("..")]
            return [f"no file {file}" for file in files if not (PROJECT_ROOT / file).exists()]
        case _:
            return [] if name in OTHERS | CLUSTER else [f"{name!r} is a command that nothing here knows"]


@pytest.mark.parametrize("path", PAGES, ids=[str(path.relative_to(PROJECT_ROOT)) for path in PAGES])
def test_every_block_of_a_page_is_what_it_says(path: Path) -> None:
    wrong = [fault for block in blocks(path, "sh") for words in commands(block) for fault in faults(words)]
    for inline in INLINE.findall(path.read_text(encoding="utf-8")):
        words = shlex.split(inline)[1:]
        shown = [word for word in words if not re.search(r"^\[|\.\.\.", word)]
        wrong += faults_of_crossfade(shown, whole=False)
    assert not wrong
    for text in blocks(path, "yaml", "yml"):
        assert list(yaml.safe_load_all(text)) != [None], text
    for text in blocks(path, "toml"):
        assert tomllib.loads(text), text
    for text in blocks(path, "json"):
        json.loads(text)
    for text in blocks(path, "python"):
        ast.parse(text)


def test_the_pages_show_blocks_and_a_wrong_one_would_be_noticed() -> None:
    shown = [words[0] for path in PAGES for block in blocks(path, "sh") for words in commands(block)]
    assert len(shown) > 90 and CHECKED - {"crossfade", "python"} < set(shown)
    for line in (
        "crossfade release list",
        "crossfade release list homepage radio",
        "crossfade published list homepage",
        "crossfade tidy --dry",
        "make demo KUAIRAND=here",
        "make tests",
        "export CROSSFADE_HOMES=there",
        ".venv/bin/python docs/none.py",
        "tar x",
    ):
        assert [fault for words in commands(line) for fault in faults(words)], line
    for line in ("crossfade release list homepage | cat", "crossfade tidy --dry-run && make demo  # both"):
        assert not faults(next(commands(line))), line
