"""Progress of long steps: to the run's log by default, to the terminal when a command wants to show it."""

import time
from typing import Protocol

import dagster as dg


class ProgressFunction(Protocol):
    """``progress(what, done, total)``: called often, so it must be cheap; without total, ``what`` is shown as it is."""

    def __call__(self, what: str, done: int = 0, total: int = 0, /) -> None:
        """Report that ``done`` of ``total`` is done."""


class Progress(dg.ConfigurableResource):
    """Where long steps report how far they are."""

    every_s: float = 10.0

    def of(self, context: dg.AssetExecutionContext) -> ProgressFunction:
        """Return a function that logs at most every ``every_s`` seconds, and at the end."""
        last = time.monotonic()

        def log(what: str, done: int = 0, total: int = 0) -> None:
            nonlocal last
            now = time.monotonic()
            if not total:
                context.log.info(what)
            elif now - last >= self.every_s or done >= total:
                context.log.info(f"{what}: {done:,} of {total:,} ({100 * done / total:.0f} %)")
                last = now

        return log
