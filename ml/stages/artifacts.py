"""What the stages of a release leave for each other: artifacts by surface, asset and partition."""

from datetime import date

from ml.foundation.artifacts import Artifact, ArtifactStore
from ml.foundation.settings import Settings
from ml.surfaces.spec import Surface

_TOLD = 5
"""Partitions that are named where one is missing."""


class MissingInput(RuntimeError):
    """A stage whose input was not made yet; the message names the asset to materialize."""


def artifact_name(surface: Surface, asset: str) -> str:
    """Return the name under which an asset's artifacts are stored."""
    return f"models/{surface.name}/{asset}"


def find(settings: Settings, surface: Surface, asset: str, partition: date) -> Artifact:
    """Return the latest artifact of an asset's partition.

    Raises:
        MissingInput: There is none.
    """
    store, name = ArtifactStore(settings.artifacts_dir), artifact_name(surface, asset)
    found = store.latest(name, partition.isoformat())
    if found is None:
        there = ", ".join(store.partitions(name)[-_TOLD:]) or "none"
        raise MissingInput(
            f"{surface.name}/{asset} of {partition} is missing; materialize it first. The newest there are: {there}"
        )
    return found
