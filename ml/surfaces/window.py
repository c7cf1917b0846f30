"""The days of a student: what it trains and is evaluated on, and until when its evaluation widens."""

from typing import NamedTuple, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from ml.surfaces.keys import Keys


class Looks(NamedTuple):
    """One look at a candidate after ``first`` evaluation days, then one with each further day, up to ``most`` days."""

    first: int
    most: int


ONE_LOOK = Looks(1, 1)
"""A candidate that is looked at once."""

E_MAX = 14
"""Evaluation days that a candidate may have in all, where a surface does not say."""


class Window(Keys):
    """Days of a student partition D: trains on [D-e-w, D-e), evaluates on [D-e, D) and further days up to ``e_max``.

    A surface whose ``label_window_days`` is more than 1 has both earlier; see ``Surface.label_lag_days``.
    """

    train_days: int = Field(ge=1, description="w")
    eval_days: int = Field(ge=1, description="e")
    e_max: int | None = Field(
        default=None,
        ge=1,
        le=90,
        description="Evaluation days, the first `eval_days` included, until which an undecided candidate's evaluation "
        f"widens; default {E_MAX}, or `eval_days` where that is more",
    )
    validation_days: int = Field(ge=1, description="Last days of the training window, for tuning")
    min_train_days: int = Field(ge=1, description="Fewer days than this are not trained on")

    @model_validator(mode="after")
    def _widens(self) -> Self:
        if self.e_max is not None and self.e_max < self.eval_days:
            raise ValueError(
                f"e_max: {self.e_max} is less than eval_days: {self.eval_days}; it counts these days too: write "
                f"{self.eval_days} to never widen, or leave it out for {max(E_MAX, self.eval_days)}"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_default(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave ``e_max`` out where it is not set: such a surface has the digest that it has without the key."""
        return {name: value for name, value in dump(self).items() if name != "e_max" or value is not None}

    @property
    def most_eval_days(self) -> int:
        """Evaluation days of a candidate in all, those of its widening included."""
        return max(E_MAX, self.eval_days) if self.e_max is None else self.e_max
