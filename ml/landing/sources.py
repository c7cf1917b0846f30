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
      listens:
        query: select * from shop.plays where started >= {day} and started < {next_day}
    attach:
      shop: {type: postgres, env: SHOP_URL}   # the variable that holds the address; never the address itself
"""

import re
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
DatabaseType = Literal["postgres", "mysql", "sqlite", "duckdb", "ducklake", "iceberg", "delta", "parquet"]
PARAMETERS = ("day", "next_day")
"""What a query may have in braces: the day, and the one after it."""
_PARAMETER = re.compile(r"\{(\w+)\}")
_SECRETIVE = ("postgres", "mysql")
_TAKEN = ("memory", "system", "temp", "main", "information_schema", "pg_catalog")


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


class Database(_Model):
    """What queries read from: a database, or one table of files under a name."""

    type: DatabaseType = Field(
        description="postgres, mysql, sqlite, duckdb, ducklake (a database); iceberg, delta, parquet (a table)"
    )
    env: str | None = Field(
        default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="Environment variable that holds the address"
    )
    path: str | None = Field(
        default=None,
        min_length=1,
        description="Address that is no secret: a file, folder or URL; a relative one starts at landing_dir",
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.type in _SECRETIVE and self.env is None:
            raise ValueError(f"the address of {self.type} is a secret: env names the variable that holds it")
        if (self.env is None) == (self.path is None):
            raise ValueError("its address is in env or path, one of them")
        if self.path and re.search(r"://[^/@]*:[^/@]*@|password\s*=", self.path, re.IGNORECASE):
            raise ValueError("path holds a password; put the address into a variable, and name that as env")
        return self


def _query(text: str | None) -> str | None:
    """Return a query as it is.

    Raises:
        ValueError: It has something else in braces than the days, or no day.
    """
    names = _PARAMETER.findall(text or "")
    for name in names:
        if name not in PARAMETERS:
            raise ValueError(f"unknown {{{name}}}{nearest(name, PARAMETERS)}")
    if text is not None and not names:
        raise ValueError("it must name the day that it is asked for: {day}, a date, and {next_day}, the one after it")
    return text


def parameterized(query: str) -> str:
    """Return a query with parameters of DuckDB in the places of its days."""
    return _PARAMETER.sub(r"$\1", query)


class Ready(_Model):
    """What says that a day of a table is complete."""

    marker: str | None = Field(
        default=None, min_length=1, description="Name of a file beside the day's files; it may have {day} and {table}"
    )
    silence: float | None = Field(
        default=None,
        ge=0,
        description="Minutes in which nothing of the day changed; of a query, minutes since the day ended (UTC)",
    )
    query: str | None = Field(default=None, description="Query with {day} whose first value is true when it is")

    _days = field_validator("query")(_query)

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
        if sum(one is not None for one in (self.marker, self.silence, self.query)) != 1:
            raise ValueError("a day is ready by a marker, a silence or a query, one of them")
        return self


class Source(_Model):
    """How one table is read."""

    late: Literal["route", "refuse"] = Field(default="refuse", description="What becomes of a row of another day")
    nulls: tuple[str, ...] = Field(default=NULLS, description="Words of text files that stand for nothing")
    timezone: str = Field(default="UTC", description="Time zone of times that have no offset")
    columns: Mapping[str, Origin] = Field(default={}, description="By the contract's name: what it is in the files")
    files: str = Field(
        default=DEFAULT,
        description="Pattern of its files, with {day} and {table}, * and **: below the landing zone, absolute, or "
        "in a bucket: s3://, gs://, az://",
    )
    query: str | None = Field(
        default=None, description="Rows of a day, in place of files: SQL of DuckDB with {day} and {next_day}, dates"
    )
    ready: Ready | None = Field(
        default=None,
        description="What says that a day is complete; else `_SUCCESS`, or `CROSSFADE_QUIET_MINUTES` without a change",
    )
    version: str | None = Field(
        default=None,
        description="Query with {day} whose values change with the day's rows; without it all rows are read to see",
    )
    look: float = Field(default=15, ge=0, description="Minutes after which a day of a query is looked at again")

    _days = field_validator("query", "version")(_query)

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
    attach: Mapping[str, Database] = {}

    @field_validator("attach")
    @classmethod
    def _names(cls, attach: Mapping[str, Database]) -> Mapping[str, Database]:
        for name in attach:
            if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name) or name in _TAKEN:
                raise ValueError(f"{name!r} cannot name a database: small letters, digits, _; not {', '.join(_TAKEN)}")
        return attach

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
        if source.query and "files" in source.model_fields_set:
            yield (*place, "query"), "a table has files or a query, not both"
        if source.version and not source.query:
            yield (*place, "version"), "it is of a query; files have names, sizes and bytes"
        if source.query and marker:
            yield (*place, "ready", "marker"), "a query has no folder for a marker; it is ready by silence or query"
        elif marker and "{day" not in marker and not Pattern(source.files, name).day_in_folder:
            told = f"all days lie in one folder, so the marker must name its own, such as {{day}}.done, not {marker!r}"
            yield (*place, "ready", "marker"), told
