"""The jobs of a home: days, releases, the way back and housekeeping."""

from collections.abc import Mapping, Sequence
from datetime import date

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from pydantic import Field

from assets.features import labelled_name, waits
from assets.names import label_keys, surface_key
from deploy.automation.housekeeping import housekeeping_job, verify_job
from ml.foundation.settings import Settings
from ml.releases.store import ReleaseStore
from ml.stages.release import approve_candidate
from ml.surfaces.files import load_surfaces
from ml.surfaces.spec import Surface

Job = dg.JobDefinition | UnresolvedAssetJobDefinition

RELEASE_CHAIN = ("training_set", "control", "student", "evaluation", "onnx", "release")
WIDENED_CHAIN = RELEASE_CHAIN[RELEASE_CHAIN.index("evaluation") :]
"""Assets of a candidate whose evaluation widens: nothing is trained again."""

ALERT_SENSOR = "alert_sensor"
BASE_JOB, RANKING_JOB, LABELS_JOB = "base_tables_job", "ranking_tables_job", "soft_labels_job"
ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
NOT_ENDED = [status for status in dg.DagsterRunStatus if status not in ENDED]


def release_chain(surface: Surface) -> list[dg.AssetKey]:
    """Return the assets that make one release, in order."""
    return [surface_key(surface.name, name) for name in RELEASE_CHAIN]


Surfaces = Mapping[str, Surface]


def build_jobs(settings: Settings, surfaces: Surfaces, features: Sequence[dg.AssetsDefinition]) -> list[Job]:
    """Return the jobs of a home: base tables, ranking tables and soft labels of days, releases, and the way back.

    Args:
        settings: The home.
        surfaces: Its surfaces.
        features: Those of ``build_features``: base tables first, then what sees them through windows, the tables of
            each surface whose labels wait longer, and, where features hold vectors, the teacher's inputs and vectors.
    """
    waiting = list(filter(waits, surfaces.values()))
    base, ranking, snapshot, *rest = features
    labelled, vectors = rest[: len(waiting)], rest[len(waiting) :]
    labels = dg.AssetSelection.assets(*(key for surface in surfaces.values() for key in label_keys(settings, surface)))
    days = [
        dg.define_asset_job(
            BASE_JOB,
            selection=dg.AssetSelection.groups("landing") | dg.AssetSelection.assets(base),
            description="Landing and base tables of the days asked for.",
        ),
        dg.define_asset_job(
            RANKING_JOB,
            selection=dg.AssetSelection.assets(ranking, snapshot, *vectors) | labels,
            description="Features, examples, teacher inputs and soft labels of the days asked for.",
        ),
        *(
            dg.define_asset_job(
                labelled_job_name(surface),
                selection=dg.AssetSelection.assets(tables),
                description=f"Examples of {surface.name} of the days asked for, whose label window has landed.",
            )
            for surface, tables in zip(waiting, labelled, strict=True)
        ),
        dg.define_asset_job(LABELS_JOB, selection=labels, description="Soft labels of the days asked for."),
    ]
    releases = [
        dg.define_asset_job(
            release_job_name(surface),
            selection=dg.AssetSelection.assets(*release_chain(surface)),
            description=f"Training set to release of {surface.name} for one day.",
        )
        for surface in surfaces.values()
    ]
    widenings = [
        dg.define_asset_job(
            widening_job_name(surface),
            selection=dg.AssetSelection.assets(*(surface_key(surface.name, name) for name in WIDENED_CHAIN)),
            description=f"The undecided candidate of {surface.name} on more evaluation days, and its release.",
        )
        for surface in surfaces.values()
    ]
    rankings = [
        dg.define_asset_job(
            rankings_job_name(surface),
            selection=dg.AssetSelection.assets(surface_key(surface.name, "rankings")),
            description=f"The declared candidates of {surface.name} of the days asked for, ranked by the champion.",
        )
        for surface in surfaces.values()
        if surface.rankings
    ]
    return [*days, *releases, *widenings, *rankings, rollback_job, approve_job, housekeeping_job, verify_job]


def release_job_name(surface: Surface) -> str:
    """Return the name of the job that makes a release of one surface."""
    return f"{surface.name}_release_job"


def labelled_job_name(surface: Surface) -> str:
    """Return the name of the job that builds the examples of a surface whose labels wait longer than its features."""
    return f"{labelled_name(surface)}_job"


def widening_job_name(surface: Surface) -> str:
    """Return the name of the job that widens the evaluation of one surface's undecided candidate."""
    return f"{surface.name}_widening_job"


def rankings_job_name(surface: Surface) -> str:
    """Return the name of the job that ranks the declared candidates of one surface."""
    return f"{surface.name}_rankings_job"


def named(jobs: Sequence[Job], name: str) -> Job:
    """Return the job of that name."""
    return next(job for job in jobs if job.name == name)


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
    pointer = ReleaseStore.of(settings).rollback(config.surface, to=config.to, by=config.by, reason=config.reason)
    context.log.info(f"{config.surface} now serves {pointer.release}")


class ApprovalConfig(dg.Config):
    """Which candidate may serve, and who says so."""

    surface: str
    partition: str = Field(description="Day of the candidate, such as 2026-03-01")
    by: str = Field(description="Your name; it stays in the history")
    reason: str


@dg.op
def approve_waiting(
    context: dg.OpExecutionContext, config: ApprovalConfig, settings: dg.ResourceParam[Settings]
) -> None:
    """Say yes to a candidate that passed and waits for a person; it then serves."""
    surfaces = load_surfaces(settings)
    if config.surface not in surfaces:
        raise dg.Failure(f"no surface {config.surface!r}; configured are {', '.join(surfaces)}", allow_retries=False)
    day = date.fromisoformat(config.partition)
    release = approve_candidate(settings, surfaces[config.surface], day, by=config.by, reason=config.reason)
    context.log.info(f"{config.surface} now serves {release}")


@dg.job(description="Say yes, by name, to a candidate that passed the gate and waits for a person; it then serves.")
def approve_job() -> None:
    """Approve one candidate."""
    approve_waiting()


@dg.job(description="Serve an earlier release again; the release left behind is barred.")
def rollback_job() -> None:
    """Roll one surface back."""
    move_pointer_back()
