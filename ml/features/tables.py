"""Feature tables: the dbt models that declare what they describe, and how examples and serving find their rows.

A model is one when its YAML has ``meta``::

    config:
      meta: {entity: [user_id], as: user, default: {plays: 0}}

``entity`` names what a row of a day is about: ``user_id``, ``item_id``, ``creator_id`` (the item's creator), or two of
them. A column ``plays`` is ``user_plays`` in the examples, unless its own ``meta: {as: ...}`` has another name.
``default`` is what a column holds where the table has no row or a null; without it, null. ``vectors`` names a vector
of the teacher's contract that the table holds (``teacher_vectors`` in its SQL), so that it is known where it came from.
"""

from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ml.features.projects import model_folders
from ml.foundation.documents import Document, is_list, is_object, load_yaml
from ml.foundation.lake import ML
from ml.foundation.names import faults_of
from ml.foundation.settings import Settings
from ml.surfaces.keys import Name

Entity = Literal["user_id", "item_id", "creator_id"]
ENTITIES: tuple[Entity, ...] = get_args(Entity)

CREATOR_OF = "feat_item"
"""The feature table that says whose an item is."""

VECTORS_TABLE = f"{ML}.teacher_vectors"
"""Every vector of the teacher, by day, user or item, teacher, name, version and contract hash."""

ColumnType = Literal["boolean", "integer", "number", "integer[]", "number[]", "date", "timestamp", "any"]
"""What a column must be; see ``ml.features.contracts``."""

EXPOSURE_COLUMNS: Mapping[str, ColumnType] = {
    "day": "date",
    "exposure_id": "integer",
    "ts": "timestamp",
    "surface": "any",
    **dict.fromkeys(("user_id", "session_id", "item_id", "container_id", "seed_item_id"), "integer"),
    **dict.fromkeys(("row", "column"), "number"),
    "hour": "integer",
    "session_outcomes": "integer[]",
}
"""Columns of the examples that come from the exposure itself (``exposure_inputs``)."""


class DeclarationError(ValueError):
    """A feature table that cannot be joined; the message names its file and what is wrong."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FeatureColumn(_Model):
    """One column of a feature table."""

    name: Name
    alias: Name = Field(description="Its name in the examples")
    default: float | int | None = None


class FeatureTable(_Model):
    """One feature table: a row per day and entity."""

    name: Name
    entity: tuple[Entity, ...] = Field(min_length=1, max_length=2)
    columns: tuple[FeatureColumn, ...]
    vectors: Name | None = Field(default=None, description="Vector of the teacher's contract that it holds")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if list(self.entity) != [entity for entity in ENTITIES if entity in self.entity]:
            raise ValueError(f"entity {list(self.entity)} repeats or is not in the order {', '.join(ENTITIES)}")
        if self.vectors and self.entity not in (("user_id",), ("item_id",)):
            raise ValueError(f"vectors are of a user or an item, entity is {list(self.entity)}")
        return self

    @cached_property
    def defaults(self) -> dict[str, float | int]:
        """Return {column: what it holds where the table has no row or a null} of the columns that state it."""
        return {column.name: column.default for column in self.columns if column.default is not None}


def feature_tables(settings: Settings) -> Mapping[str, FeatureTable]:
    """Return the feature tables that our dbt project and the app's declare, by name; see ``read_tables``."""
    return read_tables(model_folders(settings))


def vector_tables(settings: Settings) -> Mapping[str, FeatureTable]:
    """Return the declared feature tables that hold a vector of the teacher, by name."""
    return {name: table for name, table in feature_tables(settings).items() if table.vectors}


@cache
def read_tables(folders: tuple[Path, ...]) -> Mapping[str, FeatureTable]:
    """Return the declared feature tables by name, the item's first: it holds the creator that others are joined by.

    Args:
        folders: Folders of dbt models, whose YAML files are read.

    Raises:
        DeclarationError: A declaration breaks a rule, a table is declared twice, or two columns of the examples would
            have one name.
    """
    found: dict[str, FeatureTable] = {}
    files: dict[str, Path] = {}
    for path, model, meta in models_of(folders):
        if "entity" not in meta:
            continue
        name = model["name"]
        if name in found:
            raise DeclarationError(f"{path}: feature table {name} is declared in {files[name]} too; rename one")
        found[name], files[name] = _table(path, model, meta), path
    _require_distinct(found)
    if CREATOR_OF not in found and any("creator_id" in table.entity for table in found.values()):
        raise DeclarationError(
            f"a feature table is about creator_id, but {CREATOR_OF}, which says whose an item is, is not declared"
        )
    return dict(sorted(found.items(), key=lambda entry: (entry[0] != CREATOR_OF, entry[0])))


@cache
def models_of(folders: tuple[Path, ...]) -> list[tuple[Path, Document, Document]]:
    """Return (file, what it says, its ``meta``) of each model that the YAML files of these folders describe."""
    paths = (path for folder in folders for path in sorted(folder.rglob("*.yml")))
    found: list[tuple[Path, Document, Document]] = []
    for path in paths:
        content: Document = load_yaml(path) or {}
        models: list[Document] = content.get("models", [])
        found += [(path, model, _meta(model)) for model in models]
    return found


def for_dbt(tables: Mapping[str, FeatureTable]) -> list[dict[str, object]]:
    """Return what dbt's environment holds as ``CROSSFADE_FEATURE_TABLES``; ``example_inputs`` makes its joins of it."""
    return [
        {
            "name": table.name,
            "columns": [{"value": _value(table, column), "alias": column.alias} for column in table.columns],
            "same_entity": " and ".join(
                f"{CREATOR_OF if key == 'creator_id' else 'exposures'}.{key} = {table.name}.{key}"
                for key in table.entity
            ),
        }
        for table in tables.values()
    ]


def _value(table: FeatureTable, column: FeatureColumn) -> str:
    """Return the SQL of a column in the examples."""
    value = f"{table.name}.{column.name}"
    return value if column.default is None else f"coalesce({value}, {column.default})"


def _meta(declared: Document) -> Document:
    return declared.get("config", {}).get("meta") or declared.get("meta") or {}


def _table(path: Path, model: Document, meta: Document) -> FeatureTable:
    """Return the feature table that one model of a YAML file declares."""
    where = f"{path}: feature table {model['name']}"
    prefix, defaults, entity = meta.get("as"), meta.get("default", {}), meta["entity"]
    if not isinstance(prefix, str) or not is_object(defaults) or not is_list(entity):
        raise DeclarationError(
            f"{where}: meta must be like {{entity: [user_id], as: user, default: {{plays: 0}}}}, got {dict(meta)}"
        )
    described: list[Document] = model.get("columns", [])
    columns = [
        {
            "name": column["name"],
            "alias": _meta(column).get("as", f"{prefix}_{column['name']}"),
            "default": defaults.get(column["name"]),
        }
        for column in described
        if column["name"] not in ("day", *entity)
    ]
    if unknown := defaults.keys() - {column["name"] for column in columns}:
        raise DeclarationError(f"{where}: default names {', '.join(sorted(unknown))}, which is no column of it")
    try:
        said = {"name": model["name"], "entity": entity, "columns": columns, "vectors": meta.get("vectors")}
        return FeatureTable.model_validate(said)
    except ValidationError as error:
        raise DeclarationError(f"{where}: {faults_of(error, FeatureTable)}") from error


def _require_distinct(tables: Mapping[str, FeatureTable]) -> None:
    taken = dict.fromkeys(EXPOSURE_COLUMNS, "the exposure")
    for table in tables.values():
        for column in table.columns:
            if column.alias in taken:
                raise DeclarationError(
                    f"{table.name}.{column.name} is {column.alias} in the examples, as is a column of "
                    f"{taken[column.alias]}; give one of them another name by `meta: {{as: ...}}`"
                )
            taken[column.alias] = table.name
