"""Dagster's webserver with one page more, that of a release: ``python -m deploy.webserver`` takes its arguments.

A browser opens no file that a page of a server links to, so that the page of `crossfade open` is served where its link
stands: in what the asset ``release`` tells of each release.
"""

from dagster_webserver import app, cli
from dagster_webserver.webserver import DagsterWebserver
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from assets.names import release_page
from ml.foundation.sealed import DamagedError
from ml.foundation.settings import Settings
from ml.releases.store import ReleaseStore

_NOTHING_RUNS = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


class Webserver(DagsterWebserver):
    """The webserver, which knows releases too."""

    def build_routes(self) -> list[Route]:
        """Return Dagster's routes behind ours: its last one takes every path."""
        return [Route(release_page("{surface}", "{release}"), _page_of_a_release), *super().build_routes()]


def _page_of_a_release(request: Request) -> Response:
    """Return the page as it is now: a release that served yesterday says so."""
    from ml.operations.shown_page import shown_page

    settings = Settings()
    store = ReleaseStore.of(settings)
    surface, name = request.path_params["surface"], request.path_params["release"]
    if surface not in store.surfaces() or name not in store.releases(surface):
        return PlainTextResponse(f"{surface} has no release {name}; it has: crossfade release list {surface}", 404)
    try:
        page = shown_page(settings, store, store.release(surface, name))
    except DamagedError as error:
        return PlainTextResponse(str(error), 500)
    return HTMLResponse(page, headers={"Content-Security-Policy": _NOTHING_RUNS, "X-Content-Type-Options": "nosniff"})


def main() -> None:
    """Run Dagster's command with this webserver."""
    app.DagsterWebserver = Webserver  # pyright: ignore[reportPrivateImportUsage]
    cli.main()


if __name__ == "__main__":
    main()
