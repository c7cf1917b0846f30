"""The contract of the landing zone: every table, its columns, types and bounds, read from YAML.

``contract.yaml`` beside this module is the canonical schema. ``contract.yaml`` of the app's folder, if present, adds
typed columns to its tables and names columns to ignore; ``landing_contract.yaml`` of a home does so after it::

    tables:
      exposures:
        columns:
          weather: {type: string, nullable: true, description: Weather at the user's place}
        ignored: [debug_id]
      users:
        no_dates: {signed_up_at: [1970-01-01, infinity]}
"""

import hashlib
import json
import re
from collections.abc import Iterator
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ml.foundation.documents import Document, is_object, load_yaml, parse_yaml
from ml.foundation.names import faults_of, nearest
from ml.foundation.settings import Settings

CONTRACT_FILE = Path(__file__).parent / "contract.yaml"
APP_FILE, USER_FILE = "contract.yaml", "landing_contract.yaml"
"""What extends it, in the folder of the app and in a home."""
DAY = "day"
CARRIED = ("items", "users")
"""Tables whose latest row counts until the next."""

Kind = Literal["string", "int64", "float64", "bool", "timestamp", "float_vector"]

_TYPE = re.compile(r"^(string|int64|float64|bool|timestamp|float_vector\[([1-9]\d{0,3})\])$")
_NAME = re.compile(r"^[a-z][a-z0-9_]{0,62}$")
_SQL = {
    "string": "VARCHAR",
    "int64": "BIGINT",
    "float64": "DOUBLE",
    "bool": "BOOLEAN",
    "timestamp": "TIMESTAMP",
    "float_vector": "FLOAT[]",
}


_MEANT = {
    **dict.fromkeys(("text", "str", "varchar", "uuid"), "string"),
    **dict.fromkeys(("int", "integer", "bigint"), "int64"),
    **dict.fromkeys(("float", "double"), "float64"),
    "boolean": "bool",
    "datetime": "timestamp",
}
"""Other names of the types."""


class LandingError(ValueError):
    """A day that cannot be landed; the message names what is wrong and where."""


class ContractError(LandingError):
    """A contract that is wrong, or a file whose columns break it; names file and column."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Column(_Model):
    """One column of a landing table."""

    type: str = Field(description="string, int64, float64, bool, timestamp or float_vector[n]")
    description: str = Field(min_length=1)
    nullable: bool = False
    max_bytes: int | None = Field(default=None, ge=1, description="Of a string, in place of the contract's own bound")
    min: float | None = None
    max: float | None = None
    above: float | None = Field(
        default=None, description="What a number is larger than; `min` may be the number itself"
    )
    values: tuple[str, ...] = Field(default=(), description="What a string may be; empty means anything")
    one_of: Literal["surfaces"] | None = Field(default=None, description="A string that names a configured thing")
    any_day: bool = Field(default=False, description="A timestamp that need not lie within the day of its folder")
    id: bool = Field(default=False, description="A string that names somebody or something; never a float")
    no_dates: tuple[date | Literal["infinity"], ...] = Field(
        default=(), description="Days (UTC) that stand for no date, read as null; `infinity`: both ends of time"
    )

    @field_validator("type")
    @classmethod
    def _known(cls, kind: str) -> str:
        if not _TYPE.match(kind):
            near = nearest(_MEANT.get(kind.lower(), kind.split("[")[0]), _SQL)
            types = ", ".join(each for each in _SQL if each != "float_vector")
            raise ValueError(f"unknown type {kind!r}{near if '?' in near else ''}; types are {types}, float_vector[n]")
        return kind

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        bounds = (self.min, self.max, self.above)
        if any(bound is not None for bound in bounds) and self.kind not in ("int64", "float64"):
            raise ValueError(f"min, max and above need a number, not {self.type}")
        if (self.values or self.one_of) and self.kind != "string":
            raise ValueError(f"values and one_of need a string, not {self.type}")
        if self.max_bytes is not None and self.kind != "string":
            raise ValueError(f"max_bytes needs a string, not {self.type}")
        if self.any_day and self.kind != "timestamp":
            raise ValueError(f"any_day needs a timestamp, not {self.type}")
        if self.no_dates and self.kind != "timestamp":
            raise ValueError(f"no_dates needs a timestamp, not {self.type}")
        if self.id and self.kind != "string":
            raise ValueError(f"id needs a string, not {self.type}")
        return self

    @property
    def kind(self) -> Kind:
        """The type without its length."""
        return self.type.split("[")[0]  # type: ignore[return-value]

    @property
    def length(self) -> int:
        """Length of a vector; 0 for anything else."""
        return int(self.type.split("[")[1].rstrip("]")) if self.kind == "float_vector" else 0

    @property
    def sql_type(self) -> str:
        """DuckDB type of the landed column; a lake has no fixed-length arrays, so vectors are checked lists."""
        return _SQL[self.kind]


_NEEDS = {
    "string": "needs text or a whole number",
    "int64": "needs a whole number of 64 bits",
    "float64": "needs a number",
    "bool": "needs true or false, t or f, 1 or 0",
    "timestamp": "needs a time such as 2026-03-01T10:00:00Z; for others see columns and timezone in sources.yaml",
    "float_vector": "needs numbers such as [0.5, 1.0]",
}


def wrong_type(name: str, column: Column) -> str:
    """Return the reason of a row whose value a column does not take, with what it takes."""
    if column.id:
        return f"wrong type: {name}; an id is text or a whole number, as a float it has lost digits: export it as text"
    return f"wrong type: {name}; it {_NEEDS[column.kind]}"


class Table(_Model):
    """One landing table."""

    description: str = Field(min_length=1)
    key: tuple[str, ...] = Field(min_length=1, description="Columns that identify a row within its day")
    columns: dict[str, Column]
    ignored: tuple[str, ...] = Field(default=(), description="Columns that files may have and that are not read")

    @field_validator("columns")
    @classmethod
    def _names(cls, columns: dict[str, Column]) -> dict[str, Column]:
        for name in columns:
            if not _NAME.match(name) or name == DAY:
                raise ValueError(f"{name!r} cannot be a column: lower case letters, digits, _; and not {DAY!r}")
        return columns

    @model_validator(mode="after")
    def _keys(self) -> Self:
        for name in self.key:
            if name not in self.columns or self.columns[name].nullable:
                raise ValueError(f"key column {name!r} is missing or nullable")
        if both := set(self.ignored) & set(self.columns):
            raise ValueError(f"columns {sorted(both)} are declared and ignored")
        return self

    @property
    def required(self) -> tuple[str, ...]:
        """Columns that every file must have."""
        return tuple(name for name, column in self.columns.items() if not column.nullable)

    @property
    def moment(self) -> str | None:
        """Column whose timestamp says which day a row is of; None where a row may be of any."""
        own = (name for name, column in self.columns.items() if column.kind == "timestamp" and not column.any_day)
        return next(own, None)


class Contract(_Model):
    """All landing tables."""

    version: int
    max_string_bytes: int = Field(ge=1)
    tables: dict[str, Table]

    @property
    def digest(self) -> str:
        """Content hash of the contract."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json")).encode()).hexdigest()[:32]

    def table(self, name: str) -> Table:
        """Return a table by name.

        Raises:
            ContractError: No such table.
        """
        if name not in self.tables:
            raise ContractError(f"the landing contract has no table {name!r}; it has {', '.join(self.tables)}")
        return self.tables[name]


def load_contract(settings: Settings) -> Contract:
    """Read the canonical contract and merge the app's own columns into it, then the home's.

    Raises:
        ContractError: A file is no YAML or breaks a rule; names the file.
    """
    assert settings.app is not None
    files = [file for file in (settings.app / APP_FILE, settings.home / USER_FILE) if file.exists()]
    read: list[bytes] = []
    contract = _contract()
    for file in files:
        try:
            read.append(file.read_bytes())
            contract = _contract(*read)
        except (OSError, ValueError) as error:
            raise ContractError(f"{file}: {error}") from error
    return contract


@lru_cache(maxsize=8)
def _contract(*extensions: bytes) -> Contract:
    """Return the canonical contract with extensions; a sensor asks for it once per day of the landing zone.

    Raises:
        ValueError: Says everything in the last extension that cannot be.
    """
    content = load_yaml(CONTRACT_FILE)
    faults: list[str] = []
    for extension in extensions:
        own = parse_yaml(extension)
        if not is_object(own):
            raise ValueError("holds no mapping")
        faults += _merge(content, own)
    try:
        contract = Contract.model_validate(content)
    except ValidationError as error:
        faults.append(faults_of(error, Contract, extensions[-1] if extensions else None))
    else:
        if not faults:
            return contract
    raise ValueError("; ".join(faults))


def _merge(content: Document, own: Document) -> Iterator[str]:
    """Extend a contract's content; yield everything in ``own`` that cannot be."""
    for key in sorted(set(own) - {"tables"}):
        yield f"unknown key {key!r}{nearest(key, ['tables'])}"
    tables: dict[str, Document] = own.get("tables") or {}
    for name, extension in tables.items():
        if name in content["tables"]:
            yield from _extend(name, content["tables"][name], extension)
        else:
            yield f"no table {name!r} to extend{nearest(name, content['tables'])}"


def _extend(name: str, table: Document, own: Document) -> Iterator[str]:
    """Extend one table's content; yield what cannot be."""
    keys = ("columns", "ignored", "no_dates")
    for key in sorted(set(own) - set(keys)):
        yield f"tables.{name}: unknown key {key!r}{nearest(key, keys)}"
    columns: Document = own.get("columns") or {}
    if taken := sorted(set(columns) & set(table["columns"])):
        yield f"tables.{name}: columns {taken} exist already"
    table["columns"] = columns | table["columns"] if taken else table["columns"] | columns
    no_dates: Document = own.get("no_dates") or {}
    for column, dates in no_dates.items():
        if column in table["columns"]:
            table["columns"][column]["no_dates"] = dates
        else:
            yield f"tables.{name}.no_dates: no column {column!r}{nearest(column, table['columns'])}"
    table["ignored"] = [*table.get("ignored", []), *(own.get("ignored") or [])]
