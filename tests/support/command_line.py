"""Whether a line of a page is one of the commands."""

from collections.abc import Sequence

from typer.core import TyperGroup
from typer.main import get_command

from deploy.cli.main import app


def assert_taken(arguments: Sequence[str]) -> None:
    """Parse the arguments of `crossfade`; raises where a command, argument or option is unknown."""
    command = get_command(app)
    context = command.make_context("crossfade", list(arguments), resilient_parsing=True)
    while isinstance(command, TyperGroup):
        name, *arguments = arguments
        found = command.get_command(context, name)
        assert found is not None, f"no command {name!r}"
        command = found
        context = command.make_context(name, list(arguments), parent=context, resilient_parsing=True)
    command.make_context(str(command.name), list(arguments))
