"""Several teachers of a home: who is meant by a name, and what is refused because nobody could tell."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ml.foundation.settings import Settings, SettingsError, app_values, write_settings_file
from ml.surfaces.files import load_surface
from ml.surfaces.keys import SpecError
from ml.surfaces.spec import Surface
from ml.teacher.contract import ContractError, load_contract
from ml.teacher.teachers import LabelsOf, home_contracts, kinds_of, labels_of, teacher_names
from tests.checks.conftest import SPEC

Write = Callable[..., Path]


@pytest.fixture
def spelt(tmp_path: Path) -> Callable[..., Surface]:
    """A surface whose task and heads name these outputs."""

    def write(task: str | None, *heads: str) -> Surface:
        ctr = {**SPEC["tasks"]["ctr"], "teacher_output": task}
        found = [{"task": "ctr", "teacher_output": head, "weight": 0.1} for head in heads]
        content = {
            **SPEC,
            "tasks": {**SPEC["tasks"], "ctr": ctr},
            "distillation": {"technique": "auxiliary", "heads": found},
        }
        path = tmp_path / "surfaces" / "tiny.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return load_surface(path)

    return write


@pytest.fixture
def two(tmp_path: Path, teacher_folder: Write) -> Settings:
    """A home with the teachers ``video`` and ``books``: both know clicks, books alone knows ``seen``."""
    clicks = [{"task": "click", "kind": "logit"}]
    paths = {
        "video": teacher_folder(folder="video", name="video", outputs=clicks),
        "books": teacher_folder(folder="books", name="books").parent,
    }
    return Settings(home=tmp_path / "home", teachers=paths)


def test_heads_name_the_teacher_and_the_output(two: Settings, spelt: Callable[..., Surface]) -> None:
    surface = spelt("video/click", "books/seen")
    video, books = labels_of(two, surface)
    assert (video.teacher, video.outputs) == ("video", ("video/click",))
    assert (books.teacher, books.outputs) == ("books", ("books/click", "books/seen"))
    assert video.contract_hash == load_contract(two.teachers["video"]).contract_hash != books.contract_hash
    assert kinds_of(two, surface) == {"video/click": "logit", "books/click": "logit", "books/seen": "probability"}


def test_a_teacher_that_a_surface_does_not_name_does_not_label_it(two: Settings, spelt: Callable[..., Surface]) -> None:
    assert teacher_names(two, spelt(None, "books/seen")) == ("books",)
    assert [of.teacher for of in labels_of(two, spelt(None, "books/seen"))] == ["books"]
    assert teacher_names(two, spelt(None)) == ("video", "books"), "all of them where it names none"


def test_one_teacher_needs_no_name_and_may_be_named(
    tmp_path: Path, teacher_folder: Write, spelt: Callable[..., Surface]
) -> None:
    one = Settings(home=tmp_path / "home", teacher=teacher_folder())
    [contract] = home_contracts(one).values()
    assert labels_of(one, spelt("click", "click")) == (LabelsOf.only(contract),)
    assert labels_of(one, spelt("small/click", "small/seen"))[0].outputs == ("small/click", "small/seen")
    assert labels_of(one, spelt("small/click", "small/seen"))[0].teacher is None
    with pytest.raises(ContractError, match=r"no teacher 'smalll'; did you mean 'small/click'\?"):
        labels_of(one, spelt("smalll/click", "small/click"))


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ("click", r"'click' does not say whose output it is: write video/click or books/click"),
        ("seen", r"'seen' does not say whose output it is: write books/seen"),
        ("other", r"'other' does not say whose output it is: there are several teachers: video/click, books/click, "),
        ("vidoe/click", r"there is no teacher 'vidoe'; did you mean 'video/click'\?"),
        ("video/clickk", r"teacher 'video' has no output 'clickk'; did you mean 'video/click'\?"),
        ("video/seen", r"teacher 'video' has no output 'seen'; there are video/click"),
    ],
)
def test_a_name_that_may_mean_several_or_none_is_refused_with_the_nearest(
    two: Settings, spelt: Callable[..., Surface], head: str, told: str
) -> None:
    with pytest.raises(ContractError, match=rf"surface tiny: distillation\.heads\.0\.teacher_output: {told}"):
        labels_of(two, spelt(None, head))


def test_names_with_and_without_a_teacher_in_one_surface_are_refused(spelt: Callable[..., Surface]) -> None:
    with pytest.raises(SpecError, match=r"'video/click' with its teacher and 'click' without: write all of them alike"):
        spelt("click", "video/click")


def test_a_contract_of_another_name_and_two_of_one_name_are_refused(
    two: Settings, teacher_folder: Write, tmp_path: Path
) -> None:
    books = two.teachers["books"]
    wrong = Settings(home=tmp_path / "home", teachers={"boks": books})
    with pytest.raises(ContractError, match=r"teachers\.boks: .* is the contract of 'books': write `books`"):
        home_contracts(wrong)
    again = Settings(home=tmp_path / "home", teachers={"books": books, "video": books, "none": tmp_path / "none"})
    with pytest.raises(ContractError, match="two teachers cannot have one name") as refused:
        home_contracts(again)
    assert "teachers.none" in str(refused.value), "all faults are told at once"


def test_landed_scores_of_two_teachers_that_nothing_tells_apart_are_refused(
    tmp_path: Path, teacher_folder: Write
) -> None:
    def scored(name: str, version: str) -> Path:
        landed: dict[str, Any] = {"name": name, "version": version, "model": None, "inputs": None, "scores": True}
        return teacher_folder(folder=f"{name}{version}", **landed)

    same = Settings(home=tmp_path / "home", teachers={"a": scored("a", "1"), "b": scored("b", "1")})
    with pytest.raises(
        ContractError, match=r"teachers\.b: its landed scores of 'click' have the teacher_version '1' of"
    ):
        home_contracts(same)
    other = same.model_copy(update={"teachers": {"a": scored("a", "1"), "b": scored("b", "2")}})
    assert list(home_contracts(other)) == ["a", "b"]


def test_settings_have_one_teacher_or_several_and_keep_them(tmp_path: Path) -> None:
    app = tmp_path / "app"
    app.mkdir()
    (app / "crossfade.toml").write_text('teachers = {video = "teacher/video", books = "teacher/books"}\n')
    assert app_values(app)["teachers"] == {name: app / "teacher" / name for name in ("video", "books")}
    home = Settings(home=tmp_path / "home", app=app)
    assert home.teacher is None and not home.trains_demo_teacher and list(home.teachers) == ["video", "books"]
    write_settings_file(home.home, {"app": app, "teachers": {"video": tmp_path / 'a "b"'}})
    assert Settings(home=home.home).teachers == {"video": tmp_path / 'a "b"'}
    with pytest.raises(SettingsError, match=r"both `teacher` .* and `teachers` \(video\) are set: leave one out"):
        Settings(home=tmp_path / "other", teacher=app / "contract.yaml", teachers={"video": app})
    with pytest.raises(SettingsError, match=r"'a/b' is no name of a teacher"):
        Settings(home=tmp_path / "other", teachers={"a/b": app})
