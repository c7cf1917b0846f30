"""What the stages of a release leave for each other: artifacts by surface, asset and partition."""

from datetime import date

from ml.foundation.artifacts import Artifact, ArtifactStore
from ml.foundation.settings import Settings
from ml.surfaces.spec import Surface


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
    found = ArtifactStore(settings.artifacts_dir).latest(artifact_name(surface, asset), partition.isoformat())
    if found is None:
        raise MissingInput(f"{surface.name}/{asset} of {partition} is missing; materialize it first")
    return found
