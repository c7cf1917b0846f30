"""Evaluation: teacher, control, student and champion on the days after training, with paired intervals."""

import time

import dagster as dg

from assets.names import LAKE_WRITER, OWNER, surface_key
from assets.partitions import partition_day, student_partitions
from ml.foundation.settings import Settings
from ml.surfaces.spec import Surface


def build_evaluation(settings: Settings, surface: Surface) -> dg.AssetsDefinition:
    """Return the asset ``<surface>/evaluation``."""

    @dg.asset(
        key=surface_key(surface.name, "evaluation"),
        group_name=surface.name,
        owners=[OWNER, surface.owner],
        kinds={"python", "duckdb"},
        partitions_def=student_partitions(settings, surface),
        backfill_policy=dg.BackfillPolicy.multi_run(1),
        deps=[surface_key(surface.name, name) for name in ("control", "student")],
        pool=LAKE_WRITER,
        description=(
            f"Metrics of {surface.name} on {surface.window.eval_days} evaluation days, each difference with a "
            f"paired, user-clustered 95 % interval. "
            f"Every figure can be recomputed from `ml.predictions_{surface.name}`.\n\n"
            "**If it fails**: control or student of the day is missing, or a row has no soft label: materialize what "
            "the message names. Bad figures are no failure; the checks of `onnx` judge them."
        ),
    )
    def evaluation(context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult:
        from ml.stages.evaluation import evaluate_models

        started = time.monotonic()
        evaluated = evaluate_models(settings, surface, partition_day(context))
        return dg.MaterializeResult(
            metadata={
                "seconds": time.monotonic() - started,
                **evaluated.numbers,
                **{name: dg.MetadataValue.md(f"![{name}]({uri})") for name, uri in evaluated.plots.items()},
                "summary": dg.MetadataValue.md(evaluated.summary),
                "dagster/table_name": f"lake.ml.evaluation_{surface.name}",
            },
            data_version=dg.DataVersion(evaluated.digest),
        )

    return evaluation
