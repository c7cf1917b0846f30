"""The layout's promises: imports run one way, and the code location loads light."""

import ast
import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "ml": {"ml"},
    "assets": {"assets", "ml"},
    "checks": {"checks", "ml", "assets"},
    "deploy": {"deploy", "checks", "assets", "ml"},
}
HEAVY = ("torch", "onnx", "onnxruntime", "great_expectations", "numpy", "pyarrow", "duckdb", "polars")


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_run_one_way(package: str) -> None:
    others = set(ALLOWED) - ALLOWED[package]
    for path in sorted((ROOT / package).rglob("*.py")):
        for name in imported(path):
            assert name.split(".")[0] not in others, f"{path.relative_to(ROOT)} imports {name}"
            if package == "ml":
                assert name.split(".")[0] not in ("dagster", "dagster_dbt"), f"{path.relative_to(ROOT)} imports {name}"


def test_checks_import_only_partitions_and_names_of_assets() -> None:
    for path in sorted((ROOT / "checks").rglob("*.py")):
        for name in imported(path):
            if name.split(".")[0] == "assets":
                assert name in ("assets.partitions", "assets.names"), f"{path.relative_to(ROOT)} imports {name}"


def test_landing_knows_none_of_the_sources_that_fill_its_zone() -> None:
    sources = ("ml.simulator", "ml.landing.kuairand", "ml.study")
    for path in sorted((ROOT / "ml" / "landing").glob("*.py")):
        if path.stem != "kuairand":
            found = [name for name in imported(path) if name.startswith(sources)]
            assert not found, f"{path.relative_to(ROOT)} imports {found}"


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
    from ml.settings import Settings

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
    from ml.settings import Settings

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
