"""What a check, or a guard, comes to."""

from collections.abc import Iterable
from enum import StrEnum


class Outcome(StrEnum):
    """Outcome of a check or a guard."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    NOT_EVALUATED = "not_evaluated"


BLOCKING = (Outcome.FAIL, Outcome.INCONCLUSIVE)
"""Outcomes that keep a candidate from being promoted."""

TOLD = (*BLOCKING, Outcome.WARN)
"""Outcomes whose reason people are told."""

SEVERITY = (*TOLD, Outcome.PASS, Outcome.NOT_EVALUATED)
"""Every outcome, the worst first."""


def worst_outcome(outcomes: Iterable[Outcome]) -> Outcome:
    """Return the worst outcome; of none, nothing was evaluated."""
    return min(outcomes, key=SEVERITY.index, default=Outcome.NOT_EVALUATED)
