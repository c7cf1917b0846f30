"""Every block of code and every command that a page shows: commands exist with these options, YAML and TOML load.

The tutorials are executed by ``test_new_surface.py``, the notebook's page by ``test_notebook.py``, the network of a
page by ``test_own_code.py``, the export of a teacher by ``test_torch_teacher.py``; that commands run is held by
``test_commands_of_pages.py``. Here nothing runs, so that all pages can be read.
"""

import ast
import dataclasses
import json
import re
import shlex
import tempfile
import textwrap
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pytest
import typer
import yaml
from pydantic import BaseModel, ValidationError
from typer._click.exceptions import UsageError
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from checks.guard import Guard
from deploy.cli.main import app
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.lab.study.design import design_names
from ml.landing.contract import APP_FILE, ContractError, load_contract
from ml.landing.sources import Sources
from ml.surfaces.spec import Surface
from ml.teacher.contract import Contract
from tests.ml.students.test_own_code import NETWORK
from tests.ml.teacher.test_torch_teacher import EXPORT

DOCS = PROJECT_ROOT / "docs"
PAGES = sorted([PROJECT_ROOT / "README.md", PROJECT_ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")])
BLOCK = re.compile(r"^ *```(?P<language>\w*)[^\n`]*\n(?P<text>.*?)^ *```$", re.M | re.S)
REF = re.compile(r"\{\{ ref\('(\w+)'\) \}\}")
INLINE = re.compile(r"`((?:\.venv/bin/)?crossfade [^`\n]+)`")
CHECKED = {"crossfade", "make", "python", "export"}
OTHERS = {"curl", "dagster", "dg", "model_signing", "rm"}
"""Commands of others; their tests run them, or they belong to no test of ours."""
CLUSTER = {"docker", "helm", "kubectl", "ray"}
"""What needs machines; tests render and validate what these are given."""
CLI = get_command(app)
TARGETS = set(re.findall(r"^([a-z-]+):", (PROJECT_ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
VARIABLES = set(re.findall(r"^([A-Z_]+) \??:?=", (PROJECT_ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
PROJECT = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"].keys()
STUDIES = design_names()
LANGUAGES = {"sh", "yaml", "toml", "python", "sql", "diff", ""}
"""What blocks are written in: each kind is looked at below, but for what a program printed, which has no name."""
FOLLOWED = {"file", "edit", "run", "serve"}
"""What a test does with a block whose fence says so."""
DBT = {"config", "models"}
"""Keys of dbt's YAML; ``tests/dbt`` builds such models."""
ADDED = ("'half' is no technique", "has no networks/gated.py")
"""What is refused until one has followed the page that adds it."""
KEYS = Settings.model_fields.keys()
GUARD = {field.name for field in dataclasses.fields(Guard)}
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


def snippets(path: Path, language: str) -> list[str]:
    """The blocks of a page in a language that no test follows step by step."""
    fences = re.finditer(r"^ *```(\w+)([^\n`]*)\n(.*?)^ *```$", path.read_text(encoding="utf-8"), re.M | re.S)
    return [
        textwrap.dedent(text)
        for name, more, text in (fence.groups() for fence in fences)
        if name == language and more.strip().partition("=")[0] not in FOLLOWED
    ]


def languages(path: Path) -> set[str]:
    """What the blocks of a page are written in."""
    return {block["language"] for block in BLOCK.finditer(path.read_text(encoding="utf-8"))}


def faults_of_sql(text: str) -> list[str]:
    """What DuckDB's parser or dbt would not know; a day stands for ``{day}``."""
    called = re.fullmatch(r"\{\{ (\w+)\(.*\) \}\}\s*", text)
    if called:
        macros = (PROJECT_ROOT / "dbt_project" / "macros").glob("*.sql")
        known = any(f"macro {called[1]}(" in file.read_text(encoding="utf-8") for file in macros)
        return [] if known else [f"no macro {called[1]}"]
    models = {path.stem for path in (PROJECT_ROOT / "dbt_project" / "models").rglob("*.sql")}
    wrong = [f"no model {name}" for name in REF.findall(text) if name not in models]
    try:
        duckdb.extract_statements(REF.sub(r"\1", text).replace("{day}", "date '2026-01-01'"))
    except duckdb.ParserException as error:
        return [*wrong, str(error)]
    return wrong


@cache
def run_by_tests() -> str:
    """The Python that tests run and pages show: the notebook's cells, and what a test takes from a page."""
    notebook = json.loads((PROJECT_ROOT / "examples" / "look_inside.ipynb").read_text(encoding="utf-8"))
    return "\n".join(["".join(cell["source"]) for cell in notebook["cells"]] + [NETWORK, EXPORT])


def is_run(text: str) -> bool:
    """Tell whether a test runs this Python, or it fills a guard, whose file has more than a page shows."""
    tree = ast.parse(text).body
    if len(tree) == 1 and isinstance(tree[0], ast.Assign) and isinstance(call := tree[0].value, ast.Call):
        return ast.unparse(call.func) == "Guard" and {given.arg for given in call.keywords} <= GUARD
    return text.strip() in run_by_tests()


def reader(document: dict[str, Any]) -> type[BaseModel] | None:
    """The model whose keys a piece of YAML has; none of what is dbt's."""
    if document.keys() <= Sources.model_fields.keys():
        return Sources
    if document.keys() <= Surface.model_fields.keys():
        return Surface
    if document.keys() <= Contract.model_fields.keys():
        return Contract
    assert document.keys() <= DBT, f"nothing here has the keys {list(document)}"
    return None


def faults_of_landing(text: str) -> list[str]:
    """What is wrong with a piece of an app's contract of the landing zone."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / APP_FILE).write_text(text, encoding="utf-8")
        try:
            load_contract(Settings(home=Path(folder), app=Path(folder)))
        except ContractError as error:
            return [str(error)]
    return []


def faults_of_yaml(text: str) -> list[str]:
    """What reading it as the file that it is a piece of would refuse; pieces lack what the rest of the file says."""
    document = yaml.safe_load(text)
    if all(isinstance(value, dict) and "kind" in value for value in document.values()):
        document = {"inputs": document}
    if all("no_dates" in table for table in document.get("tables", {"": ""}).values()):
        return faults_of_landing(text)
    if (model := reader(document)) is None:
        return []
    try:
        model.model_validate(document)
    except ValidationError as error:
        wrong = [f"{fault['loc']}: {fault['msg']}" for fault in error.errors() if fault["type"] != "missing"]
        return [fault for fault in wrong if not any(added in fault for added in ADDED)]
    return []


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
    named = dict(word.split("=", 1) for word in words if "=" in word)
    return (
        [f"no target {name}" for name in targets if name not in TARGETS]
        + [f"no variable {name} of the Makefile" for name in given if name not in VARIABLES]
        + [f"no extra {name}" for name in named.get("EXTRAS", "").split() if name not in EXTRAS]
        + [f"no study {name}" for name in named.get("STUDY", "").split() if name not in STUDIES]
    )


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
    wrong += [fault for text in snippets(path, "yaml") for fault in faults_of_yaml(text)]
    wrong += [f"no setting {key}" for text in snippets(path, "toml") for key in tomllib.loads(text) if key not in KEYS]
    wrong += [fault for text in snippets(path, "sql") for fault in faults_of_sql(text)]
    wrong += [f"a language that nothing looks at: {name}" for name in languages(path) - LANGUAGES]
    wrong += [f"not what a test runs: {text}" for text in snippets(path, "python") if not is_run(text)]
    assert not wrong
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
        "make install EXTRAS=mlfow",
        "make study STUDY=headlines",
        "export CROSSFADE_HOMES=there",
        ".venv/bin/python docs/none.py",
        "tar x",
    ):
        assert [fault for words in commands(line) for fault in faults(words)], line
    for line in ("crossfade release list homepage | cat", "crossfade tidy --dry-run && make demo  # both"):
        assert not faults(next(commands(line))), line


def test_a_wrong_piece_of_yaml_sql_or_python_would_be_noticed() -> None:
    for text in (
        "distillation: {technique: direct, unshowns: {}}",
        "tables: {users: {ready: {marker: a, silences: 2}}}",
        "tables: {users: {no_dates: {signed_at: [1900-01-01]}}}",
        "a: {kind: daily, type: id, from: feat_item.plays, embeddings_of: 8}",
    ):
        assert faults_of_yaml(text), text
    with pytest.raises(AssertionError, match="surface"):
        faults_of_yaml("surface: homepage")
    assert faults_of_sql("select from from b") and faults_of_sql("{{ teacher_vektors('a') }}")
    assert not is_run("release = store.champions('homepage')") and not is_run("GUARD = Guard(nummer=1)")
