"""The command line: what it prints and refuses."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from deploy.cli.configuration import rows
from deploy.cli.main import app, main
from deploy.home import given
from ml.foundation.settings import Settings, write_settings_file
from tests.support.commands import home_environment
from tests.support.pages import as_shown

ROOT = Path(__file__).resolve().parents[2]


def run(home: Path, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    full = {**os.environ, "CROSSFADE_HOME": str(home), "PYTHONPATH": str(ROOT), "COLUMNS": "200", **(environment or {})}
    command = [sys.executable, "-W", "ignore", "-m", "deploy.cli", *arguments]
    return subprocess.run(command, env=full, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[object, str]]:
    """A function that runs the command line in this process and returns exit status and what it told."""

    def made(home: Path, *arguments: str) -> tuple[object, str]:
        for name, value in home_environment(home, COLUMNS="200").items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["crossfade", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr().err

    return made


def test_help_names_every_command(tmp_path: Path) -> None:
    printed = run(tmp_path, "--help").stdout
    for command in ("init", "demo", "simulate", "kuairand", "ui", "serve", "tune", "diagnose", "release", "new"):
        assert re.search(rf"\b{command}\b", printed), command


def test_a_demo_in_a_home_of_other_data_is_refused_in_one_true_sentence(
    tmp_path: Path, call: Callable[..., tuple[object, str]]
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    write_settings_file(home, {"source": "files", "first_day": "2026-05-01", "landing_dir": str(tmp_path)})
    before = (home / "crossfade.toml").read_bytes()
    code, told = call(home, "demo", "--preset", "tiny")
    assert code == 1 and "rebuilt" not in told
    assert f"{home} holds other data (source files, first day 2026-05-01) and was not made by a demo" in told
    assert [path.name for path in home.iterdir()] == ["crossfade.toml"] and before == (
        home / "crossfade.toml"
    ).read_bytes()


LOADED = """
import sys
from deploy.cli.main import app, main
from typer.core import TyperGroup
from typer.main import get_command

def commands(command, *path):
    yield path
    if isinstance(command, TyperGroup):
        for name, found in command.commands.items():
            yield from commands(found, *path, name)

def run(*arguments):
    sys.argv = ["crossfade", *arguments]
    try:
        main()
    except SystemExit:
        pass

if sys.argv[1:] == ["every", "help"]:
    for path in list(commands(get_command(app))):
        run(*path, "--help")
else:
    run(*sys.argv[1:])
print("loaded", *sorted({name.split(".")[0] for name in sys.modules}))
"""
HEAVY = {
    "dagster",
    "dbt",
    "torch",
    "polars",
    "scipy",
    "matplotlib",
    "onnxruntime",
    "great_expectations",
    "sklearn",
    "ray",
}


@pytest.mark.parametrize(
    "arguments",
    [("every", "help"), ("settings",), ("release", "list", "homepage"), ("doctor",), ("new", "surface", "Podcasts")],
    ids=" ".join,
)
def test_a_command_that_runs_no_graph_starts_light(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    environment = home_environment(tmp_path)
    command = [sys.executable, "-W", "ignore", "-c", LOADED, *arguments]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = done.stdout.splitlines()[-1].split()
    assert loaded[0] == "loaded" and "typer" in loaded
    assert not HEAVY & set(loaded)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("demo", "--source", "spotify"), "unknown source 'spotify'"),
        (("demo", "--source", "kuairand"), "KUAIRAND_DIR"),
        (("tune", "podcasts", "--partition", "2026-01-10"), "no surface 'podcasts'"),
        (("tune", "homepage", "--partition", "2026-01-11"), "training_set of 2026-01-11 is missing"),
        (("release", "show", "homepage"), "homepage has no champion"),
        (("new", "surface", "Podcasts"), "'Podcasts'"),
        (("release", "promote", "homepage", "--partition", "soon"), "must be a day such as 2026-03-01, not 'soon'"),
        (
            ("release", "promote", "homepage", "--partition", "2025-12-31"),
            "outside of the days that there are, 2026-01-01",
        ),
    ],
)
def test_a_wrong_call_is_one_line_with_the_value(
    tmp_path: Path, call: Callable[..., tuple[object, str]], arguments: tuple[str, ...], message: str
) -> None:
    code, told = call(tmp_path, *arguments)
    assert code == 1
    assert message in told
    assert "Traceback" not in told


def test_a_home_that_is_not_there_is_refused_and_not_made(
    tmp_path: Path, call: Callable[..., tuple[object, str]]
) -> None:
    home = tmp_path / "none"
    for arguments in (("release", "list", "homepage"), ("serve",), ("quarantine",)):
        code, told = call(home, *arguments)
        assert code == 1 and f"no instance directory at {home}" in told
    assert not home.exists()


def test_a_port_that_is_taken_is_named_with_who_has_it_and_how_to_choose_another(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = run(tmp_path, "serve", environment={"CROSSFADE_SERVE_PORT": str(port)})
    assert refused.returncode == 1
    assert f"port {port} of 127.0.0.1 is in use by process {os.getpid()} (" in refused.stderr
    assert "--port, or CROSSFADE_SERVE_PORT" in refused.stderr


def test_who_asks_is_known_without_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CROSSFADE_HOME", str(tmp_path))
    result = CliRunner().invoke(app, ["release", "confirm", "homepage", "--reason", "x"])
    assert isinstance(result.exception, FileNotFoundError)  # the lake, which comes after who asks


def test_init_refuses_a_home_with_days_of_another_source_or_first_day(tiny_demo: Path) -> None:
    kept = (tiny_demo / "crossfade.toml").read_bytes()
    changes = {"CROSSFADE_SOURCE": "files", "CROSSFADE_FIRST_DAY": "2026-01-02"}
    refused = run(tiny_demo, "init", environment=changes)
    assert refused.returncode == 1
    assert f"instance directory: {tiny_demo} (CROSSFADE_HOME); app: {ROOT}/examples/simulator" in refused.stderr
    assert (
        "source is simulator there, and files now; first_day is 2026-01-01 there, and 2026-01-02 now" in refused.stderr
    )
    assert "11 landed days, 2026-01-01 to 2026-01-11" in refused.stderr
    assert (tiny_demo / "crossfade.toml").read_bytes() == kept


def test_new_surface_writes_a_yaml_and_two_models_and_never_overwrites(tmp_path: Path) -> None:
    from ml.surfaces.files import load_surface

    root = tmp_path / "My app"
    assert run(tmp_path, "new", "surface", "podcasts", "--into", str(root)).returncode == 0
    assert load_surface(root / "surfaces" / "podcasts.yaml").name == "podcasts"
    models = sorted(path.name for path in (root / "models" / "surfaces" / "podcasts").iterdir())
    assert models == [
        "examples_podcasts.sql",
        "examples_podcasts.yml",
        "exposures_podcasts.yml",
        "teacher_inputs_podcasts.sql",
        "teacher_inputs_podcasts.yml",
    ]
    assert yaml.safe_load((root / "dbt_project.yml").read_text(encoding="utf-8"))["name"] == "my_app"
    again = run(tmp_path, "new", "surface", "podcasts", "--into", str(root))
    assert again.returncode == 1 and "exists already" in again.stderr


def test_new_surface_goes_into_the_folder_of_the_app_and_never_into_the_checkout(tmp_path: Path) -> None:
    app = tmp_path / "app"
    app.mkdir()
    done = run(tmp_path, *as_shown("crossfade new surface podcasts"), environment={"CROSSFADE_APP": str(app)})
    written = [Path(line.removeprefix("wrote ")) for line in done.stdout.splitlines()]
    assert len(written) == 7 and all(path.is_relative_to(app) and path.is_file() for path in written)
    refused = run(tmp_path, "new", "surface", "podcasts")
    assert refused.returncode == 1 and "CROSSFADE_APP is not set" in refused.stderr
    own = tmp_path / "surfaces" / "homepage.yaml"
    own.parent.mkdir()
    own.touch()
    environment = {"CROSSFADE_APP": str(app), "CROSSFADE_SURFACES_DIR": str(own.parent)}
    refused = run(tmp_path, "new", "surface", "homepage", environment=environment)
    assert refused.returncode == 1
    assert str(own) in refused.stderr


def test_settings_say_which_of_them_the_app_gave(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "crossfade.toml").write_text("feature_window_days = 5\n", encoding="utf-8")
    found = {row.variable: row for row in rows(Settings(home=tmp_path / "home", app=tmp_path / "app"))}
    assert (found["CROSSFADE_FEATURE_WINDOW_DAYS"].value, found["CROSSFADE_FEATURE_WINDOW_DAYS"].source) == ("5", "app")
    assert found["CROSSFADE_APP"].value == str(tmp_path / "app")


def test_a_home_leaves_to_the_app_what_the_apps_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app, home = tmp_path / "app", tmp_path / "home"
    app.mkdir()
    (app / "crossfade.toml").write_text("seed = 3\nfeature_window_days = 5\n", encoding="utf-8")
    for name, value in {"APP": str(app), "FEATURE_WINDOW_DAYS": "9"}.items():
        monkeypatch.setenv(f"CROSSFADE_{name}", value)
    assert given(Settings(home=home)) == {"app": app, "feature_window_days": 9}


def test_a_home_keeps_what_it_was_given_but_nothing_of_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crossfade.toml").write_text("seed = 7\n", encoding="utf-8")
    exported = {"SOURCE": "files", "TEACHER": "t.yaml", "THREADS": "1", "SERVE_TOKEN": "secret"}
    for name, value in exported.items():
        monkeypatch.setenv(f"CROSSFADE_{name}", value)
    kept = given(Settings(home=tmp_path))
    assert kept == {"seed": 7, "source": "files", "teacher": Path("t.yaml").absolute()}
    write_settings_file(tmp_path, kept)
    for name in exported:
        monkeypatch.delenv(f"CROSSFADE_{name}")
    again = Settings(home=tmp_path)
    assert (again.source, again.teacher, again.serve_token) == ("files", Path("t.yaml").absolute(), None)


def test_make_ui_is_the_command_that_opens_the_ui() -> None:
    make = [
        "make",
        "--no-print-directory",
        "--dry-run",
        "--old-file=.venv/bin/.runtime",
        "VENV=.venv",
        *as_shown("make ui"),
    ]
    printed = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed == ".venv/bin/crossfade ui\n"


def test_make_help_names_every_target() -> None:
    printed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("demo", "test", "ui", "lint", "lock", "install"):
        assert f"make {target}" in printed
