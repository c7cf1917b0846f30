"""Soft labels: each frozen teacher scores the app's own examples, day by day."""

import dagster as dg

from assets.landing import data_version
from assets.names import LAKE_WRITER, OWNER, soft_label_key, surface_key, teacher_key
from assets.partitions import day_partitions, days_of_a_run, partition_days
from assets.progress import ProgressResource
from ml.foundation.lake import ML, Lake
from ml.foundation.settings import Settings
from ml.surfaces.spec import Surface
from ml.teacher.teachers import contract_named, teacher_names


def build_soft_labels(settings: Settings, surface: Surface) -> list[dg.AssetsDefinition]:
    """Return the asset ``<surface>/soft_labels``; of several teachers ``<surface>/soft_labels/<teacher>`` of each."""
    return [_build(settings, surface, name) for name in teacher_names(settings, surface)]


def _build(settings: Settings, surface: Surface, teacher: str | None) -> dg.AssetsDefinition:
    whose = "The teacher's logits" if teacher is None else f"The logits of the teacher {teacher}"

    @dg.asset(
        key=soft_label_key(surface.name, teacher),
        group_name=surface.name,
        owners=[OWNER, surface.owner],
        kinds={"onnx", "duckdb"},
        partitions_def=day_partitions(settings),
        backfill_policy=days_of_a_run(settings),
        deps=[surface_key(surface.name, "teacher_inputs"), teacher_key(teacher)],
        pool=LAKE_WRITER,
        description=(
            f"{whose} for every exposure of {surface.name}: one row per exposure and teacher version. "
            "Labels of earlier versions stay beside them.\n\n"
            "**If it fails**: a non-finite score names its exposure; a refused teacher is described at `teacher`."
        ),
    )
    def soft_labels(
        context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings], progress: ProgressResource
    ) -> dg.MaterializeResult:
        from ml.teacher.labels import label_days

        contract = contract_named(settings, teacher)
        with Lake(settings) as lake:
            report = label_days(
                lake, settings, surface.name, contract, partition_days(context), progress=progress.of(context)
            )
            sizes = lake.day_bytes(f"{ML}.soft_labels_{surface.name}", report.days[0].day, report.days[-1].day)
        for day in report.days:
            context.add_asset_metadata(
                {
                    "dagster/partition_row_count": day.rows,
                    "bytes": sizes.get(day.day, 0),
                    "content_hash": day.content_hash,
                    "coverage": day.coverage,
                    "defaulted_input_share": day.defaulted_share,
                },
                partition_key=day.day.isoformat(),
            )
        return dg.MaterializeResult(
            metadata={
                "dagster/table_name": f"lake.ml.soft_labels_{surface.name}",
                "teacher_version": contract.version,
                "contract_hash": contract.contract_hash,
                "rows": report.rows,
                "rows_per_second": report.rows_per_second,
                "seconds": report.seconds,
                "defaulted_inputs": dg.MetadataValue.json(report.defaulted_inputs),
                "unknown_inputs": dg.MetadataValue.json(report.unknown_inputs),
                "hashed_inputs": ", ".join(report.hashed_inputs),
                "rows_by_node": dg.MetadataValue.json(report.rows_by_node),
                "scores": dg.MetadataValue.json({task: s.model_dump() for task, s in report.outputs.items()}),
            },
            data_version=data_version([day.content_hash for day in report.days]),
        )

    return soft_labels
