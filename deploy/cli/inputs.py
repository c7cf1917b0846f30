"""Raw event files for the landing zone, from the simulator or KuaiRand."""

from typing import Annotated

import typer

from deploy.cli.terminal import reporter, say
from ml.foundation.settings import Settings


def simulate(days: Annotated[int | None, typer.Option(help="Days to write; default the preset's.")] = None) -> None:
    """Write the simulator's raw event files into the landing zone."""
    from ml.lab.simulator.write import write_landing

    paths = write_landing(Settings(), days=days, progress=reporter())
    say(f"wrote {len(paths)} files to {Settings().landing_dir}")


def kuairand() -> None:
    """Write KuaiRand-Pure's logs (CROSSFADE_KUAIRAND_DIR) as raw event files into the landing zone."""
    from ml.lab.kuairand import write_landing

    paths = write_landing(Settings(), progress=reporter())
    say(f"wrote {len(paths)} files to {Settings().landing_dir}")
