"""What columns, of which types, feature tables and examples must have: made of what is declared, held when dbt builds.

A feature table has its keys and the columns that its YAML describes. Examples have those of the exposure and of every
feature table, what their own YAML adds, and the inputs and labels of their surface. A type is that of whoever reads the
column: an input of a surface, or a task. dbt refuses a table that breaks its contract before a row of it is written
(macro ``require_contract``), and serving publishes none.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from ml.features.projects import model_folders
from ml.features.tables import EXPOSURE_COLUMNS, ColumnType, FeatureTable, models_of, read_tables
from ml.foundation.names import nearest
from ml.foundation.settings import Settings
from ml.surfaces.spec import Surface

_INTEGER = r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|BOOLEAN"
_NUMBER = rf"{_INTEGER}|FLOAT|DOUBLE|DECIMAL\(.*\)"
TYPES: Mapping[ColumnType, str] = {
    "boolean": "BOOLEAN",
    "integer": _INTEGER,
    "number": _NUMBER,
    "integer[]": rf"({_INTEGER})\[\d*\]",
    "number[]": rf"({_NUMBER})\[\d*\]",
    "date": "DATE",
    "timestamp": "TIMESTAMP.*",
    "any": ".*",
}
"""The types of DuckDB that each type of a contract takes, as a pattern; the narrower before the wider."""

_OF_INPUT: Mapping[str, ColumnType] = {
    "id": "integer",
    "category": "integer",
    "number": "number",
    "vector": "number[]",
    "event_list": "integer[]",
}

_NARROWER = {("integer", "number"), ("integer[]", "number[]")}
"""Pairs of types of which the first is what a column must be, where one reader wants each."""

Contract = dict[str, ColumnType]
"""{column: type} of one table."""


class ContractError(ValueError):
    """An input that reads a table that is none, or as a type that another reader excludes; the message names both."""


def contracts(settings: Settings, surfaces: Mapping[str, Surface]) -> dict[str, Contract]:
    """Return {dbt model: {column: type}} of every feature table and of the examples of ``surfaces``.

    Raises:
        ContractError: An input reads no feature table, or two read one column as types that exclude each other.
        DeclarationError: A feature table cannot be joined.
    """
    folders = model_folders(settings)
    tables = read_tables(folders)
    found = {name: _of_table(table) for name, table in tables.items()}
    readers: dict[tuple[str, str], str] = {}
    for surface in surfaces.values():
        for name, spec in surface.inputs.items():
            if spec.source is None:
                continue
            table, column = spec.source.split(".")
            reader = f"input {name} of surface {surface.name}"
            if table not in found:
                raise ContractError(f"{reader} reads {spec.source}: no feature table {table!r}{nearest(table, found)}")
            _narrow(found, table, column, _OF_INPUT[spec.type], reader, readers)
    of_features: Contract = {c.alias: found[table.name][c.name] for table in tables.values() for c in table.columns}
    for name, surface in surfaces.items():
        found[f"examples_{name}"] = _of_examples(surface, folders, {**EXPOSURE_COLUMNS, **of_features})
    return found


def by_type(contract: Contract) -> dict[ColumnType, list[str]]:
    """Return {type: its columns}, as dbt is told and as people read."""
    return {kind: columns for kind in TYPES if (columns := [name for name, of in contract.items() if of == kind])}


def for_dbt(settings: Settings, surfaces: Mapping[str, Surface]) -> dict[str, dict[ColumnType, list[str]]]:
    """Return ``contracts`` as dbt's variable of this name has them."""
    return {table: by_type(contract) for table, contract in contracts(settings, surfaces).items()}


def faults(contract: Mapping[str, ColumnType], columns: Mapping[str, str]) -> Iterator[str]:
    """Say of each column of a contract that a table lacks, or has with another type.

    Args:
        contract: The contract.
        columns: {column: type} of the table, as DuckDB names them.
    """
    for name, kind in contract.items():
        if name not in columns:
            yield f"it has no column {name}, declared as {kind}"
        elif not re.fullmatch(TYPES[kind], columns[name]):
            yield f"column {name} is {columns[name]}, declared as {kind}"


def _of_table(table: FeatureTable) -> Contract:
    """Return the contract of a feature table that nobody reads yet: its columns are of any type."""
    columns: Contract = {column.name: "any" for column in table.columns}
    return {"day": "date", **dict.fromkeys(table.entity, "integer"), **columns}


def _of_examples(surface: Surface, folders: tuple[Path, ...], joined: Mapping[str, ColumnType]) -> Contract:
    """Return the contract of a surface's examples; ``joined``: the columns of ``example_inputs``."""
    table = f"examples_{surface.name}"
    contract: Contract = {"day": "date", "exposure_id": "integer"}
    for _, model, meta in models_of(folders):
        if model["name"] == table:
            left = {"surface", *meta.get("without", [])}
            if meta.get("columns_of") == "example_inputs":
                contract |= {name: kind for name, kind in joined.items() if name not in left}
            own = (column["name"] for column in model.get("columns", []))
            contract |= {name: "any" for name in own if name not in contract}
    found, readers = {table: contract}, dict[tuple[str, str], str]()
    for name, spec in surface.inputs.items():
        _narrow(found, table, name, _OF_INPUT[spec.type], f"input {name}", readers)
    for name, task in surface.tasks.items():
        _narrow(found, table, task.label, "number", f"the label of task {name}", readers)
    return contract


def _narrow(
    found: dict[str, Contract],
    table: str,
    column: str,
    kind: ColumnType,
    reader: str,
    readers: dict[tuple[str, str], str],
) -> None:
    """Let ``reader`` read a column as ``kind``: it is the narrower of that and what it has to be already."""
    before = found[table].get(column, "any")
    if (before, kind) in _NARROWER:
        kind = before
    elif (kind, before) not in _NARROWER and before not in ("any", kind):
        earlier = readers.get((table, column), "its table")
        raise ContractError(f"{table}.{column} is {before} for {earlier}, {kind} for {reader}; one of them is wrong")
    found[table][column] = kind
    readers[table, column] = reader
