"""Scaffolding of a surface: one YAML and two SQL files with their descriptions, from the templates beside this file."""

import re
from pathlib import Path

TEMPLATES = Path(__file__).resolve().parent / "templates"
_NAME = re.compile(r"^[a-z][a-z0-9_]{0,40}$")
_PLACEHOLDER = "__surface__"


def scaffold(name: str, root: Path, *, surfaces_dir: Path | None = None) -> list[Path]:
    """Write the files of a new surface and return their paths.

    Args:
        name: Name of the surface.
        root: Project root; the SQL goes to ``dbt_project/models/surfaces/<name>``.
        surfaces_dir: Folder of the YAML; default ``ml/surfaces`` below ``root``.

    Raises:
        ValueError: The name is no lower-case identifier, or a file exists already.
    """
    if not _NAME.match(name):
        raise ValueError(f"surface name {name!r} is not lower-case letters, digits and _ starting with a letter")
    models = root / "dbt_project" / "models" / "surfaces" / name
    targets = {
        TEMPLATES / "surface.yaml": (surfaces_dir or root / "ml" / "surfaces") / f"{name}.yaml",
        **{
            TEMPLATES / f"{model}{suffix}": models / f"{model}_{name}{suffix}"
            for model in ("examples", "teacher_inputs")
            for suffix in (".sql", ".yml")
        },
    }
    if present := [str(path) for path in targets.values() if path.exists()]:
        raise ValueError(f"{', '.join(present)} exists already")
    for template, target in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(template.read_text(encoding="utf-8").replace(_PLACEHOLDER, name), encoding="utf-8")
    return list(targets.values())
