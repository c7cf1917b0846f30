"""The parsed dbt project: made once per state of ours and the app's, never at import, never stale."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from ml.features.build import run_dbt
from ml.features.projects import project_hash
from ml.features.tables import DeclarationError, FeatureTable
from ml.foundation.settings import Settings

MANIFEST, PARSED = "manifest.json", "partial_parse.msgpack"
"""What dbt's parser writes: for Dagster, and for dbt itself."""

EXAMPLE_INPUTS = "example_inputs"
"""The model that joins every feature table."""


class DbtMeta(TypedDict, total=False):
    """``meta`` of a model or source, as far as the graph reads it."""

    dagster: "DbtDagsterMeta"
    if_it_fails: str
    columns_of: str
    without: list[str]


class DbtDagsterMeta(TypedDict, total=False):
    """``meta: dagster`` of a model or source."""

    asset_key: list[str]
    group: str
    owners: list[str]


class DbtConfig(TypedDict, total=False):
    """Configuration of a node."""

    meta: DbtMeta


class DbtColumn(TypedDict):
    """A described column."""

    name: str
    description: str


class DbtTestMetadata(TypedDict):
    """Which generic test a test is, with its arguments."""

    name: str
    kwargs: dict[str, object]


class DbtNode(TypedDict):
    """A model, source or test of a parsed project, as far as the graph reads it."""

    name: str
    resource_type: str
    package_name: str
    original_file_path: str
    fqn: list[str]
    tags: list[str]
    description: str
    columns: dict[str, DbtColumn]
    config: DbtConfig
    meta: DbtMeta
    test_metadata: NotRequired[DbtTestMetadata]


class DbtManifest(TypedDict):
    """A parsed project, as far as the graph reads it."""

    nodes: dict[str, DbtNode]


def manifest_path(settings: Settings) -> Path:
    """Return where the manifest of the project as it is now belongs; its folder is named by the project's hash."""
    return settings.home / "dbt" / "manifests" / project_hash(settings) / MANIFEST


def parse_project(settings: Settings) -> Path:
    """Parse the dbt project unless this state of it was parsed before; return the manifest's path."""
    path = manifest_path(settings)
    if path.exists() and path.with_name(PARSED).exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.parent / f"parse-{os.getpid()}"
    run_dbt(settings, ["parse", "--target-path", str(scratch)])
    for name in (PARSED, MANIFEST):
        (scratch / name).replace(path.with_name(name))
    shutil.rmtree(scratch)
    return path


def read_manifest(path: Path) -> DbtManifest:
    """Return what dbt's parser wrote."""
    from dagster_dbt.dbt_manifest import validate_manifest

    return cast(DbtManifest, validate_manifest(path))


def meta_of(node: DbtNode) -> DbtMeta:
    """Return ``meta`` of a node, which is in its configuration or, for a source, beside it."""
    return node.get("meta") or node.get("config", {}).get("meta", {})


def require_built(manifest: DbtManifest, tables: Mapping[str, FeatureTable]) -> None:
    """Refuse feature tables that are joined and published, but built by no stage.

    Args:
        manifest: The parsed project, as JSON.
        tables: The feature tables that it declares.

    Raises:
        DeclarationError: A table lacks the tag ``ranking``; says where it is given.
    """
    models = [node for node in manifest["nodes"].values() if node["name"] in tables]
    left = [node for node in models if "ranking" not in node["tags"]]
    if left:
        raise DeclarationError(
            f"{', '.join(node['name'] for node in left)}: a feature table is built with tag ranking; give its folder "
            f"`features: {{+tags: [ranking]}}` in dbt_project.yml of {left[0]['package_name']}"
        )


def described_columns(manifest: DbtManifest, tables: Mapping[str, FeatureTable]) -> dict[str, dict[str, str]]:
    """Return {model: {column: description}}, each described once, where it is made.

    A model whose ``meta`` has ``columns_of: <model>`` hands on the columns of that one, without those that ``without``
    names, and without ``surface``, by which it selects its rows; ``example_inputs`` has those of every feature table.

    Args:
        manifest: The parsed project, as JSON.
        tables: The feature tables that it declares.
    """
    models = {node["name"]: node for node in manifest["nodes"].values() if node["resource_type"] == "model"}

    def of(name: str) -> dict[str, str]:
        node, found = models[name], dict[str, str]()
        if parent := meta_of(node).get("columns_of"):
            left = {"surface", *meta_of(node).get("without", [])}
            found |= {column: text for column, text in of(parent).items() if column not in left}
        if name == EXAMPLE_INPUTS:
            for table in tables.values():
                texts = of(table.name)
                found |= {c.alias: f"{texts[c.name]} (`{table.name}.{c.name}`)" for c in table.columns}
        return found | {column: spec["description"] for column, spec in node["columns"].items()}

    return {name: of(name) for name in models}
