"""SIGKILL of workers, daemon, webserver, Postgres and the whole machine at random instants: `make chaos`.

The compose file's webserver and daemon work on a real Postgres, and are started again at once, as a container engine
does. Several backfills are under way from landing to soft labels, then the releases of both surfaces. Whoever is on
call asks again for what failed. Each round is a home of its own; all end as an undisturbed demo on one machine.
"""

import math
import os
import random
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import dagster as dg
import httpx
import psutil
import pytest
from dagster_postgres.utils import DagsterPostgresException
from sqlalchemy.exc import DBAPIError

from assets.names import LAKE_WRITER, TRAINING
from benchmarks.process import free_port
from deploy.automation.days import PARTITION
from deploy.automation.jobs import NOT_ENDED, release_job_name
from deploy.launcher import WatchedRunLauncher
from ml.export.files import MODEL
from ml.foundation.lake import Lake
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.landing.ledger import totals
from ml.releases.store import ReleaseStore
from ml.surfaces.files import load_surfaces
from tests.support.instance import (
    PATIENCE_S,
    App,
    Ui,
    apps,
    day,
    keys_of,
    quiet,
    reasons,
    service,
    start,
    tables,
    wait,
)
from tests.support.postgres import Postgres

KILLS = int(os.environ.get("CHAOS_KILLS", "100"))
SEED = int(os.environ.get("CHAOS_SEED", "0"))
DAYS = 11
PIECES = 3
"""Backfills that are under way at once, each of some of the days."""
PAUSE_S = (2.0, 40.0)
"""Between two kills; short ones are as likely as long ones, so that some hit a recovery and some late steps."""
PER_STAGE = 17
"""Kills after which a stage is left in peace to end: late stages are hit as well as early ones."""
VICTIMS = {"worker": 8, "daemon": 3, "machine": 3, "webserver": 2, "postgres": 4}
"""How often each is chosen, of 20. The machine is everything but Postgres."""
LOOK_S = 5.0
AWAY = (httpx.HTTPError, DBAPIError, DagsterPostgresException, AssertionError)
"""What somebody who asks meets while something is down; they ask again."""


class UnderWay(NamedTuple):
    run: dg.DagsterRun
    step: str
    worker: psutil.Process


@dataclass
class Machine:
    """Webserver and daemon of a home, which are started again when they are killed."""

    app: App
    log: Path
    port: int = field(default_factory=free_port)
    running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def start(self, *names: str) -> None:
        environment = self.app.environment(DAGSTER_HOME=str(self.app.settings().dagster_home))
        for name in names:
            self.running[name] = start(service(name, self.port), environment, self.log)

    def kill(self, name: str) -> None:
        self.running[name].kill()
        self.running[name].wait()

    def kill_all(self) -> None:
        """Kill every process of the home: what services started outlives them."""
        while processes := [p for p in psutil.process_iter() if self._is_of_home(p)]:
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(processes, timeout=5)
            for process in self.running.values():
                process.wait()

    def _is_of_home(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            ours = process.environ().get("CROSSFADE_HOME") == str(self.app.home)
            return ours and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
        return False


@dataclass
class Task:
    """Something that a person asks for, and asks for again until it is done."""

    name: str
    ask: Callable[[], str]
    asked: str | None = None
    times: int = 0

    def done(self, ui: Ui, instance: dg.DagsterInstance) -> bool:
        """Look, and ask where nothing is under way."""
        state = self.state(ui, instance) if self.asked else "FAILED"
        if state == "FAILED":
            self.asked = self.again() if self.asked else self.ask()
            self.times += 1
        return state == "DONE"

    def state(self, ui: Ui, instance: dg.DagsterInstance) -> str:
        assert self.asked
        status = ui.status(self.asked)
        if status == "COMPLETED_SUCCESS":
            return "DONE"
        return "FAILED" if status in ("COMPLETED_FAILED", "FAILED", "CANCELED") else "UNDER WAY"

    def again(self) -> str:
        return self.ask()


@dataclass
class Release(Task):
    """A release of one surface: a failed run goes on from its failure; if that fails too, it starts anew."""

    rerun: Callable[[str], str] = str

    def state(self, ui: Ui, instance: dg.DagsterInstance) -> str:
        runs = instance.get_runs(dg.RunsFilter(job_name=self.name))
        if any(run.status is dg.DagsterRunStatus.SUCCESS for run in runs):
            return "DONE"
        newest = runs[0]
        waits = newest.tags.get("dagster/will_retry") == "true"
        return "UNDER WAY" if waits or newest.status in NOT_ENDED else "FAILED"

    def again(self) -> str:
        assert self.asked
        return self.rerun(self.asked) if self.times % 2 else self.ask()


def stages(app: App, ui: Ui) -> Iterator[list[Task]]:
    """Yield what is asked for at once, one stage after the other."""
    settings, every = app.settings(), [day(number) for number in range(DAYS)]
    surfaces = load_surfaces(settings)
    base = keys_of(settings, lambda key: key.path[0] == "landing" or key.path[-1].startswith(("stg_", "int_")))
    ranking = keys_of(
        settings,
        lambda key: (
            key.path[-1].startswith("feat_")
            or key.path[-1] in ("serving_snapshot", "source_examples", "examples", "teacher_inputs", "soft_labels")
        ),
    )
    for name, keys in (("base tables", base), ("ranking tables", ranking)):
        pieces = [every[piece * DAYS // PIECES : (piece + 1) * DAYS // PIECES] for piece in range(PIECES)]
        yield [Task(f"{name} from {days[0]}", lambda keys=keys, days=days: ui.backfill(keys, days)) for days in pieces]
    tags = {PARTITION: every[-1].isoformat()}
    jobs = [release_job_name(surface) for surface in surfaces.values()]
    yield [Release(job, lambda job=job: ui.run(job, tags), rerun=ui.run_again) for job in jobs]


@contextmanager
def home_at_work(app: App, log: Path) -> Iterator[tuple[Machine, Ui, dg.DagsterInstance]]:
    """Start webserver and daemon of a home on its databases; kill what is left at the end."""
    machine = Machine(app, log)
    machine.start("webserver", "daemon")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CROSSFADE_DAGSTER_URL", app.servers["CROSSFADE_DAGSTER_URL"])
            with dg.DagsterInstance.from_config(str(app.settings().dagster_home)) as instance:
                yield machine, Ui(machine.port), instance
    finally:
        machine.kill_all()


def converge(app: App, ui: Ui, instance: dg.DagsterInstance, stage_begins: Callable, meanwhile: Callable) -> None:
    """Ask for everything and, until it is done, for what failed; ``meanwhile`` is called all the time."""
    for stage in stages(app, ui):
        stage_begins()
        end, look = time.monotonic() + 4 * PATIENCE_S, 0.0
        open_tasks = list(stage)
        while open_tasks:
            meanwhile()
            time.sleep(0.1)
            if time.monotonic() < look:
                continue
            for task in list(open_tasks):
                with suppress(*AWAY):
                    if task.done(ui, instance):
                        open_tasks.remove(task)
                        print(f"  {task.name}: done, asked for {task.times} times", flush=True)
            assert time.monotonic() < end, f"not done: {[(t.name, t.asked, t.times) for t in open_tasks]}"
            look = time.monotonic() + LOOK_S


def outcome(settings: Settings) -> dict[str, object]:
    """Return what must be equal: tables, counts, and the bytes that are served."""
    with Lake(settings) as lake:
        counts = totals(lake)
    assert counts["rows_in"] == counts["rows_loaded"] + counts["rows_quarantined"] > 0
    store, models = ReleaseStore(settings.artifacts_dir), {}
    for surface in load_surfaces(settings):
        champion = store.champion(surface)
        assert champion, f"no release of {surface}"
        models[surface] = champion.release.record.files[MODEL]
    # A checkpoint names the snapshot that it learnt from, and with it the commits before.
    return {**tables(settings, but=("landed_at", "model_hash")), **counts, **models}


class Chaos:
    """Kills at random instants, and keeps what was under way."""

    def __init__(self, kills: int, seed: int, postgres: Postgres) -> None:
        self.kills, self.postgres, self.random = kills, postgres, random.Random(seed)
        self.struck: list[tuple[str, list[str]]] = []
        self.lost: dict[str, tuple[str, float]] = {}
        self.due, self.budget = 0.0, 0

    def pause(self) -> None:
        """Wait for the next instant."""
        self.due = time.monotonic() + math.exp(self.random.uniform(*map(math.log, PAUSE_S)))

    def stage_begins(self) -> None:
        """Allow a stage its kills."""
        self.budget = min(len(self.struck) + PER_STAGE, self.kills)
        self.pause()

    def strike(self, machine: Machine, instance: dg.DagsterInstance) -> None:
        """Kill somebody if it is time, and start again what does not start itself."""
        if len(self.struck) >= self.budget or time.monotonic() < self.due:
            return
        try:
            found = under_way(instance)
        except AWAY:
            return
        if not found:
            self.due = time.monotonic() + 1
            return
        victim, hit = self.random.choices(list(VICTIMS), list(VICTIMS.values()))[0], found
        if victim == "worker":
            hit = [self.random.choice(found)]
            with suppress(psutil.NoSuchProcess):
                hit[0].worker.kill()
        elif victim == "machine":
            machine.kill_all()
            machine.start("webserver", "daemon")
        elif victim == "postgres":
            self.postgres.kill()
            self.postgres.start()
        else:
            machine.kill(victim)
            machine.start(victim)
        if victim in ("worker", "machine"):
            self.lost |= {item.run.run_id: (victim, time.time()) for item in hit}
        self.struck.append((victim, [item.step for item in hit]))
        steps = ", ".join(f"{item.step} ({item.run.job_name}, {item.run.run_id[:8]})" for item in hit)
        print(f"kill {len(self.struck)} of {self.kills}: {victim} during {steps}", flush=True)
        self.pause()

    def tell(self) -> None:
        """Print how often who was killed during which step."""
        for victim, times in sorted(Counter(victim for victim, _ in self.struck).items()):
            steps = Counter(step for who, hit in self.struck if who == victim for step in hit)
            print(f"{victim}: {times}; {', '.join(f'{step} {n}' for step, n in steps.most_common())}", flush=True)

    def tell_lost(self, instance: dg.DagsterInstance) -> None:
        """Print after how long the runs of killed workers ended; all of them have."""
        seconds: dict[str, list[float]] = {}
        for run_id, (victim, killed) in self.lost.items():
            record = instance.get_run_record_by_id(run_id)
            assert record and record.end_time, f"run {run_id} of a killed worker never ended"
            seconds.setdefault(victim, []).append(max(record.end_time - killed, 0))
        self.lost.clear()
        for victim, found in seconds.items():
            told = f"median {statistics.median(found):.1f} s, at most {max(found):.1f} s"
            print(f"  {len(found)} runs that lost their worker to a kill of the {victim} ended: {told}", flush=True)


def under_way(instance: dg.DagsterInstance) -> list[UnderWay]:
    """Return the runs whose worker is alive, with the step that each is in."""
    launcher, found = instance.run_launcher, []
    assert isinstance(launcher, WatchedRunLauncher)
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        pid = launcher.check_run_worker_health(run).run_worker_id
        events = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.STEP_START).records
        step = events[-1].event_log_entry.step_key if events else None
        with suppress(psutil.NoSuchProcess):
            if pid:
                found.append(UnderWay(run, step or "starting", psutil.Process(int(pid))))
    return found


def settled(instance: dg.DagsterInstance) -> bool:
    """Tell whether no run is under way and nobody holds a place in a pool."""
    places = [instance.event_log_storage.get_concurrency_info(pool) for pool in (LAKE_WRITER, TRAINING)]
    return not any(place.active_slot_count for place in places)


@pytest.fixture(scope="module")
def make_app(
    built_demo: Path, tmp_path_factory: pytest.TempPathFactory, postgres_server: Postgres
) -> Callable[..., App]:
    make = apps(tmp_path_factory.mktemp("app"), built_demo, DAYS)

    def on_postgres(name: str) -> App:
        catalog, storage = (postgres_server.database(f"{name}_{kind}") for kind in ("catalog", "dagster"))
        storage = storage.replace("postgresql://", "postgresql+psycopg2://")
        return make(name, CROSSFADE_CATALOG_URL=catalog, CROSSFADE_DAGSTER_URL=storage, CROSSFADE_THREADS="1")

    return on_postgres


def test_killed_at_random_instants_everything_ends_as_the_undisturbed(
    make_app: Callable[[str], App], tiny_demo: Path, postgres_server: Postgres, tmp_path: Path
) -> None:
    surfaces_dir = PROJECT_ROOT / "tests" / "surfaces"
    expected = outcome(Settings(home=tiny_demo, surfaces_dir=surfaces_dir, threads=1))
    chaos, rounds = Chaos(KILLS, SEED, postgres_server), 0
    while len(chaos.struck) < KILLS:
        rounds += 1
        app, before, began = make_app(f"round{rounds}"), len(chaos.struck), time.monotonic()
        with home_at_work(app, tmp_path / f"round{rounds}.log") as (machine, ui, instance):
            converge(app, ui, instance, chaos.stage_begins, lambda: chaos.strike(machine, instance))
            quiet(instance)
            wait("every place in the pools is free", lambda: settled(instance))
            chaos.tell_lost(instance)
            runs = instance.get_runs()
            told = Counter(run.status.value for run in runs)
            print(f"round {rounds}: {len(chaos.struck) - before} kills, {time.monotonic() - began:.0f} s, {dict(told)}")
            for run in runs:
                if run.status is dg.DagsterRunStatus.FAILURE and "STEP_FAILURE" in reasons(instance, run.run_id):
                    print(f"  {run.run_id[:8]} {run.job_name}: {failure(instance, run.run_id)}", flush=True)
        found = outcome(app.settings())
        differ = {n: (expected.get(n), found.get(n)) for n in expected | found if expected.get(n) != found.get(n)}
        assert not differ
    chaos.tell()


def failure(instance: dg.DagsterInstance, run_id: str) -> str:
    """Return the innermost error of the first failed step of a run, in one line."""
    [first, *_] = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.STEP_FAILURE).records
    data = first.event_log_entry.get_dagster_event().step_failure_data
    error = data.error
    while error and error.cause:
        error = error.cause
    return f"{first.event_log_entry.step_key}: {' '.join(error.message.split())[:300] if error else 'no reason'}"
