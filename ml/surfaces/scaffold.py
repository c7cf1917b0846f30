"""Scaffolding of an app and of a surface, from the templates beside this file."""

import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path

TEMPLATES = Path(__file__).resolve().parent / "templates"
OF_APP = TEMPLATES / "app"
"""Templates of what an app has beside its surfaces."""
_NAME = re.compile(r"^[a-z][a-z0-9_]{0,40}$")
_KINDS = {"examples": (".sql", ".yml"), "teacher_inputs": (".sql", ".yml"), "exposures": (".yml",)}


def scaffold(name: str, app: Path, *, surfaces_dir: Path | None = None) -> list[Path]:
    """Write the files of a new surface into the app's folder, with a dbt project around its SQL if there is none.

    Args:
        name: Name of the surface.
        app: The app's folder; the SQL goes to ``models/surfaces/<name>``.
        surfaces_dir: Folder of the YAML; default ``surfaces`` below ``app``.

    Returns:
        Paths of the files, the surface's YAML first.

    Raises:
        ValueError: The name is no lower-case identifier, or a file exists already.
    """
    require_name(name)
    return _write(_of_surface(name, app, surfaces_dir), {"__surface__": name, "__app__": _called(app)})


def scaffold_app(app: Path, surface: str, first_day: date) -> list[Path]:
    """Write an app's folder: settings, contract, sources, teacher, a workflow of its own, README, and one surface.

    Args:
        app: The folder; it may be there, and hold other files.
        surface: Name of its first surface.
        first_day: First day that has events.

    Returns:
        Paths of the files.

    Raises:
        ValueError: The name is no lower-case identifier, or a file exists already; nothing is written then.
    """
    require_name(surface)
    own = {path: app / path.relative_to(OF_APP) for path in sorted(OF_APP.rglob("*")) if path.is_file()}
    names = {"__surface__": surface, "__app__": _called(app), "__first_day__": first_day.isoformat()}
    return _write({**own, **_of_surface(surface, app, None)}, names)


def _of_surface(name: str, app: Path, surfaces_dir: Path | None) -> dict[Path, Path]:
    """Return {template: where it goes} of a surface, and of a dbt project where there is none."""
    models, project = app / "models" / "surfaces" / name, app / "dbt_project.yml"
    targets = {
        TEMPLATES / "surface.yaml": (surfaces_dir or app / "surfaces") / f"{name}.yaml",
        **{
            TEMPLATES / f"{kind}{suffix}": models / f"{kind}_{name}{suffix}"
            for kind, suffixes in _KINDS.items()
            for suffix in suffixes
        },
    }
    return targets if project.exists() else {**targets, TEMPLATES / project.name: project}


def _called(app: Path) -> str:
    called = re.sub(r"\W", "_", app.absolute().name, flags=re.ASCII).lower()
    return called if _NAME.match(called) else f"app_{called}"


def _write(targets: Mapping[Path, Path], names: Mapping[str, str]) -> list[Path]:
    """Write templates with their placeholders filled in, unless a file is there already."""
    if present := [str(path) for path in targets.values() if path.exists()]:
        raise ValueError(f"{', '.join(present)} exists already")
    for template, target in targets.items():
        text = template.read_text(encoding="utf-8")
        for placeholder, value in names.items():
            text = text.replace(placeholder, value)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return list(targets.values())


def require_name(name: str) -> None:
    """Raise ``ValueError`` unless a surface may be called so."""
    if not _NAME.match(name):
        raise ValueError(f"surface name {name!r} is not lower-case letters, digits and _ starting with a letter")
