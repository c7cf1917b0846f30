"""``crossfade open``: the page of a release that one shows to a colleague."""

import sys
from typing import Annotated

import typer

from deploy.cli.shared import home_settings
from deploy.cli.terminal import note
from ml.operations.trace import find_release
from ml.releases.store import ReleaseStore


def open_page(
    release: Annotated[
        str | None,
        typer.Argument(help="Id of a release, or a surface for its champion; default the first that serves."),
    ] = None,
    only_print: Annotated[bool, typer.Option("--print", help="Print the page's path, and open nothing.")] = False,
) -> None:
    """Open the page of a release: verdict, model card and lineage, with links between them.

    It is one file without any other, so that it can be sent.
    """
    from ml.operations.shown_page import shown_page

    settings = home_settings()
    store = ReleaseStore.of(settings)
    name = release or next((one for one in store.surfaces() if store.champions.read(one).champion), None)
    if name is None:
        raise ValueError("nothing was released yet; the gate says why: crossfade release verdict SURFACE")
    found = find_release(store, name)
    page = settings.reports_dir / f"release_{found.id}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(shown_page(settings, store, found), encoding="utf-8")
    typer.echo(page)
    if not only_print and sys.stdout.isatty() and typer.launch(page.as_uri()):
        note("no browser opened; open the file above yourself")
