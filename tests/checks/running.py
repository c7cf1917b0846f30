"""Runs of checks, as Dagster runs them."""

from collections.abc import Sequence

import dagster as dg

from assets.partitions import day_partitions, student_partitions
from ml.foundation.settings import Settings
from ml.surfaces.spec import Surface


def run_checks(
    settings: Settings,
    surface: Surface,
    checks: Sequence[dg.AssetChecksDefinition],
    asset: str,
    tags: dict[str, str],
) -> dg.ExecuteInProcessResult:
    """Run the checks of one asset of the surface on the partitions that ``tags`` name."""
    key = dg.AssetKey([surface.name, asset])
    partitions = student_partitions(settings, surface) if asset == "onnx" else day_partitions(settings)
    definitions = dg.Definitions(
        assets=[dg.AssetSpec(key, partitions_def=partitions)],
        asset_checks=checks,
        jobs=[dg.define_asset_job("check", dg.AssetSelection.checks_for_assets(key), partitions_def=partitions)],
        resources={"settings": settings},
    )
    return definitions.resolve_job_def("check").execute_in_process(tags=tags, raise_on_error=False)
