"""The code location: every asset, check, job and resource of one home."""

import warnings
from collections.abc import Mapping

import dagster as dg

for category in (dg.PreviewWarning, dg.BetaWarning):
    warnings.filterwarnings("ignore", category=category)

from assets.evaluation import build_evaluation  # noqa: E402
from assets.experiment import build_experiment  # noqa: E402
from assets.features import build_features  # noqa: E402
from assets.landing import build_landing  # noqa: E402
from assets.progress import ProgressResource  # noqa: E402
from assets.rankings import build_rankings  # noqa: E402
from assets.release import build_release  # noqa: E402
from assets.served_skew import build_served_skew  # noqa: E402
from assets.soft_labels import build_soft_labels  # noqa: E402
from assets.students import build_students  # noqa: E402
from assets.study import build_study  # noqa: E402
from assets.teacher import build_teacher  # noqa: E402
from assets.unshown_labels import build_unshown_labels  # noqa: E402
from checks.assets import build_checks  # noqa: E402
from deploy.automation.conditions import build_follow_sensor, declare  # noqa: E402
from deploy.automation.jobs import build_jobs  # noqa: E402
from deploy.automation.schedules import build_schedules  # noqa: E402
from deploy.automation.sensors import build_sensors  # noqa: E402
from deploy.elsewhere.sensors import build_elsewhere  # noqa: E402
from ml.foundation.settings import Settings  # noqa: E402
from ml.surfaces.files import load_surfaces  # noqa: E402


def build_definitions(
    settings: Settings,
    *,
    progress: ProgressResource | None = None,
    loggers: Mapping[str, dg.LoggerDefinition] | None = None,
) -> dg.Definitions:
    """Return the definitions of the home that ``settings`` describe.

    Args:
        settings: The home.
        progress: Where long steps report; default is the run's log.
        loggers: Dagster loggers; default is Dagster's own.
    """
    surfaces = load_surfaces(settings)
    features = build_features(settings, surfaces)
    jobs = build_jobs(settings, surfaces, features)
    assets: list[dg.AssetsDefinition] = [build_landing(settings), *features]
    assets += build_teacher(settings)
    for surface in surfaces.values():
        assets += build_soft_labels(settings, surface)
        assets += build_unshown_labels(settings, surfaces, surface)
        assets += build_students(settings, surface)
        assets.append(build_evaluation(settings, surface))
        assets.append(build_experiment(settings, surface))
        assets.append(build_served_skew(settings, surface))
        assets += build_release(settings, surface)
        assets += build_rankings(settings, surface)
    assets.append(build_study())
    return dg.Definitions(
        assets=dg.with_source_code_references(declare(assets, settings, surfaces)),
        asset_checks=build_checks(settings, surfaces),
        jobs=jobs,
        sensors=[
            *build_sensors(settings, surfaces, jobs),
            build_follow_sensor(settings, surfaces),
            *build_elsewhere(settings),
        ],
        schedules=build_schedules(settings, surfaces, jobs),
        resources={"settings": settings, "progress": progress or ProgressResource()},
        loggers=dict(loggers or {}),
        executor=dg.in_process_executor,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """Load the home named by ``CROSSFADE_HOME``."""
    return build_definitions(Settings())
