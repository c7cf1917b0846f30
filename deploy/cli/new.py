"""``crossfade new``: scaffold a part of the project."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.terminal import note, say
from ml.foundation.settings import PROJECT_ROOT, Settings

app = typer.Typer(no_args_is_help=True, help="Scaffold a part of the project.")


@app.command("surface")
def new_surface(
    name: Annotated[str, typer.Argument(help="Lower-case name, such as podcasts.")],
    into: Annotated[
        Path | None, typer.Option(help="Project root to write into; default this checkout and CROSSFADE_SURFACES_DIR.")
    ] = None,
) -> None:
    """Scaffold a surface: one YAML and two SQL files with their descriptions. No Python."""
    from ml.surfaces.scaffold import scaffold

    written = scaffold(name, into) if into else scaffold(name, PROJECT_ROOT, surfaces_dir=Settings().surfaces_dir)
    for path in written:
        say(f"wrote {path}")
    note("next: edit them, then `crossfade init` and materialize the new group (docs/tutorial/your_app.md)")
