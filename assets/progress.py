"""Progress of long steps: to the run's log by default, to the terminal when a command wants to show it."""

import dagster as dg

from ml.foundation.progress import Progress, as_lines


class ProgressResource(dg.ConfigurableResource):
    """Where long steps report how far they are."""

    every_s: float = 10.0

    def of(self, context: dg.AssetExecutionContext) -> Progress:
        """Return a progress that logs: lines that stay and ends at once, the rest at most every ``every_s`` seconds."""
        return as_lines(context.log.info, self.every_s)
