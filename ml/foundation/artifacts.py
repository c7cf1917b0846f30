"""Content-addressed artifacts: ``<root>/<name>/<partition>/<sha256>/{files, artifact.json}``.

The digest covers the files, so that identical files are one artifact however often they are put. ``artifact.json``
holds their hashes and what the first writer said about them; it is sealed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml.foundation.file_stores import open_files
from ml.foundation.files import Bucket, sha256_bytes, sha256_file
from ml.foundation.sealed import DamagedError, digest, seal, unseal

RECORD = "artifact.json"
_LATEST = "latest.json"


@dataclass(frozen=True)
class Artifact:
    """One stored artifact.

    Attributes:
        name: For example ``homepage/student``.
        partition: For example ``2026-01-28``.
        digest: Content hash of the files, in hex.
        path: Folder of the files.
        files: SHA-256 of each file by name.
        meta: What the writer said about them.
    """

    name: str
    partition: str
    digest: str
    path: Path
    files: Mapping[str, str]
    meta: Mapping[str, object]

    def read(self, file: str) -> bytes:
        """Return the content of one file, checked against its hash.

        Raises:
            DamagedError: The file is missing or was changed.
        """
        if file not in self.files:
            raise DamagedError(f"{self.path} holds no {file!r}, only {sorted(self.files)}")
        try:
            content = (self.path / file).read_bytes()
        except FileNotFoundError as error:
            raise DamagedError(f"{self.path / file} is missing") from error
        if sha256_bytes(content) != self.files[file]:
            raise DamagedError(f"{self.path / file} was changed: its hash is no longer {self.files[file]}")
        return content

    def json(self, file: str) -> Any:
        """Return one JSON file, parsed, checked against its hash."""
        return json.loads(self.read(file))

    def verify(self) -> None:
        """Check every file against its hash.

        Raises:
            DamagedError: A file is missing or was changed.
        """
        for file, stated in self.files.items():
            path = self.path / file
            if not path.is_file() or sha256_file(path) != stated:
                raise DamagedError(f"{path} is missing or was changed: its hash is not {stated}")


class ArtifactStore:
    """Artifacts below one folder."""

    def __init__(self, root: Path | Bucket) -> None:
        self.files = open_files(root)

    def put(
        self, name: str, partition: str, files: Mapping[str, Path | bytes], meta: Mapping[str, object] | None = None
    ) -> Artifact:
        """Store ``files`` and make them the latest of ``name`` and ``partition``.

        Args:
            name: Artifact name, segments joined by ``/``.
            partition: Partition key, or any one name for an unpartitioned artifact.
            files: Content or path by file name; ``artifact.json`` is reserved.
            meta: JSON-able facts about the files; not part of the digest.

        Returns:
            The stored artifact; the existing one where the same files are stored already.
        """
        if not files or RECORD in files:
            raise ValueError(f"artifact {name!r} needs files, none of them named {RECORD}: got {sorted(files)}")
        hashes = {f: sha256_bytes(c) if isinstance(c, bytes) else sha256_file(c) for f, c in sorted(files.items())}
        key = f"{name}/{partition}/{digest(hashes)}"
        described = seal({"name": name, "partition": partition, "files": hashes, "meta": dict(meta or {})})
        self.files.create_folder(key, {**files, RECORD: described})
        stored = self.get(name, partition, digest(hashes))
        self.files.replace(f"{name}/{partition}/{_LATEST}", seal({"digest": stored.digest}))
        return stored

    def latest(self, name: str, partition: str) -> Artifact | None:
        """Return what was put last, or None."""
        key = f"{name}/{partition}/{_LATEST}"
        if not self.files.exists(key):
            return None
        pointer, _ = unseal(self.files.read(key), key)
        return self.get(name, partition, pointer["digest"])

    def disown(self, name: str, partition: str) -> None:
        """Have a partition no latest artifact, before its artifacts go."""
        self.files.remove(f"{name}/{partition}/{_LATEST}")

    def get(self, name: str, partition: str, artifact: str) -> Artifact:
        """Return the artifact with this digest after checking every file.

        Raises:
            FileNotFoundError: No such artifact.
            DamagedError: A file is missing or was changed, or the folder's name is not the digest of its files.
        """
        key = f"{name}/{partition}/{artifact}"
        try:
            described, _ = unseal(self.files.read(f"{key}/{RECORD}"), f"{key}/{RECORD}")
        except FileNotFoundError as error:
            if not self.files.names(key):
                raise
            raise DamagedError(f"{key}/{RECORD} is missing") from error
        if digest(described["files"]) != artifact:
            raise DamagedError(f"{key} holds files of digest {digest(described['files'])}")
        found = Artifact(name, partition, artifact, self.files.path(key), described["files"], described["meta"])
        found.verify()
        return found

    def partitions(self, name: str) -> list[str]:
        """Return the partitions of ``name`` that hold an artifact, sorted."""
        return [p for p in self.files.names(name) if self.files.exists(f"{name}/{p}/{_LATEST}")]
