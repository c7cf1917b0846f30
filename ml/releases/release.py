"""A release: an immutable folder ``releases/<surface>/<id>/`` that is complete, and says so itself."""

import json
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

from pydantic import Field, ValidationError

from ml.export.files import CONFIG, MODEL, SCHEMA
from ml.foundation.artifacts import Artifact
from ml.foundation.documents import Document
from ml.foundation.files import FileStore, sha256_bytes, sha256_file
from ml.foundation.sealed import DamagedError, digest, unseal
from ml.foundation.signing import Keyring, Signed
from ml.releases.champions import Pointer
from ml.releases.manifest import Manifest, Record
from ml.releases.verdicts import Override, Verdict, read_verdict

MANIFEST = "manifest.json"
SERVED = (MODEL, CONFIG, SCHEMA)
"""Files of a candidate that say what is served."""
CANDIDATE = (*SERVED, MANIFEST)
"""Files that every candidate holds."""
CARD, VERDICT, RELEASE = "model_card.html", "verdict.json", "release.json"
"""Files that promotion adds."""
BOM = "bom.cdx.json"
"""Bill of materials, as CycloneDX; version 0.1 made none."""
SIGNATURE = "model.sig"
"""Signature of all of them, in the format of OpenSSF model signing."""


class ReleaseRecord(Record):
    """Content of ``release.json``."""

    id: str
    surface: str
    partition: date
    candidate: str = Field(description="Digest of the candidate's files")
    verdict_hash: str
    override: Override | None
    overruled: tuple[str, ...] = Field(default=(), description="Refusals that the override overruled")
    files: dict[str, str] = Field(description="SHA-256 of every other file")
    created_at: datetime
    signing_key: str | None = Field(
        default=None, description="Id of the key, or identity and issuer, that signed it when it was made"
    )

    def signed_files(self, content: bytes) -> dict[str, str]:
        """Return what a signature is about: SHA-256 of every file, this record, stored as ``content``, among them."""
        return {**self.files, RELEASE: sha256_bytes(content)}


@dataclass(frozen=True)
class Release:
    """An immutable release whose files were checked."""

    record: ReleaseRecord
    manifest: Manifest
    path: Path
    signed: Signed

    @property
    def id(self) -> str:
        """Name of the release."""
        return self.record.id

    @property
    def model(self) -> Path:
        """Path of the ONNX file."""
        return self.path / MODEL

    @property
    def verdict(self) -> Verdict:
        """The verdict that it was promoted on."""
        return read_verdict((self.path / VERDICT).read_bytes(), str(self.path / VERDICT))[0]

    @property
    def schema(self) -> Document:
        """Feature schema: inputs and outputs of the model."""
        return json.loads((self.path / SCHEMA).read_bytes())


@dataclass(frozen=True)
class Champion:
    """The release that serves now and the log entry that says so."""

    pointer: Pointer
    release: Release


def manifest_of(candidate: Artifact) -> Manifest:
    """Return the manifest of a candidate; ``DamagedError`` where it is missing, was changed or is invalid."""
    return Manifest.from_bytes(candidate.read(MANIFEST), f"{candidate.path}/{MANIFEST}")


def read_release(files: FileStore, surface: str, release: str, keys: Keyring) -> Release:
    """Return one release after checking every file; who signed it stands in it, and is not asked for here.

    Raises:
        FileNotFoundError: No such release.
        DamagedError: A file is missing or was changed.
    """
    key = f"releases/{surface}/{release}"
    try:
        data = files.read(f"{key}/{RELEASE}")
        content, _ = unseal(data, f"{key}/{RELEASE}")
    except FileNotFoundError as error:
        if not files.names(key):
            raise FileNotFoundError(f"no release {release!r} of {surface}") from error
        raise DamagedError(f"{key}/{RELEASE} is missing") from error
    try:
        record = ReleaseRecord.model_validate(content)
    except ValidationError as error:
        raise DamagedError(f"{key}/{RELEASE} is no valid record: {error}") from error
    if unnamed := [name for name in (*CANDIDATE, VERDICT) if name not in record.files]:
        raise DamagedError(f"{key}/{RELEASE} names no {', '.join(unnamed)}")
    path = files.path(key)
    for name, stated in record.files.items():
        if not (path / name).is_file() or sha256_file(path / name) != stated:
            raise DamagedError(f"{path / name} is missing or was changed: its hash is not {stated}")
    manifest = Manifest.from_bytes((path / MANIFEST).read_bytes(), f"{key}/{MANIFEST}")
    _, verdict = unseal((path / VERDICT).read_bytes(), f"{key}/{VERDICT}")
    candidate = digest({name: record.files[name] for name in CANDIDATE})
    named = release_id(record.partition, candidate, verdict, record.override)
    if (named, manifest.onnx_sha256, record.surface) != (release, record.files[MODEL], surface):
        raise DamagedError(f"{key} holds the files of another release, {named}: they were exchanged after promotion")
    try:
        bundle = files.read(f"{key}/{SIGNATURE}")
    except FileNotFoundError:
        bundle = None
    return Release(record, manifest, path, keys.of_files(release, record.signed_files(data), bundle))


def require_trusted(keys: Keyring, release: Release) -> Release:
    """Return a release that a trusted key signed, or any where no key is set.

    Raises:
        UntrustedError: With what to do.
    """
    surface = release.record.surface
    todo = f"Look at it (crossfade release show {surface} {release.id}), then: crossfade release sign {surface}"
    keys.require(release.signed, f"releases/{surface}/{release.id}", todo)
    return release


def release_id(partition: date, candidate: str, verdict: str, override: Override | None) -> str:
    """Return the name of a release: it is bound to its day, the candidate's files, the verdict and the override.

    Args:
        partition: Partition of the candidate.
        candidate: Digest of its files.
        verdict: Content hash of the verdict that it is released on.
        override: A person's decision, where it overruled something.
    """
    identity = {"candidate": candidate, "verdict": verdict, "override": override.model_dump() if override else None}
    return f"{partition}-{digest(identity)[:12]}"
