"""What every mapping of a surface file shares: strict keys, names, bounds and the error of the file."""

from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    StringConstraints,
)


class SpecError(ValueError):
    """A surface file that cannot be used; the message names the file and the key."""


def _rising(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the first, {bounds[0]:g}, is above the second, {bounds[1]:g}")
    return bounds


def shares_of_one(bounds: tuple[float, float]) -> tuple[float, float]:
    """Return two bounds that are shares, the lower first; refuse others."""
    if not 0 <= bounds[0] <= bounds[1] <= 1:
        raise ValueError(f"{bounds[0]:g} to {bounds[1]:g} are no shares of 0 to 1")
    return bounds


class Keys(BaseModel):
    """A mapping of a surface file: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")]
"""Name of a column, task or slice: it becomes part of queries and of graphs."""


Bounds = Annotated[tuple[float, float], AfterValidator(_rising)]
"""Lowest and highest value."""
