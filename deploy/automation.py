"""Jobs: the parts of the graph that people and schedules ask for by name."""

from collections.abc import Mapping, Sequence

import dagster as dg

from assets.names import surface_key
from ml.settings import Settings
from ml.surfaces.spec import Surface

RELEASE_CHAIN = ("training_set", "control", "student", "evaluation", "onnx", "release")


def release_chain(surface: Surface) -> list[dg.AssetKey]:
    """Return the assets that make one release, in order."""
    return [surface_key(surface.name, name) for name in RELEASE_CHAIN]


def build_jobs(settings: Settings, surfaces: Mapping[str, Surface]) -> Sequence[dg.JobDefinition]:
    """Return the jobs of a home: one that prepares days, one per surface that makes a release, one that rolls back."""
    daily = dg.define_asset_job(
        "daily_tables_job",
        selection=dg.AssetSelection.groups("landing", "staging", "intermediate", "features")
        | dg.AssetSelection.assets(
            *(surface_key(name, asset) for name in surfaces for asset in ("examples", "teacher_inputs", "soft_labels"))
        ),
        description="Landing, features and soft labels of the days asked for.",
    )
    releases = [
        dg.define_asset_job(
            f"{surface.name}_release_job",
            selection=dg.AssetSelection.assets(*release_chain(surface)),
            description=f"Training set to release of {surface.name} for one day.",
        )
        for surface in surfaces.values()
    ]
    return [daily, *releases, rollback_job]  # type: ignore[list-item]


class RollbackConfig(dg.Config):
    """Which surface goes back, and why."""

    surface: str
    reason: str
    by: str
    to: str | None = None


@dg.op
def move_pointer_back(
    context: dg.OpExecutionContext, config: RollbackConfig, settings: dg.ResourceParam[Settings]
) -> None:
    """Move the champion pointer to an earlier release and bar the one that it leaves."""
    from ml.store.releases import ReleaseStore

    pointer = ReleaseStore(settings.artifacts_dir).rollback(
        config.surface, to=config.to, by=config.by, reason=config.reason
    )
    context.log.info(f"{config.surface} now serves {pointer.release}")


@dg.job(description="Serve an earlier release again; the release left behind is barred.")
def rollback_job() -> None:
    """Roll one surface back."""
    move_pointer_back()
