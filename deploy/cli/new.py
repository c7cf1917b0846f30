"""``crossfade new``: scaffold an app, or a part of it."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.terminal import note, say
from ml.foundation.settings import Settings
from ml.surfaces.scaffold import require_name, scaffold, scaffold_app

app = typer.Typer(no_args_is_help=True, help="Scaffold an app, or a part of it.")


@app.command("app")
def new_app(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The app's folder, best under its own version control.")
    ],
    surface: Annotated[str, typer.Option(help="Name of its first surface.")] = "homepage",
    first_day: Annotated[
        datetime, typer.Option(formats=["%Y-%m-%d"], help="First day (UTC) that has events.")
    ] = datetime(2026, 1, 1),
) -> None:
    """Write an app's folder: settings, contract, sources, surface, SQL, teacher, a workflow that checks it, README."""
    for path in scaffold_app(folder, surface, first_day.date()):
        say(f"wrote {path}")
    note(f"next: export CROSSFADE_APP={folder.resolve()}; crossfade check (docs/tutorial/your_app.md)")


@app.command("surface")
def new_surface(
    name: Annotated[str, typer.Argument(help="Lower-case name, such as podcasts.")],
    into: Annotated[Path | None, typer.Option(help="App's folder to write into; default CROSSFADE_APP.")] = None,
) -> None:
    """Scaffold a surface: one YAML and two SQL files with their descriptions. No Python."""
    require_name(name)
    settings = Settings()
    if into:
        written = scaffold(name, into)
    elif settings.app and "app" in settings.model_fields_set:
        written = scaffold(name, settings.app, surfaces_dir=settings.surfaces_dir)
    else:
        raise ValueError(
            f"surface {name} has no folder to go to: CROSSFADE_APP is not set. Set it to the folder of your app, "
            "or give it with --into"
        )
    for path in written:
        say(f"wrote {path}")
    note("next: edit them, `crossfade check`, `crossfade init`; materialize the new group (docs/tutorial/your_app.md)")
    note(f"once {name}/training_set has a day: `crossfade tune {name} --partition <day>`, before the first release")
