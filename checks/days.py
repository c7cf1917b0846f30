"""The days that guards look at."""

from collections.abc import Sequence
from datetime import date

from checks import gx
from ml.evaluation.outcome import Outcome
from ml.features.build import empty_days
from ml.foundation.lake import Lake
from ml.releases.verdicts import Check
from ml.surfaces.spec import Surface


def shown_days(lake: Lake, surface: Surface, days: Sequence[date]) -> tuple[list[date], list[Check]]:
    """Return the days on which something was shown, and a check that names the empty ones: they pass as empty.

    It warns where the surface does not say, by ``min_rows: 0``, that its days may be empty.
    """
    empty = sorted(empty_days(lake, surface.name, days))
    if not empty:
        return list(days), []
    outcome = Outcome.WARN if surface.gate.data.min_rows else Outcome.PASS
    told = f"nothing was shown on {', '.join(map(str, empty))}"
    check = Check(name="empty_days", outcome=outcome, value=float(len(empty)), threshold=gx.between(0, 0), detail=told)
    return [day for day in days if day not in empty], [check]
