"""A surface's file: everything that is wrong in it is told at once, with its line and the nearest right name."""

from pathlib import Path

import pytest

from ml.foundation.settings import EXAMPLES, Settings
from ml.surfaces.files import load_surface, load_surfaces
from ml.surfaces.keys import SpecError

HOMEPAGE = EXAMPLES / "simulator" / "surfaces" / "homepage.yaml"


def told(tmp_path: Path, **changes: str) -> str:
    text = HOMEPAGE.read_text(encoding="utf-8")
    for before, after in changes.items():
        assert before in text
        text = text.replace(before, after)
    path = tmp_path / "homepage.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError) as refused:
        load_surface(path)
    assert str(refused.value).startswith(f"{path}: ")
    return str(refused.value)


def line(text: str) -> int:
    return next(n for n, at in enumerate(HOMEPAGE.read_text(encoding="utf-8").splitlines(), 1) if at.startswith(text))


def test_wrong_keys_and_values_are_named_with_line_and_nearest_key(tmp_path: Path) -> None:
    said = told(tmp_path, **{"distillation:": "distilation:", "rank_by:": "rank_bye:", "eval_days: 3": "eval_days: 0"})
    assert f"line {line('distillation:')}: distilation: unknown key; did you mean 'distillation'?" in said
    assert f"line {line('rank_by:')}: rank_bye: unknown key; did you mean 'rank_by'?" in said
    assert f"line {line('window:')}: window.eval_days: must be greater than or equal to 1, not 0" in said
    assert "distillation: is missing" in said and "rank_by: is missing" in said


def test_names_that_nothing_has_are_all_told_with_the_nearest(tmp_path: Path) -> None:
    said = told(tmp_path, **{"- [user_id, item_id]": "- [user_idd, item_id]", "quality: {ctr:": "quality: {ctrr:"})
    assert "network.products names 'user_idd', which is no input; did you mean 'user_id'?" in said
    assert "gate.quality names 'ctrr', which is no task; did you mean 'ctr'?" in said
    assert "gate.quality judges no ctr, by which rank_by ranks" in said


def test_every_file_of_a_folder_is_told_and_two_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text("namez: x\n", encoding="utf-8")
    with pytest.raises(SpecError) as refused:
        load_surfaces(Settings(home=tmp_path, surfaces_dir=tmp_path))
    assert [text.split(":")[0] for text in str(refused.value).splitlines()] == [
        str(tmp_path / "a.yaml"),
        str(tmp_path / "b.yaml"),
    ]
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(f"extends: {HOMEPAGE}\n", encoding="utf-8")
    with pytest.raises(SpecError, match=r"b\.yaml: name: another file of this folder has 'homepage' too"):
        load_surfaces(Settings(home=tmp_path, surfaces_dir=tmp_path))
