"""What was served, day by day: held against the training rows and labels of what was shown."""

import dagster as dg

from assets.names import LAKE_WRITER, OWNER, landing_key, surface_key
from assets.partitions import day_partitions, partition_days
from ml.evaluation.served_kinds import served_skew_table
from ml.foundation.settings import SERVED, Settings
from ml.surfaces.spec import Surface


def build_served_skew(settings: Settings, surface: Surface) -> dg.AssetsDefinition:
    """Return the asset ``<surface>/served_skew``."""

    @dg.asset(
        key=surface_key(surface.name, "served_skew"),
        group_name=surface.name,
        owners=[OWNER, surface.owner],
        kinds={"python", "duckdb"},
        partitions_def=day_partitions(settings),
        backfill_policy=dg.BackfillPolicy.single_run(),
        deps=[
            surface_key(surface.name, "examples"),
            dg.AssetKey(["features", "stg_exposures"]),
            landing_key(SERVED),
        ],
        pool=LAKE_WRITER,
        description=(
            f"The served log of {surface.name} joined to exposures: share of unequal values of each input, scores that "
            "the release does not give again, predicted over observed of what was shown, and the stability of its "
            "scores against the evaluation. Counts of what was matched and what was not add up. A day without a log is "
            "empty.\n\n"
            "**If it fails**: a row of the log is not what the server writes; the message names the request."
        ),
    )
    def served_skew(context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult:
        from ml.stages.served import compare_served

        compared = compare_served(settings, surface, partition_days(context))
        return dg.MaterializeResult(
            metadata={
                **compared.numbers,
                "summary": dg.MetadataValue.md(compared.summary),
                "dagster/table_name": f"lake.{served_skew_table(surface.name)}",
            },
            data_version=dg.DataVersion(compared.digest),
        )

    return served_skew
