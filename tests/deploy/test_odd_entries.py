"""What the graph does with a landing zone in which something odd lies: its sensor answers, and other days show."""

import os
import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

import ml.landing.load
from assets.landing import build_landing
from assets.progress import ProgressResource
from deploy.automation.days import RANGE_END, RANGE_START, range_tags
from deploy.definitions import build_definitions
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.landing.load import init_tables
from tests.ml.landing.rows import ALL_TABLES, DAY, NEXT, put_two_days

pytestmark = pytest.mark.slow


@pytest.fixture
def zone(prepared_home: Path, tmp_path: Path) -> Settings:
    """A home with two days of exposures, of which the first gets something odd."""
    home = shutil.copytree(prepared_home, tmp_path / "home")
    two = Settings(home=home, first_day=DAY, optional_tables=ALL_TABLES, landing_dir=tmp_path / "landing", threads=2)
    with Lake(two) as lake:
        init_tables(lake)
    put_two_days(two)
    return two


def test_the_landing_sensor_answers_while_odd_entries_lie_there_and_says_so(
    zone: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    assert zone.landing_dir is not None
    odd = zone.landing_dir / "exposures" / f"day={DAY}" / "odd.csv"
    os.mkfifo(odd)
    repository = build_definitions(zone).get_repository_def()
    sensor = repository.get_sensor_def("landing_sensor")

    def look(instance: dg.DagsterInstance) -> Any:
        with dg.build_sensor_context(
            instance=instance, repository_def=repository, resources={"settings": zone}
        ) as context:
            return sensor.evaluate_tick(context)

    with dg.DagsterInstance.ephemeral() as instance:
        requests = look(instance).run_requests
        assert f"{DAY} will not land: {odd}: it is a named pipe" in capfd.readouterr().err
        assert [(r.tags[RANGE_START], r.tags[RANGE_END]) for r in requests] == [(str(DAY), str(NEXT))]
        run = dg.DagsterRun(
            job_name=str(sensor.job_name), status=dg.DagsterRunStatus.STARTED, tags=range_tags(DAY, NEXT)
        )
        instance.add_run(run)
        assert f"{DAY} will not land: {odd}: it is a named pipe" in str(look(instance).skip_message)


def test_a_range_with_a_panic_in_one_day_shows_the_other_days_as_materialized(
    zone: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a library of Rust does with foreign bytes, the step fails by the day, not the process by the panic."""
    judge = ml.landing.load._read_table

    def panic(settings: Settings, contract: object, name: str, day: object, *more: object) -> object:
        if day == DAY:
            pl.Series([2**63 - 1], dtype=pl.Datetime("ms")).dt.replace_time_zone("Europe/Berlin")
        return judge(settings, contract, name, day, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(ml.landing.load, "_read_table", panic)
    with dg.DagsterInstance.ephemeral() as instance:
        told = dg.materialize(
            [build_landing(zone)],
            instance=instance,
            resources={"settings": zone, "progress": ProgressResource()},
            tags=range_tags(DAY, NEXT),
            raise_on_error=False,
        )
        [failure] = told.get_step_failure_events()
        assert f"{DAY}: its files could not be judged" in str(failure.step_failure_data.error)
        assert instance.get_materialized_partitions(dg.AssetKey(["landing", "exposures"])) == {str(NEXT)}
