"""dbt in a thread of its caller: what it says as it happens, from the project as it was parsed before."""

import json
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from ml.features.build import DbtError, build_arguments, dbt_vars, run_dbt, stream_dbt
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.surfaces.files import load_surfaces


def arguments_of(settings: Settings, day: date, *more: str) -> list[str]:
    return [*build_arguments(settings, load_surfaces(settings), ("base", "ranking"), day, day), *more]


def test_the_parsed_project_gives_the_sql_of_a_fresh_parse(
    built: SimpleNamespace, parsed: Callable[[Settings], Path]
) -> None:
    """It was parsed without any variable of a run."""
    settings, day = built.settings, built.days[3]
    found = {}
    for name, file in (("fresh", None), ("kept", parsed(settings))):
        target = settings.home / name
        variables = json.dumps(dbt_vars(settings, load_surfaces(settings), day, day))
        run_dbt(settings, ["compile", "--vars", variables, "--target-path", str(target)], parsed=file)
        compiled = [p for p in (target / "compiled").rglob("*") if p.is_file()]
        found[name] = {p.relative_to(target).as_posix(): p.read_text(encoding="utf-8") for p in compiled}
    assert found["kept"] == found["fresh"] and len(found["kept"]) > 40
    assert any(str(day) in sql for sql in found["kept"].values())


def test_events_come_one_by_one_and_name_every_node(built: SimpleNamespace, parsed: Callable[[Settings], Path]) -> None:
    settings, day = built.settings, built.days[2]
    events = list(stream_dbt(settings, arguments_of(settings, day), parsed=parsed(settings)))
    results = [e["data"] for e in events if e["info"]["name"] in ("LogModelResult", "LogTestResult")]
    assert {r["node_info"]["node_status"] for r in results} == {"success", "pass"} and len(results) > 40


def test_who_leaves_early_stops_dbt_and_the_next_run_makes_up_for_it(
    home: Callable[..., Settings], build_days: Callable[..., None], parsed: Callable[[Settings], Path]
) -> None:
    settings = home(2)
    first, second = settings.first_day, settings.first_day + timedelta(days=1)
    build_days(settings, first, first)
    stream = stream_dbt(settings, arguments_of(settings, second), parsed=parsed(settings))
    for event in stream:
        if event["info"]["name"] == "LogModelResult":
            break
    stream.close()
    with Lake(settings) as lake:
        done = [t for s, t in lake.tables() if s == "features" and lake.day_versions(f"features.{t}", second, second)]
        assert 1 <= len(done) <= 3, "models after the one that was being built are left alone"
    build_days(settings, first, second, tests=True)


def test_a_failed_test_is_told_and_then_raised(
    home: Callable[..., Settings], parsed: Callable[[Settings], Path]
) -> None:
    settings = home(2)
    with Lake(settings) as lake:
        lake.connection.execute("update landing.exposures set user_id = null where ts::date = ?", [settings.first_day])
    statuses = []
    with pytest.raises(DbtError, match="filled_stg_exposures"):
        for event in stream_dbt(settings, arguments_of(settings, settings.first_day), parsed=parsed(settings)):
            if event["info"]["name"] == "LogTestResult":
                statuses.append(event["data"]["node_info"]["node_status"])
    assert "fail" in statuses
