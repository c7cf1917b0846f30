"""``crossfade upgrade``: brings an instance directory of an earlier version along."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.home import require_idle
from deploy.cli.shared import home_settings
from deploy.cli.terminal import note, say


def upgrade(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; say what would be done.")] = False,
    backup: Annotated[
        Path | None, typer.Option(help="Where the copy goes. [default: backups in the instance directory]")
    ] = None,
    backed_up: Annotated[
        bool, typer.Option("--backed-up", help="Make no copy: Postgres was dumped, or the disk was copied.")
    ] = False,
) -> None:
    """Say what this version changes in an instance directory, back it up, and do it; while nothing else runs.

    Safe to repeat, and after a kill: a step that is done is not done again. `crossfade plan` says afterwards which days
    and students are built again.
    """
    from deploy.upgrade import copy_state, pending
    from deploy.upgrade import upgrade as run

    settings = home_settings()
    found = list(pending(settings))
    if not found:
        say(f"{settings.home} is of this version; nothing is to be done")
        return
    if dry_run:
        for step, told in found:
            say(f"{step.what}: {'; '.join(told)}")
        note("nothing was changed (--dry-run)")
        return
    require_idle(settings)
    if not backed_up:
        note(f"copied to {copy_state(settings, backup or settings.home / 'backups')}")
    for step, told in run(settings):
        say(f"done  {step.what}: {'; '.join(told)}")
    note("`crossfade plan` says what is built again, `crossfade doctor` how the instance directory is now")
