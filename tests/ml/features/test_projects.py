"""The app's SQL beside ours: which dbt projects there are, where dbt finds them, and their hash."""

import shutil
from pathlib import Path

import pytest

from ml.features.projects import ProjectError, app_projects, link_packages, packages_dir, project_hash
from ml.foundation.settings import EXAMPLES, Settings


def project(folder: Path, name: str, packages: str = "") -> Path:
    folder.mkdir()
    (folder / "dbt_project.yml").write_text(f"name: {name}\n", encoding="utf-8")
    if packages:
        (folder / "packages.yml").write_text(f"packages: [{packages}]\n", encoding="utf-8")
    return folder


def test_an_app_takes_over_the_sql_of_another(tmp_path: Path) -> None:
    taken = app_projects(Settings(home=tmp_path, app=EXAMPLES / "kuairand"))
    assert taken == {"kuairand": EXAMPLES / "kuairand", "simulator": EXAMPLES / "simulator"}


@pytest.mark.parametrize(
    ("name", "packages", "message"),
    [
        ("crossfade", "", "app/dbt_project.yml: name 'crossfade' is that of the project at"),
        ("mine", "{local: ../other}", "other/dbt_project.yml: name 'mine' is that of the project at"),
        ("mine", "{package: dbt-labs/dbt_utils}", "app/packages.yml: .* is not `local: <folder>`"),
        ("mine", "{local: ../none}", "none/dbt_project.yml: .*No such file"),
        ("[", "", "app/dbt_project.yml: "),
    ],
)
def test_a_project_that_dbt_could_not_take_is_refused_by_its_file(
    tmp_path: Path, name: str, packages: str, message: str
) -> None:
    project(tmp_path / "other", "mine")
    with pytest.raises(ProjectError, match=message):
        app_projects(Settings(home=tmp_path, app=project(tmp_path / "app", name, packages)))


def test_a_copied_home_follows_its_app_and_not_the_copy(tmp_path: Path) -> None:
    app = project(tmp_path / "app", "mine")
    settings = Settings(home=tmp_path / "home", app=app)
    link_packages(settings)
    copied = Settings(home=shutil.copytree(tmp_path / "home", tmp_path / "copy"), app=app)
    assert not (packages_dir(copied) / "mine").is_symlink()
    for _ in range(2):
        link_packages(copied)
        assert [(path.name, path.readlink()) for path in packages_dir(copied).iterdir()] == [("mine", app)]


def test_the_hash_is_of_the_sql_of_both_and_of_nothing_else(tmp_path: Path) -> None:
    app = project(tmp_path / "app", "mine")
    settings = Settings(home=tmp_path / "home", app=app)
    before = project_hash(settings)
    for name in ("surfaces", "landing"):
        (app / name).mkdir()
        (app / name / "x.yaml").write_text("{}", encoding="utf-8")
    assert project_hash(settings) == before
    (app / "models").mkdir()
    (app / "models" / "x.sql").write_text("select 1", encoding="utf-8")
    after = project_hash(settings)
    assert after != before
    moved = Settings(home=tmp_path / "home", app=app.rename(tmp_path / "moved"))
    assert project_hash(moved) == after
