"""Artifacts that no kept release was made from: checkpoints, exports, evaluations and verdicts of other candidates.

What made a partition's release is read again to trace, recover and reproduce it, so a partition that a stored release
is of stays whole, and so do a surface's newest one, whose candidate may be undecided, and those in which anything is
young. Of every other partition all artifacts go: first what was judged of its candidates, so that no candidate could be
promoted while it vanishes, last the candidates, by which a call that comes after a kill finds what is left.
"""

import time
from datetime import date

from pydantic import BaseModel, ConfigDict, Field

from ml.foundation.artifacts import ArtifactStore
from ml.foundation.files import FileStore
from ml.releases import approvals, verdicts
from ml.releases.store import ReleaseStore

_MODELS = "models"
_CANDIDATES = ("onnx", "popularity", "incumbent")
"""Assets whose artifacts the gate judges."""
_DAY_S = 86_400.0


class Spent(BaseModel):
    """The artifacts of one partition of a surface that no kept release is of."""

    model_config = ConfigDict(frozen=True)

    surface: str
    partition: date
    artifacts: tuple[str, ...] = Field(description="Keys of their folders in the store, candidates last")
    judged: tuple[str, ...] = Field(description="Keys of the folders of verdicts and approvals about its candidates")
    bytes: int
    age_days: float = Field(description="Of the youngest of them; infinite where a kill left none")


def spent(store: ReleaseStore, keep_days: float) -> list[Spent]:
    """Return what may go, oldest partition first.

    Args:
        store: Where releases and artifacts are.
        keep_days: Partitions in which an artifact is younger stay.

    Raises:
        DamagedError: The log of a surface is not whole, so that it is not known what its releases are.
    """
    found = list[Spent]()
    for surface in store.files.names(_MODELS):
        releases = {*store.releases(surface), *store.champions.read(surface).returnable}
        kept = {name[:10] for name in releases}
        partitions = sorted({p for a in _assets(store.files, surface) for p in store.files.names(a) if _is_day(p)})
        for partition in partitions[:-1]:
            if partition in kept:
                continue
            keys = _keys(store.files, surface, partition)
            age = min(((time.time() - store.files.modified(key)) / _DAY_S for key in keys), default=float("inf"))
            if age > keep_days:
                found.append(_of(store.files, surface, partition, keys, age))
    return sorted(found, key=lambda one: (one.partition, one.surface))


def remove(store: ReleaseStore, gone: Spent) -> None:
    """Remove the artifacts of one partition."""
    for key in gone.judged:
        store.files.remove_folder(key)
    for asset in _assets(store.files, gone.surface):
        ArtifactStore(store.root).disown(asset, str(gone.partition))
    for key in gone.artifacts:
        store.files.remove_folder(key)
    for asset in _assets(store.files, gone.surface):
        store.files.remove_folder(f"{asset}/{gone.partition}")


def _of(files: FileStore, surface: str, partition: str, keys: list[str], age: float) -> Spent:
    candidates = [key for key in keys if key.split("/")[2] in _CANDIDATES]
    digests = [key.rsplit("/", 1)[1] for key in candidates]
    folders = [f"{room}/{surface}/{digest}" for digest in digests for room in (verdicts.FOLDER, approvals.FOLDER)]
    judged = [folder for folder in folders if files.names(folder)]
    return Spent(
        surface=surface,
        partition=date.fromisoformat(partition),
        artifacts=(*(key for key in keys if key not in candidates), *candidates),
        judged=tuple(judged),
        bytes=sum(map(files.size, [*keys, *judged])),
        age_days=age,
    )


def _keys(files: FileStore, surface: str, partition: str) -> list[str]:
    """Return the keys of the artifacts of a partition."""
    folders = [f"{asset}/{partition}" for asset in _assets(files, surface)]
    return [f"{folder}/{name}" for folder in folders for name in files.names(folder) if not name.endswith(".json")]


def _assets(files: FileStore, surface: str) -> list[str]:
    return [f"{_MODELS}/{surface}/{name}" for name in files.names(f"{_MODELS}/{surface}")]


def _is_day(name: str) -> bool:
    try:
        return str(date.fromisoformat(name)) == name
    except ValueError:
        return False
