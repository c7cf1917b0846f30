"""The dbt projects of a home: ours, and beside it, as packages, the app's and those whose SQL the app takes over.

Ours is dbt's root project, so the app's models call its macros and tests by their plain names.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ml.foundation.documents import Document, DocumentError, digest, is_object, load_yaml
from ml.foundation.settings import PROJECT_ROOT, Settings

DBT_PROJECT_DIR = PROJECT_ROOT / "dbt_project"
PROJECT_FILE, PACKAGES_FILE = "dbt_project.yml", "packages.yml"
_FOLDERS = {"model-paths": ["models"], "macro-paths": ["macros"], "test-paths": ["tests"]}


class ProjectError(ValueError):
    """An app's dbt project that cannot be read; the message names its file."""


def app_projects(settings: Settings) -> dict[str, Path]:
    """Return {name: folder} of the app's dbt project and of those that its ``packages.yml`` names as ``local``.

    Raises:
        ProjectError: A project has no name, ours, or that of another one; or a package is not a local folder.
    """
    assert settings.app is not None
    found: dict[str, Path] = {}
    if (settings.app / PROJECT_FILE).exists():
        _collect(settings.app.resolve(), found)
    return found


def all_projects(settings: Settings) -> dict[str, Path]:
    """Return {name: folder} of ours and of ``app_projects``."""
    return {_name(DBT_PROJECT_DIR): DBT_PROJECT_DIR, **app_projects(settings)}


def model_folders(settings: Settings) -> tuple[Path, ...]:
    """Return the folders of models of ``all_projects``, ours first."""
    return tuple(
        folder / name
        for folder in all_projects(settings).values()
        for name in _read(folder / PROJECT_FILE).get("model-paths", _FOLDERS["model-paths"])
    )


def packages_dir(settings: Settings) -> Path:
    """Return where dbt finds the app's projects; each set of them has a folder of links of its own."""
    return settings.home / "dbt" / "packages" / digest({n: str(path) for n, path in app_projects(settings).items()})


def link_packages(settings: Settings) -> None:
    """Put a link to each of ``app_projects`` where dbt looks for packages, as `dbt deps` does for a local one."""
    folder = packages_dir(settings)
    folder.mkdir(parents=True, exist_ok=True)
    for name, target in app_projects(settings).items():
        _check_documents(target)
        link = folder / name
        if link.is_symlink() and link.readlink() == target:
            continue
        if link.is_dir() and not link.is_symlink():  # a home that was copied with what its links lead to
            shutil.rmtree(link)
        scratch = folder / f"__{name}.{os.getpid()}"
        scratch.symlink_to(target)
        scratch.replace(link)


def project_hash(settings: Settings) -> str:
    """Return the content hash of every SQL and YAML file of our dbt project and the app's."""
    hashed = hashlib.sha256()
    for name, folder in all_projects(settings).items():
        for path in _files(folder):
            hashed.update(f"{name}/{path.relative_to(folder)}".encode() + b"\0" + path.read_bytes() + b"\0")
    return hashed.hexdigest()[:32]


def _collect(folder: Path, found: dict[str, Path]) -> None:
    name = _name(folder)
    if found.get(name) == folder:
        return
    taken = DBT_PROJECT_DIR if name == _name(DBT_PROJECT_DIR) else found.get(name)
    if taken:
        raise ProjectError(f"{folder / PROJECT_FILE}: name {name!r} is that of the project at {taken}; choose another")
    found[name] = folder
    file = folder / PACKAGES_FILE
    packages: list[object] = _read(file).get("packages", []) if file.exists() else []
    for package in packages:
        if not is_object(package) or set(package) != {"local"}:
            raise ProjectError(f"{file}: {package} is not `local: <folder>`; other packages are not installed")
        _collect((folder / package["local"]).resolve(), found)


def _name(folder: Path) -> str:
    file = folder / PROJECT_FILE
    name = _read(file).get("name")
    if not isinstance(name, str):
        raise ProjectError(f"{file}: `name` is {name!r}; a dbt project needs one")
    return name


def _read(file: Path) -> Document:
    try:
        content = load_yaml(file)
    except DocumentError as error:
        raise ProjectError(str(error)) from error
    except OSError as error:
        raise ProjectError(f"{file}: {error}") from error
    if not is_object(content):
        raise ProjectError(f"{file} holds no mapping")
    return content


def _check_documents(folder: Path) -> None:
    """Refuse a project with YAML that dbt, which reads it too, would never be done with."""
    for file in _files(folder):
        if file.suffix != ".sql":
            try:
                load_yaml(file)
            except DocumentError as error:
                raise ProjectError(str(error)) from error


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files that dbt reads of a project: an app's folder may hold much else."""
    project = _read(folder / PROJECT_FILE)
    yield from (file for name in (PROJECT_FILE, "profiles.yml") if (file := folder / name).exists())
    for key, default in _FOLDERS.items():
        for name in project.get(key, default):
            yield from sorted(p for p in (folder / name).rglob("*") if p.suffix in (".sql", ".yml", ".yaml"))
