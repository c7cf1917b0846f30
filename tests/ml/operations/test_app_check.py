"""What is wrong in an app's folder is found before a run, all of it at once, with file, key and nearest right name."""

import json
import shutil
from datetime import date
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.cli.main import app as cli
from ml.foundation.settings import EXAMPLES, Settings
from ml.operations.app_files import examine_files, require_files
from ml.operations.app_trial import column_faults, examine_trial, trial_settings
from ml.operations.findings import State
from ml.surfaces.files import load_surface
from ml.surfaces.scaffold import scaffold, scaffold_app
from tests.support.pages import as_shown


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A copy of the simulated app with one surface."""
    folder = shutil.copytree(EXAMPLES / "simulator", tmp_path / "app")
    (folder / "surfaces" / "homepage.yaml").unlink()
    shutil.rmtree(folder / "models" / "surfaces" / "homepage")
    return folder


def edit(path: Path, **changes: str) -> None:
    text = path.read_text(encoding="utf-8")
    for before, after in changes.items():
        assert before in text, before
        text = text.replace(before, after)
    path.write_text(text, encoding="utf-8")


def test_names_that_feature_tables_and_teacher_have_not_are_found_in_the_files(tmp_path: Path, app: Path) -> None:
    settings = Settings(home=tmp_path / "home", app=app)
    assert {finding.state for finding in examine_files(settings)} == {State.GOOD}
    require_files(settings)
    edit(
        app / "surfaces" / "radio.yaml",
        **{
            "feat_item.age_days": "feat_item.age_dais",
            "feat_user.": "feat_usr.",
            "teacher_output: continue": "teacher_output: go_on",
        },
    )
    (app / "contract.yaml").write_text("tablez: {}\n", encoding="utf-8")
    (app / "surface").mkdir()
    found = {finding.what: finding for finding in examine_files(settings)}
    names = found["names"].told
    assert found["names"].state is State.BAD
    assert (
        "radio.yaml: inputs.item_age_days: feature table feat_item has no column 'age_dais'; did you mean 'age_days'?"
        in names
    )
    assert "no feature table 'feat_usr'; did you mean 'feat_user'?" in names
    assert "distillation.heads.0.teacher_output: the teacher has no output 'go_on'; there are click, " in names
    assert f"{app}/contract.yaml: unknown key 'tablez'; did you mean 'tables'?" in found["landing contract"].told
    assert found["app"].told == f"{app}/surface: not read; did you mean 'surfaces'?"
    with pytest.raises(ValueError) as refused:
        require_files(settings)
    assert "age_dais" in str(refused.value) and "tablez" in str(refused.value)


def test_a_landing_zone_that_was_named_and_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no folder at .*/none; .* CROSSFADE_LANDING_DIR"):
        require_files(Settings(home=tmp_path, source="files", landing_dir=tmp_path / "none"))
    require_files(Settings(home=tmp_path, landing_dir=tmp_path / "none"))  # the simulator fills it


def test_a_teacher_whose_files_are_not_there_is_refused(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / "recipes", tmp_path / "app", ignore=shutil.ignore_patterns("*.onnx", "landing"))
    found = {f.what: f for f in examine_files(Settings(home=tmp_path / "home", app=tmp_path / "app"))}
    assert found["teacher contract"].state is State.BAD
    assert found["teacher contract"].told == f"{tmp_path}/app/teacher/model.onnx: no such file"


def test_a_file_of_the_present_ranker_that_is_not_there_is_told_with_the_nearest(tmp_path: Path, app: Path) -> None:
    (app / "today").mkdir()
    (app / "today" / "ranker.onnx").touch()
    incumbent = "incumbent: {version: v1, onnx: today/rankr.onnx, inputs: {x: item_plays}, scores: {engagement: y}}\n"
    with (app / "surfaces" / "radio.yaml").open("a", encoding="utf-8") as file:
        file.write(incumbent)
    found = {f.what: f for f in examine_files(Settings(home=tmp_path / "home", app=app))}
    assert found["present ranker"].state is State.BAD
    assert "radio.yaml: incumbent.onnx: no file" in found["present ranker"].told
    assert "did you mean 'today/ranker.onnx'?" in found["present ranker"].told


def test_columns_that_the_examples_lack_are_told_with_the_nearest() -> None:
    radio = load_surface(EXAMPLES / "simulator" / "surfaces" / "radio.yaml")
    has = [*radio.inputs, "label_engaged", "item_age", "user_tenure_days", "item_impressions"]
    has.remove("item_age_days")
    faults = list(column_faults(radio, has))
    near = "examples_radio has no column 'item_age_days'; did you mean 'item_age'?"
    assert (
        "tasks.engagement.label: examples_radio has no column 'label_engagement'; did you mean 'label_engaged'?"
        in faults
    )
    assert f"inputs.item_age_days: {near}" in faults and f"slices.new_releases: {near}" in faults


def test_a_source_that_cannot_be_asked_is_a_finding_among_the_others(tmp_path: Path, app: Path) -> None:
    (app / "sources.yaml").write_text(
        "attach: {log: {type: parquet, path: log.parquet}}\n"
        "tables: {listens: {query: 'select * from log where ts >= {day} and ts < {next_day}'}}\n",
        encoding="utf-8",
    )
    settings = Settings(home=tmp_path / "home", app=app, landing_dir=tmp_path / "landing")
    trial = examine_trial(trial_settings(settings, tmp_path / "trial"), [])
    found = next(finding for finding in trial if finding.what == "sample day")
    assert found.state is State.BAD and "attach.log: parquet cannot be reached" in found.told
    assert f"{tmp_path}/landing/log.parquet" in found.told, "a relative path starts at the landing zone"


@pytest.mark.slow
def test_sql_that_cannot_be_built_is_found_on_an_empty_day_without_a_lake(
    tmp_path: Path, app: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = app / "models" / "surfaces" / "radio"
    edit(models / "examples_radio.sql", **{"listens.outcome": "listens.outcom"})
    monkeypatch.setenv("CROSSFADE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CROSSFADE_APP", str(app))
    done = CliRunner().invoke(cli, [*as_shown("crossfade check"), "--json"])
    found = {finding["what"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert done.exit_code == 1 and found["sql"]["state"] == State.BAD
    assert "models/surfaces/radio/examples_radio.sql" in found["sql"]["told"] and "outcom" in found["sql"]["told"]
    assert found["columns"]["state"] == State.DOUBTFUL
    assert not (tmp_path / "home").exists()


def test_a_new_app_is_good_before_the_first_edit_and_lands_labels_and_builds_a_day_of_the_simulator(
    tmp_path: Path, built_demo: Path
) -> None:
    app = tmp_path / "my app"
    written = scaffold_app(app, "homepage", date(2026, 1, 1))
    scaffold("radio", app)
    assert {path.name for path in written} >= {"crossfade.toml", "check.yml", "README.md", "homepage.yaml"}
    alone = Settings(home=tmp_path / "home", app=app)
    assert {f.what: f.told for f in examine_files(alone) if f.state is not State.GOOD} == {}
    require_files(alone)
    settings = Settings(
        home=tmp_path / "home",
        app=app,
        landing_dir=built_demo / "landing",
        teacher=built_demo / "teacher" / "contract.yaml",
    )
    found = {f.what: f for f in examine_trial(trial_settings(settings, tmp_path / "trial"), [])}
    assert {name: f.told for name, f in found.items() if f.state is not State.GOOD} == {}
    assert "rows land, 0 would go to quarantine" in found["sample day"].told
    assert found["sample labels"].told.count("% of inputs defaulted") == 2
    with pytest.raises(ValueError, match="exists already"):
        scaffold_app(app, "homepage", date(2026, 1, 1))
