"""Experiments: what variants did to engagement, discovery and new releases, day by day."""

import dagster as dg

from assets.names import LAKE_WRITER, OWNER, surface_key
from assets.partitions import day_partitions, partition_days
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.surfaces.spec import Surface


def build_experiment(settings: Settings, surface: Surface) -> dg.AssetsDefinition:
    """Return the asset ``<surface>/experiment``."""

    @dg.asset(
        key=surface_key(surface.name, "experiment"),
        group_name=surface.name,
        owners=[OWNER, surface.owner],
        kinds={"python", "duckdb"},
        partitions_def=day_partitions(settings),
        backfill_policy=dg.BackfillPolicy.single_run(),
        deps=[surface_key(surface.name, "examples"), dg.AssetKey(["features", "stg_exposures"])],
        pool=LAKE_WRITER,
        description=(
            f"Exposures of {surface.name} that name a variant, summed per day, variant and user; what each changes: "
            "engagement, discovery and new-release engagement, with user-clustered 95 % intervals over the days of the "
            "run. Live experiments (`crossfade experiment run`) stand beside it.\n\n"
            "**If it fails**: a day has no final examples; days without variants are no failure."
        ),
    )
    def experiment(context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult:
        from ml.experiments.landed import analyse, landed_table

        with Lake(settings) as lake:
            analysed = analyse(lake, surface, partition_days(context))
        return dg.MaterializeResult(
            metadata={
                **analysed.numbers,
                **{name: dg.MetadataValue.md(f"![{name}]({uri})") for name, uri in analysed.plots.items()},
                "summary": dg.MetadataValue.md(analysed.summary),
                "dagster/table_name": f"lake.{landed_table(surface)}",
            },
            data_version=dg.DataVersion(analysed.digest),
        )

    return experiment
