"""YAML from outside: bounded in size, depth and aliases, and plain values only, wherever it is read."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ml.features.projects import app_projects, link_packages
from ml.foundation.documents import MAX_DEPTH, MAX_TEXT, MAX_VALUES, DocumentError, load_yaml, parse_yaml
from ml.foundation.sealed import DamagedError, unseal
from ml.foundation.settings import Settings
from ml.lab.demo_teacher import load_demo_spec
from ml.landing.contract import load_contract as landing_contract
from ml.surfaces.files import load_surface
from ml.teacher.contract import load_contract as teacher_contract

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
"""A kilobyte that stands for 300 billion values."""

TOO_MUCH = {
    LAUGHS: "more than 100,000 values, aliases written out (line 6",
    "[" * 10_000: "nesting",
    "{a: " * 10_000: "lists and mappings more than 50 deep (line 1, column 201)",
    "\n".join(" " * i + "- " for i in range(500)): "more than 50 deep (line 51",
    "a: " + "x" * 2_000_000: "longer than 1,000,000 bytes",
    f"a: '{'x' * 60_000}'": "a value of 60,000 characters, at most 50,000 (line 1, column 4)",
    "a: " + "9" * 5_000: "a value of 5,000 characters, at most 1,000",
    "a: 0x" + "f" * 5_000: "a value of 5,002 characters, at most 1,000",
    "a: " + ":".join(["1"] * 20_000): "at most 1,000",
    "[" + "1," * 150_000 + "]": "more than 100,000 values",
    "a: &a {x: 1}\nb: {<<: [" + ",".join(["*a"] * 60_000) + "]}": "more than 100,000 values",
    "a: &a [*a]": "*a stands inside of what it stands for (line 1, column 8)",
    "a: 2026-99-99": "a value cannot be read: month",
    "a: !!python/object/apply:os.system [ls]": "could not determine a constructor",
    "a: [": "line 2, column 1",
    "gate: {users: 300}\nb: 1\ngate: {users: 1}": "key 'gate' stands twice",
    "a: {b: {x: 1, 'x': 2}}": "key 'x' stands twice",
}


@pytest.mark.parametrize("text", TOO_MUCH, ids=lambda text: text[:12].strip())
def test_a_document_beyond_a_bound_is_refused_at_once_and_the_message_says_where(text: str) -> None:
    began = time.perf_counter()
    with pytest.raises(DocumentError) as refused:
        parse_yaml(text)
    assert TOO_MUCH[text] in str(refused.value)
    assert time.perf_counter() - began < 5


@pytest.mark.slow
def test_what_stays_within_the_bounds_is_read_with_its_aliases() -> None:
    assert parse_yaml("a: &b {x: 1}\nc: *b\nd: {<<: *b, y: 2}")["d"] == {"x": 1, "y": 2}
    assert parse_yaml(f"a: '{'x' * MAX_TEXT}'")["a"] == "x" * MAX_TEXT
    assert len(parse_yaml("[" + "1," * (MAX_VALUES - 1) + "]")) == MAX_VALUES - 1
    assert parse_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH)


def _of_app(read: Callable[[Settings], object]) -> Callable[[Path], object]:
    def read_file(file: Path) -> object:
        return read(Settings(home=file.parent / "home", app=file.parent))

    return read_file


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("surface.yaml", load_surface),
        ("contract.yaml", teacher_contract),
        ("spec.yaml", load_demo_spec),
        ("contract.yaml", _of_app(landing_contract)),
        ("dbt_project.yml", _of_app(app_projects)),
        ("models/model.yml", None),
        ("anything.yaml", load_yaml),
    ],
)
def test_every_reader_of_yaml_refuses_it_and_names_the_file_once(
    tmp_path: Path, name: str, read: Callable[[Path], object] | None
) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(LAUGHS)
    with pytest.raises(ValueError, match="aliases written out") as refused:
        if read:
            read(file)
        else:
            (tmp_path / "dbt_project.yml").write_text("name: app")
            _of_app(link_packages)(tmp_path / "dbt_project.yml")
    assert str(refused.value).count(str(file)) == 1


def test_a_settings_file_that_is_no_toml_names_itself(tmp_path: Path) -> None:
    for text in ("a = " + "[" * 100_000, "#" * 2_000_000, "a = "):
        (tmp_path / "crossfade.toml").write_text(text)
        with pytest.raises(ValueError, match=str(tmp_path / "crossfade.toml")):
            Settings(home=tmp_path)


def test_a_device_is_no_document(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="no regular file"):
        load_yaml(Path("/dev/zero"))


def test_a_sealed_document_that_is_too_deep_is_damaged() -> None:
    with pytest.raises(DamagedError):
        unseal(b"[" * 100_000, "verdict")
