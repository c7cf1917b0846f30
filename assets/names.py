"""Names that several modules share: keys, groups, pools."""

import dagster as dg

from ml.foundation.settings import Settings
from ml.surfaces.spec import Surface
from ml.teacher.teachers import teacher_names

LAKE_WRITER = "lake_writer"
"""Pool of every step that commits to the lake; its limit is set when the instance is created."""
LANDER = "landing"
"""Pool of the landing where several may write to the lake: late rows of one day's files go to other days."""
TRAINING = "training"
"""Pool of steps that train; each has one thread, and memory for its rows."""

STUDY_GROUP = "study"
"""Assets that have worlds of their own and no part in a home's daily work."""

OWNER = "team:ml-platform"
TEACHER = dg.AssetKey("teacher")
VECTORS = dg.AssetKey("teacher_vectors")


def teacher_key(name: str | None) -> dg.AssetKey:
    """Return the key of a teacher; None is the one that needs no name."""
    return TEACHER if name is None else dg.AssetKey([*TEACHER.path, name])


def landing_key(table: str) -> dg.AssetKey:
    """Return the key of one landed table."""
    return dg.AssetKey(["landing", table])


def release_page(surface: str, release: str) -> str:
    """Return where the webserver of `crossfade ui` has the page of a release, from its root."""
    return f"/releases/{surface}/{release}"


def surface_key(surface: str, name: str) -> dg.AssetKey:
    """Return the key of one asset of a surface."""
    return dg.AssetKey([surface, name])


def soft_label_key(surface: str, teacher: str | None) -> dg.AssetKey:
    """Return the key of a teacher's soft labels of a surface; None is the one that needs no name."""
    key = surface_key(surface, "soft_labels")
    return key if teacher is None else dg.AssetKey([*key.path, teacher])


def label_keys(settings: Settings, surface: Surface) -> list[dg.AssetKey]:
    """Return the assets that hold teachers' labels for a surface."""
    keys = [soft_label_key(surface.name, name) for name in teacher_names(settings, surface)]
    return [*keys, *([surface_key(surface.name, "unshown_labels")] if surface.distillation.unshown else [])]
