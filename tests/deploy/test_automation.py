"""What asks for runs at night: which days, which ranges, how often, and what it says when it asks for nothing."""

import json
import shutil
import threading
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assets.landing import build_landing
from assets.progress import ProgressResource
from deploy.automation.days import RANGE_END, RANGE_START, affected, range_tags, ranges
from deploy.automation.jobs import BASE_JOB, RANKING_JOB, widening_job_name
from deploy.automation.sensors import _beyond_horizon
from deploy.definitions import build_definitions
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.lab.simulator.write import write_landing
from ml.landing.changes import changed_days
from ml.landing.ledger import NotFinal, require_final
from ml.landing.load import init_tables, load_days
from ml.landing.patterns import SUCCESS
from ml.releases.store import ReleaseStore
from ml.stages import widening
from ml.surfaces.files import load_surfaces
from tests.support.known import present, the

ROOT = Path(__file__).resolve().parents[2]
FIRST = date(2026, 1, 1)


@given(st.sets(st.integers(0, 40)))
def test_ranges_cover_the_days_and_no_other_and_never_touch(days: set[int]):
    found = ranges([FIRST + timedelta(days=d) for d in days])
    covered = [first + timedelta(days=i) for first, last in found for i in range((last - first).days + 1)]
    assert covered == [FIRST + timedelta(days=d) for d in sorted(days)]
    assert all(b[0] - a[1] > timedelta(days=1) for a, b in pairwise(found))


@pytest.mark.parametrize(
    ("first", "last", "landed", "expected"),
    [
        (10, 10, 10, (9, 9)),  # the newest day: its labels are not final, those of the day before are
        (0, 9, 9, (0, 8)),  # the first days
        (3, 4, 40, (2, 18)),  # a corrected day: the day before by its labels, 14 after by trailing features
        (30, 30, 31, (29, 31)),  # the end of a finite source is final
        (0, 0, 0, None),  # one day alone has nothing final
    ],
)
def test_a_changed_day_affects_the_days_that_can_see_it(first: int, last: int, landed: int, expected):
    settings = Settings(first_day=FIRST, last_day=FIRST + timedelta(days=31), feature_window_days=14)
    begin, end, newest = (FIRST + timedelta(days=d) for d in (first, last, landed))
    found = affected(settings, begin, end, newest)
    assert found == (expected and tuple(FIRST + timedelta(days=d) for d in expected))


@pytest.mark.parametrize(
    ("first", "last", "landed", "window", "expected"),
    [
        (10, 10, 10, 5, (5, 5)),  # the newest day closes the window of the one five days before
        (4, 4, 4, 5, None),  # no window has closed
        (3, 4, 40, 5, (0, 18)),  # a corrected day: the five days before by their labels
        (30, 31, 31, 5, (25, 27)),  # labels of the last days of a finite source never close
    ],
)
def test_a_changed_day_affects_the_labels_whose_window_holds_it(
    first: int, last: int, landed: int, window: int, expected: tuple[int, int] | None
):
    settings = Settings(first_day=FIRST, last_day=FIRST + timedelta(days=31), feature_window_days=14)
    begin, end, newest = (FIRST + timedelta(days=d) for d in (first, last, landed))
    found = affected(settings, begin, end, newest, window)
    assert found == (expected and tuple(FIRST + timedelta(days=d) for d in expected))


@pytest.fixture(scope="module")
def waiting(prepared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home of 11 landed days whose radio counts what comes within five days."""
    surfaces = shutil.copytree(ROOT / "tests" / "surfaces", tmp_path_factory.mktemp("waiting") / "surfaces")
    for path in surfaces.glob("*.yaml"):
        text = path.read_text(encoding="utf-8").replace("../../examples", str(ROOT / "examples"))
        path.write_text(text + ("label_window_days: 5\n" if path.stem == "radio" else ""), encoding="utf-8")
    home = shutil.copytree(prepared_home, surfaces.parent / "home")
    settings = Settings(home=home, surfaces_dir=surfaces, first_day=FIRST, threads=1)
    with Lake(settings) as lake:
        init_tables(lake)
        rows = ", ".join(f"('{FIRST + timedelta(days=d)}', 'exposures')" for d in range(11))
        lake.connection.execute(f"insert into lake.landing.ledger (day, table_name) values {rows}")
    return settings


def test_labels_that_wait_hold_up_no_features(waiting: Settings):
    """A week's label window must not make what is served a week old: the tables with labels are a job of their own."""
    repository = build_definitions(waiting).get_repository_def()

    def keys(job: str) -> set[str]:
        return {key.to_user_string() for key in repository.get_job(job).asset_layer.selected_asset_keys}

    ranking = keys(RANKING_JOB)
    assert {"features/serving_snapshot", "homepage/examples", "radio/teacher_inputs", "radio/soft_labels"} <= ranking
    assert "radio/examples" not in ranking and keys("radio_labelled_tables_job") == {"radio/examples"}
    assert "homepage_labelled_tables_job" not in repository.job_names


def test_the_labels_of_a_day_are_asked_for_when_their_window_has_landed(waiting: Settings):
    repository = build_definitions(waiting).get_repository_def()
    sensor = repository.get_sensor_def("radio_labelled_tables_sensor")

    def asked(first: int, last: int) -> Any:
        run = dg.DagsterRun(
            job_name=RANKING_JOB, tags=range_tags(FIRST + timedelta(days=first), FIRST + timedelta(days=last))
        )
        with (
            dg.DagsterInstance.ephemeral() as instance,
            dg.build_run_status_sensor_context(
                sensor_name=sensor.name,
                dagster_instance=instance,
                dagster_run=run,
                dagster_event=dg.DagsterEvent(event_type_value="PIPELINE_SUCCESS", job_name=RANKING_JOB),
                resources={"settings": waiting},
                repository_def=repository,
            ) as context,
        ):
            result = sensor(context)
        tags = getattr(result, "tags", {})
        return tags and tuple((date.fromisoformat(tags[key]) - FIRST).days for key in (RANGE_START, RANGE_END))

    assert asked(9, 9) == (5, 5)  # the newest of 11 days has landed, and the ranking tables of the day before are built
    assert asked(0, 9) == (0, 5)
    assert asked(2, 3) == (0, 3)


def test_a_day_is_final_when_its_window_has_landed(waiting: Settings):
    day = [FIRST + timedelta(days=d) for d in range(12)]
    require_final(waiting, day[:6], 5)
    require_final(waiting, day[:10])
    for last, window in ((6, 5), (10, 1)):
        with pytest.raises(NotFinal, match=f"labels of {day[last]} are not final: exposures of {day[11]}"):
            require_final(waiting, [day[last]], window)
    ended = waiting.model_copy(update={"last_day": day[10]})
    require_final(ended, day[:11])
    require_final(ended, day[:7], 5)
    with pytest.raises(
        NotFinal, match=f"{day[7]} are never final: outcomes count for 5 days, and the source ends on {day[10]}"
    ):
        require_final(ended, [day[7]], 5)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A landing zone of eleven simulated days."""
    folder = tmp_path_factory.mktemp("raw")
    write_landing(Settings(home=folder / "home", landing_dir=folder / "landing", simulator_preset="tiny", threads=1))
    return folder / "landing"


@pytest.fixture
def settings(raw: Path, tmp_path: Path) -> Settings:
    shutil.copytree(raw, tmp_path / "landing")
    return Settings(
        home=tmp_path / "home",
        landing_dir=tmp_path / "landing",
        simulator_preset="tiny",
        surfaces_dir=ROOT / "tests" / "surfaces",
        threads=1,
    )


def test_complete_days_are_found_once_changed_ones_again_and_others_say_what_they_wait_for(settings: Settings):
    days = [FIRST + timedelta(days=d) for d in range(11)]
    landing = settings.landing_dir
    assert landing is not None
    (landing / "listens" / f"day={days[10]}" / SUCCESS).unlink()
    with Lake(settings) as lake:
        init_tables(lake)
    found = changed_days(settings)
    assert list(found.ready) == days[:10] and list(found.waiting) == [days[10]]
    [reason] = found.waiting[days[10]]
    assert "listens" in reason and SUCCESS in reason

    with Lake(settings) as lake:
        load_days(lake, settings, days[:10], {"homepage", "radio"})
    assert changed_days(settings).ready == {}

    [file] = [p for p in (landing / "users" / f"day={days[3]}").iterdir() if p.suffix == ".parquet"]
    shutil.copyfile(file, file.with_name("late.parquet"))
    (landing / "listens" / f"day={days[10]}" / SUCCESS).touch()
    changed = changed_days(settings)
    assert list(changed.ready) == [days[3], days[10]] and not changed.waiting
    file.with_name("late.parquet").unlink()
    assert list(changed_days(settings).ready) == [days[10]], "what is as it was landed is not landed again"


def test_base_and_ranking_tables_are_jobs_of_their_own_because_windows_lie_between(prepared_home: Path):
    repository = build_definitions(Settings(home=prepared_home)).get_repository_def()

    def keys(job: str) -> set[str]:
        return {key.to_user_string() for key in repository.get_job(job).asset_layer.selected_asset_keys}

    base, ranking = keys(BASE_JOB), keys(RANKING_JOB)
    assert {"landing/exposures", "features/stg_listens", "features/int_user_day"} <= base
    assert {"features/feat_user", "homepage/examples", "radio/soft_labels", "features/serving_snapshot"} <= ranking
    assert not base & ranking


def tick(settings: Settings, name: str, instance: dg.DagsterInstance, cursor: str | None = None) -> Any:
    repository = build_definitions(settings).get_repository_def()
    # Left open, a context keeps the storage of an instance that is gone as the current one.
    with dg.build_sensor_context(
        instance=instance, repository_def=repository, resources={"settings": settings}, cursor=cursor
    ) as context:
        return repository.get_sensor_def(name).evaluate_tick(context)


def evaluate(settings: Settings, schedule: dg.ScheduleDefinition, instance: dg.DagsterInstance, repository: Any) -> Any:
    with dg.build_schedule_context(
        instance=instance, repository_def=repository, resources={"settings": settings}
    ) as context:
        return schedule.evaluate_tick(context)


def test_the_landing_sensor_asks_for_each_range_once_and_for_the_same_files_with_the_same_key(
    settings: Settings, prepared_home: Path
):
    home = settings.model_copy(update={"home": prepared_home})
    shutil.rmtree(the(Path, home.landing_dir) / "exposures" / f"day={FIRST + timedelta(days=4)}")
    with dg.DagsterInstance.ephemeral() as instance:
        asked, again = (tick(home, "landing_sensor", instance).run_requests for _ in range(2))
        tags = {RANGE_START: "2026-01-06", RANGE_END: "2026-01-11"}
        instance.add_run(dg.DagsterRun(job_name=BASE_JOB, status=dg.DagsterRunStatus.STARTED, tags=tags))
        [rest] = tick(home, "landing_sensor", instance).run_requests
        assert rest.run_key == asked[0].run_key, "days that are being landed are left alone"
    assert [(r.tags[RANGE_START], r.tags[RANGE_END]) for r in asked] == [
        ("2026-01-01", "2026-01-04"),
        ("2026-01-06", "2026-01-11"),
    ]
    assert [r.run_key for r in asked] == [r.run_key for r in again]


def test_a_change_beyond_the_horizon_waits_for_a_command_and_a_day_that_never_landed_does_not(settings: Settings):
    home = settings.model_copy(update={"late_horizon_days": 4})
    days = [FIRST + timedelta(days=d) for d in range(11)]
    landed = [day for day in days if day != days[1]]
    with Lake(home) as lake:
        init_tables(lake)
        load_days(lake, home, landed, {"homepage", "radio"})
    for day in (days[5], days[6]):
        [file] = (the(Path, home.landing_dir) / "users" / f"day={day}").glob("*.parquet")
        shutil.copyfile(file, file.with_name("late.parquet"))
    assert _beyond_horizon(home, changed_days(home).ready) == {days[5]}
    assert list(changed_days(home).ready) == [days[1], days[5], days[6]]


def test_a_bad_day_is_seen_alone_and_the_days_beside_it_go_on(settings: Settings, prepared_home: Path, tmp_path: Path):
    home = settings.model_copy(update={"home": shutil.copytree(prepared_home, tmp_path / "copy")})
    days = [FIRST + timedelta(days=d) for d in range(4)]
    (the(Path, home.landing_dir) / "listens" / f"day={days[1]}" / "bad.parquet").write_bytes(b"no parquet")
    repository = build_definitions(home).get_repository_def()
    sensor = repository.get_sensor_def("landed_days_sensor")
    with dg.DagsterInstance.ephemeral() as instance:
        resources = {"settings": home, "progress": ProgressResource()}
        told = dg.materialize(
            [build_landing(home)],
            instance=instance,
            resources=resources,
            tags=range_tags(days[0], days[3]),
            raise_on_error=False,
        )
        assert not told.success
        [failure] = told.get_step_failure_events()
        assert "1 of 4 days did not land" in str(failure.step_failure_data.error)
        seen = instance.get_materialized_partitions(dg.AssetKey(["landing", "listens"]))
        assert seen == {str(days[0]), str(days[2]), str(days[3])}

        def after(first: int, last: int) -> Any:
            run = dg.DagsterRun(job_name=BASE_JOB, tags=range_tags(days[first], days[last]))
            context = dg.build_run_status_sensor_context(
                sensor_name=sensor.name,
                dagster_instance=instance,
                dagster_run=run,
                dagster_event=failure,
                resources={"settings": home},
                repository_def=repository,
            )
            with context:
                return run.run_id, sensor(context)

        run, result = after(0, 3)
        asked = [(r.run_key, r.tags[RANGE_START], r.tags[RANGE_END]) for r in result.run_requests]
        assert asked == [
            (f"{run} {days[0]}", str(days[0]), str(days[0])),
            (f"{run} {days[2]}", str(days[2]), str(days[3])),
        ]
        for first, last in ((1, 1), (2, 3)):
            assert isinstance(after(first, last)[1], dg.SkipReason), "what failed by itself is a person's to look at"


def test_sensors_and_schedules_of_a_finished_demo_ask_for_nothing_and_say_why(tiny_demo: Path):
    home = Settings(home=tiny_demo, surfaces_dir=ROOT / "tests" / "surfaces", threads=1)
    repository = build_definitions(home).get_repository_def()
    said = {}
    with dg.DagsterInstance.from_config(str(tiny_demo / "dagster")) as instance:
        for name in ("landing_sensor", "teacher_sensor"):
            outcome = tick(home, name, instance)
            assert not outcome.run_requests
            said[name] = outcome.skip_message
        for schedule in (s for s in repository.schedule_defs if s.name.endswith("_release_schedule")):
            outcome = evaluate(home, schedule, instance, repository)
            assert not outcome.run_requests
            said[schedule.name] = outcome.skip_message
    assert said["landing_sensor"] == "every complete day is landed as it is"
    assert "has labelled every day" in said["teacher_sensor"]
    assert said["homepage_release_schedule"] == f"the candidate of {home.last_day} was made already"


def test_the_schedule_asks_for_no_second_release_while_one_is_being_made(tiny_demo: Path):
    home = Settings(home=tiny_demo, surfaces_dir=ROOT / "tests" / "surfaces", threads=1)
    repository = build_definitions(home).get_repository_def()
    schedule = next(s for s in repository.schedule_defs if s.name == "homepage_release_schedule")
    with dg.DagsterInstance.from_config(str(tiny_demo / "dagster")) as instance:
        asked = [
            dg.DagsterRun(job_name="homepage_release_job", status=dg.DagsterRunStatus.STARTED),
            dg.DagsterRun(
                job_name="__ASSET_JOB",
                status=dg.DagsterRunStatus.STARTED,
                asset_selection=frozenset({dg.AssetKey(["homepage", "training_set"])}),
            ),
        ]
        for run in asked:
            instance.add_run(run)
            assert evaluate(home, schedule, instance, repository).skip_message == "a release of homepage is being made"
            instance.delete_run(run.run_id)


def test_an_undecided_candidate_is_judged_on_each_further_day_and_no_newer_release_is_made(
    settings: Settings, prepared_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    home, day = settings.model_copy(update={"home": prepared_home}), FIRST + timedelta(days=10)
    repository = build_definitions(home).get_repository_def()
    schedule = next(s for s in repository.schedule_defs if s.name == "homepage_release_schedule")
    waits = widening.OpenCandidate(day, day, None)
    due = widening.OpenCandidate(day, day, day + timedelta(days=1))
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        for found in (waits, due):
            monkeypatch.setattr(widening, "open_candidate", lambda settings, surface, found=found: found)
            assert evaluate(home, schedule, instance, repository).skip_message == str(found)
            outcome = tick(home, "homepage_widening_sensor", instance)
            if found is waits:
                assert not outcome.run_requests and outcome.skip_message == str(found)
        [asked] = outcome.run_requests
        monkeypatch.setattr(widening, "open_candidate", lambda settings, surface: None)
        assert "is undecided and may still widen" in tick(home, "homepage_widening_sensor", instance).skip_message
    assert (asked.partition_key, asked.run_key) == (str(day), f"homepage {day} through {day + timedelta(days=1)}")
    job = repository.get_job(widening_job_name(load_surfaces(home)["homepage"]))
    keys = {key.to_user_string() for key in job.asset_layer.selected_asset_keys}
    assert keys == {"homepage/evaluation", "homepage/onnx", "homepage/release"}, "nothing is trained again"
    assert job.asset_layer.asset_graph.get(dg.AssetKey(["homepage", "onnx"])).check_keys, "the gate stands between"


def test_another_pinned_teacher_relabels_the_days_that_students_see(tiny_demo: Path, tmp_path: Path):
    home = Settings(home=tiny_demo, surfaces_dir=ROOT / "tests" / "surfaces", threads=1)
    shutil.copytree(tiny_demo / "teacher", tmp_path / "teacher")
    contract = tmp_path / "teacher" / "contract.yaml"
    contract.write_text(contract.read_text().replace("version: ", "version: next-", 1))
    other = home.model_copy(update={"teacher": contract})
    with dg.DagsterInstance.ephemeral() as instance:
        [asked] = tick(other, "teacher_sensor", instance).run_requests
    assert asked.tags[RANGE_START] == str(home.first_day)
    assert date.fromisoformat(asked.tags[RANGE_END]) >= present(home.last_day) - timedelta(days=1)


def test_a_champion_that_the_server_never_takes_up_is_rolled_back_once(tiny_demo: Path):
    home = Settings(home=tiny_demo, surfaces_dir=ROOT / "tests" / "surfaces", threads=1)
    pointers = {name: present(ReleaseStore(home.artifacts_dir).pointer(name)) for name in ("homepage", "radio")}
    served = {"homepage": "an earlier one", "radio": pointers["radio"].release}

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            release = served[self.path.split("/")[-1]]
            self.wfile.write(json.dumps({"parameters": {"release": release}}).encode())

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server, dg.DagsterInstance.ephemeral() as instance:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        watched = home.model_copy(update={"serve_url": f"http://127.0.0.1:{server.server_address[1]}"})
        first = tick(watched, "serving_health_sensor", instance)
        assert not first.run_requests and "it serves an earlier one" in first.skip_message
        long_ago = json.dumps({f"homepage {pointers['homepage'].number}": 0.0})
        [asked] = tick(watched, "serving_health_sensor", instance, cursor=long_ago).run_requests
        served["homepage"] = pointers["homepage"].release
        healthy = tick(watched, "serving_health_sensor", instance, cursor=long_ago)
        server.shutdown()
    config = asked.run_config["ops"]["move_pointer_back"]["config"]
    assert config["surface"] == "homepage" and "an earlier one" in config["reason"]
    assert not healthy.run_requests and healthy.skip_message == "every champion is served"
    assert healthy.cursor == "{}"
