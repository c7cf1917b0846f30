"""Housekeeping: what a release names stays readable, the rest goes, at whatever moment it is killed."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import duckdb
import pytest
from dagster import DagsterInstance
from typer.testing import CliRunner

from deploy.automation.housekeeping import housekeeping_job
from deploy.cli.main import app
from deploy.definitions import build_definitions
from ml.foundation.lake import ALIAS, Lake
from ml.foundation.sealed import DamagedError
from ml.foundation.settings import Settings
from ml.operations.housekeeping import tidy
from ml.operations.verify import verify
from ml.releases.store import ReleaseStore
from tests.support.commands import ROOT, home_environment
from tests.support.pages import as_shown

NOW = timedelta(0)
SEED = 20260101
TABLES = ("features.examples_homepage", "features.examples_radio", "ml.soft_labels_homepage", "landing.exposures")


@pytest.fixture
def settings(tiny_demo: Path) -> Settings:
    """A home with releases, in which days were rebuilt since."""
    settings = Settings(
        home=tiny_demo, surfaces_dir=ROOT / "tests" / "surfaces", threads=1, keep_snapshots_days=0, keep_runs_days=0
    )
    with Lake(settings) as lake:
        for day in (date(2026, 1, 5), date(2026, 1, 6)):
            for _ in range(3):
                rows = lake.sql(f"select * from {ALIAS}.{TABLES[0]} where day = ?", [day])
                lake.replace_days(TABLES[0], rows, [day])
    return settings


def content(settings: Settings, snapshot: int | None = None) -> dict[str, tuple[int, str]]:
    with Lake(settings, snapshot=snapshot) as lake:
        return {table: lake.content_hash(f"{ALIAS}.{table}") for table in TABLES if lake.table_exists(table)}


def pinned(settings: Settings) -> list[int]:
    store = ReleaseStore(settings.artifacts_dir)
    return sorted(store.pinned_snapshots(store.surfaces()))


def snapshots(settings: Settings) -> int:
    with Lake(settings) as lake:
        return lake.sql(f"select count(*) as n from {ALIAS}.snapshots()")["n"][0].as_py()


def data_files(settings: Settings) -> set[Path]:
    return {p for p in (settings.lake_dir / "data").rglob("*") if p.is_file()}


def test_a_dry_run_tells_what_would_go_and_changes_nothing(settings: Settings) -> None:
    before, files = snapshots(settings), data_files(settings)
    told = tidy(settings, grace=NOW, dry_run=True)
    assert told.snapshots == before and told.snapshots_expired == before - 1 - len(pinned(settings))
    assert (snapshots(settings), data_files(settings)) == (before, files)


def test_what_a_release_names_reads_the_same_and_other_files_go(settings: Settings) -> None:
    versions = [None, *pinned(settings)]
    before = {version: content(settings, version) for version in versions}
    files = data_files(settings)
    told = tidy(settings, grace=NOW)
    assert {version: content(settings, version) for version in versions} == before
    assert told.files_removed > 0 and data_files(settings) < files | data_files(settings)
    assert len(data_files(settings)) < len(files)
    assert told.snapshots_of_releases == tuple(pinned(settings))
    with pytest.raises(duckdb.Error, match="No snapshot found"):
        Lake(settings, snapshot=min(pinned(settings)) - 1)
    again = tidy(settings, grace=NOW)
    assert again.tables_compacted == 0 and content(settings) == before[None]


def test_a_young_snapshot_and_a_young_file_stay(settings: Settings) -> None:
    before, files = snapshots(settings), data_files(settings)
    told = tidy(settings.model_copy(update={"keep_snapshots_days": 1.0}))
    assert told.snapshots_expired == 0 and told.files_removed == 0
    assert snapshots(settings) >= before and files <= data_files(settings)


def test_a_release_that_cannot_be_read_stops_it_before_anything_goes(settings: Settings) -> None:
    champion = ReleaseStore(settings.artifacts_dir).champion("homepage")
    assert champion
    path = champion.release.path / "manifest.json"
    whole, before = path.read_bytes(), snapshots(settings)
    path.chmod(0o644)
    path.write_bytes(whole[:-2])
    with pytest.raises(DamagedError, match=r"manifest\.json"):
        tidy(settings, grace=NOW)
    assert snapshots(settings) == before
    path.write_bytes(whole)


def test_killed_at_any_moment_every_named_row_is_there(settings: Settings) -> None:
    versions = [None, *pinned(settings)]
    before = {version: content(settings, version) for version in versions}
    code = (
        "from datetime import timedelta; from ml.operations.housekeeping import tidy\n"
        "from ml.foundation.settings import Settings; "
        "print('go', flush=True); [tidy(Settings(), grace=timedelta(0)) for _ in range(50)]"
    )
    environment = home_environment(settings.home, CROSSFADE_KEEP_SNAPSHOTS_DAYS="0")
    rng = random.Random(SEED)
    for _ in range(4):
        with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE) as process:
            assert process.stdout and process.stdout.readline() == b"go\n"
            time.sleep(rng.uniform(0.1, 1.5))
            os.kill(process.pid, signal.SIGKILL)
        assert {version: content(settings, version) for version in versions} == before
    tidy(settings, grace=NOW)
    assert verify(settings).recorded == 0, "what a killed merge wrote was hashed by the next"
    assert {version: content(settings, version) for version in versions} == before


@pytest.fixture
def instance(settings: Settings) -> Iterator[DagsterInstance]:
    with DagsterInstance.from_config(str(settings.dagster_home)) as instance:
        yield instance


def test_the_job_removes_failed_runs_and_old_dbt_calls_and_keeps_the_state_of_partitions(
    settings: Settings, instance: DagsterInstance
) -> None:
    @dg.job
    def broken() -> None:
        _fails()

    assert not broken.execute_in_process(instance=instance, raise_on_error=False).success
    key = dg.AssetKey(["homepage", "examples"])
    before = instance.get_materialized_partitions(key)
    assert before and instance.get_runs_count(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE])) >= 1
    calls = settings.home / "dbt" / "runs"
    (calls / "of-long-ago").mkdir(parents=True, exist_ok=True)
    job = build_definitions(settings).resolve_job_def(housekeeping_job.name)
    assert job.execute_in_process(instance=instance).success
    assert instance.get_runs_count(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE])) == 0
    assert instance.get_materialized_partitions(key) == before
    assert not list(calls.iterdir())


def test_the_command_shows_snapshots_files_and_disk(settings: Settings) -> None:
    for words, more in (
        (as_shown("crossfade tidy --dry-run"), {"CROSSFADE_KEEP_SNAPSHOTS_DAYS": "0"}),
        (as_shown("crossfade tidy"), {}),
    ):
        done = CliRunner().invoke(app, words, env=home_environment(settings.home, **more))
        assert done.exit_code == 0, done.exception
        assert "expired; of releases:" in done.stdout and "MB" in done.stdout


@dg.op
def _fails() -> None:
    raise RuntimeError("as a test wants it")
