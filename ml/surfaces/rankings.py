"""What is ranked each day without a server, as a surface file describes it."""

import re
from typing import Self

from pydantic import (
    Field,
    field_validator,
    model_serializer,
    model_validator,
)

from ml.foundation.names import near_name
from ml.surfaces.keys import Keys

IN_LAKE = "lake"
_PLACES = "lake, {parquet: out/{day}.parquet} or {database: shop, table: rankings}"
RANKING_COLUMNS = ("day", "surface", "user_id", "rank", "item_id", "score", "release", "features_day")
"""What a ranked row has beside the outputs of its tasks."""


class Destination(Keys):
    """Where rankings are written: the lake unless it says otherwise."""

    parquet: str | None = Field(
        default=None,
        min_length=1,
        description="File of each day, with {day}: an absolute path, or one below the instance directory",
    )
    database: str | None = Field(default=None, description="Name under `attach` of `sources.yaml`; with `table`")
    table: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?$",
        description="Table of that database, `schema.table` or `table`; made if it is not there",
    )

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: object) -> object:
        if given == IN_LAKE:
            return {}
        if isinstance(given, str):
            near = f"did you mean {IN_LAKE!r}?" if near_name(given, [IN_LAKE]) else f"there are {_PLACES}"
            raise ValueError(f"{given!r} is no place of rankings; {near}")
        return given

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.database is None) != (self.table is None) or (self.parquet and self.database):
            raise ValueError(f"rankings have one place: {_PLACES}")
        if self.parquet is not None:
            if "{day}" not in self.parquet:
                raise ValueError(f"parquet: {self.parquet!r} has no {{day}}: each day's file replaces its own")
            if "://" in self.parquet or set(re.findall(r"\{\w*\}", self.parquet)) != {"{day}"}:
                raise ValueError(f"parquet: {self.parquet!r} is no path of a local file with {{day}} and no other")
        return self

    @model_serializer
    def _as_written(self) -> str | dict[str, str]:
        written = {name: value for name, value in dict(self).items() if value is not None}
        return written or IN_LAKE

    def __str__(self) -> str:
        return self.parquet or (f"{self.database}.{self.table}" if self.database else IN_LAKE)


class Rankings(Keys):
    """What is ranked each day without a server, for whom, and where the first of it goes."""

    candidates: str = Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]*$",
        description="A query in the app's folder, such as `rankings/homepage.sql`, or the name of a model with `day`",
    )
    top_k: int = Field(default=50, ge=1, le=10_000, description="Items of each user that are written")
    to: Destination = Destination()

    @field_validator("candidates")
    @classmethod
    def _inside(cls, name: str) -> str:
        if not name.endswith(".sql") and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(f"{name!r} is neither a file *.sql of the app's folder nor the name of a model")
        if ".." in name.split("/"):
            raise ValueError(f"{name!r} leads out of the app's folder")
        return name

    @property
    def model(self) -> str | None:
        """Name of the model that holds the candidates; None where a query gives them."""
        return None if self.candidates.endswith(".sql") else self.candidates

    def __str__(self) -> str:
        return f"the first {self.top_k} of {self.candidates} to {self.to}"
