"""Settings as people see them: the example file is complete and true, and no secret is shown."""

import json
import re
import shlex
from pathlib import Path

import pytest

from deploy.cli.configuration import as_example, rows
from ml.foundation.settings import PROJECT_ROOT, Settings, write_settings_file
from tests.support.commands import run_crossfade


def test_the_example_file_is_what_the_settings_say() -> None:
    assert (PROJECT_ROOT / ".env.example").read_text(encoding="utf-8") == as_example(), (
        "crossfade settings --example > .env.example"
    )


def test_every_line_of_the_example_gives_the_default_when_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = Settings(home=tmp_path)
    given = dict(re.findall(r"^# (CROSSFADE_\w+)=(.+)$", as_example(), flags=re.MULTILINE))
    assert len(re.findall(r"^# CROSSFADE_\w+=", as_example(), flags=re.MULTILINE)) == len(Settings.model_fields)
    for name, value in given.items():
        monkeypatch.setenv(name, shlex.split(value)[0])
    assert Settings(home=tmp_path) == default and len(given) > 20


def test_a_row_says_who_gave_a_value_and_shows_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_settings_file(tmp_path, {"seed": 7})
    monkeypatch.setenv("CROSSFADE_SERVE_TOKEN", "a-secret")
    found = {row.variable: row for row in rows(Settings(home=tmp_path))}
    assert (found["CROSSFADE_SEED"].value, found["CROSSFADE_SEED"].source) == ("7", "home")
    assert (found["CROSSFADE_SERVE_TOKEN"].value, found["CROSSFADE_SERVE_TOKEN"].source) == ("(set)", "environment")
    assert found["CROSSFADE_THREADS"].source == "default" and all(row.meaning for row in found.values())
    printed = run_crossfade(tmp_path, "settings", CROSSFADE_SERVE_TOKEN="a-secret")
    assert "CROSSFADE_SEED" in printed and "a-secret" not in printed
    listed = json.loads(run_crossfade(tmp_path, "settings", "--json"))
    seed = {"variable": "CROSSFADE_SEED", "value": "7", "from": "home"}
    assert any(seed.items() <= row.items() for row in listed)
