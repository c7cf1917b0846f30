"""Names that several modules share: keys, groups, pools."""

import dagster as dg

LAKE_WRITER = "lake_writer"
"""Pool of every step that commits to the lake; its limit is set when the instance is created."""
LANDER = "landing"
"""Pool of the landing where several may write to the lake: late rows of one day's files go to other days."""
TRAINING = "training"
"""Pool of steps that use every core."""

STUDY_GROUP = "study"
"""Assets that have worlds of their own and no part in a home's daily work."""

OWNER = "team:ml-platform"
TEACHER = dg.AssetKey("teacher")
VECTORS = dg.AssetKey("teacher_vectors")


def landing_key(table: str) -> dg.AssetKey:
    """Return the key of one landed table."""
    return dg.AssetKey(["landing", table])


def release_page(surface: str, release: str) -> str:
    """Return where the webserver of `crossfade ui` has the page of a release, from its root."""
    return f"/releases/{surface}/{release}"


def surface_key(surface: str, name: str) -> dg.AssetKey:
    """Return the key of one asset of a surface."""
    return dg.AssetKey([surface, name])
