"""What a command prints where nobody looks on: its result whole on stdout, everything else on stderr."""

import inspect
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from deploy.cli import terminal
from deploy.cli.main import app
from ml.foundation.settings import Settings
from ml.operations.release_page import gain
from ml.releases.release import Release
from ml.releases.store import ReleaseStore
from ml.stages.evaluation import read_evaluation
from ml.surfaces.files import load_surface, load_surfaces
from tests.support.commands import ROOT, home_environment
from tests.support.pages import as_shown

NARROW = {"COLUMNS": "40", "TERM": "xterm"}


def run(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command with pipes for both outputs, in an environment that claims 40 columns."""
    command = [sys.executable, "-W", "ignore", "-m", "deploy.cli", *arguments]
    environment = home_environment(home, **NARROW, **environment)
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


@pytest.fixture(scope="module")
def settings(tiny_demo: Path) -> Settings:
    return Settings(home=tiny_demo, surfaces_dir=ROOT / "tests" / "surfaces", threads=1)


@pytest.fixture(scope="module")
def release(settings: Settings) -> Release:
    champion = ReleaseStore(settings.artifacts_dir).champion("homepage")
    assert champion is not None
    return champion.release


def test_a_list_of_releases_has_a_line_per_move_with_every_value_whole(settings: Settings, release: Release) -> None:
    done = run(settings.home, "release", "list", "homepage")
    title, columns, *moves = done.stdout.splitlines()
    history = ReleaseStore(settings.artifacts_dir).history("homepage")
    assert title == "champions of homepage" and len(moves) == len(history) and done.stderr == ""
    assert columns.split() == [
        "number",
        "at",
        "action",
        "release",
        "by",
        "reason",
        "signature",
        "gain",
        "over",
        "control",
    ]
    for line, move in zip(moves, reversed(history), strict=True):
        assert cells(line)[2:] == [move.action, move.release, move.by, move.reason, "unsigned", gain(release.verdict)]


def test_a_verdict_is_on_stdout_and_where_it_lies_is_a_note(settings: Settings, release: Release) -> None:
    done = run(settings.home, "release", "verdict", "homepage")
    title, _, *guards = done.stdout.splitlines()
    assert title == f"verdict of homepage {release.manifest.partition}: pass"
    for line, guard in zip(guards, release.verdict.guards, strict=False):
        assert guard.name in line and guard.outcome in line and " ".join(guard.reason.split()) in line
    assert done.stderr.startswith("read /")
    advised = {guard.name: guard.to_do for guard in release.verdict.guards if guard.to_do}
    assert advised, "the tiny demo's first release has something to warn of"
    for name, to_do in advised.items():
        assert any(line.startswith(f"{name} ") and line.endswith(to_do) for line in done.stdout.splitlines())


def test_a_release_is_a_page(settings: Settings, release: Release) -> None:
    done = run(settings.home, *as_shown("crossfade release show homepage"))
    page, pointer = done.stdout, ReleaseStore(settings.artifacts_dir).pointer("homepage")
    assert pointer is not None and done.stderr == ""
    assert 20 < len(page.splitlines()) < 45
    shown = dict(cells(line) for line in page.splitlines() if len(cells(line)) == 2)
    assert shown["release"] == release.id and shown["surface"] == "homepage"
    assert shown["state"] == f"champion, version {pointer.version}; the reference"
    assert shown["promoted"] == f"{pointer.at:%Y-%m-%d %H:%M} UTC by {pointer.by}: {pointer.reason}"
    assert shown["gain over control"] == gain(release.verdict) != ""
    assert shown["lake snapshot"] == str(release.manifest.snapshot)
    assert release.manifest.teacher is not None and release.manifest.teacher.name in shown["teacher"]
    assert all(f"{guard.name}  " in page for guard in release.verdict.guards)
    evaluation = read_evaluation(settings, load_surfaces(settings)["homepage"], release.manifest.partition)
    ctr = evaluation.difference("student", "control", "ctr")
    assert f"{100 * ctr.estimate:+.2f} [{100 * ctr.lo:+.2f}, {100 * ctr.hi:+.2f}]" in page
    assert all(day.content_hash not in page for day in release.manifest.examples)


def test_the_whole_manifest_is_printed_if_asked_for(settings: Settings, release: Release) -> None:
    done = run(settings.home, "release", "show", "homepage", release.id, "--manifest")
    assert json.loads(done.stdout) == release.manifest.model_dump(mode="json")


def test_tuning_prints_what_it_tried_and_writes_what_is_better(settings: Settings, tmp_path: Path) -> None:
    path, day = tmp_path / "homepage.yaml", str(Settings(home=settings.home).last_day)
    before = (ROOT / "tests" / "surfaces" / "homepage.yaml").read_text(encoding="utf-8")
    text = before.replace("extends: ", f"extends: {ROOT}/tests/surfaces/")
    path.write_text(text, encoding="utf-8")
    of_page = {"podcasts": "homepage", "2026-03-06": day, "10": "0"}
    limits = as_shown("crossfade tune podcasts --partition 2026-03-06 --minutes 10", of_page)
    where = {"CROSSFADE_SURFACES_DIR": str(tmp_path)}
    done = run(settings.home, *limits, "--dry-run", **where)
    assert path.read_text(encoding="utf-8") == text
    titles = [line for line in done.stdout.splitlines() if line.endswith("best first")]
    assert [title.split()[0] for title in titles] == ["control", "student"]
    assert "unexplained" in done.stdout and f"wrote {path}" not in done.stderr
    told = json.loads(run(settings.home, *limits, "--json", **where).stdout)
    after = path.read_text(encoding="utf-8")
    assert done.stdout.endswith(told["changes"]) and bool(told["changes"]) == (after != text)
    chosen = load_surface(path).distillation.technique
    assert chosen == (told["student"]["setting"] or {"technique": "none"})["technique"]


def test_a_diagnosis_is_on_stdout_and_its_progress_is_not(settings: Settings, release: Release, tmp_path: Path) -> None:
    out = tmp_path / "diagnosis.md"
    day = str(release.manifest.partition)
    words = as_shown("crossfade diagnose homepage --partition 2026-02-01", {"2026-02-01": day})
    done = run(settings.home, *words, "--seeds", "1", "--out", str(out))
    title, columns, *tasks = done.stdout.splitlines()
    assert "gain over the control of homepage" in title and cells(columns)[0] == "task"
    assert [line.split()[0] for line in tasks[:3]] == ["ctr", "trail", "discovery"]
    assert all(line.count("[") == line.count("]") >= 2 for line in tasks[:3])
    assert "read " in done.stderr and "read " not in done.stdout


def test_settings_and_findings_are_a_line_each(settings: Settings) -> None:
    settled, examined = as_shown("crossfade settings"), as_shown("crossfade doctor")
    for arguments, first in ((settled, "CROSSFADE_HOME"), (examined, "home")):
        done = run(settings.home, *arguments)
        lines = done.stdout.splitlines()
        assert done.stderr == "" and len(lines) > 8
        assert any(line.startswith(first) and str(settings.home) in line for line in lines), arguments


@pytest.mark.parametrize(
    ("arguments", "result"),
    [
        (("release", "diff", "{release}", "{release}"), "{release} and {release}: none"),
        (("tidy", "--dry-run"), "snapshots  "),
        (("forget", "nobody", "--dry-run"), "no file and no table names this user"),
        (("backup", "{folder}"), "wrote {folder}"),
        (("study", "run", "quick", "--dry-run"), "study quick: "),
        (("experiment", "run", "quick", "--dry-run"), "experiment quick: "),
        (("new", "surface", "podcasts", "--into", "{folder}/project"), "wrote {folder}/project"),
        (("lineage", "homepage", "--out", "{folder}/page.html"), "homepage {release}"),
        (("init",), "ready: "),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_the_result_of_a_command_is_on_stdout(
    settings: Settings, release: Release, tmp_path: Path, arguments: tuple[str, ...], result: str
) -> None:
    values = {"release": release.id, "folder": str(tmp_path)}
    done = run(settings.home, *(word.format(**values) for word in arguments))
    assert any(line.startswith(result.format(**values)) for line in done.stdout.splitlines())
    assert result.format(**values) not in done.stderr


def test_many_columns_on_a_narrow_terminal_are_lines_of_which_no_word_is_broken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = io.StringIO()
    narrow = Console(file=file, force_terminal=True, width=60, highlight=False, no_color=True)
    monkeypatch.setattr(terminal, "result_console", lambda: narrow)
    row = {"release": "r" * 30, "at": "2026-01-01 10:00", "gain": "g" * 40, "barred": ""}
    terminal.show_table("champions", [row, row | {"at": "2026-01-02 10:00"}])
    lines = file.getvalue().splitlines()
    assert lines.count(f"release: {'r' * 30}") == 2 and lines.count(f"gain: {'g' * 40}") == 2
    assert "at: 2026-01-02 10:00" in lines and not any(line.startswith("barred") for line in lines)


def test_an_error_is_one_line_with_every_word_of_it(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "deploy.cli", "tune", "[nowhere]"]
    command += ["--partition", "2026-01-10"]
    done = subprocess.run(
        command, env=home_environment(tmp_path, **NARROW), cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    told = "error: no surface '[nowhere]'; configured are homepage, radio\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", told)


def test_a_terminal_gets_a_table_of_its_width() -> None:
    script = "from deploy.cli.terminal import show_table; show_table('title', [{'digest': 'f' * 90, 'n': 1}])"
    wrapped = f"import pty, sys; sys.exit(pty.spawn([{sys.executable!r}, '-W', 'ignore', '-c', {script!r}]))"
    environment = home_environment(ROOT, **NARROW)
    told = subprocess.run(
        [sys.executable, "-c", wrapped], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120
    ).stdout
    piped = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], env=environment, cwd=ROOT, capture_output=True, text=True
    ).stdout
    assert "f" * 90 not in told and sum(line.count("f") for line in told.splitlines()) == 90
    assert piped.splitlines()[0] == "title" and "f" * 90 in piped.splitlines()[2]


def commands(of: typer.Typer, *path: str) -> Iterator[tuple[tuple[str, ...], Callable[..., object]]]:
    for command in of.registered_commands:
        assert command.callback is not None
        yield (*path, str(command.name)), command.callback
    for group in of.registered_groups:
        assert group.typer_instance is not None
        yield from commands(group.typer_instance, *path, str(group.name))


def test_every_command_that_prints_a_table_prints_it_as_json_too() -> None:
    lacking, seen = [], 0
    for path, command in commands(app):
        source = inspect.getsource(command)
        if "show_table(" in source or "show_findings(" in source:
            seen += 1
            if "as_json" not in inspect.signature(command).parameters:
                lacking.append(path)
    assert seen > 12 and lacking == []


def test_tables_as_json_are_all_that_stdout_has(settings: Settings, release: Release) -> None:
    def printed(*words: str) -> dict[str, list[dict[str, object]]]:
        done = CliRunner().invoke(app, [*words, "--json"], env=home_environment(settings.home))
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    tables = printed("release", "verdict", "homepage")
    [title] = [name for name in tables if name.startswith("verdict of homepage")]
    assert [row["guard"] for row in tables[title]] == [guard.number for guard in release.verdict.guards]
    shown = printed("release", "show", "homepage")
    assert {"what": "release", "value": release.id} in shown[
        "facts"
    ] and f"verdict of {release.id}: {release.verdict.decision}" in shown
    assert CliRunner().invoke(app, ["keys", "list"]).stdout.startswith("no key is set"), "the next command draws again"
