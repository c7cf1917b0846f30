"""How far a long piece of work is: one shape, from whatever takes long to whoever shows it."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One report about a piece of work.

    Attributes:
        what: The work; its reports share the name.
        done: Units done.
        total: Units in all; 0 when the report is a line and nothing else.
        note: How it stands, such as the loss: shown with the count until the next report.
        line: What is worth a line that stays, such as what a day gave.
    """

    what: str
    done: int = 0
    total: int = 0
    note: str = ""
    line: str = ""

    def __str__(self) -> str:
        count = f"{self.done:,} of {self.total:,}"
        if self.line:
            return f"{self.what}: {self.line}" + (f" ({count})" if self.total else "")
        share = f": {count} ({100 * self.done / self.total:.0f} %)" if self.total else ""
        return self.title + share

    @property
    def title(self) -> str:
        """The work and how it stands."""
        return f"{self.what}, {self.note}" if self.note else self.what


Progress = Callable[[Step], None]
"""Called often, so it must be cheap."""


def silent(step: Step) -> None:
    """Show nothing."""


def as_lines(say: Callable[[str], None], every_s: float) -> Progress:
    """Return a progress that says reports as text.

    Args:
        say: Called with each line.
        every_s: Seconds between lines of reports that have none that stays; the end of a work is said at once.
    """
    last = time.monotonic()

    def progress(step: Step) -> None:
        nonlocal last
        if step.line or step.done >= step.total or time.monotonic() - last >= every_s:
            say(str(step))
            last = time.monotonic()

    return progress
