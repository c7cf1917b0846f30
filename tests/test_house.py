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
HEAVY = ("torch", "onnx", "onnxruntime", "great_expectations", "numpy", "pyarrow", "duckdb", "polars")


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
        for package in ("assets", "checks", "deploy", "ml")
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


def test_definitions_load_in_a_fresh_interpreter_without_heavy_libraries(prepared_home: Path) -> None:
    code = (
        "import json, sys\n"
        "from deploy.definitions import defs\n"
        "import dagster as dg\n"
        "repository = defs().get_repository_def() if hasattr(defs(), 'get_repository_def') else None\n"
        "print(json.dumps(sorted(m for m in sys.modules if m in " + repr(HEAVY) + ")))"
    )
    environment = {**os.environ, "CROSSFADE_HOME": str(prepared_home), "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert json.loads(result.stdout.strip().splitlines()[-1]) == []


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
