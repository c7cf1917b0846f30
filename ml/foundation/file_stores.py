"""Opening a file store by its root: a local folder, or a bucket of an object store."""

from pathlib import Path

from ml.foundation.files import Bucket, Files, FileStore


def open_files(root: Path | Bucket) -> FileStore:
    """Return the files below a local folder or in a bucket."""
    if isinstance(root, Path):
        return Files(root)
    from ml.foundation.objects import ObjectFiles

    return ObjectFiles(root)
