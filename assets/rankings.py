"""Answers without a server: the champion ranks the candidates that a surface declares, day by day."""

from collections.abc import Iterator

import dagster as dg

from assets.features import model_key
from assets.landing import data_version
from assets.names import LAKE_WRITER, OWNER, surface_key
from assets.partitions import day_partitions, partition_days
from assets.progress import ProgressResource
from ml.foundation.settings import Settings
from ml.surfaces.spec import Surface


def build_rankings(settings: Settings, surface: Surface) -> list[dg.AssetsDefinition]:
    """Return ``<surface>/rankings``, or nothing where the surface declares none."""
    if surface.rankings is None:
        return []
    model = surface.rankings.model

    @dg.asset(
        key=surface_key(surface.name, "rankings"),
        group_name=surface.name,
        owners=[OWNER, surface.owner],
        kinds={"onnx", "parquet" if surface.rankings.to.parquet else "duckdb"},
        partitions_def=day_partitions(settings),
        backfill_policy=dg.BackfillPolicy.single_run(),
        deps=[
            dg.AssetKey(["features", "serving_snapshot"]),
            # What serves now ranks every day that is asked for.
            dg.AssetDep(surface_key(surface.name, "release"), partition_mapping=dg.LastPartitionMapping()),
            *([model_key(settings, model)] if model else []),
        ],
        pool=LAKE_WRITER,
        output_required=False,
        description=(
            f"The first {surface.rankings.top_k} of the candidates of each user of {surface.name} by the champion, as "
            f"the server would rank them, in: {surface.rankings.to}. One row per day, user and rank; the day is that "
            "of the features. Without a champion nothing is written.\n\n"
            "**If it fails**: the message names the query and the user, or the database; what was written before stays."
        ),
    )
    def rankings(
        context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings], progress: ProgressResource
    ) -> Iterator[dg.MaterializeResult]:
        from ml.stages.rankings import NoChampion, rank_days

        try:
            ranked = rank_days(settings, surface, partition_days(context), progress=progress.of(context))
        except NoChampion as error:
            context.log.warning(f"nothing was ranked: {error}")
            return
        for day in ranked:
            context.add_asset_metadata(
                {"dagster/partition_row_count": day.rows, "content_hash": day.digest, "features": day.features},
                partition_key=day.day.isoformat(),
            )
        newest = ranked[-1]
        yield dg.MaterializeResult(
            metadata={
                "release": newest.release,
                "place": newest.place,
                "users": newest.users,
                "candidates": newest.candidates,
                "rows": sum(day.rows for day in ranked),
                "unknown_users": newest.unknown_users,
                "unknown_items": newest.unknown_items,
                "not_finite": sum(day.not_finite for day in ranked),
                "seconds": sum(day.seconds for day in ranked),
            },
            data_version=data_version([day.digest for day in ranked]),
        )

    return [rankings]
