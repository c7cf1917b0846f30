"""File operations of the store: whatever a reader finds is complete, whenever a writer is killed.

Keys are POSIX paths below one root. The operations are those that an object store can offer too: read, list, create if
absent, replace, publish a folder, remove a folder. ``Files`` keeps them in a folder, ``ml.foundation.objects`` in a
bucket.
"""

import fcntl
import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ml.foundation.sealed import DamagedError

_SCRATCH = ".tmp"
MAX_AGE_S = 24 * 3600.0
"""What a writer left behind is swept away after this time."""
_MOST_BYTES = 2 << 30
"""No file that is read as a whole is larger: a model in ONNX cannot be."""
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=+-]{0,200}")


@dataclass(frozen=True)
class Bucket:
    """A place in an object store, and where files are copied to on the way to programs that want paths."""

    url: str
    cache: Path


class FileStore(ABC):
    """The operations. A key with a segment that is empty, hidden, or could leave the root is a ``ValueError``."""

    @abstractmethod
    def path(self, key: str) -> Path:
        """Return a local path of a file, or of a folder that was published as a whole."""

    @abstractmethod
    def read(self, key: str) -> bytes:
        """Return the content of one file; ``FileNotFoundError`` if there is none."""

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Tell whether a file or folder exists."""

    @abstractmethod
    def names(self, key: str) -> list[str]:
        """Return the names inside a folder, sorted; an absent folder is empty."""

    @abstractmethod
    def create(self, key: str, content: bytes) -> bool:
        """Create one file with all its content, or return False where it exists: of many callers one wins."""

    @abstractmethod
    def replace(self, key: str, content: bytes) -> None:
        """Create or replace one file; readers see the old or the new content."""

    @abstractmethod
    def create_folder(self, key: str, content: Mapping[str, Path | bytes]) -> bool:
        """Publish a folder with all its files at once, or return False where it exists."""

    @abstractmethod
    def remove(self, key: str) -> None:
        """Remove one file that was created or replaced by its own key. An absent one is no error."""

    @abstractmethod
    def remove_folder(self, key: str) -> None:
        """Remove a folder; it vanishes as a whole. An absent one is no error."""

    @abstractmethod
    def lock(self, key: str) -> AbstractContextManager[None]:
        """Hold an exclusive lock named ``key`` where the store has locks; what it guards must be right without it."""

    @abstractmethod
    def modified(self, key: str) -> float:
        """Return when a file or folder was last changed, in seconds since the epoch."""

    @abstractmethod
    def size(self, key: str) -> int:
        """Return the bytes of all files inside a folder."""

    @abstractmethod
    def sweep(self) -> None:
        """Remove what killed writers left behind more than a day ago."""


def check_key(key: str) -> str:
    """Return ``key``.

    Raises:
        ValueError: A segment is empty, hidden, or could leave the root.
    """
    for segment in key.split("/"):
        if not is_name(segment):
            raise ValueError(f"{key!r} is no valid store key: bad segment {segment!r}")
    return key


def is_name(segment: str) -> bool:
    """Tell whether ``segment`` may be part of a key."""
    return _SEGMENT.fullmatch(segment) is not None


class Files(FileStore):
    """Files below ``root`` on one local file system."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def path(self, key: str) -> Path:
        """Return the local path of ``key``."""
        return self.root / check_key(key)

    def read(self, key: str) -> bytes:
        """Return the content of one file; ``FileNotFoundError`` if there is none.

        Raises:
            DamagedError: What lies there is no file, so that reading it might never end, or too large to be read.
        """
        path = self.path(key)
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST_BYTES:
            what = f"is larger than {_MOST_BYTES >> 30} GB" if stat.S_ISREG(found.st_mode) else "is no file"
            raise DamagedError(f"{key} {what}; move it away")
        return path.read_bytes()

    def exists(self, key: str) -> bool:
        """Tell whether a file or folder exists."""
        return self.path(key).exists()

    def names(self, key: str) -> list[str]:
        """Return the names inside a folder, sorted; an absent folder is empty."""
        try:
            return sorted(p.name for p in self.path(key).iterdir() if is_name(p.name))
        except FileNotFoundError:
            return []

    def create(self, key: str, content: bytes) -> bool:
        """Create one file with all its content, or return False where it exists: of many callers one wins."""
        target = self._target(key)
        scratch = self._scratch(content)
        try:
            os.link(scratch, target)
        except FileExistsError:
            return False
        finally:
            scratch.unlink()
        sync_folder(target.parent)
        return True

    def replace(self, key: str, content: bytes) -> None:
        """Create or replace one file; readers see the old or the new content."""
        target = self._target(key)
        self._scratch(content).replace(target)
        sync_folder(target.parent)

    def create_folder(self, key: str, content: Mapping[str, Path | bytes]) -> bool:
        """Publish a folder with all its files at once, or return False where it exists."""
        target = self._target(key)
        if target.exists():
            return False
        scratch = self._scratch_path()
        scratch.mkdir()
        try:
            for name, item in content.items():
                check_key(name)
                if isinstance(item, bytes):
                    (scratch / name).write_bytes(item)
                else:
                    shutil.copyfile(item, scratch / name)
                sync_file(scratch / name)
            sync_folder(scratch)
            try:
                scratch.rename(target)
            except OSError:
                if target.exists():
                    return False
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        sync_folder(target.parent)
        return True

    def remove(self, key: str) -> None:
        """Remove one file that was created or replaced by its own key. An absent one is no error."""
        self.path(key).unlink(missing_ok=True)

    def remove_folder(self, key: str) -> None:
        """Remove a folder; it vanishes as a whole. An absent one is no error."""
        scratch = self._scratch_path()
        try:
            self.path(key).rename(scratch)
        except FileNotFoundError:
            return
        shutil.rmtree(scratch, ignore_errors=True)

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold an exclusive lock named ``key``; the kernel frees it when its holder dies."""
        name = hashlib.sha256(key.encode()).hexdigest()[:16]
        path = self.root / _SCRATCH / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def modified(self, key: str) -> float:
        """Return when a file or folder was last changed, in seconds since the epoch."""
        return self.path(key).stat().st_mtime

    def size(self, key: str) -> int:
        """Return the bytes of all files inside a folder."""
        return sum(path.stat().st_size for path in self.path(key).rglob("*") if path.is_file())

    def _target(self, key: str) -> Path:
        target = self.path(key)
        missing = [p for p in (target.parent, *target.parent.parents) if not p.exists()]
        target.parent.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            sync_folder(folder.parent)
        return target

    def sweep(self) -> None:
        """Remove what killed writers left behind more than a day ago; every write does so too."""
        folder = self.root / _SCRATCH
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)

    def _scratch_path(self) -> Path:
        self.sweep()
        return self.root / _SCRATCH / uuid.uuid4().hex

    def _scratch(self, content: bytes) -> Path:
        scratch = self._scratch_path()
        scratch.write_bytes(content)
        sync_file(scratch)
        return scratch


@contextmanager
def scratch_folder(base: Path, prefix: str) -> Iterator[Path]:
    """Yield an empty folder below ``base``; remove it afterwards, and what a killed run left there a day ago."""
    base.mkdir(parents=True, exist_ok=True)
    _sweep(base)
    with tempfile.TemporaryDirectory(dir=base, prefix=f"{prefix}-{os.getpid()}-") as folder:
        yield Path(folder)


def replace_file(source: Path, target: Path) -> None:
    """Copy a file to a place of any file system, whose readers see the old or the new one, never half of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        shutil.copyfile(source, scratch)
        sync_file(scratch)
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)
    sync_folder(target.parent)


def sha256_bytes(content: bytes) -> str:
    """Return the SHA-256 of ``content`` in hex."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file in hex, read in blocks."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sync_file(path: Path) -> None:
    """Wait until a file's content is on disk."""
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(folder: Path) -> None:
    """Remove what killed writers left behind."""
    horizon = time.time() - MAX_AGE_S
    for path in folder.iterdir():
        try:
            if path.suffix == ".lock" or path.stat().st_mtime > horizon:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        except FileNotFoundError:
            continue
