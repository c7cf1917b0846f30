"""The layout's promises: imports run one way, and the code location loads light."""

import ast
import json
import os
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "onnx", "onnxruntime", "great_expectations", "numpy", "pyarrow", "duckdb", "polars", "apprise")
ELSEWHERE = ("mlflow", "openlineage", "opentelemetry.sdk", "sigstore")
"""Clients of other tools and services; Dagster's webserver and dbt may bring the interface of OpenTelemetry alone."""


def lint_imports(folder: Path, config: Path = ROOT / "pyproject.toml") -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--config", config]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)


def test_imports_run_one_way() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("ml/landing/wrong.py", "import assets"),
        ("ml/landing/wrong.py", "import dagster"),
        ("ml/landing/wrong.py", "from checks import gate"),
        ("ml/landing/wrong.py", "import ml.lab.kuairand"),
        ("ml/foundation/wrong.py", "from ml.surfaces import spec"),
        ("ml/students/wrong.py", "import ml.stages.training"),
        ("assets/wrong.py", "from checks import gate"),
        ("assets/wrong.py", "import deploy.cli"),
        ("assets/wrong.py", "import ml.lab.kuairand"),
        ("checks/wrong.py", "import assets.landing"),
        ("checks/wrong.py", "import deploy"),
    ],
)
def test_an_import_the_wrong_way_breaks_a_contract(tmp_path: Path, module: str, line: str) -> None:
    for package in ("assets", "checks", "deploy", "ml"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / module).write_text(f"{line}\n", encoding="utf-8")
    done = lint_imports(tmp_path)
    broken = module.removesuffix(".py").replace("/", ".")
    assert done.returncode == 1 and f"- {broken} -> " in " ".join(done.stdout.split()), done.stdout + done.stderr


def test_no_function_has_more_than_60_lines() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for package in ("assets", "benchmarks", "checks", "deploy", "ml")
        for path in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno >= 60
    ]
    assert not long


def test_releases_are_opened_with_the_keys_of_their_home() -> None:
    """A store that was opened without them takes what nobody signed."""
    opened = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for package in ("assets", "benchmarks", "checks", "deploy", "ml")
        for path in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("ReleaseStore", "VerdictStore", "ChampionLog", "Approvals")
        and path != ROOT / "ml/releases/store.py"
    ]
    assert not opened


def test_ruff_refuses_an_import_the_wrong_way(tmp_path: Path) -> None:
    wrong = tmp_path / "ml" / "wrong.py"
    wrong.parent.mkdir()
    wrong.write_text('"""Wrong."""\n\nimport dagster\nimport torch\n\nprint(dagster, torch)\n', encoding="utf-8")
    command = [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), str(wrong)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 1
    assert "TID251" in result.stdout and "TID253" in result.stdout


@pytest.fixture(scope="module")
def of_definitions(prepared_home: Path) -> set[str]:
    """What loading the definitions in a fresh interpreter has loaded."""
    return modules_after("from deploy.definitions import defs; defs().get_repository_def()", prepared_home)


def test_definitions_load_in_a_fresh_interpreter_without_heavy_libraries(of_definitions: set[str]) -> None:
    assert "dagster" in of_definitions and not of_definitions & {*HEAVY, *ELSEWHERE}


def test_a_function_imports_only_what_no_start_has_loaded(of_definitions: set[str], prepared_home: Path) -> None:
    starts = [of_definitions, modules_after("import deploy.cli.main", prepared_home)]
    needless = []
    for path in (path for folder in ("assets", "checks", "deploy") for path in (ROOT / folder).rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        loaded = [start for start in starts if module in start]
        functions = (n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.FunctionDef))
        for function in functions if loaded else ():
            needless += [f"{module}: {name}" for name in imported_in(function) & set.intersection(*loaded)]
    assert needless == []


def imported_in(function: ast.FunctionDef) -> set[str]:
    """Return the modules that are imported within a function."""
    found = set[str]()
    for node in ast.walk(function):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            package = (ROOT / node.module.replace(".", "/")).is_dir()  # what it names are modules then
            found |= {f"{node.module}.{alias.name}" for alias in node.names} if package else {node.module}
    return found


def modules_after(code: str, home: Path) -> set[str]:
    """Return what a fresh interpreter has loaded after some code."""
    command = [sys.executable, "-W", "ignore", "-c", f"import json, sys; {code}; print(json.dumps([*sys.modules]))"]
    environment = {**os.environ, "CROSSFADE_HOME": str(home), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=True)
    return set(json.loads(done.stdout.strip().splitlines()[-1]))


def test_every_asset_and_check_says_what_to_do_when_it_fails_and_every_asset_has_owner_and_source(
    prepared_home: Path,
) -> None:
    from deploy.definitions import build_definitions
    from ml.foundation.settings import Settings

    definitions = build_definitions(Settings(home=prepared_home))
    graph = definitions.resolve_asset_graph()
    specs = [spec for spec in definitions.resolve_all_asset_specs() if spec.key in graph.materializable_asset_keys]
    assert len(specs) > 40
    for spec in specs:
        assert (spec.description or "").count("**If it fails**: ") == 1, spec.key
        assert spec.owners, spec.key
        references = spec.metadata["dagster/code_references"].code_references
        assert all(Path(reference.file_path).is_relative_to(ROOT) for reference in references), spec.key
        assert any(r.file_path.endswith(".sql") for r in references) == ("dbt" in spec.kinds), spec.key
    for key in graph.asset_check_keys:
        assert (graph.get_check_spec(key).description or "").count("**If it fails**: ") == 1, key


@pytest.mark.parametrize("last_day", [None, date(2026, 1, 31)])
def test_what_a_live_source_has_to_land_gets_old_and_a_finite_source_does_not(
    prepared_home: Path, last_day: date | None
) -> None:
    from assets.landing import build_landing
    from ml.foundation.settings import Settings

    settings = Settings(home=prepared_home, last_day=last_day)
    watched = {spec.key.path[-1] for spec in build_landing(settings).specs if spec.freshness_policy}
    assert watched == (set() if last_day else {"exposures", "listens", "items", "users"})


def test_dagster_accepts_the_workspace(prepared_home: Path) -> None:
    environment = {
        **os.environ,
        "CROSSFADE_HOME": str(prepared_home),
        "DAGSTER_HOME": str(prepared_home / "dagster"),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "dagster", "definitions", "validate", "-w", "workspace.yaml"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
