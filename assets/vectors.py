"""The teacher's vectors of users and items, day by day: what feature tables with ``vectors`` in their meta read."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import dagster as dg

from assets.landing import data_version
from assets.names import LAKE_WRITER, OWNER, TEACHER, VECTORS, surface_key
from assets.partitions import day_partitions, days_of_a_run, partition_days
from assets.progress import ProgressResource
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.surfaces.spec import Surface
from ml.teacher.contract import teacher_contract

if TYPE_CHECKING:
    from ml.teacher.vectors import VectorReport


def build_vectors(settings: Settings, surfaces: Mapping[str, Surface]) -> dg.AssetsDefinition:
    """Return the asset ``teacher_vectors``."""
    inputs = [surface_key(name, "teacher_inputs") for name in surfaces]

    @dg.asset(
        key=VECTORS,
        group_name="teacher",
        owners=[OWNER],
        kinds={"onnx", "duckdb"},
        partitions_def=day_partitions(settings),
        backfill_policy=days_of_a_run(settings),
        deps=[dg.AssetKey(["features", "stg_exposures"]), *inputs, TEACHER],
        pool=LAKE_WRITER,
    )
    def teacher_vectors(
        context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings], progress: ProgressResource
    ) -> dg.MaterializeResult:
        """The vectors that the teacher's contract names, of every user and item in the day's exposures.

        Features of later days read them, never those of their own. Vectors of links that were withdrawn go first.

        **If it fails**: a vector that is not finite, or inputs that differ between rows of one user or item, are named;
        a refused teacher is described at `teacher`.
        """
        from ml.teacher.vectors import embed_days
        from ml.teacher.withdrawn import drop_withdrawn_vectors

        contract, days = teacher_contract(settings), partition_days(context)
        with Lake(settings) as lake:
            withdrawn = drop_withdrawn_vectors(lake)
            report = embed_days(lake, settings, contract, surfaces, days, progress.of(context))
        for place, day in enumerate(days):
            found = [embedding.days[place] for embedding in report.embeddings]
            context.add_asset_metadata(
                {
                    "dagster/partition_row_count": sum(one.rows for one in found),
                    "content_hash": data_version([one.content_hash for one in found]).value,
                },
                partition_key=day.isoformat(),
            )
        return dg.MaterializeResult(
            metadata={**_described(report), "vectors_withdrawn": withdrawn.vectors},
            data_version=data_version([day.content_hash for found in report.embeddings for day in found.days]),
        )

    return teacher_vectors


def _described(report: "VectorReport") -> dict[str, dg.MetadataValue | int | str]:
    told = {
        found.name: {
            "entity": found.entity,
            "length": found.length,
            "vectors": found.rows,
            "entities": found.entities,
            "defaulted_inputs": found.defaulted_inputs,
            "absent_inputs": list(found.absent_inputs),
        }
        for found in report.embeddings
    }
    return {
        "dagster/table_name": "lake.ml.teacher_vectors",
        "teacher": report.teacher,
        "teacher_version": report.teacher_version,
        "contract_hash": report.contract_hash,
        "rows": sum(found.rows for found in report.embeddings),
        "embeddings": dg.MetadataValue.json(told),
    }
