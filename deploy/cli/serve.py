"""``crossfade ui`` and ``crossfade serve``: what runs until it is stopped."""

import os
import sys
from typing import Annotated

import typer

from deploy.cli.shared import home_settings, require_free
from deploy.cli.terminal import note
from ml.foundation.settings import PROJECT_ROOT, Settings


def ui(
    port: Annotated[int, typer.Option(help="Port of the Dagster UI.")] = 3000,
    host: Annotated[str, typer.Option(help="Address to bind; loopback unless told otherwise.")] = "127.0.0.1",
) -> None:
    """Run the Dagster UI and its daemon until interrupted."""
    from deploy.cli.demo_run import environment
    from deploy.home import prepare

    require_free(host, port, "--port")
    settings = prepare(Settings())
    # `dg dev`, which is to supersede it, serves projects of its own layout only.
    command = [sys.executable, "-W", "ignore:Function `dev_command` is superseded", "-m", "deploy.ui"]
    command += ["-w", str(PROJECT_ROOT / "workspace.yaml")]
    command += ["-h", host, "-p", str(port)]
    note(f"Dagster UI on http://{host}:{port} for {settings.home}; stop with Ctrl-C")
    os.chdir(PROJECT_ROOT)
    # In place of this process: whoever stops it stops the UI, and leaves no daemon behind.
    os.execve(sys.executable, command, environment(settings))


def serve(
    host: Annotated[str | None, typer.Option(help="Address to bind; default CROSSFADE_SERVE_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; default CROSSFADE_SERVE_PORT.")] = None,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes that answer on the port; one a core.")] = 1,
) -> None:
    """Serve the champions: Open Inference Protocol v2 and /rank."""
    from deploy.serving.run import serve as run

    settings = home_settings()
    host, port = host or settings.serve_host, settings.serve_port if port is None else port
    require_free(host, port, "--port, or CROSSFADE_SERVE_PORT")
    if settings.serve_grpc_port:  # workers share it, and would with those of another server too
        require_free(settings.serve_grpc_host, settings.serve_grpc_port, "CROSSFADE_SERVE_GRPC_PORT")
    run(settings, host=host, port=port, workers=workers)
