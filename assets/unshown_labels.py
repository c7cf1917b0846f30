"""Labels of pairs that nobody was shown: the frozen teachers score them as they score exposures, day by day."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import dagster as dg

from assets.landing import data_version
from assets.manifest import PARSED, manifest_path
from assets.names import LAKE_WRITER, OWNER, surface_key, teacher_key
from assets.partitions import day_partitions, days_of_a_run, partition_days
from assets.progress import ProgressResource
from ml.features.tables import feature_tables
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.surfaces.spec import Surface
from ml.teacher.teachers import contracts_of, teacher_names

if TYPE_CHECKING:
    from ml.teacher.labels import DayLabels, LabelReport


def build_unshown_labels(
    settings: Settings, surfaces: Mapping[str, Surface], surface: Surface
) -> list[dg.AssetsDefinition]:
    """Return the asset ``<surface>/unshown_labels`` of a surface that declares pairs; else nothing."""
    if surface.distillation.unshown is None:
        return []
    teachers = [teacher_key(name) for name in teacher_names(settings, surface)]
    features = [dg.AssetKey(["features", name]) for name in ("stg_exposures", *feature_tables(settings))]

    @dg.asset(
        key=surface_key(surface.name, "unshown_labels"),
        group_name=surface.name,
        owners=[OWNER, surface.owner],
        kinds={"onnx", "duckdb"},
        partitions_def=day_partitions(settings),
        backfill_policy=days_of_a_run(settings),
        deps=[*features, surface_key(surface.name, "teacher_inputs"), *teachers],
        pool=LAKE_WRITER,
        code_version=str(surface.distillation.unshown),
        description=(
            f"The teacher's logits for pairs of {surface.name} that nobody was shown "
            f"({surface.distillation.unshown} per exposure): users of the day with items of the day, as of the "
            "exposure that lends its user, time and place. They teach the student's branch and nothing else.\n\n"
            "**If it fails**: the message names what the app's SQL lacks of a pair, or what the teacher refuses; "
            "`distillation: unshown:` of the surface's YAML declares the pairs."
        ),
    )
    def unshown_labels(
        context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings], progress: ProgressResource
    ) -> dg.MaterializeResult:
        from ml.features.unshown import draw_pairs
        from ml.teacher.labels import label_days, unshown_rows

        contracts, days, told = contracts_of(settings, surface), partition_days(context), progress.of(context)
        label = partial(label_days, progress=told, rows_of=unshown_rows)
        parsed = manifest_path(settings).with_name(PARSED)
        with Lake(settings) as lake:
            drawn = draw_pairs(lake, surfaces, surface, days, parsed=parsed, progress=told)
            reports = [label(lake, settings, surface.name, one, days) for one in contracts.values()]
            sizes = lake.day_bytes(reports[0].table, days[0], days[-1])
        for of_day in zip(*(report.days for report in reports), strict=True):
            day = of_day[0].day
            described = _described(of_day, drawn.wanted[day], sizes.get(day, 0))
            context.add_asset_metadata(described, partition_key=day.isoformat())
        return dg.MaterializeResult(
            metadata={
                "dagster/table_name": f"lake.{reports[0].table}",
                "teacher_version": ", ".join(report.teacher_version for report in reports),
                "contract_hash": ", ".join(report.contract_hash for report in reports),
                "rows": sum(report.rows for report in reports),
                "wanted_pairs": sum(drawn.wanted.values()),
                "unknown_branch_inputs": dg.MetadataValue.json(dict(drawn.unknown)),
                **_of_inputs(reports),
                "rows_per_second": min(report.rows_per_second for report in reports),
                "seconds": sum(report.seconds for report in reports),
            },
            data_version=data_version([day.content_hash for report in reports for day in report.days]),
        )

    return [unshown_labels]


def _of_inputs(reports: "Sequence[LabelReport]") -> dict[str, dg.JsonMetadataValue]:
    """Return the inputs at their default and the unknown ones, those of several teachers under their names."""
    if len(reports) == 1:
        defaulted, unknown = reports[0].defaulted_inputs, reports[0].unknown_inputs
    else:
        defaulted = {report.teacher: report.defaulted_inputs for report in reports}
        unknown = {report.teacher: report.unknown_inputs for report in reports}
    found = {"defaulted_inputs": defaulted, "unknown_inputs": unknown}
    return {name: dg.MetadataValue.json(value) for name, value in found.items()}


def _described(of_day: "Sequence[DayLabels]", wanted: int, size: int) -> dict[str, int | float | str]:
    """Return what is shown of a day: of several teachers the rows of all, and the coverage that is least."""
    return {
        "dagster/partition_row_count": sum(day.rows for day in of_day),
        "bytes": size,
        "content_hash": ", ".join(day.content_hash for day in of_day),
        "coverage": min(day.coverage for day in of_day),
        "wanted_pairs": wanted,
        "defaulted_input_share": max(day.defaulted_share for day in of_day),
    }
