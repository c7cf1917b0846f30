"""The store's files in an S3-compatible object store.

An object store has no folders that appear at once. A published folder is therefore one small object, ``<key>.folder``,
that names the objects of its files; it is created last and only if absent, so that readers see all files or none, and
of two writers one wins. Everything else is an object under its own key; so is what Triton reads
(``repository/<surface>/``).

Source: conditional writes (``If-None-Match: *``), Amazon S3 User Guide, "Conditional requests".
"""

import hashlib
import logging
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import ObjectStore, from_url
from pydantic import BaseModel, TypeAdapter, ValidationError

from ml.foundation.files import MAX_AGE_S, Bucket, Files, FileStore, check_key, is_name, sha256_bytes, sha256_file
from ml.foundation.sealed import DamagedError

log = logging.getLogger(__name__)

_FOLDER = ".folder"
_PARTS = ".parts"


class _Part(BaseModel):
    """Where a file of a folder lies, and what it is."""

    object: str
    sha256: str


_Parts = dict[str, _Part]
_FOLDER_CONTENT = TypeAdapter(_Parts)


class ObjectFiles(FileStore):
    """Files below one URL of an object store; credentials and endpoint come from the ``AWS_*`` variables.

    Args:
        bucket: URL, for example ``s3://bucket/prefix``, and the folder that copies of files go to.
    """

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self._store: ObjectStore = from_url(bucket.url)
        self._cache = Files(bucket.cache / hashlib.sha256(bucket.url.encode()).hexdigest()[:16])

    def path(self, key: str) -> Path:
        """Return the path of a copy of ``key``, made now if there is none or if it was changed."""
        parts = self._parts(key)
        if parts is None:
            self._cache.replace(key, self.read(key))
            return self._cache.path(key)
        copy = self._cache.path(key)
        if any(not (copy / n).is_file() or sha256_file(copy / n) != part.sha256 for n, part in parts.items()):
            self._cache.remove_folder(key)
            self._cache.create_folder(key, {name: self._part(key, name, parts) for name in parts})
        return copy

    def read(self, key: str) -> bytes:
        """Return the content of one file; ``FileNotFoundError`` if there is none."""
        folder, _, name = check_key(key).rpartition("/")
        try:
            return self._get(key)
        except FileNotFoundError:
            parts = self._parts(folder) if folder else None
            if parts is None or name not in parts:
                raise
        return self._part(folder, name, parts)

    def exists(self, key: str) -> bool:
        """Tell whether a file or folder exists."""
        folder, _, name = check_key(key).rpartition("/")
        if self._has(key) or self._has(key + _FOLDER):
            return True
        return name in ((self._parts(folder) if folder else None) or {}) or bool(self.names(key))

    def names(self, key: str) -> list[str]:
        """Return the names inside a folder, sorted; an absent folder is empty."""
        parts = self._parts(key)
        if parts is not None:
            return sorted(parts)
        listed = obstore.list_with_delimiter(self._store, key)
        found = [item["path"].removesuffix(_FOLDER) for item in listed["objects"]]
        found += listed["common_prefixes"]
        return sorted({name for path in found if is_name(name := path.rstrip("/").rsplit("/", 1)[-1])})

    def create(self, key: str, content: bytes) -> bool:
        """Create one file with all its content, or return False where it exists: of many callers one wins."""
        try:
            obstore.put(self._store, check_key(key), content, mode="create")
        except AlreadyExistsError:
            return False
        return True

    def replace(self, key: str, content: bytes) -> None:
        """Create or replace one file; readers see the old or the new content."""
        obstore.put(self._store, check_key(key), content)

    def create_folder(self, key: str, content: Mapping[str, Path | bytes]) -> bool:
        """Publish a folder with all its files at once, or return False where it exists."""
        check_key(key)
        if self._has(key + _FOLDER):
            return False
        attempt, parts = uuid.uuid4().hex, _Parts()
        for name, item in content.items():
            data = item if isinstance(item, bytes) else item.read_bytes()
            place = f"{_PARTS}/{attempt}/{check_key(name)}"
            obstore.put(self._store, place, data)
            parts[name] = _Part(object=place, sha256=sha256_bytes(data))
        if self.create(key + _FOLDER, _FOLDER_CONTENT.dump_json(parts, indent=1)):
            return True
        self._delete([part.object for part in parts.values()])
        return False

    def remove(self, key: str) -> None:
        """Remove one file that was created or replaced by its own key. An absent one is no error."""
        self._delete([check_key(key)])

    def remove_folder(self, key: str) -> None:
        """Remove a folder; what was published as a whole vanishes as a whole. An absent one is no error."""
        try:
            parts = self._parts(key) or {}
        except DamagedError:  # it does not say where its files lie; a sweep finds them
            parts = {}
        self._delete([key + _FOLDER])
        self._delete([part.object for part in parts.values()])
        self._delete([item["path"] for page in obstore.list(self._store, key + "/") for item in page])
        self._cache.remove_folder(key)

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold nothing: an object store has no locks."""
        check_key(key)
        yield

    def modified(self, key: str) -> float:
        """Return when a file or published folder was last changed, in seconds since the epoch."""
        try:
            found = obstore.head(self._store, check_key(key))
        except FileNotFoundError:
            found = obstore.head(self._store, key + _FOLDER)
        return found["last_modified"].timestamp()

    def size(self, key: str) -> int:
        """Return the bytes of all files inside a folder."""
        if (parts := self._parts(key)) is not None:
            return sum(obstore.head(self._store, part.object)["size"] for part in parts.values())
        return sum(item["size"] for page in obstore.list(self._store, key + "/") for item in page)

    def sweep(self) -> None:
        """Remove the files of folders that were never published, where they are more than a day old.

        Where a folder does not say which files are its own, nothing is removed: some of those may be.
        """
        horizon = time.time() - MAX_AGE_S
        listed = [item for page in obstore.list(self._store) for item in page]
        old = {i["path"] for i in listed if i["path"].startswith(_PARTS) and i["last_modified"].timestamp() < horizon}
        for item in listed:
            if old and item["path"].endswith(_FOLDER):
                try:
                    parts = self._parts(item["path"].removesuffix(_FOLDER)) or {}
                except DamagedError as error:
                    log.error("nothing is swept: %s", error)
                    return
                old -= {part.object for part in parts.values()}
        self._delete(sorted(old))

    def _get(self, key: str) -> bytes:
        return bytes(obstore.get(self._store, key).bytes())

    def _part(self, key: str, name: str, parts: _Parts) -> bytes:
        """Return one file of a folder that was published as a whole.

        Raises:
            DamagedError: Its object was lost or changed.
        """
        try:
            content = self._get(parts[name].object)
        except FileNotFoundError as error:
            raise DamagedError(f"{key}/{name} is missing: object {parts[name].object} is gone") from error
        if sha256_bytes(content) != parts[name].sha256:
            raise DamagedError(f"{key}/{name} was changed: its hash is not {parts[name].sha256}")
        return content

    def _has(self, key: str) -> bool:
        try:
            obstore.head(self._store, key)
        except FileNotFoundError:
            return False
        return True

    def _parts(self, key: str) -> _Parts | None:
        """Return {file: its object and hash} of a folder that was published as a whole, else None.

        Raises:
            DamagedError: What names the files is no such list.
        """
        try:
            return _FOLDER_CONTENT.validate_json(self._get(check_key(key) + _FOLDER))
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise DamagedError(f"{key}{_FOLDER} names no files: {error.errors()[0]['msg']}") from error

    def _delete(self, keys: list[str]) -> None:
        if keys:
            obstore.delete(self._store, keys)
