r"""Where the rows of each landing table come from, and how they are read: ``sources.yaml`` of the app's folder.

Without the file each table is read from the landing zone as it is::

    tables:
      exposures:
        late: route                      # a row of another day goes to its own day; else refuse, the default
        nulls: ['\N', 'NULL']             # words of text files that stand for nothing
        timezone: Europe/Berlin          # of times without an offset; else UTC
        files: exports/{table}/dt={day}/*.parquet  # below the landing zone; else {table}/day={day}/*
        ready: {marker: _DONE}           # or {silence: 20}; else _SUCCESS, or CROSSFADE_QUIET_MINUTES of silence
        columns:
          user_id: uid                   # the contract's name: the name in the files
          ts: {from: event_ms, unit: ms} # whole numbers since 1970; or format: '%d/%m/%Y %H:%M'
          item_id: {from: item, type: int64}  # read as whole numbers first
"""

import zoneinfo
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ml.foundation.documents import is_object, line_of, parse_yaml
from ml.foundation.names import faults_of, nearest
from ml.foundation.settings import Settings
from ml.landing.contract import Contract, ContractError
from ml.landing.patterns import DEFAULT, Pattern, faults_of_pattern

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
    type: Literal["int64", "float64", "bool"] | None = Field(
        default=None,
        description="What the values are read as before the contract's type: `int64` takes ids that were written as "
        "5.0, if they are exact",
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(one is not None for one in (self.unit, self.format, self.type)) > 1:
            raise ValueError("a column has a unit, a format or a type, only one of them")
        return self


class Ready(_Model):
    """What says that a day of a table is complete."""

    marker: str | None = Field(
        default=None, min_length=1, description="Name of a file beside the day's files; it may have {day} and {table}"
    )
    silence: float | None = Field(default=None, ge=0, description="Minutes in which nothing of the day changed")

    @field_validator("marker")
    @classmethod
    def _place(cls, marker: str | None) -> str | None:
        if marker and (found := list(faults_of_pattern(marker, day=False))):
            raise ValueError("; ".join(found))
        if marker and "*" in marker:
            raise ValueError("a marker is one file, without *")
        return marker

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.marker is None) == (self.silence is None):
            raise ValueError("a day is ready by a marker or a silence, one of them")
        return self


class Source(_Model):
    """How one table is read."""

    late: Literal["route", "refuse"] = Field(default="refuse", description="What becomes of a row of another day")
    nulls: tuple[str, ...] = Field(default=NULLS, description="Words of text files that stand for nothing")
    timezone: str = Field(default="UTC", description="Time zone of times that have no offset")
    columns: Mapping[str, Origin] = Field(default={}, description="By the contract's name: what it is in the files")
    files: str = Field(
        default=DEFAULT,
        description="Pattern of its files, with {day} and {table}, * and **; relative to the landing zone, or absolute",
    )
    ready: Ready | None = Field(
        default=None,
        description="What says that a day is complete; else `_SUCCESS`, or `CROSSFADE_QUIET_MINUTES` without a change",
    )

    @field_validator("files")
    @classmethod
    def _pattern(cls, text: str) -> str:
        if found := list(faults_of_pattern(text)):
            raise ValueError("; ".join(found))
        return text

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
    content = file.read_bytes()
    try:
        sources = _sources(content)
    except ValidationError as error:
        raise ContractError(f"{file}: {faults_of(error, Sources, content)}") from error
    except yaml.YAMLError as error:
        raise ContractError(f"{file}: {error}") from error
    if found := list(_faults(sources, contract)):
        told = (f"line {line_of(content, place)}: {'.'.join(place)}: {why}" for place, why in found)
        raise ContractError(f"{file}: {'; '.join(told)}")
    return sources


@lru_cache(maxsize=8)
def _sources(content: bytes) -> Sources:
    """Return what a file says; a sensor asks for it once per day of the landing zone."""
    return Sources.model_validate(parse_yaml(content) or {})


def _faults(sources: Sources, contract: Contract) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield (keys that lead to a place, what is wrong there)."""
    for name, source in sources.tables.items():
        place = ("tables", name)
        if name not in contract.tables:
            yield place, f"no such table{nearest(name, contract.tables)}"
            continue
        columns = contract.tables[name].columns
        for column, origin in source.columns.items():
            if column not in columns:
                yield (*place, "columns", column), f"no such column in the contract{nearest(column, columns)}"
            elif (origin.unit or origin.format) and columns[column].kind != "timestamp":
                told = f"unit and format are of timestamps, it is {columns[column].type}"
                yield (*place, "columns", column), told
            elif origin.type and columns[column].kind in ("timestamp", "float_vector"):
                told = f"type is of numbers, texts and truths, it is {columns[column].type}"
                yield (*place, "columns", column), told
        origins = [origin.name for origin in source.columns.values()]
        for twice in sorted({origin for origin in origins if origins.count(origin) > 1}):
            yield (*place, "columns"), f"{twice!r} is given to two columns"
        if source.late == "route" and contract.tables[name].moment is None:
            yield (*place, "late"), "its rows have no time that says which day they are of"
        marker = source.ready and source.ready.marker
        if marker and "{day" not in marker and not Pattern(source.files, name).day_in_folder:
            told = f"all days lie in one folder, so the marker must name its own, such as {{day}}.done, not {marker!r}"
            yield (*place, "ready", "marker"), told
