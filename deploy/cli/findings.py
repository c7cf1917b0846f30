"""Findings as a person sees them."""

from collections.abc import Sequence

from rich.text import Text

from deploy.cli.terminal import show_table
from ml.operations.findings import Finding, State

_STYLES = {State.GOOD: "green", State.DOUBTFUL: "yellow", State.BAD: "red"}


def show_findings(title: str, found: Sequence[Finding]) -> None:
    """Print findings as a table, a row for each fault."""
    rows = []
    for finding in found:
        for number, line in enumerate(finding.told.splitlines() or [""]):
            first = number == 0
            rows.append(
                {
                    "what": finding.what if first else "",
                    "state": Text(finding.state, style=_STYLES[finding.state]) if first else "",
                    "found": line,
                    "what to do": finding.remedy if first else "",
                }
            )
    show_table(title, rows)


def require_good(found: Sequence[Finding]) -> None:
    """Refuse findings of which some are bad.

    Raises:
        ValueError: Names them.
    """
    if bad := [finding.what for finding in found if finding.state is State.BAD]:
        raise ValueError(f"{len(bad)} of these are bad: {', '.join(bad)}")
