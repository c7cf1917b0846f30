"""What a declaration of a feature table may say, and what is refused."""

from pathlib import Path

import pytest

from ml.features.tables import DeclarationError, for_dbt, read_tables

TABLES = """
models:
  - name: feat_item
    config: {meta: {entity: [item_id], as: item}}
    columns: [{name: day}, {name: item_id}, {name: creator_id, config: {meta: {as: creator_id}}}, {name: ctr}]
  - name: feat_affinity
    config: {meta: {entity: [user_id, creator_id], as: affinity, default: {plays: 0, share: 0.5}}}
    columns: [{name: day}, {name: user_id}, {name: creator_id}, {name: plays}, {name: share}, {name: age}]
  - name: int_day
    columns: [{name: day}]
"""


def write(folder: Path, text: str) -> Path:
    (folder / "tables.yml").write_text(text, encoding="utf-8")
    return folder


def test_a_declared_table_has_its_entity_names_and_defaults_and_the_item_comes_first(tmp_path: Path) -> None:
    found = read_tables((write(tmp_path, TABLES),))
    assert list(found) == ["feat_item", "feat_affinity"]
    assert [column.alias for column in found["feat_item"].columns] == ["creator_id", "item_ctr"]
    assert found["feat_affinity"].defaults == {"plays": 0, "share": 0.5}
    item, affinity = for_dbt(found)
    assert item["same_entity"] == "exposures.item_id = feat_item.item_id"
    assert affinity["same_entity"] == (
        "exposures.user_id = feat_affinity.user_id and feat_item.creator_id = feat_affinity.creator_id"
    )
    assert affinity["columns"] == [
        {"value": "coalesce(feat_affinity.plays, 0)", "alias": "affinity_plays"},
        {"value": "coalesce(feat_affinity.share, 0.5)", "alias": "affinity_share"},
        {"value": "feat_affinity.age", "alias": "affinity_age"},
    ]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("entity: [item_id]", "entity: [song_id]", "feat_item.*song_id|song_id"),
        ("entity: [user_id, creator_id]", "entity: [creator_id, user_id]", "not in the order user_id, item_id"),
        ("entity: [item_id]", "entity: item_id", r"must be like \{entity: \[user_id\]"),
        (", as: item}", "}", "must be like"),
        ("share: 0.5", "shares: 0.5", "default names shares, which is no column"),
        ("as: affinity", "as: item", None),
        ("{name: ctr}", "{name: ctr, config: {meta: {as: hour}}}", "feat_item.ctr is hour in the examples, as is"),
        ("name: feat_item", "name: feat_track", "feat_item, which says whose an item is, is not declared"),
    ],
)
def test_a_declaration_that_cannot_be_joined_is_refused_by_name(
    tmp_path: Path, old: str, new: str, reason: str | None
) -> None:
    assert TABLES.count(old) == 1
    folder = write(tmp_path, TABLES.replace(old, new))
    if reason is None:
        assert len(read_tables((folder,))) == 2, "tables may share a prefix while their columns differ"
        return
    with pytest.raises(DeclarationError, match=reason):
        read_tables((folder,))


def test_two_tables_of_one_name_are_refused_with_both_files(tmp_path: Path) -> None:
    for name in ("ours", "app"):
        (tmp_path / name).mkdir()
    folders = write(tmp_path / "ours", TABLES), write(tmp_path / "app", TABLES)
    with pytest.raises(DeclarationError, match=r"app/tables\.yml: feature table feat_item is .*ours/tables"):
        read_tables(folders)
