r"""Where the rows of each landing table come from, and how they are read: ``sources.yaml`` of the app's folder.

Without the file each table is read from the landing zone as it is::

    tables:
      exposures:
        late: route                      # a row of another day goes to its own day; else refuse, the default
        nulls: ['\N', 'NULL']             # words of text files that stand for nothing
        timezone: Europe/Berlin          # of times without an offset; else UTC
        columns:
          user_id: uid                   # the contract's name: the name in the files
          ts: {from: event_ms, unit: ms} # whole numbers since 1970; or format: '%d/%m/%Y %H:%M'
"""

import zoneinfo
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ml.foundation.documents import is_object, parse_yaml
from ml.foundation.names import faults_of, nearest
from ml.foundation.settings import Settings
from ml.landing.contract import Contract, ContractError

SOURCES_FILE = "sources.yaml"
NULLS = ("\\N", "NULL", "null", "None", "nan", "NaN", "NaT", "<NA>")
"""Null words of the databases and languages that write text files."""
Unit = Literal["s", "ms", "us", "ns"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Origin(_Model):
    """What a column of the contract is in the files."""

    name: str = Field(alias="from", min_length=1, description="Name of the column in the files")
    unit: Unit | None = Field(default=None, description="A timestamp is a whole number of these since 1970-01-01 UTC")
    format: str | None = Field(default=None, description="A timestamp is text of this form, such as %d/%m/%Y %H:%M")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.unit and self.format:
            raise ValueError("a column has a unit or a format, not both")
        return self


class Source(_Model):
    """How one table is read."""

    late: Literal["route", "refuse"] = Field(default="refuse", description="What becomes of a row of another day")
    nulls: tuple[str, ...] = Field(default=NULLS, description="Words of text files that stand for nothing")
    timezone: str = Field(default="UTC", description="Time zone of times that have no offset")
    columns: Mapping[str, Origin] = Field(default={}, description="By the contract's name: what it is in the files")

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        if name not in (zones := zoneinfo.available_timezones()):
            raise ValueError(f"no time zone {name!r}{nearest(name, zones)}")
        return name

    @field_validator("columns", mode="before")
    @classmethod
    def _renames(cls, columns: object) -> object:
        if not is_object(columns):
            return columns
        return {name: {"from": of} if isinstance(of, str) else of for name, of in columns.items()}

    @property
    def renames(self) -> dict[str, str]:
        """{name in the files: the contract's name}."""
        return {origin.name: name for name, origin in self.columns.items()}


class Sources(_Model):
    """How every table is read."""

    tables: Mapping[str, Source] = {}

    def table(self, name: str) -> Source:
        """Return how one table is read; one that the file does not name is read as it is."""
        return self.tables.get(name, PLAIN)


PLAIN = Source()
"""How a table is read that the file does not name."""


def load_sources(settings: Settings, contract: Contract) -> Sources:
    """Read ``sources.yaml`` of the app's folder, if there is one.

    Raises:
        ContractError: It is no YAML, has unknown keys, or names tables or columns that the contract does not have; all
            of it at once.
    """
    assert settings.app is not None
    file = settings.app / SOURCES_FILE
    if not file.exists():
        return Sources()
    try:
        sources = _sources(file.read_bytes())
    except ValidationError as error:
        raise ContractError(f"{file}: {faults_of(error, Sources)}") from error
    except yaml.YAMLError as error:
        raise ContractError(f"{file}: {error}") from error
    if found := list(_faults(sources, contract)):
        raise ContractError(f"{file}: {'; '.join(found)}")
    return sources


@lru_cache(maxsize=8)
def _sources(content: bytes) -> Sources:
    """Return what a file says; a sensor asks for it once per day of the landing zone."""
    return Sources.model_validate(parse_yaml(content) or {})


def _faults(sources: Sources, contract: Contract) -> Iterator[str]:
    for name, source in sources.tables.items():
        if name not in contract.tables:
            yield f"tables.{name}: no such table{nearest(name, contract.tables)}"
            continue
        columns = contract.tables[name].columns
        for column, origin in source.columns.items():
            if column not in columns:
                yield f"tables.{name}.columns.{column}: no such column in the contract{nearest(column, columns)}"
            elif (origin.unit or origin.format) and columns[column].kind != "timestamp":
                yield f"tables.{name}.columns.{column}: unit and format are of timestamps, it is {columns[column].type}"
        origins = [origin.name for origin in source.columns.values()]
        for twice in sorted({origin for origin in origins if origins.count(origin) > 1}):
            yield f"tables.{name}.columns: {twice!r} is given to two columns"
        if source.late == "route" and contract.tables[name].moment is None:
            yield f"tables.{name}.late: its rows have no time that says which day they are of"
