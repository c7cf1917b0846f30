"""What somebody hears of at night: each cause is found where it happens, told once, and over when it is."""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from dagster._core.remote_origin import ManagedGrpcPythonEnvCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.remote_origin import RemoteInstigatorOrigin as Origin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._daemon.types import DaemonHeartbeat
from dagster_shared.error import SerializableErrorInfo
from typer.testing import CliRunner

from deploy.automation.alerting import Memory, look
from deploy.automation.housekeeping import verify_job
from deploy.automation.jobs import ALERT_SENSOR
from deploy.automation.outside import SILENCE, watch
from deploy.cli.main import app
from ml.foundation.lake import ALIAS, Lake
from ml.foundation.sealed import DamagedError
from ml.foundation.settings import PROJECT_ROOT, Settings, write_settings_file
from ml.landing.ledger import LEDGER
from ml.operations.alerts import recorded
from ml.releases.ownership import OWNER
from ml.releases.refusals import PromotionRefused, Refusal
from tests.support.listeners import Heard, listening
from tests.support.pages import as_shown
from tests.support.tiny_home import Home, tiny_settings

DAY = date(2026, 1, 20)


@dataclass
class Night:
    """A home, its instance, and the looks at it."""

    settings: Settings
    instance: dg.DagsterInstance
    cursor: str | None = None
    now: datetime = datetime(2026, 1, 21, 12, tzinfo=UTC)

    def look(self, minutes: float = 1, **changes: Any) -> list[str]:
        """Look once more and return what was told by this look, as `cause: about`."""
        record = self.settings.reports_dir / "alerts.jsonl"
        before = len([*recorded(record, 1000)])
        self.now += timedelta(minutes=minutes)
        _, self.cursor = look(self.settings.model_copy(update=changes), self.instance, self.cursor, self.now)
        return [f"{line['cause']}: {line['about']}" for line in [*recorded(record, 1000)][before:]]

    def look_now(self) -> list[str]:
        """Look with the clock of runs, which is the real one."""
        return self.look((datetime.now(UTC) - self.now) / timedelta(minutes=1))

    @property
    def open(self) -> list[str]:
        assert self.cursor is not None
        return sorted(Memory.model_validate_json(self.cursor).book.entries)

    def told(self) -> str:
        [line] = recorded(self.settings.reports_dir / "alerts.jsonl", 1)
        return line["told"]


@pytest.fixture
def night(prepared_home: Path, tmp_path: Path) -> Iterator[Night]:
    home = shutil.copytree(prepared_home, tmp_path / "home", ignore=shutil.ignore_patterns(OWNER))
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        yield Night(tiny_settings(home), instance)


@pytest.fixture
def runs(prepared_home: Path, tmp_path: Path) -> Iterator[Night]:
    """The same with runs in memory: each file of a run takes half a second."""
    home = shutil.copytree(prepared_home, tmp_path / "home", ignore=shutil.ignore_patterns(OWNER))
    with dg.DagsterInstance.ephemeral() as instance:
        yield Night(tiny_settings(home), instance)


def failing(job: str, error: Exception | None) -> dg.JobDefinition:
    @dg.op
    def work() -> None:
        if error:
            raise error

    @dg.job(name=job)
    def made() -> None:
        work()

    return made


def test_a_run_that_failed_is_told_once_until_it_succeeds(runs: Night) -> None:
    def run(error: Exception | None) -> None:
        failing("base_tables_job", error).execute_in_process(
            instance=runs.instance, raise_on_error=False, tags={"dagster/partition": "2026-01-20"}
        )

    run(ValueError("before the first look"))
    assert runs.look_now() == []
    run(ValueError("2026-01-20 is empty"))
    assert runs.look_now() == ["run_failed: base_tables_job 2026-01-20"]
    assert "2026-01-20 is empty" in runs.told()
    run(ValueError("again"))
    assert runs.look_now() == [], "the same job fails for the same days: it is known"
    run(None)
    runs.look_now()
    assert "run_failed: base_tables_job 2026-01-20" not in runs.open
    run(ValueError("anew"))
    assert runs.look_now() == ["run_failed: base_tables_job 2026-01-20"]


def test_a_run_that_is_tried_again_is_not_told_and_its_last_try_is(runs: Night) -> None:
    runs.look_now()
    for number, again in enumerate(("true", "false")):
        tags = {"dagster/will_retry": again, "dagster/retry_number": str(number)}
        runs.instance.add_run(dg.DagsterRun(job_name="lost_job", status=dg.DagsterRunStatus.FAILURE, tags=tags))
        assert runs.look_now() == ["run_failed: lost_job"] * (again == "false")


def test_flipped_bits_and_a_refused_promotion_are_told_as_what_they_are(night: Night) -> None:
    night.look_now()
    with Lake(night.settings) as lake:
        lake.append("ml.notes", pa.table({"note": ["kept"]}), "a note")
        [file] = lake.files.named()
    (night.settings.lake_dir / "data" / file.path).unlink()
    home = night.settings.model_copy(update={"verify_nights": 1})
    resources = {"settings": home}
    assert not verify_job.execute_in_process(instance=night.instance, resources=resources, raise_on_error=False).success
    refused = PromotionRefused(Refusal.VERDICT_FAILED, "quality lost 2 points")
    failing("promotes", refused).execute_in_process(instance=night.instance, raise_on_error=False)
    failing("trains", DamagedError("a.parquet differs")).execute_in_process(
        instance=night.instance, raise_on_error=False
    )
    told = night.look_now()
    assert sorted(told) == ["damaged_file: trains", "damaged_file: verify_job", "gate_refused: promotes"]
    lines = {line["about"]: line["told"] for line in recorded(home.reports_dir / "alerts.jsonl", 3)}
    assert file.path in lines["verify_job"] and "quality lost 2 points" in lines["promotes"]


def test_failed_checks_are_told_by_asset_and_are_over_when_they_pass(night: Night) -> None:
    severities = dg.AssetCheckSeverity
    fails = True

    @dg.asset(key=["homepage", "onnx"])
    def onnx() -> None: ...

    @dg.asset
    def table() -> None: ...

    @dg.asset(key=["homepage", "served_skew"])
    def served_skew() -> None: ...

    def check(asset: dg.AssetsDefinition, name: str, severity: dg.AssetCheckSeverity) -> dg.AssetChecksDefinition:
        @dg.asset_check(asset=asset, name=name, blocking=True)
        def run() -> dg.AssetCheckResult:
            return dg.AssetCheckResult(passed=not fails, severity=severity, description=f"{name} because")

        return run

    def made() -> Sequence[Any]:
        return [
            onnx,
            table,
            served_skew,
            check(served_skew, "served", severities.ERROR),
            check(onnx, "quality", severities.ERROR),
            check(onnx, "verdict", severities.ERROR),
            check(table, "rows", severities.ERROR),
            check(table, "doubtful", severities.WARN),
        ]

    night.look_now()
    # The run fails by its checks: that is told as what they say, and not once more as a run.
    assert not dg.materialize(made(), instance=night.instance, raise_on_error=False).success
    assert sorted(night.look_now()) == [
        "check_failed: table",
        "gate_refused: homepage/onnx",
        "served_skewed: homepage/served_skew",
    ]
    lines = {line["about"]: line["told"] for line in recorded(night.settings.reports_dir / "alerts.jsonl", 5)}
    assert lines["table"] == "rows: rows because"
    assert set(lines["homepage/onnx"].split("; ")) == {
        "quality: quality because",
        "verdict: verdict because",
    }
    fails = False
    dg.materialize(made(), instance=night.instance)
    night.look_now()
    assert night.open == []


def origin(name: str) -> Origin:
    target = LoadableTargetOrigin(module_name="deploy.definitions")
    location = ManagedGrpcPythonEnvCodeLocationOrigin(loadable_target_origin=target, location_name="crossfade")
    return Origin(repository_origin=RemoteRepositoryOrigin(location, "__repository__"), instigator_name=name)


def tick(night: Night, name: str, status: TickStatus, error: str = "", kind: Any = InstigatorType.SENSOR) -> None:
    """Let a sensor or schedule have looked, as the daemon writes it down."""
    data = ScheduleInstigatorData("0 5 * * *") if kind is InstigatorType.SCHEDULE else None
    state = InstigatorState(origin(name), kind, InstigatorStatus.RUNNING, data)
    if night.instance.get_instigator_state(state.instigator_origin_id, state.selector_id) is None:
        night.instance.add_instigator_state(state)
    told = SerializableErrorInfo(error, [], "ValueError") if error else None
    of = (state.instigator_origin_id, name, kind, status, night.now.timestamp())
    night.instance.create_tick(TickData(*of, run_ids=[], error=told, selector_id=state.selector_id))


def test_a_sensor_or_schedule_that_fails_is_told_until_a_look_is_well(night: Night) -> None:
    tick(night, "landing_sensor", TickStatus.FAILURE, "ValueError: sources.yaml line 3\n")
    tick(night, "homepage_release_schedule", TickStatus.FAILURE, "boom", InstigatorType.SCHEDULE)
    tick(night, "teacher_sensor", TickStatus.SKIPPED)
    tick(night, ALERT_SENSOR, TickStatus.FAILURE, "its own is told from outside")
    assert night.look() == [], "one that is well with its next look is no news"
    assert sorted(night.look(3)) == ["tick_failed: homepage_release_schedule", "tick_failed: landing_sensor"]
    tick(night, "landing_sensor", TickStatus.STARTED)
    assert night.look() == [] and len(night.open) == 2
    for name in ("landing_sensor", "homepage_release_schedule"):
        tick(night, name, TickStatus.SUCCESS)
    night.look()
    assert night.open == []


def test_a_day_that_has_not_landed_by_its_time_is_told_with_what_it_waits_for(night: Night) -> None:
    live: dict[str, Any] = {"last_day": None, "source": "files"}
    assert night.look(**live) == [], "before the first day nothing is late"

    def land(day: date) -> None:
        with Lake(night.settings) as lake:
            values = f"select '{day}' as day, 'exposures' as table_name"
            lake.connection.execute(f"insert into {ALIAS}.{LEDGER} by name {values}")

    land(DAY)
    night.now = datetime(2026, 1, 22, 23, tzinfo=UTC)
    assert night.look(30, **live) == []
    assert night.look(60, **live) == ["day_late: 2026-01-21"]
    assert night.told() == "2026-01-21 has not landed 24 hours after it ended: no file of it is there"
    assert night.look(24 * 60, **live) == [], "a day after it is late for the same reason"
    land(DAY + timedelta(days=1))
    night.look(**live)
    assert night.open == ["day_late: 2026-01-22"]
    night.look()
    assert night.open == [], "a source that ended has no late day"


def test_features_that_are_too_old_are_told(night: Night, tmp_path: Path) -> None:
    Home(night.settings).publish(DAY)
    assert night.look() == []
    later: dict[str, Any] = {"last_day": DAY + timedelta(days=4)}
    assert night.look(**later) == ["features_old: features"]
    assert "4 days old" in night.told() and night.look(**later) == []


def test_a_rollback_a_lost_folder_and_a_lost_log_are_told(night: Night) -> None:
    home = Home(night.settings)
    home.promote("homepage", 1)
    home.promote("radio", 1)
    night.look()
    home.promote("homepage", 2)
    assert night.look() == [], "a promotion is no alarm"
    home.store.rollback("homepage", by="ann", reason="clicks fell at noon")
    assert night.look() == ["rolled_back: homepage, entry 3"]
    assert "clicks fell at noon (ann)" in night.told() and night.look() == []
    artifacts = night.settings.home / "artifacts"
    shutil.move(artifacts / "releases" / "radio", night.settings.home / "kept")
    assert night.look() == ["release_lost: radio"] and "model.onnx" in night.told()
    shutil.move(night.settings.home / "kept", artifacts / "releases" / "radio")
    night.look()
    assert "release_lost: radio" not in night.open
    (artifacts / "champion" / "homepage").rename(night.settings.home / "log")
    assert night.look() == ["release_lost: homepage"]
    (artifacts / "heads" / "homepage.json").rename(night.settings.home / "head.json")
    assert night.look() == []
    assert "release_lost: homepage" in night.open


def test_a_server_that_is_not_ready_serves_another_or_says_what_is_wrong_is_told(night: Night) -> None:
    pointer = Home(night.settings).promote("homepage", 1)
    answers: dict[str, tuple[int, dict[str, Any]]] = {}

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, content = answers[self.path.split("/")[-1]]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        served = {"serve_url": f"http://127.0.0.1:{server.server_port}", "unserved_minutes": 10.0}
        answers["ready"] = 503, {"ready": False, "error": "no surface has a champion"}
        assert night.look(**served) == [], "it may take its time"
        assert night.look(11, **served) == ["unserved: the server"] and "no surface" in night.told()
        answers["ready"] = 200, {"ready": True, "details": {"features": "the pointer is gone"}}
        answers["homepage"] = 200, {"parameters": {"release": "an earlier one"}}
        assert night.look(**served) == []
        assert night.look(11, **served) == ["unserved: homepage", "server_troubled: features"]
        answers["ready"], answers["homepage"] = (
            (200, {"ready": True}),
            (200, {"parameters": {"release": pointer.release}}),
        )
        night.look(**served)
        assert night.open == []
        server.shutdown()
    night.look(**served)
    assert night.look(11, **served) == ["unserved: the server"] and "does not answer" in night.told()


def test_what_cannot_be_looked_at_is_told_and_hides_nothing(night: Night) -> None:
    Home(night.settings).publish(DAY)
    old: dict[str, Any] = {"last_day": DAY + timedelta(days=9)}
    night.settings.catalog_path.rename(night.settings.home / "catalog.sqlite")
    night.settings.catalog_path.write_bytes(b"no catalog")
    assert night.look(**old) == ["features_old: features"]
    assert night.look(6, **old) == ["cannot_look: days"]
    (night.settings.home / "catalog.sqlite").replace(night.settings.catalog_path)
    night.look(**old)
    assert night.open == ["features_old: features"]


@pytest.fixture
def outside(night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Night, Heard]]:
    """A home as `crossfade watch` finds it, with somebody who hears."""
    shutil.copytree(Settings(home=tmp_path).surfaces_dir or "", tmp_path / "surfaces")
    monkeypatch.setenv("CROSSFADE_HOME", str(night.settings.home))
    monkeypatch.setenv("CROSSFADE_SURFACES_DIR", str(tmp_path / "surfaces"))
    with listening(tmp_path) as heard:
        monkeypatch.setenv("CROSSFADE_ALERTS", heard.urls["webhook"])
        yield night, heard


def test_broken_settings_and_files_are_heard_from_outside(outside: tuple[Night, Heard], tmp_path: Path) -> None:
    night, heard = outside
    tick(night, ALERT_SENSOR, TickStatus.SKIPPED)
    assert watch(night.now) == []
    surface = tmp_path / "surfaces" / "radio.yaml"
    whole = surface.read_text(encoding="utf-8")
    surface.write_text(whole.replace("tasks:", "taskz:"), encoding="utf-8")
    for _ in range(2):
        assert any("taskz" in line for line in watch(night.now))
    surface.write_text(whole, encoding="utf-8")
    assert watch(night.now) == []
    (night.settings.home / "crossfade.toml").write_text("quiet_minutes = [", encoding="utf-8")
    assert watch(night.now)
    shown = [(one["title"].partition(": ")[2], one["type"]) for one in heard.of("webhook")]
    told = [title for title, kind in shown if kind == "failure"]
    assert len(told) == len(set(told)) and any(title.endswith("settings") for title in told)
    assert "crossfade.toml" in heard.of("webhook")[-1]["message"]


def test_a_sensor_that_does_not_look_is_heard_from_outside_once(outside: tuple[Night, Heard]) -> None:
    night, heard = outside
    write_settings_file(night.settings.home, {"sensor_seconds": 1})
    assert "is off" in watch(night.now)[0]
    tick(night, ALERT_SENSOR, TickStatus.SKIPPED)
    assert watch(night.now) == []
    late = night.now + SILENCE + timedelta(seconds=1)
    assert "the daemon does not run" in watch(late)[0]
    assert "the daemon does not run" in watch(late)[0]
    night.now = late
    tick(night, ALERT_SENSOR, TickStatus.FAILURE, "no module named orders")
    assert "no module named orders" in watch(late)[0]
    assert [one["type"] for one in heard.of("webhook")] == ["failure", "success", "failure"]
    night.now += SILENCE
    tick(night, ALERT_SENSOR, TickStatus.SKIPPED)
    beat = DaemonHeartbeat((night.now + 2 * SILENCE).timestamp(), "SENSOR", None)
    night.instance.add_daemon_heartbeat(beat)
    assert "the code location does not load" in watch(night.now + 2 * SILENCE)[0]


@pytest.mark.slow
def test_the_command_looks_once_for_cron_and_beside_the_daemon_as_long_as_it_runs(
    outside: tuple[Night, Heard], tmp_path: Path
) -> None:
    night, _ = outside
    night.now = datetime.now(UTC)
    tick(night, ALERT_SENSOR, TickStatus.SKIPPED)
    once = CliRunner().invoke(app, as_shown("crossfade watch --once"))
    assert (once.exit_code, once.output) == (0, "alert_sensor looks, and everything can be read\n")
    command = [sys.executable, "-u", "-W", "ignore", "-m", "deploy.cli", *as_shown("crossfade watch")]
    with subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == once.output
        assert process.poll() is None
        process.terminate()
    (tmp_path / "surfaces" / "radio.yaml").write_text("taskz: {}\n", encoding="utf-8")
    once = CliRunner().invoke(app, as_shown("crossfade watch --once"))
    assert once.exit_code == 1 and "taskz" in once.output


def test_a_test_message_says_what_came_back_and_fails_where_one_did(outside: tuple[Night, Heard]) -> None:
    _, heard = outside
    run = CliRunner().invoke
    good = run(app, as_shown("crossfade alert --test"))
    assert good.exit_code == 0 and "yes" in good.output and heard.of("webhook")[0]["title"].endswith("a test")
    heard.down.add("webhook")
    bad = run(app, ["alert", "--test"])
    assert bad.exit_code != 0 and "503" in bad.output and "webhooksecret" not in bad.output
    assert "webhooksecret" not in run(app, as_shown("crossfade alert")).output + run(app, ["settings"]).output
