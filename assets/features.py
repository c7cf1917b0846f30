"""Features: dbt builds daily aggregates, trailing features, examples and teacher inputs from the landed tables."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import cast

import dagster as dg
from dagster_dbt import DagsterDbtTranslator, DagsterDbtTranslatorSettings, DbtProject, dbt_assets
from dagster_dbt.asset_utils import get_subset_selection_for_context
from dagster_dbt.core.dbt_cli_event import DbtCoreCliEventMessage

from assets.landing import EMPTY, data_version
from assets.manifest import (
    PARSED,
    DbtDagsterMeta,
    DbtManifest,
    DbtNode,
    described_columns,
    manifest_path,
    meta_of,
    read_manifest,
    require_built,
)
from assets.names import LAKE_WRITER, OWNER, VECTORS
from assets.partitions import day_partitions, days_of_a_run, known_window, label_window, partition_days, trailing_window
from assets.vectors import build_vectors
from ml.features.build import build_ranges, dbt_vars, excluded_surfaces, retried, stream_dbt
from ml.features.contracts import Contract, contracts
from ml.features.projects import all_projects
from ml.features.tables import feature_tables, vector_tables
from ml.foundation.dropped import require_kept
from ml.foundation.lake import FEATURES, LANDING, Lake
from ml.foundation.names import nearest
from ml.foundation.settings import Settings
from ml.foundation.writers import writing
from ml.landing.contract import CARRIED
from ml.landing.ledger import require_final
from ml.surfaces.spec import Surface

BASE, RANKING = "tag:base", "tag:ranking"
TESTS = {
    "key": "`{columns}` are filled, and together name one row.",
    "filled": "`{columns}` are filled.",
    "in_range": "`{ranges}` lie in their ranges.",
    "covered_by": "`{columns}` of every row occur in `{to}`.",
    "one_row_per_exposure": "The rows are exactly the exposures of `{surface}`.",
    "accepted_values": "`{column_name}` is one of `{values}`.",
    "relationships": "`{column_name}` of every row occurs in `{to}`.",
}
"""What each dbt test asks of a table, for people."""
TEST_FAILS = (
    "**If it fails**: the rows are in the table already, and nothing after it ran. The query below *Latest execution* "
    "lists those that break it; correct what feeds the table, or its SQL, and materialize the day again."
)
DbtEvent = dg.Output | dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckResult | dg.AssetCheckEvaluation
"""What a dbt event becomes for Dagster."""
SURFACES = "surfaces"
"""Folder of an app's models whose folders are those of its surfaces."""
SLOWLY_CHANGING = tuple(f"stg_{table}" for table in CARRIED)


class Translator(DagsterDbtTranslator):
    """Gives dbt models their keys, groups, owners, descriptions and partition mappings.

    Args:
        window_days: Days that trailing features look back.
        surfaces: Their owners own their examples and teacher inputs too.
        columns: Descriptions of each model's columns.
        projects: Folders of the dbt projects by name.
        types: Declared types of each model's columns, of those that have a contract.
    """

    def __init__(
        self,
        window_days: int,
        surfaces: Mapping[str, Surface],
        columns: Mapping[str, Mapping[str, str]],
        projects: Mapping[str, Path],
        types: Mapping[str, Contract],
    ) -> None:
        super().__init__(DagsterDbtTranslatorSettings(enable_asset_checks=True))
        self.window_days, self.surfaces, self.columns, self.projects = window_days, surfaces, columns, projects
        self.types = types

    def get_asset_key(self, dbt_resource_props: Mapping[str, object]) -> dg.AssetKey:
        """Return ``<surface>/examples`` and the like for a surface's models, ``features/<model>`` for the others."""
        return _key(_node(dbt_resource_props))

    def get_group_name(self, dbt_resource_props: Mapping[str, object]) -> str | None:
        """Return the surface that the model's meta names, or the layer: the model's folder."""
        node = _node(dbt_resource_props)
        return _told(node).get("group") or node["fqn"][1]

    def get_owners(self, dbt_resource_props: Mapping[str, object]) -> list[str]:
        """Return the owners declared in the model's meta, or the platform team and the surface's owner."""
        told = _told(_node(dbt_resource_props))
        surface = self.surfaces.get(told.get("group", ""))
        return told.get("owners") or ([OWNER, surface.owner] if surface else [OWNER])

    def get_description(self, dbt_resource_props: Mapping[str, object]) -> str:
        """Return what the model is, what to do when it fails, and its SQL."""
        node = _node(dbt_resource_props)
        described, fails = node["description"], meta_of(node).get("if_it_fails")
        told = f"{described}\n\n**If it fails**: {fails}" if fails else described
        return super().get_description({**dbt_resource_props, "description": told})

    def get_metadata(self, dbt_resource_props: Mapping[str, object]) -> Mapping[str, object]:
        """Return columns with their declared types and descriptions, and where the SQL is, for the UI's link to it."""
        node = _node(dbt_resource_props)
        sql = dg.LocalFileCodeReference(file_path=str(self.projects[node["package_name"]] / node["original_file_path"]))
        columns = node["columns"]
        if texts := self.columns.get(node["name"]):
            types = self.types.get(node["name"], {})
            columns = {
                name: {"name": name, "description": text, "data_type": types.get(name, "any")}
                for name, text in texts.items()
            }
        described = super().get_metadata({**dbt_resource_props, "columns": columns})
        return {**described, "dagster/code_references": dg.CodeReferencesMetadataValue(code_references=[sql])}

    def get_asset_check_spec(
        self, asset_spec: dg.AssetSpec, manifest: Mapping[str, object], unique_id: str, project: DbtProject | None
    ) -> dg.AssetCheckSpec | None:
        """Return the check of a dbt test, which says what it asks of the table and what to do when it fails."""
        spec = super().get_asset_check_spec(asset_spec, manifest, unique_id, project)
        test = cast(DbtManifest, manifest)["nodes"][unique_id].get("test_metadata")
        if spec is None or test is None:
            return spec
        listed = {k: ", ".join(map(str, v)) if isinstance(v, list | dict) else v for k, v in test["kwargs"].items()}
        asked = TESTS.get(test["name"], "No row of the test's query.").format(**listed)
        return spec._replace(description=f"{asked}\n\n{TEST_FAILS}")

    def get_partition_mapping(
        self, dbt_resource_props: Mapping[str, object], dbt_parent_resource_props: Mapping[str, object]
    ) -> dg.PartitionMapping | None:
        """Map days: trailing aggregates from the days before, labels from their window, the rest from the same day."""
        node, parent = _node(dbt_resource_props), _node(dbt_parent_resource_props)
        if parent["resource_type"] == "source" and parent["name"] == VECTORS.path[-1]:
            return trailing_window(self.window_days)
        if "ranking" not in node["tags"] or "base" not in parent["tags"]:
            return None
        if parent["name"].startswith("int_"):
            return trailing_window(self.window_days)
        if parent["name"] in SLOWLY_CHANGING:
            return known_window(self.window_days)
        if parent["name"] in ("stg_listens", "stg_outcomes"):
            surface = self.surfaces.get(_folder(node) or "")
            return label_window(surface.label_window_days if surface else 1)
        return None


@dataclass(frozen=True)
class Group:
    """One of the groups of models that a run may build.

    Attributes:
        manifest: What dbt's parser wrote.
        select: dbt selector of its models.
        exclude: dbt selector of models that this home does not build.
        translator: Names the assets.
    """

    manifest: Path
    select: str
    exclude: str | None
    translator: Translator


def build_features(settings: Settings, surfaces: Mapping[str, Surface]) -> list[dg.AssetsDefinition]:
    """Return the groups of dbt assets: base tables, ranking tables, the serving snapshot, and what few homes have.

    Between the first two lies the window from days to trailing features. After them come, for each surface whose labels
    wait longer than features do, its own tables: a server's features must not be as old as its labels. Where feature
    tables hold the teacher's vectors, they are read after those, which are read after what the teacher is told: the
    last two are that group of tables and the vectors.

    Raises:
        FileNotFoundError: The project was not parsed for this home; ``crossfade init`` does it.
    """
    manifest = manifest_path(settings)
    if not manifest.exists():
        raise FileNotFoundError(
            f"no dbt manifest at {manifest}; run `crossfade init` once, and after a change in dbt_project/ or in "
            f"the models of {settings.app}"
        )
    parsed, tables = read_manifest(manifest), feature_tables(settings)
    require_built(parsed, tables)
    described = described_columns(parsed, tables)
    translator = Translator(
        settings.feature_window_days, surfaces, described, all_projects(settings), contracts(settings, surfaces)
    )
    left = excluded_surfaces(settings, surfaces)
    waiting = {surface.name: _labelled(parsed, surface) for surface in surfaces.values() if waits(surface)}

    def assets_of(
        name: str, select: Sequence[str], exclude: Sequence[str] = (), window: int | None = None
    ) -> dg.AssetsDefinition:
        group = Group(manifest, " ".join(select), " ".join([*left, *exclude]) or None, translator)
        return _build_tables(settings, surfaces, name, group, window)

    labelled = [
        assets_of(labelled_name(s), waiting[s.name], (), s.label_window_days) for s in surfaces.values() if waits(s)
    ]
    earlier = _before_vectors(parsed) if vector_tables(settings) else []
    later = [model for models in waiting.values() for model in models]
    first = [assets_of("teacher_tables", earlier, (), 1), build_vectors(settings, surfaces)] if earlier else []
    return [
        assets_of("base_tables", [BASE]),
        assets_of("ranking_tables", [RANKING], [*later, *earlier], 1),
        _build_serving_snapshot(settings, surfaces),
        *labelled,
        *first,
    ]


def waits(surface: Surface) -> bool:
    """Return whether a surface's labels are final later than the features of their day are built."""
    return surface.label_window_days > 1


def labelled_name(surface: Surface) -> str:
    """Return the name of the step that builds the tables of a surface whose labels wait."""
    return f"{surface.name}_labelled_tables"


def model_key(settings: Settings, name: str) -> dg.AssetKey:
    """Return the key of a model.

    Raises:
        ValueError: No project of the home has it; says which one is near.
    """
    nodes = [n for n in read_manifest(manifest_path(settings))["nodes"].values() if n["resource_type"] == "model"]
    found = next((node for node in nodes if node["name"] == name), None)
    if found is None:
        raise ValueError(f"no model {name!r}{nearest(name, [node['name'] for node in nodes])}")
    return _key(found)


def _labelled(manifest: DbtManifest, surface: Surface) -> list[str]:
    """Return the models of a surface that may hold labels: all but the teacher's inputs."""
    models = [
        node
        for node in manifest["nodes"].values()
        if node["resource_type"] == "model" and _folder(node) == surface.name
    ]
    return sorted(node["name"] for node in models if node["name"] != f"teacher_inputs_{surface.name}")


def _before_vectors(manifest: DbtManifest) -> list[str]:
    """Return the models that vectors are made after: teacher inputs, and what a demo teacher learns from."""
    models = [node for node in manifest["nodes"].values() if node["resource_type"] == "model"]
    told = [n["name"] for n in models if _folder(n) and n["name"] == f"teacher_inputs_{_folder(n)}"]
    return sorted([*told, *(node["name"] for node in models if node["fqn"][1] == "source")])


def _folder(node: DbtNode) -> str | None:
    """Return the surface in whose folder a model lies, or None."""
    return node["fqn"][2] if node["fqn"][1] == SURFACES and len(node["fqn"]) > 3 else None


def _build_tables(
    settings: Settings, surfaces: Mapping[str, Surface], name: str, group: Group, window: int | None
) -> dg.AssetsDefinition:
    """Return the assets of a group of models; ``window``: days after theirs that must have landed, None for none."""

    @dbt_assets(
        manifest=group.manifest,
        select=group.select,
        exclude=group.exclude,
        name=name,
        partitions_def=day_partitions(settings),
        dagster_dbt_translator=group.translator,
        backfill_policy=days_of_a_run(settings),
        pool=LAKE_WRITER,
    )
    def tables(context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]) -> Iterator[DbtEvent]:
        if window is not None:
            require_final(settings, partition_days(context), window)
        yield from _build(context, settings, surfaces, group)

    return tables


def _build_serving_snapshot(settings: Settings, surfaces: Mapping[str, Surface]) -> dg.AssetsDefinition:
    @dg.asset(
        key=dg.AssetKey(["features", "serving_snapshot"]),
        group_name="features",
        partitions_def=day_partitions(settings),
        backfill_policy=dg.BackfillPolicy.single_run(),
        owners=[OWNER],
        kinds={"arrow"},
        deps=[dg.AssetKey(["features", name]) for name in feature_tables(settings)],
    )
    def serving_snapshot(
        context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]
    ) -> dg.MaterializeResult:
        """The daily inputs that the server looks up: an immutable file per table of the newest day of the run.

        Independent of releases: a gate that refuses for a week does not make features a week old.
        **If it fails**: the server goes on with the snapshot that it has, until that is too old to be ready.
        """
        from ml.inference.snapshot import publish

        day = partition_days(context)[-1]
        with Lake(settings) as lake:
            published = publish(lake, settings, surfaces, day)
        return dg.MaterializeResult(
            metadata={"day": day.isoformat(), "path": dg.MetadataValue.path(str(published.path)), **published.rows},
            data_version=dg.DataVersion(published.digest),
        )

    return serving_snapshot


def _build(
    context: dg.AssetExecutionContext, settings: Settings, surfaces: Mapping[str, Surface], group: Group
) -> Iterator[DbtEvent]:
    """Build the models of a group that this run asks for, and yield Dagster's events of dbt's."""
    days, target = partition_days(context), str(settings.home / "dbt" / "runs" / context.run_id)
    manifest = read_manifest(group.manifest)
    selection, indirect = get_subset_selection_for_context(
        context=context,
        manifest=manifest,
        select=group.select,
        exclude=group.exclude,
        selector=None,
        dagster_dbt_translator=group.translator,
        current_dbt_indirect_selection_env=None,
    )
    arguments = ["build", "--exclude-resource-types", "unit_test", *selection]
    arguments += ["--target-path", target, "--log-path", target]
    if indirect:
        arguments += ["--indirect-selection", indirect]
    with Lake(settings) as lake, writing(settings, alone=_lacks_tables(context, lake)):
        _require_kept(lake, group, days)
        lake.trim_statistics()
        ranges = build_ranges(lake, days)

        def build(first: date, last: date) -> Iterator[DbtEvent]:
            variables = ["--vars", json.dumps(dbt_vars(settings, surfaces, first, last))]
            for told in stream_dbt(settings, [*arguments, *variables], parsed=group.manifest.with_name(PARSED)):
                print(told["info"]["msg"], flush=True)  # the run's log of what dbt says
                message = DbtCoreCliEventMessage(raw_event=told, event_history_metadata={})
                yield from message.to_default_asset_events(manifest, group.translator, context)

        for event in in_one([retried(partial(build, *some), _told_once) for some in ranges]):
            yield _described(context, lake, event, group.translator) if isinstance(event, dg.Output) else event


def _lacks_tables(context: dg.AssetExecutionContext, lake: Lake) -> bool:
    """Tell whether a table is to be created: of two that create it at once, one would lose its days."""
    return not all(lake.table_exists(_table_of(context, key)) for key in context.selected_asset_keys)


def _told_once(event: DbtEvent) -> tuple[str, ...] | None:
    """Return by what an event is known that a step may tell once."""
    if isinstance(event, dg.Output):
        return ("output", event.output_name)
    if isinstance(event, dg.AssetCheckResult):
        return ("check", str(event.asset_key), str(event.check_name))
    return None


def in_one(parts: Sequence[Iterable[DbtEvent]]) -> Iterator[DbtEvent]:
    """Yield the events of one run from those of its parts, which are built one after another.

    A step may tell of each table and each check once. A table is told with the last part, when all of its days are
    built; a check with the last part too, unless it failed before: the first failure is the one that is told.
    """
    failed: set[tuple[dg.AssetKey | None, str | None]] = set()
    for number, events in enumerate(parts, 1):
        for event in events:
            if isinstance(event, dg.AssetCheckResult):
                check = event.asset_key, event.check_name
                told = check not in failed and (number == len(parts) or not event.passed)
                failed |= set() if event.passed else {check}
            else:
                told = number == len(parts) or not isinstance(event, dg.Output)
            if told:
                yield event


def _require_kept(lake: Lake, group: Group, days: Sequence[date]) -> None:
    """Refuse days whose inputs housekeeping removed: they would be built as if nothing had happened on them."""
    if group.select == BASE:
        require_kept(lake, [f"{LANDING}."], days[0], days[-1])
    else:
        first = days[0] - timedelta(days=lake.settings.feature_window_days)
        require_kept(lake, [f"{FEATURES}.stg_", f"{FEATURES}.int_"], first, days[-1])


def _described(context: dg.AssetExecutionContext, lake: Lake, event: dg.Output, translator: Translator) -> dg.Output:
    key = context.asset_key_for_output(event.output_name)
    table = _table_of(context, key)
    days = partition_days(context)
    versions, sizes = lake.day_versions(table, days[0], days[-1]), lake.day_bytes(table, days[0], days[-1])
    for day in days:
        rows, version = versions.get(day, EMPTY)
        context.add_asset_metadata(
            {"dagster/partition_row_count": rows, "bytes": sizes.get(day, 0), "content_hash": version},
            asset_key=key,
            partition_key=day.isoformat(),
        )
    texts = translator.columns[table.removeprefix(f"{FEATURES}.")]
    columns = [dg.TableColumn(name, kind, texts.get(name)) for name, kind in lake.columns(table).items()]
    return dg.Output(
        event.value,
        output_name=event.output_name,
        metadata={
            **event.metadata,
            "dagster/table_name": f"lake.{table}",
            "dagster/column_schema": dg.TableSchema(columns),
            "rows": sum(rows for rows, _ in versions.values()),
            "lake_snapshot": lake.snapshot(),
        },
        data_version=data_version([versions.get(day, EMPTY)[1] for day in days]),
    )


def _table_of(context: dg.AssetExecutionContext, key: dg.AssetKey) -> str:
    """Return ``schema.table`` of a dbt asset: ``<surface>/examples`` is ``features.examples_<surface>``."""
    layer, name = key.path
    return f"{FEATURES}.{name}" if layer == "features" else f"{FEATURES}.{name}_{layer}"


def _node(properties: Mapping[str, object]) -> DbtNode:
    """Return what dagster-dbt hands over of a node, by its type."""
    return cast(DbtNode, properties)


def _key(node: DbtNode) -> dg.AssetKey:
    """Return the key that a model's meta names, or ``features/<model>``."""
    return dg.AssetKey(_told(node).get("asset_key") or ["features", node["name"]])


def _told(node: DbtNode) -> DbtDagsterMeta:
    """Return what a node's meta says for Dagster."""
    return meta_of(node).get("dagster", {})
