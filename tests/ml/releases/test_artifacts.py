import json
from pathlib import Path

import pytest

from ml.foundation.artifacts import ArtifactStore
from ml.foundation.files import Files
from ml.foundation.sealed import DamagedError


def test_identical_files_are_one_artifact_and_the_first_meta_stays(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    source = tmp_path / "weights"
    source.write_bytes(b"weights")
    first = store.put("homepage/student", "2026-01-28", {"model.safetensors": source}, {"seed": 1})
    again = store.put("homepage/student", "2026-01-28", {"model.safetensors": b"weights"}, {"seed": 2})
    other = store.put("homepage/student", "2026-01-28", {"model.safetensors": b"other"}, {"seed": 3})
    assert again.path == first.path
    assert again.meta == {"seed": 1}
    assert other.digest != first.digest
    assert len([p for p in first.path.parent.iterdir() if p.is_dir()]) == 2


def test_latest_is_what_was_put_last(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    assert store.latest("a", "p") is None
    one = store.put("a", "p", {"f": b"1"})
    store.put("a", "p", {"f": b"2"})
    store.put("a", "p", {"f": b"1"})
    latest = store.latest("a", "p")
    assert latest is not None and latest.digest == one.digest
    assert store.partitions("a") == ["p"]


@pytest.mark.parametrize("victim", ["f", "artifact.json"])
def test_a_changed_file_is_refused(tmp_path: Path, victim: str) -> None:
    store = ArtifactStore(tmp_path)
    artifact = store.put("a", "p", {"f": b"1"}, {"rows": 5})
    path = artifact.path / victim
    path.write_bytes(path.read_bytes().replace(b"1", b"2").replace(b"5", b"6"))
    with pytest.raises(DamagedError):
        store.get("a", "p", artifact.digest)


def test_a_missing_file_and_a_renamed_folder_are_refused(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    artifact = store.put("a", "p", {"f": b"1"})
    wrong = "0" * 64
    artifact.path.rename(artifact.path.with_name(wrong))
    with pytest.raises(DamagedError, match="digest"):
        store.get("a", "p", wrong)
    (artifact.path.with_name(wrong) / "f").unlink()
    with pytest.raises(FileNotFoundError):
        store.get("a", "p", artifact.digest)
    with pytest.raises(FileNotFoundError):
        store.latest("a", "p")


@pytest.mark.parametrize("key", ["../x", "a//b", "/etc", "a/.hidden", ""])
def test_keys_cannot_leave_the_root(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="store key"):
        Files(tmp_path).read(key)


def test_a_failed_put_leaves_nothing_to_read(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    with pytest.raises(FileNotFoundError):
        store.put("a", "p", {"f": tmp_path / "absent"})
    with pytest.raises(ValueError, match="no valid store key"):
        store.files.create_folder("a/p/x", {"ok": b"1", "../bad": b"2"})
    assert store.files.names("a/p") == []
    assert store.latest("a", "p") is None


def test_the_record_is_readable_json(tmp_path: Path) -> None:
    artifact = ArtifactStore(tmp_path).put("a", "p", {"f": b"1"}, {"rows": 5})
    assert json.loads((artifact.path / "artifact.json").read_text())["meta"] == {"rows": 5}
