"""The teacher's vectors of users and items, day by day: what feature tables with ``vectors`` in their meta read."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import dagster as dg

from assets.landing import data_version
from assets.names import LAKE_WRITER, OWNER, VECTORS, surface_key, teacher_key
from assets.partitions import day_partitions, days_of_a_run, partition_days
from assets.progress import ProgressResource
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.surfaces.spec import Surface
from ml.teacher.teachers import home_contracts

if TYPE_CHECKING:
    from ml.teacher.vectors import VectorReport


def build_vectors(settings: Settings, surfaces: Mapping[str, Surface]) -> dg.AssetsDefinition:
    """Return the asset ``teacher_vectors``."""
    inputs = [surface_key(name, "teacher_inputs") for name in surfaces]
    teachers = [teacher_key(name) for name in settings.teachers or [None]]

    @dg.asset(
        key=VECTORS,
        group_name="teacher",
        owners=[OWNER],
        kinds={"onnx", "duckdb"},
        partitions_def=day_partitions(settings),
        backfill_policy=days_of_a_run(settings),
        deps=[dg.AssetKey(["features", "stg_exposures"]), *inputs, *teachers],
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

        days, told = partition_days(context), progress.of(context)
        every = list(home_contracts(settings).values())
        contracts = [contract for contract in every if contract.embeddings] or every[:1]
        with Lake(settings) as lake:
            withdrawn = drop_withdrawn_vectors(lake)
            reports = [embed_days(lake, settings, contract, surfaces, days, told) for contract in contracts]
        embeddings = [embedding for report in reports for embedding in report.embeddings]
        for place, day in enumerate(days):
            found = [embedding.days[place] for embedding in embeddings]
            context.add_asset_metadata(
                {
                    "dagster/partition_row_count": sum(one.rows for one in found),
                    "content_hash": data_version([one.content_hash for one in found]).value,
                },
                partition_key=day.isoformat(),
            )
        return dg.MaterializeResult(
            metadata={**_described(reports), "vectors_withdrawn": withdrawn.vectors},
            data_version=data_version([day.content_hash for found in embeddings for day in found.days]),
        )

    return teacher_vectors


def _described(reports: "Sequence[VectorReport]") -> dict[str, dg.MetadataValue | int | str]:
    embeddings = [found for report in reports for found in report.embeddings]
    told = {
        found.name: {
            "entity": found.entity,
            "length": found.length,
            "vectors": found.rows,
            "entities": found.entities,
            "defaulted_inputs": found.defaulted_inputs,
            "absent_inputs": list(found.absent_inputs),
        }
        for found in embeddings
    }
    return {
        "dagster/table_name": "lake.ml.teacher_vectors",
        "teacher": ", ".join(report.teacher for report in reports),
        "teacher_version": ", ".join(report.teacher_version for report in reports),
        "contract_hash": ", ".join(report.contract_hash for report in reports),
        "rows": sum(found.rows for found in embeddings),
        "embeddings": dg.MetadataValue.json(told),
    }
