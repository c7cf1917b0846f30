"""What commands share: settings, surfaces, arguments, tables."""

from typing import Annotated

import typer

from ml.foundation.settings import Settings
from ml.surfaces import spec

Surface = Annotated[str, typer.Argument(help="Name of the surface, such as homepage.")]
Release = Annotated[str, typer.Argument(help="Id of a release, or a surface for its champion.")]
Reason = Annotated[str, typer.Option(help="Why; kept in the history.")]
Partition = Annotated[str, typer.Option(help="Day of the candidate.")]
By = Annotated[str, typer.Option(help="Who; default is the login name.", envvar="USER")]


def surface_named(settings: Settings, name: str) -> spec.Surface:
    """Return a surface of the home; one that there is not is refused with the names of those that there are."""
    surfaces = spec.load_surfaces(settings)
    if name not in surfaces:
        raise ValueError(f"no surface {name!r}; configured are {', '.join(surfaces)}")
    return surfaces[name]
