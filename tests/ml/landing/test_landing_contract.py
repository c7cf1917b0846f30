"""The landing contract is checked when it is read, and readiness says what a day waits for."""

import os
import time
from datetime import date
from pathlib import Path

import pytest

from ml.foundation.settings import Settings
from ml.landing.contract import ContractError, load_contract
from ml.landing.readiness import days_in_zone, input_hash, missing, strays
from tests.support.known import the

DAY = date(2026, 1, 2)
REQUIRED = ("exposures", "listens", "items", "users")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, first_day=DAY, last_day=date(2026, 1, 9))


def folder(settings: Settings, table: str, day: date = DAY) -> Path:
    path = the(Path, settings.landing_dir) / table / f"day={day}"
    path.mkdir(parents=True, exist_ok=True)
    return path


def test_the_canonical_contract_is_sound(settings: Settings) -> None:
    contract = load_contract(settings)
    assert set(REQUIRED) | set(settings.optional_tables) == set(contract.tables)
    assert contract.tables["items"].columns["content_embedding"].length == 8
    assert contract.tables["exposures"].required == ("exposure_id", "ts", "surface", "user_id", "session_id", "item_id")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tables: {shops: {columns: {}}}", "no table 'shops'"),
        ("tables: {items: {columns: {genre: {type: string, description: g}}}}", "exist already"),
        (
            "tables: {items: {columns: {mood: {type: text, description: m}}}}",
            "'text'; did you mean 'string'.*types are",
        ),
        ("tables: {items: {columns: {'Mood!': {type: string, description: m}}}}", "cannot be a column"),
        ("tables: {items: {columns: {mood: {type: string, min: 0, description: m}}}}", "above need a number"),
        (
            "tables: {items: {columns: {mood: {type: string, description: m, colour: red}}}}",
            "mood.colour: unknown",
        ),
        ("tables: {items: {key: [mood]}}", "unknown key 'key'"),
        ("tables: {item: {}, users: {ignore: [a]}}", "did you mean 'items'.*'ignore'; did you mean 'ignored'"),
        (
            "tables: {item: {}, users: {columns: {mood: {type: text}}}}",
            "mean 'items'.*mood.type: .*mean 'string'.*is missing",
        ),
        ("tables: {users: {no_dates: {signed_up: [infinity]}}}", "did you mean 'signed_up_at'"),
        ("version: 3", "unknown key 'version'"),
        ("[]", "no mapping"),
        ("tables: {", "landing_contract.yaml"),
    ],
)
def test_a_wrong_extension_is_refused_with_its_file(settings: Settings, text: str, words: str) -> None:
    (settings.home / "landing_contract.yaml").write_text(text)
    with pytest.raises(ContractError, match=words) as raised:
        load_contract(settings)
    assert "landing_contract.yaml" in str(raised.value)


def test_the_apps_columns_come_first_and_the_homes_beside_them(settings: Settings, tmp_path: Path) -> None:
    app = tmp_path / "app"
    app.mkdir()
    own = Settings(home=settings.home, app=app)
    column = "{type: string, nullable: true, description: d}"
    (app / "contract.yaml").write_text(f"tables: {{items: {{columns: {{mood: {column}}}, ignored: [debug]}}}}")
    (settings.home / "landing_contract.yaml").write_text(
        f"tables: {{items: {{columns: {{colour: {column}}}, ignored: [trace]}}}}"
    )
    items = load_contract(own).table("items")
    assert {"mood", "colour"} < set(items.columns) and items.ignored == ("debug", "trace")
    (settings.home / "landing_contract.yaml").write_text(f"tables: {{items: {{columns: {{mood: {column}}}}}}}")
    with pytest.raises(ContractError, match=r"landing_contract\.yaml: .*'mood'\] exist already"):
        load_contract(own)
    (app / "contract.yaml").write_text("tables: {shops: {}}")
    with pytest.raises(ContractError, match=r"app/contract\.yaml: no table 'shops'"):
        load_contract(own)


def test_a_day_is_ready_when_each_required_table_is_marked_or_quiet(settings: Settings) -> None:
    assert [reason.split(":")[0] for reason in missing(settings, DAY)] == list(REQUIRED)
    for table in REQUIRED:
        folder(settings, table)
    assert all("holds no file; an empty table needs an empty file or _SUCCESS" in r for r in missing(settings, DAY))
    for table in REQUIRED[:3]:
        (folder(settings, table) / "_SUCCESS").touch()
    (folder(settings, "users") / "a.csv").touch()
    (reason,) = missing(settings, DAY)
    assert reason == "users: no _SUCCESS, and the last change is 0 minutes old; complete after 30"
    assert missing(settings, DAY, now=time.time() + 31 * 60) == []
    late = time.time() + 30 * 60
    os.utime(folder(settings, "users") / "a.csv", (late, late))
    assert len(missing(settings, DAY, now=time.time() + 31 * 60)) == 1


def test_an_optional_table_is_awaited_once_it_exists(settings: Settings) -> None:
    for table in REQUIRED:
        (folder(settings, table) / "_SUCCESS").touch()
    assert missing(settings, DAY) == []
    (folder(settings, "outcomes") / "a.csv").touch()
    (reason,) = missing(settings, DAY)
    assert reason.startswith("outcomes: no _SUCCESS")


def test_the_input_hash_follows_names_and_bytes_but_not_marks_or_times(settings: Settings) -> None:
    path = folder(settings, "items") / "a.csv"
    path.write_text("one")
    first = input_hash(settings, DAY)
    (folder(settings, "items") / "_SUCCESS").touch()
    os.utime(path, (1, 1))
    assert input_hash(settings, DAY) == first
    path.write_text("two")
    second = input_hash(settings, DAY)
    path.rename(path.with_name("b.csv"))
    third = input_hash(settings, DAY)
    assert len({first, second, third}) == 3
    assert input_hash(settings, DAY, ["users"]) == input_hash(settings, date(2026, 1, 3))


def test_days_in_zone_are_those_within_the_bounds_of_the_settings(settings: Settings) -> None:
    for day in ("2026-01-01", "2026-01-02", "2026-01-05", "2026-01-10"):
        folder(settings, "items", date.fromisoformat(day))
    (the(Path, settings.landing_dir) / "items" / "day=soon").mkdir()
    assert days_in_zone(settings) == [date(2026, 1, 2), date(2026, 1, 5)]


def test_folders_that_are_no_table_and_no_day_are_named_with_what_they_may_be_meant_for(settings: Settings) -> None:
    folder(settings, "exposures")
    assert settings.landing_dir is not None and not strays(settings)
    for name in ("itemz/day=2026-01-02", "exposures/day=20260102", "listens/2026-01-02", "_scratch"):
        (the(Path, settings.landing_dir) / name).mkdir(parents=True)
    told = strays(settings)
    assert ["exposures/day=20260102: no day" in told[0], "itemz: no table" in told[1], "2026-01-02" in told[2]] == [
        True
    ] * 3
    assert "did you mean 'items'?" in told[1] and "day=2026-03-01" in told[0]
    assert days_in_zone(settings) == [DAY], "the short form of a day is no folder that is read"
