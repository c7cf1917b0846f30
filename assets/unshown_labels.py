"""Labels of pairs that nobody was shown: the frozen teacher scores them as it scores exposures, day by day."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import dagster as dg

from assets.landing import data_version
from assets.manifest import PARSED, manifest_path
from assets.names import LAKE_WRITER, OWNER, TEACHER, surface_key
from assets.partitions import day_partitions, days_of_a_run, partition_days
from assets.progress import ProgressResource
from ml.features.tables import feature_tables
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.surfaces.spec import Surface
from ml.teacher.contract import teacher_contract

if TYPE_CHECKING:
    from ml.teacher.labels import DayLabels


def build_unshown_labels(
    settings: Settings, surfaces: Mapping[str, Surface], surface: Surface
) -> list[dg.AssetsDefinition]:
    """Return the asset ``<surface>/unshown_labels`` of a surface that declares pairs; else nothing."""
    if surface.distillation.unshown is None:
        return []
    features = [dg.AssetKey(["features", name]) for name in ("stg_exposures", *feature_tables(settings))]

    @dg.asset(
        key=surface_key(surface.name, "unshown_labels"),
        group_name=surface.name,
        owners=[OWNER, surface.owner],
        kinds={"onnx", "duckdb"},
        partitions_def=day_partitions(settings),
        backfill_policy=days_of_a_run(settings),
        deps=[*features, surface_key(surface.name, "teacher_inputs"), TEACHER],
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

        contract, days, told = teacher_contract(settings), partition_days(context), progress.of(context)
        parsed = manifest_path(settings).with_name(PARSED)
        with Lake(settings) as lake:
            drawn = draw_pairs(lake, surfaces, surface, days, parsed=parsed, progress=told)
            report = label_days(lake, settings, surface.name, contract, days, progress=told, rows_of=unshown_rows)
            sizes = lake.day_bytes(report.table, days[0], days[-1])
        for day in report.days:
            described = _described(day, drawn.wanted[day.day], sizes.get(day.day, 0))
            context.add_asset_metadata(described, partition_key=day.day.isoformat())
        return dg.MaterializeResult(
            metadata={
                "dagster/table_name": f"lake.{report.table}",
                "teacher_version": contract.version,
                "contract_hash": contract.contract_hash,
                "rows": report.rows,
                "wanted_pairs": sum(drawn.wanted.values()),
                "unknown_branch_inputs": dg.MetadataValue.json(dict(drawn.unknown)),
                "defaulted_inputs": dg.MetadataValue.json(report.defaulted_inputs),
                "unknown_inputs": dg.MetadataValue.json(report.unknown_inputs),
                "rows_per_second": report.rows_per_second,
                "seconds": report.seconds,
            },
            data_version=data_version([day.content_hash for day in report.days]),
        )

    return [unshown_labels]


def _described(day: "DayLabels", wanted: int, size: int) -> dict[str, int | float | str]:
    return {
        "dagster/partition_row_count": day.rows,
        "bytes": size,
        "content_hash": day.content_hash,
        "coverage": day.coverage,
        "wanted_pairs": wanted,
        "defaulted_input_share": day.defaulted_share,
    }
