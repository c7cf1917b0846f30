"""Scaffolding of a surface, from the templates beside this file: its YAML, its SQL with descriptions, its exposure."""

import re
from pathlib import Path

TEMPLATES = Path(__file__).resolve().parent / "templates"
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
    models, project = app / "models" / "surfaces" / name, app / "dbt_project.yml"
    targets = {
        TEMPLATES / "surface.yaml": (surfaces_dir or app / "surfaces") / f"{name}.yaml",
        **{
            TEMPLATES / f"{kind}{suffix}": models / f"{kind}_{name}{suffix}"
            for kind, suffixes in _KINDS.items()
            for suffix in suffixes
        },
    }
    if present := [str(path) for path in targets.values() if path.exists()]:
        raise ValueError(f"{', '.join(present)} exists already")
    if not project.exists():
        targets[TEMPLATES / project.name] = project
    called = re.sub(r"\W", "_", app.absolute().name, flags=re.ASCII).lower()
    names = {"__surface__": name, "__app__": called if _NAME.match(called) else f"app_{called}"}
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
