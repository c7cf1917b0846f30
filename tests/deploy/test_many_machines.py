"""The same graph on a Postgres catalog and storage with data and releases in an object store, by settings alone."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path

import dagster as dg
import duckdb
import pyarrow as pa
import pytest

from benchmarks.process import free_port
from ml.export.files import MODEL
from ml.foundation.lake import ALIAS, Lake, attach_path
from ml.foundation.settings import Settings
from ml.releases.store import ReleaseStore
from tests.support.commands import home_environment, run_crossfade
from tests.support.instance import answers, process, tables
from tests.support.instance import service as command_of
from tests.support.postgres import PASSWORD

pytestmark = pytest.mark.early

SHARED, FIRST, DAYS, ROWS = "ml.written_by_two", date(2026, 1, 1), 6, 100


@dataclass
class Cluster:
    """A home whose lake, runs and releases lie elsewhere."""

    home: Path
    environment: dict[str, str]
    printed: str

    def settings(self) -> Settings:
        return Settings(home=self.home, threads=1)


@pytest.fixture(scope="module")
def cluster(servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The demo on the tiny world, with everything shared on servers."""
    home = tmp_path_factory.mktemp("cluster") / "home"
    printed = run_crossfade(home, "demo", "--preset", "tiny", timeout=900, **servers)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in servers.items():
            patch.setenv(name, value)
        yield Cluster(home, servers, printed)


def test_tables_and_releases_equal_those_of_one_machine(cluster: Cluster, tiny_demo: Path) -> None:
    alone = Settings(home=tiny_demo, threads=1, catalog_url=None, lake_url=None, artifacts_url=None)
    assert tables(cluster.settings()) == tables(alone)
    stores = [ReleaseStore(settings.artifacts_dir) for settings in (cluster.settings(), alone)]
    for surface in ("homepage", "radio"):
        here, there = (champion.release.record.files for store in stores if (champion := store.champion(surface)))
        assert here[MODEL] == there[MODEL], "the same bytes are served"


def test_lake_runs_and_releases_lie_on_the_servers(cluster: Cluster) -> None:
    settings = cluster.settings()
    assert not settings.catalog_path.exists() and not (settings.lake_dir / "data").exists()
    assert not (cluster.home / "artifacts").exists() and not list(settings.dagster_home.rglob("*.db"))
    assert ReleaseStore(settings.artifacts_dir).champion("homepage") is not None
    with Lake(settings) as lake:
        files = lake.sql(f"select data_file from ducklake_list_files('{ALIAS}', 'stg_items', schema => 'features')")
        assert all(name.startswith("s3://") for name in files["data_file"].to_pylist()) and len(files)


def test_two_workers_that_write_at_once_lose_nothing(cluster: Cluster) -> None:
    """Each its own days of one table: the catalog refuses one of two commits, and that worker commits again."""
    spawned = get_context("spawn")
    start = spawned.Barrier(2)
    workers = [spawned.Process(target=write_days, args=(cluster.settings(), first, start)) for first in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    with Lake(cluster.settings()) as lake:
        found = lake.sql(
            f"select day, count(*) as rows, min(worker) as worker from {ALIAS}.{SHARED} group by day order by day"
        )
        lake.connection.execute(f"drop table {ALIAS}.{SHARED}")
    assert found["day"].to_pylist() == [FIRST + timedelta(days=number) for number in range(2 * DAYS)]
    assert found["rows"].to_pylist() == [ROWS] * (2 * DAYS)
    assert found["worker"].to_pylist() == [0, 1] * DAYS


def write_days(settings: Settings, first: int, start: Barrier) -> None:
    """Write every second day from ``first`` on, each in a commit of its own, once the other worker is there too."""
    with Lake(settings) as lake:
        start.wait(60)
        for number in range(first, 2 * DAYS, 2):
            one = FIRST + timedelta(days=number)
            rows = pa.table({"day": pa.repeat(pa.scalar(one), ROWS), "worker": pa.repeat(first, ROWS)})
            lake.replace_days(SHARED, rows, [one])


def test_no_secret_is_written_or_printed(cluster: Cluster) -> None:
    secret = PASSWORD.encode()
    assert PASSWORD not in cluster.printed and PASSWORD not in attach_path(cluster.settings())
    found = [p for p in cluster.home.rglob("*") if p.is_file() and secret in p.read_bytes()]
    assert not found


def test_a_wrong_password_is_refused_without_showing_it(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    url = os.environ["CROSSFADE_CATALOG_URL"].replace(PASSWORD, "guessed-at")
    monkeypatch.setenv("CROSSFADE_CATALOG_URL", url)
    with pytest.raises(duckdb.Error, match="password authentication failed") as refused:
        Lake(Settings(home=cluster.home))
    assert "guessed-at" not in str(refused.value)


def test_an_address_that_is_none_is_refused_without_showing_it(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, catalog_url="secret and no address")  # pyright: ignore
    with pytest.raises(ValueError, match="CROSSFADE_CATALOG_URL is no address") as refused:
        attach_path(settings)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("service", "seen"), [("webserver", "/server_info"), ("server", "/v2/health/ready"), ("daemon", None)]
)
def test_the_compose_files_commands_run_on_these_servers(cluster: Cluster, service: str, seen: str | None) -> None:
    """The commands of deploy/compose.yaml as processes of this machine, on a free port of loopback."""
    port, log = free_port(), cluster.home / f"{service}.log"
    environment = home_environment(cluster.home, **cluster.environment)
    with process(command_of(service, port), environment, log) as running:
        end = time.monotonic() + 120
        while not (answers(f"http://127.0.0.1:{port}{seen}") if seen else has_heartbeat(cluster)):
            assert running.poll() is None and time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.5)


def has_heartbeat(cluster: Cluster) -> bool:
    with dg.DagsterInstance.from_config(str(cluster.settings().dagster_home)) as instance:
        return bool(instance.get_daemon_heartbeats())
