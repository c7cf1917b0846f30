"""The project's own files agree with each other: one lock, one list of commands, nothing that only one machine has."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCK = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
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
