"""Scaffolding of a surface, from the templates beside this file: its YAML, its SQL with descriptions, its exposure."""

import re
from pathlib import Path

TEMPLATES = Path(__file__).resolve().parent / "templates"
_NAME = re.compile(r"^[a-z][a-z0-9_]{0,40}$")
_PLACEHOLDER = "__surface__"
_KINDS = {"examples": (".sql", ".yml"), "teacher_inputs": (".sql", ".yml"), "exposures": (".yml",)}


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
            TEMPLATES / f"{kind}{suffix}": models / f"{kind}_{name}{suffix}"
            for kind, suffixes in _KINDS.items()
            for suffix in suffixes
        },
    }
    if present := [str(path) for path in targets.values() if path.exists()]:
        raise ValueError(f"{', '.join(present)} exists already")
    for template, target in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(template.read_text(encoding="utf-8").replace(_PLACEHOLDER, name), encoding="utf-8")
    return list(targets.values())
