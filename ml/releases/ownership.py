"""Whose artifacts these are: an artifacts folder belongs to one lake, by the id that its catalog was born with.

A champion names a snapshot of its lake. In a folder that two lakes share, each would compare with, move, and tidy away
the other's releases. The first lake that moves a champion is recorded in ``owner.json``; another one is refused until
a person hands the folder over. Machines that share a catalog share its lake.
"""

from datetime import datetime

from pydantic import Field, ValidationError

from ml.foundation.files import FileStore
from ml.foundation.sealed import DamagedError, seal, unseal
from ml.releases.manifest import Record
from ml.releases.refusals import PromotionRefused, Refusal
from ml.releases.verdicts import now

OWNER = "owner.json"


class Owner(Record):
    """Content of ``owner.json``."""

    lake: str = Field(description="Id of the lake; Lake.id")
    since: datetime
    by: str
    before: tuple[str, ...] = Field(default=(), description="Lakes that it belonged to earlier")


def owner_of(files: FileStore) -> Owner | None:
    """Return whose artifacts these are, or None before the first move of a champion.

    Raises:
        DamagedError: The record was edited.
    """
    try:
        content, _ = unseal(files.read(OWNER), OWNER)
        return Owner.model_validate(content)
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise DamagedError(f"{OWNER} names no owner: {error.errors()[0]['msg']}") from error


def require_owner(files: FileStore, lake: str | None) -> None:
    """Refuse whoever is not the lake that the artifacts belong to; the first one that asks becomes it.

    Raises:
        PromotionRefused: They belong to another lake.
    """
    owner = owner_of(files)
    if owner is None and lake is not None:
        files.create(OWNER, seal(Owner(lake=lake, since=now(), by="first use").model_dump(mode="json")))
        owner = owner_of(files)
    if owner is not None and owner.lake != lake:
        raise PromotionRefused(
            Refusal.OTHER_LAKE,
            f"these artifacts belong to lake {owner.lake} since {owner.since:%Y-%m-%d}, this is lake {lake}; give each "
            "lake artifacts of its own (CROSSFADE_ARTIFACTS_URL), or hand these over: crossfade release adopt",
        )


def adopt(files: FileStore, lake: str, *, by: str) -> Owner:
    """Make ``lake`` the owner, for a lake that was built again; return the record."""
    try:
        owner = owner_of(files)
    except DamagedError:
        owner = None
    before = () if owner is None else tuple(name for name in (*owner.before, owner.lake) if name != lake)
    files.replace(OWNER, seal(Owner(lake=lake, since=now(), by=by, before=before).model_dump(mode="json")))
    found = owner_of(files)
    assert found is not None
    return found
