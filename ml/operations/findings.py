"""Looking at things one by one: each that cannot be looked at is bad, and the next one is looked at all the same."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from ml.foundation.settings import Settings


class State(StrEnum):
    """What was found."""

    GOOD = "good"
    DOUBTFUL = "doubtful"
    BAD = "bad"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: The thing.
        state: How it is.
        told: What was found; a line for each fault.
        remedy: What to do; empty where nothing is to be done.
    """

    what: str
    state: State
    told: str
    remedy: str = ""


Look = tuple[State, str] | tuple[State, str, str]
"""State, what was found, and what to do."""
Examinations = Mapping[str, Callable[[Settings], Look]]
"""What is looked at, by its name."""


def examine(settings: Settings, examinations: Examinations, remedies: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what each of some looks finds.

    Args:
        settings: What they look at.
        examinations: The looks, in their order.
        remedies: What to do where one raised, by its name.
    """
    for what, look in examinations.items():
        try:
            state, told, *remedy = look(settings)
        except Exception as error:  # whatever a part raises is its finding
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            state, told, remedy = State.BAD, f"{kind}{error}", [remedies.get(what, "")]
        yield Finding(what, state, told, *remedy)
