"""Popularity in a refused student's place: exported, judged and promoted in one go."""

from datetime import date

from ml.foundation.settings import Settings
from ml.stages.release import Released
from ml.surfaces.spec import Surface


def release_popularity(
    settings: Settings, surface: Surface, partition: date, *, by: str, reason: str | None = None
) -> Released:
    """Let popularity serve a surface that nothing serves, since the gate refused the candidate of a partition.

    Raises:
        PromotionRefused: Something serves, the gate did not refuse, the surface does not say ``first_release:
            popularity``, or the gate refuses popularity too; nothing was changed.
    """
    from checks.popularity import judge_popularity
    from ml.stages.popularity import export_in_place, instead_of, promote_popularity, refused_student

    refused = refused_student(settings, surface, partition)
    candidate = export_in_place(settings, surface, partition)
    judge_popularity(settings, surface, candidate, instead_of(refused.verdict))
    return promote_popularity(settings, surface, candidate, refused, by=by, reason=reason)
