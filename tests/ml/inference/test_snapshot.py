"""What published features promise: immutable, repeatable, never older than before, refused when they are wrong."""

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ml.features.tables import feature_tables
from ml.foundation.ids import id63
from ml.foundation.lake import Lake
from ml.inference.snapshot import KEEP, FeatureSnapshot, Published, SnapshotError, current_snapshot, publish
from ml.surfaces.columns import Input
from tests.support.tiny_home import DAY, Home, tiny_settings


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tiny_settings(tmp_path_factory.mktemp("snapshots") / "home"))
    with Lake(home.settings) as lake:
        for number in range(6):
            home.write_features(lake, DAY + timedelta(days=number), seed=number)
    return home


def published(home: Home, number: int = 0) -> Published:
    with Lake(home.settings) as lake:
        return publish(lake, home.settings, home.surfaces, DAY + timedelta(days=number))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_the_same_features_give_the_same_folder_untouched(home: Home) -> None:
    first = published(home)
    before = contents(first.path)
    with Lake(home.settings) as lake:
        home.write_features(lake, DAY, seed=0)
    assert published(home) == first and contents(first.path) == before
    assert first.path.name == f"{DAY}-{first.digest}" and first.rows["feat_user"] == 40
    assert set(before) == {"manifest.json", *(f"{table}.arrow" for table in feature_tables(home.settings))}


@pytest.mark.slow
def test_changed_features_of_a_day_give_another_folder(home: Home) -> None:
    first = published(home)
    with Lake(home.settings) as lake:
        home.write_features(lake, DAY, seed=99)
    changed = published(home)
    assert changed.digest != first.digest and current_snapshot(home.settings) == changed.path
    assert first.path.exists()


@pytest.mark.slow
def test_an_older_day_never_replaces_a_newer_one_and_few_are_kept(home: Home) -> None:
    newest = published(home, 4)
    for number in (1, 2, 3):
        older = published(home, number)
        assert older.path.exists() and current_snapshot(home.settings) == newest.path
    folders = [path for path in newest.path.parent.iterdir() if path.is_dir()]
    assert newest.path in folders and len(folders) == KEEP
    assert published(home, 5).path == current_snapshot(home.settings)
    assert newest.path.exists(), "the one before is kept for servers that still read it"


def test_a_snapshot_outlives_its_folder(home: Home) -> None:
    import shutil

    snapshot = FeatureSnapshot.load(published(home, 5).path)
    path = current_snapshot(home.settings)
    assert path is not None
    shutil.rmtree(path)
    features = snapshot.bind(home.surfaces["homepage"].inputs)
    found, _ = features.lookup(np.array([id63("u1")]), np.array([id63("i1")]))
    assert found["item_ctr"].shape == (1,)
    assert published(home, 5).path.exists(), "a lost folder is published again"


def test_a_snapshot_whose_manifest_names_no_keys_is_served_as_before(home: Home) -> None:
    path = published(home, 5).path
    inputs = home.surfaces["homepage"].inputs
    users, items = np.array([id63("u1")]), np.array([id63(f"i{n}") for n in range(90)])
    expected, lacking = FeatureSnapshot.load(path).bind(inputs).lookup(users, items)
    manifest = json.loads((path / "manifest.json").read_text())
    for entry in manifest["tables"].values():
        del entry["keys"], entry["defaults"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    found, missing = FeatureSnapshot.load(path).bind(inputs).lookup(users, items)
    assert missing == lacking == {"feat_item": 30}
    assert {name: value.tobytes() for name, value in found.items()} == {n: v.tobytes() for n, v in expected.items()}


@pytest.mark.slow
@pytest.mark.parametrize("pointer", [b"{", b"[]", b"{}", b"null", b"\xff"])
def test_a_damaged_pointer_is_refused_by_its_name_and_mended_by_publishing(home: Home, pointer: bytes) -> None:
    path = published(home, 5).path
    (path.parent / "current.json").write_bytes(pointer)
    with pytest.raises(SnapshotError, match=r"current\.json.*publish them again"):
        current_snapshot(home.settings)
    assert published(home, 5).path == current_snapshot(home.settings) == path


def test_a_changed_file_is_refused(home: Home) -> None:
    path = published(home, 5).path
    manifest = path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"sha256": "', '"sha256": "0', 1))
    with pytest.raises(SnapshotError, match="sha256"):
        FeatureSnapshot.load(path)


def test_an_input_that_is_not_there_is_named(home: Home) -> None:
    snapshot = FeatureSnapshot.load(published(home, 4).path)
    wanted = {"mood": Input.model_validate({"kind": "daily", "type": "number", "from": "feat_user.mood"})}
    with pytest.raises(SnapshotError, match=r"no feat_user\.mood, which input 'mood' needs"):
        snapshot.bind(wanted)


def test_a_day_without_features_is_refused(home: Home) -> None:
    with pytest.raises(SnapshotError, match="no features of 2027-01-20"), Lake(home.settings) as lake:
        publish(lake, home.settings, home.surfaces, DAY.replace(year=2027))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("insert into lake.features.feat_item from lake.features.feat_item limit 1", "feat_item repeats the key"),
        ("update lake.features.feat_user_creator set creator_id = null", "feat_user_creator has a null key"),
        (
            "alter table lake.features.feat_creator drop column ctr",
            "feat_creator: it has no column ctr, declared",
        ),
        ("drop table lake.features.feat_user", "the lake has no table features.feat_user"),
    ],
)
def test_wrong_tables_are_refused_and_the_pointer_stays(tmp_path: Path, statement: str, reason: str) -> None:
    home = Home(tiny_settings(tmp_path / "home"))
    before = home.publish()
    with Lake(home.settings) as lake:
        lake.connection.execute(statement)
        with pytest.raises(SnapshotError, match=reason):
            publish(lake, home.settings, home.surfaces, DAY)
        assert lake.snapshot() > 0, "the connection is usable afterwards"
    assert current_snapshot(home.settings) == before


@pytest.mark.slow
def test_lookups_of_empty_tables_give_defaults(tmp_path: Path) -> None:
    home = Home(tiny_settings(tmp_path / "home"))
    with Lake(home.settings) as lake:
        home.write_features(lake)
        for table in ("feat_user_creator", "feat_creator"):
            columns = lake.sql(f"select * from lake.features.{table} limit 0")
            lake.replace_days(f"features.{table}", columns, [DAY])
        snapshot = FeatureSnapshot.load(publish(lake, home.settings, home.surfaces, DAY).path)
    inputs = home.surfaces["homepage"].inputs
    found, _ = snapshot.bind(inputs).lookup(np.array([id63("u1")]), np.array([id63("i1"), id63("i2")]))
    for name, item in inputs.items():
        if item.source and item.source.startswith(("feat_creator.", "feat_user_creator.")):
            assert found[name].tolist() == pa.array([item.default] * 2, pa.float32()).to_pylist(), name
