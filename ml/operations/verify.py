"""Reading the lake's files and comparing them with their hashes; asking who signed what serves."""

from dataclasses import dataclass
from datetime import date

from ml.foundation.lake import Lake
from ml.foundation.lake_files import Checked
from ml.foundation.settings import Settings
from ml.foundation.signing import UntrustedError
from ml.releases.store import ReleaseStore


def verify(settings: Settings, *, night: date | None = None) -> Checked:
    """Check files of every state of the lake that is kept; those without a hash get one.

    Args:
        settings: The home.
        night: Check only the files whose turn it is: each file has one in ``verify_nights`` nights. Default all.

    Raises:
        DamagedError: A file is missing or was changed.
    """
    with Lake(settings) as lake:
        turn = night.toordinal() % settings.verify_nights if night else None
        named = lake.files.named(every=True)
        return lake.files.check([f for f in named if turn is None or f.id % settings.verify_nights == turn])


@dataclass(frozen=True)
class Signatures:
    """Who signed the champion logs and the releases that serve, challenge or may come back.

    Attributes:
        required: Whether a key is set, so that only what a trusted one signed counts.
        documents: Entries and releases.
        untrusted: Those that no trusted key answers for, by key of the store, and why.
        keys: Names of the trusted keys that signed the others.
    """

    required: bool
    documents: int
    untrusted: dict[str, str]
    keys: tuple[str, ...]


def signatures(settings: Settings) -> Signatures:
    """Ask of every log and release who signed it, and change nothing.

    Raises:
        DamagedError: A log or a release is not whole.
        UnusableKey: A key cannot be used.
    """
    store = ReleaseStore.of(settings)
    documents, untrusted, keys = 0, dict[str, str](), set[str]()
    for surface in store.surfaces():
        log = store.champions.read(surface)
        names = sorted(log.returnable.intersection(store.releases(surface)))
        releases = {f"releases/{surface}/{name}": store.release(surface, name).signed for name in names}
        documents += len(log.entries) + len(releases)
        keys |= {signed.name for signed in (*log.signed.values(), *releases.values()) if signed.name}
        untrusted |= {key: str(signed) for key, signed in log.untrusted.items()}
        untrusted |= {key: str(signed) for key, signed in releases.items() if signed.fault}
    return Signatures(store.keys.required, documents, untrusted, tuple(sorted(keys)))


def require_signatures(settings: Settings) -> Signatures:
    """Ask who signed what serves.

    Raises:
        UntrustedError: A key is set, and no trusted one answers for a log or a release.
        DamagedError: A log or a release is not whole.
    """
    found = signatures(settings)
    if found.required and found.untrusted:
        key, told = next(iter(found.untrusted.items()))
        more = f" and {len(found.untrusted) - 1} more" if len(found.untrusted) > 1 else ""
        surface = key.split("/")[1].removesuffix(".json")
        raise UntrustedError(
            f"{key}: {told}{more}. Look at it: crossfade release list {surface}. Where it is right: crossfade release "
            f"sign {surface}. Where it is not, put it back from a backup"
        )
    return found
