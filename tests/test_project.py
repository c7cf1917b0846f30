"""The project's own files agree with each other: one lock, one list of commands, nothing that only one machine has."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from tests.support.commands import ROOT, home_environment

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCK = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
WORKFLOWS = ROOT / ".github" / "workflows"
PYTHONS = ("3.11", "3.12", "3.13")


def dry_run(*arguments: str) -> str:
    """What make would run."""
    command = ["make", "--dry-run", "--always-make", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout


def test_no_index_takes_the_project_and_its_pythons_are_those_of_the_lock() -> None:
    classifiers = PROJECT["project"]["classifiers"]
    assert "Private :: Do Not Upload" in classifiers
    assert tuple(c.rsplit(" ", 1)[1] for c in classifiers if "Python ::" in c) == PYTHONS
    assert LOCK["requires-python"].replace(" ", "") == PROJECT["project"]["requires-python"] == ">=3.11,<3.14"


def test_every_locked_file_has_a_hash_and_no_package_is_cudas() -> None:
    for package in LOCK["package"]:
        assert not package["name"].startswith(("nvidia", "cuda", "triton-")), package["name"]
        if package["source"] != {"editable": "."}:
            files = [*package.get("wheels", ()), *([package["sdist"]] if "sdist" in package else ())]
            assert files and all(file["hash"].startswith("sha256:") for file in files), package["name"]


def test_the_lock_is_that_of_the_dependencies_as_they_stand() -> None:
    locked = next(package for package in LOCK["package"] if package["source"] == {"editable": "."})["metadata"]
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"], *(line for lines in extras.values() for line in lines)]
    for stand, lines in (
        (locked["requires-dist"], wanted),
        (locked["requires-dev"]["dev"], PROJECT["dependency-groups"]["dev"]),
    ):
        found = {line["name"]: line["specifier"] for line in stand}
        stated = {requirement.name.lower(): str(requirement.specifier) for requirement in map(Requirement, lines)}
        assert {name: set(spec.split(",")) for name, spec in found.items()} == {
            name: set(spec.split(",")) for name, spec in stated.items()
        }


def test_torch_is_installed_in_the_locked_version_as_its_build_for_cpus(tmp_path: Path) -> None:
    version = next(package["version"] for package in LOCK["package"] if package["name"] == "torch")
    said = dry_run("install", f"VENV={tmp_path / 'venv'}")
    assert "--no-install-package torch" in said and "--locked" in said
    assert re.search(
        rf"pip install .*--extra-index-url \S+/whl/cpu\s+'torch=={re.escape(version)}(\+cpu)?'", said, re.S
    )
    assert "--extra ray" in dry_run("install", f"VENV={tmp_path / 'venv'}", "EXTRAS=ray")


@pytest.mark.slow
def test_a_torch_that_is_nowhere_ends_the_installation_with_what_to_do(tmp_path: Path) -> None:
    nowhere = {"TORCH": "torch==0.0.0+none", "TORCH_INDEX": "file:///nowhere", "UV": shutil.which("true")}
    arguments = [f"{name}={value}" for name, value in {**nowhere, "VENV": tmp_path / "venv"}.items()]
    done = subprocess.run(
        ["make", "install", f"PYTHON={sys.executable}", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""},
        check=False,
    )
    assert done.returncode != 0 and not (tmp_path / "venv" / "bin" / ".runtime").exists()
    assert "torch==0.0.0+none is neither at file:///nowhere nor where pip looks" in done.stderr
    assert "TORCH_INDEX=" in done.stderr


def jobs(workflow: str) -> dict[str, dict]:
    """The jobs of a workflow file."""
    return yaml.safe_load((WORKFLOWS / workflow).read_text(encoding="utf-8"))["jobs"]


def targets() -> dict[str, str]:
    """{make target: what it would run}."""
    names = re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.M)
    return {name: "\n".join(re.findall(rf"^{name}:.*\n((?:\t.*\n)*)", MAKEFILE, re.M)) for name in names}


def test_the_forge_runs_what_ci_runs_on_the_first_python_and_each_night_on_the_others() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "make lint test " in script and "chromium" in script
    (ci,) = jobs("ci.yml").values()
    assert [step["run"] for step in ci["steps"] if "run" in step] == [".ci/run"]
    assert ci["container"] == f"python:{PYTHONS[0]}-bookworm"
    pythons = jobs("nightly.yml")["pythons"]
    assert [step["run"] for step in pythons["steps"] if "run" in step] == [".ci/run"]
    assert tuple(pythons["strategy"]["matrix"]["python"]) == PYTHONS[1:]


def test_each_night_runs_every_campaign_and_what_the_suite_leaves_out() -> None:
    nightly = jobs("nightly.yml")["campaigns"]
    campaigns = {name for name, recipe in targets().items() if "tests/campaigns/" in recipe}
    assert len(campaigns) == len(list((ROOT / "tests" / "campaigns").glob("campaign_*.py")))
    assert set(nightly["strategy"]["matrix"]["target"]) == campaigns | {"long", "coverage"}
    *_, run, shown = nightly["steps"]
    assert run["run"] == "make ${{ matrix.target }}"
    assert "coverage" in shown["if"] and "coverage report" in shown["run"] and "STEP_SUMMARY" in shown["run"]


def test_hooks_before_a_commit_are_the_linters_of_make_and_bring_nothing() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    entries = [hook["entry"].removeprefix(".venv/bin/") for repo in hooks for hook in repo["hooks"]]
    lint = re.findall(r"^\t\$\(BIN\)/(\S+(?: (?:check|format|lint))?)", targets()["lint"], re.M)
    assert {
        " ".join(entry.split()[: len(tool.split())]) for tool in lint for entry in entries if entry.startswith(tool)
    } == set(lint)
    assert all(hook["language"] == "system" for repo in hooks for hook in repo["hooks"])
    subprocess.run([sys.executable, "-m", "pre_commit", "validate-config"], cwd=ROOT, check=True)


def test_the_newest_release_of_the_changelog_is_the_projects_version_wherever_it_stands() -> None:
    version = PROJECT["project"]["version"]
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert headings[:2] == ["Unreleased", version] and citation["version"] == version
    assert next(p for p in LOCK["package"] if p["name"] == "crossfade")["version"] == version


def test_every_command_and_path_of_contributing_is_there() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = {
        word for line in re.findall(r"(?:^|`)make ([a-z -]+?)(?:`| [A-Z#]|  )", page, re.M) for word in line.split()
    }
    assert {"dev", "test-fast", "lint", "test", "coverage", "long"} <= named <= set(targets())


@pytest.mark.slow
def test_dg_checks_and_lists_the_definitions(prepared_home: Path) -> None:
    environment = home_environment(prepared_home)
    for arguments, said in (
        (("check", "defs"), "All definitions loaded successfully"),
        (("list", "defs"), "landing/exposures"),
    ):
        command = [Path(sys.executable).with_name("dg"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert said in done.stdout + done.stderr
