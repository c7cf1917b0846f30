"""Where a setting comes from: arguments, environment, the home's file, the app's file, defaults."""

from datetime import date
from pathlib import Path

import pytest

from ml.foundation.settings import EXAMPLES, Settings, SettingsError


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    folder.mkdir()
    return folder


def test_the_first_who_says_what_a_setting_is_wins(tmp_path: Path, app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("seed", "feature_window_days", "keep_releases", "serve_port")
    (app / "crossfade.toml").write_text("".join(f"{name} = 11\n" for name in names), encoding="utf-8")
    home = tmp_path / "home"
    home.mkdir()
    (home / "crossfade.toml").write_text("".join(f"{name} = 12\n" for name in names[:3]), encoding="utf-8")
    for name in names[:2]:
        monkeypatch.setenv(f"CROSSFADE_{name.upper()}", "13")
    settings = Settings(home=home, app=app, seed=14)
    assert [getattr(settings, name) for name in names] == [14, 13, 12, 11]


def test_an_app_is_found_by_its_variable_and_its_paths_start_at_its_folder(
    tmp_path: Path, app: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (app / "crossfade.toml").write_text(
        f'source = "files"\nlanding_dir = "landing"\nteacher = "{tmp_path}/t.yaml"\nlast_day = 2026-03-06\n',
        encoding="utf-8",
    )
    monkeypatch.setenv("CROSSFADE_APP", str(app))
    monkeypatch.setenv("CROSSFADE_LANDING_DIR", "elsewhere")
    settings = Settings(home=tmp_path / "home")
    assert (settings.app, settings.source, settings.last_day) == (app, "files", date(2026, 3, 6))
    assert settings.surfaces_dir == app / "surfaces"
    assert settings.teacher_spec == app / "teacher" / "demo.yaml"
    assert settings.teacher == tmp_path / "t.yaml"
    assert settings.landing_dir == Path("elsewhere").absolute()
    monkeypatch.delenv("CROSSFADE_LANDING_DIR")
    assert Settings(home=tmp_path / "home").landing_dir == app / "landing"


@pytest.mark.parametrize(
    ("source", "name"), [(None, "simulator"), ("simulator", "simulator"), ("files", "simulator"), ("kuairand",) * 2]
)
def test_without_a_variable_the_app_is_the_demo_of_the_source(tmp_path: Path, source: str | None, name: str) -> None:
    settings = Settings(home=tmp_path, source=source) if source else Settings(home=tmp_path)  # type: ignore[arg-type]
    assert settings.app == EXAMPLES / name
    assert settings.surfaces_dir == EXAMPLES / name / "surfaces"
    assert settings.teacher_spec == EXAMPLES / name / "teacher" / "demo.yaml"
    assert settings.source == (source or "simulator")


def test_an_app_brings_its_source_along(tmp_path: Path) -> None:
    assert Settings(home=tmp_path, app=EXAMPLES / "kuairand").source == "kuairand"


def test_a_home_remembers_its_app(tmp_path: Path, app: Path) -> None:
    (tmp_path / "crossfade.toml").write_text(f'app = "{app}"\n', encoding="utf-8")
    assert Settings(home=tmp_path).surfaces_dir == app / "surfaces"


def test_an_app_that_is_not_there_or_says_where_a_home_is_is_refused_by_its_path(tmp_path: Path, app: Path) -> None:
    with pytest.raises(ValueError, match=f"no folder at {tmp_path}/none"):
        Settings(home=tmp_path, app=tmp_path / "none")
    (app / "crossfade.toml").write_text('home = "/somewhere"\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"app/crossfade\.toml: home cannot be set"):
        Settings(home=tmp_path, app=app)


def test_every_fault_of_the_settings_is_told_at_once_with_what_gave_it(
    tmp_path: Path, app: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (app / "crossfade.toml").write_text('seed = 1\nsourze = "files"\nquiet_minutes = -1\n', encoding="utf-8")
    for name, value in {"FIRST_DAY": "01/05/2026", "SOURCE": "file", "LANDING_DR": "x", "DEMO": "perhaps"}.items():
        monkeypatch.setenv(f"CROSSFADE_{name}", value)
    with pytest.raises(SettingsError) as refused:
        Settings(home=tmp_path, app=app)
    assert set(str(refused.value).splitlines()) == {
        "CROSSFADE_LANDING_DR: unknown variable; did you mean 'CROSSFADE_LANDING_DIR'?",
        "CROSSFADE_FIRST_DAY: must be a day such as 2026-03-01, not '01/05/2026'",
        "CROSSFADE_SOURCE: must be 'simulator', 'kuairand' or 'files', not 'file'; did you mean 'files'?",
        "CROSSFADE_DEMO: must be true or false, not 'perhaps'",
        f"{app}/crossfade.toml line 2: sourze: unknown key; did you mean 'source'?",
        f"{app}/crossfade.toml line 3: quiet_minutes: must be greater than or equal to 0, not -1",
    }


def test_a_variable_that_is_near_no_setting_is_refused_too_and_a_cluster_may_set_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "CROSSFADE_SERVICE_HOST": "10.0.0.1",
        "CROSSFADE_SERVER_PORT_8080_TCP_ADDR": "10.0.0.1",
        "CROSSFADE_UI_PORT": "tcp://10.0.0.1:3000",
        "CROSSFADE_TRACEBACK": "1",
    }.items():
        monkeypatch.setenv(name, value)
    assert Settings(home=tmp_path).source == "simulator"
    monkeypatch.setenv("CROSSFADE_ZZZZ", "1")
    with pytest.raises(SettingsError, match="CROSSFADE_ZZZZ: unknown variable; `crossfade settings`"):
        Settings(home=tmp_path)


def test_a_list_that_is_no_json_is_told_as_it_must_be_and_a_secret_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSFADE_OPTIONAL_TABLES", "a,b")
    with pytest.raises(SettingsError, match=r"""CROSSFADE_OPTIONAL_TABLES: must be .*'\["a", "b"\]', not 'a,b'"""):
        Settings(home=tmp_path)
    monkeypatch.delenv("CROSSFADE_OPTIONAL_TABLES")
    with pytest.raises(SettingsError) as refused:
        Settings(home=tmp_path, serve_token=["hunter2"])  # type: ignore[arg-type]
    assert "serve_token" in str(refused.value) and "hunter2" not in str(refused.value)
