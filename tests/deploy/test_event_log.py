"""The event log of one machine: what Dagster's own would hold, in fewer transactions, below the instance's folder."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.event import listen, remove

from deploy.home import instance_file
from ml.foundation.settings import Settings

DAYS = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-01-05")
FIRST, LAST = "2026-01-01", "2026-01-04"


@dg.multi_asset(
    specs=[dg.AssetSpec(name) for name in ("one", "two")],
    partitions_def=DAYS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    check_specs=[dg.AssetCheckSpec("whole", asset="one")],
)
def both(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """Two tables of four days, and a check."""
    for name in ("one", "two"):
        for day in context.partition_keys:
            context.add_asset_metadata({"rows": int(day[-1])}, asset_key=name, partition_key=day)
        yield dg.MaterializeResult(asset_key=name, data_version=dg.DataVersion(f"{name} of all"))
    yield dg.AssetCheckResult(passed=True, asset_key="one", check_name="whole")


def run(folder: Path, written: str) -> None:
    folder.mkdir()
    (folder / "dagster.yaml").write_text(written, encoding="utf-8")
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        tags = {"dagster/asset_partition_range_start": FIRST, "dagster/asset_partition_range_end": LAST}
        assert dg.materialize([both], instance=instance, tags=tags).success


def held(folder: Path) -> dict[str, list[tuple[object, ...]]]:
    """Return what the index and the run's own file hold, but for times, ids and the name of the run."""
    [shard] = [path for path in (folder / "history" / "runs").glob("*.db") if path.stem != "index"]
    asked = {
        "events of the run": (
            shard,
            "select dagster_event_type, step_key, asset_key, partition, json_extract(event, '$.dagster_event."
            "event_specific_data.materialization.metadata_entries') from event_logs "
            "where dagster_event_type <> 'ENGINE_EVENT' and dagster_event_type not like 'LOGS%'",
        ),
        "events of assets": (
            folder / "history" / "runs" / "index.db",
            "select dagster_event_type, asset_key, partition, json_extract(event, '$.dagster_event."
            "event_specific_data.materialization.metadata_entries') from event_logs",
        ),
        "tags": (
            folder / "history" / "runs" / "index.db",
            "select t.asset_key, t.key, t.value, e.partition, e.dagster_event_type from asset_event_tags t "
            "join event_logs e on e.id = t.event_id",
        ),
        "assets": (
            folder / "history" / "runs" / "index.db",
            "select asset_key, json_extract(last_materialization, '$.event_log_entry.dagster_event.event_specific_data."
            "materialization.partition') from asset_keys",
        ),
        "checks": (
            folder / "history" / "runs" / "index.db",
            "select asset_key, check_name, execution_status from asset_check_executions",
        ),
    }
    found = {}
    for name, (path, query) in asked.items():
        connection = sqlite3.connect(path)
        found[name] = sorted(connection.execute(query).fetchall(), key=repr)
        connection.close()
    return found


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("instances") / "ours"
    run(folder, instance_file(Settings(home=folder)))
    return folder


def test_a_range_of_days_leaves_what_dagsters_own_event_log_would_hold(ours: Path) -> None:
    theirs = ours.with_name("theirs")
    run(theirs, "telemetry:\n  enabled: false\n")
    found = held(ours)
    assert found == held(theirs)
    assert len([row for row in found["events of assets"] if row[0] == "ASSET_MATERIALIZATION"]) == 8
    assert len(found["tags"]) == 8 and found["checks"], "versions of the data can be asked for"


def test_dagsters_own_class_reads_it(ours: Path) -> None:
    copy = ours.with_name("read")
    copy.mkdir()
    (copy / "history").symlink_to(ours / "history")
    with dg.DagsterInstance.from_config(str(copy)) as instance:
        assert instance.get_materialized_partitions(dg.AssetKey("two")) == set(DAYS.get_partition_keys())
        [run] = instance.get_runs()
        assert len(instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)) == 8


def test_an_instance_that_was_moved_writes_to_its_own_folder(ours: Path) -> None:
    moved = ours.with_name("moved")
    moved.mkdir()
    for file in (path for path in ours.rglob("*") if path.is_file()):
        (moved / file.relative_to(ours)).parent.mkdir(parents=True, exist_ok=True)
        (moved / file.relative_to(ours)).write_bytes(file.read_bytes())
    before = {path: path.stat().st_mtime_ns for path in (ours / "history").rglob("*.db")}
    with dg.DagsterInstance.from_config(str(moved)) as instance:
        instance.report_runless_asset_event(dg.AssetMaterialization("one", partition="2026-01-05"))
        assert "2026-01-05" in instance.get_materialized_partitions(dg.AssetKey("one"))
    assert {path: path.stat().st_mtime_ns for path in (ours / "history").rglob("*.db")} == before


def test_a_batch_is_one_transaction_of_each_database(ours: Path) -> None:
    commits: list[str] = []

    def count(connection: Connection) -> None:
        commits.append(Path(str(connection.engine.url.database)).stem)

    with dg.DagsterInstance.from_config(str(ours)) as instance:
        [run] = instance.get_runs()
        events = list(instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION))
        listen(Engine, "commit", count)
        try:
            instance.event_log_storage.store_event_batch(events)
        finally:
            remove(Engine, "commit", count)
    assert len(events) == 8 and sorted(commits) == sorted([run.run_id, "index"])
