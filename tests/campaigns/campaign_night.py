"""An app's nights with the real daemon: files arrive, change and come late, and releases follow. `make night`."""

import os
import shutil
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg

from deploy.automation.days import RANGE_END, RANGE_START
from deploy.automation.jobs import BASE_JOB, RANKING_JOB
from ml.foundation.lake import Lake
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.lab.simulator.write import write_landing
from ml.landing.patterns import SUCCESS
from ml.releases.store import ReleaseStore
from tests.support.instance import FIRST, daemon, day, wait

SCHEDULED_AFTER_MINUTES = 6
"""When the day's schedule fires, once: after the first files' labels, so that what comes later is the conditions'."""


def test_files_that_arrive_change_and_come_late_become_releases_of_exactly_their_days(
    tiny_demo: Path, tmp_path: Path
) -> None:
    landing, home = tmp_path / "landing", tmp_path / "home"
    teacher = tiny_demo / "teacher" / "contract.yaml"
    once = datetime.now(UTC) + timedelta(minutes=SCHEDULED_AFTER_MINUTES)
    environment = {
        **os.environ,
        "CROSSFADE_HOME": str(home),
        "CROSSFADE_SOURCE": "files",
        "CROSSFADE_LANDING_DIR": str(landing),
        "CROSSFADE_FIRST_DAY": str(FIRST),
        "CROSSFADE_LAST_DAY": str(day(11)),
        "CROSSFADE_SURFACES_DIR": str(PROJECT_ROOT / "tests" / "surfaces"),
        "CROSSFADE_TEACHER": str(teacher),
        "CROSSFADE_AUTOMATION": "true",
        "CROSSFADE_SENSOR_SECONDS": "5",
        "CROSSFADE_RELEASE_CRON": f"{once:%M %H} * * *",
    }
    written = tmp_path / "written"
    write_landing(Settings(home=tmp_path / "simulator", landing_dir=written, simulator_preset="tiny"), days=12)
    arrive(written, landing, range(11))
    subprocess.run([sys.executable, "-m", "deploy.cli", "init"], env=environment, cwd=PROJECT_ROOT, check=True)
    settings = Settings(
        home=home,
        source="files",
        landing_dir=landing,
        first_day=FIRST,
        last_day=day(11),
        surfaces_dir=PROJECT_ROOT / "tests" / "surfaces",
        teacher=teacher,
    )
    store = ReleaseStore(settings.artifacts_dir)

    def champion(surface: str) -> date | None:
        pointer = store.pointer(surface)
        return pointer.partition if pointer else None

    with (
        daemon(environment, tmp_path / "ui.log"),
        dg.DagsterInstance.from_config(str(settings.dagster_home)) as instance,
    ):
        wait("the first release of both surfaces", lambda: {champion("homepage"), champion("radio")} == {day(10)})
        assert spans(instance, BASE_JOB) == [(day(0), day(10))]
        assert spans(instance, RANKING_JOB) == [(day(0), day(9))]

        arrive(written, landing, [11])
        wait("the release of the next day", lambda: {champion("homepage"), champion("radio")} == {day(11)})
        followed = instance.get_runs(dg.RunsFilter(tags={"dagster/from_automation_condition": "true"}))
        made = {key for run in followed for key in run.asset_selection or ()}
        assert {dg.AssetKey([surface, "release"]) for surface in ("homepage", "radio")} <= made
        assert spans(instance, BASE_JOB)[1:] == [(day(11), day(11))]
        assert spans(instance, RANKING_JOB)[1:] == [(day(10), day(11))]

        before = content(settings)
        folder = landing / "listens" / f"day={day(4)}"
        [file] = folder.glob("*.parquet")
        correct(file)
        wait("the ranking tables of a late correction", lambda: len(spans(instance, RANKING_JOB)) == 3)
        assert spans(instance, BASE_JOB)[2:] == [(day(4), day(4))]
        assert spans(instance, RANKING_JOB)[2:] == [(day(3), day(11))]
        after = content(settings)
        assert {d for d in before if before[d] != after[d]} <= {day(d) for d in range(3, 12)}
        assert before[day(4)] != after[day(4)]
        failed = [run for run in instance.get_runs() if run.status is dg.DagsterRunStatus.FAILURE]
        assert not failed, [run.job_name for run in failed]


def arrive(source: Path, landing: Path, days: "range | list[int]") -> None:
    """Copy the files of some days, each table's _SUCCESS last."""
    for table in sorted(source.iterdir()):
        for number in days:
            folder = table / f"day={day(number)}"
            if not folder.is_dir():
                continue
            target = landing / table.name / folder.name
            target.mkdir(parents=True, exist_ok=True)
            for path in folder.iterdir():
                if path.name != SUCCESS:
                    shutil.copyfile(path, target / path.name)
            (target / SUCCESS).touch()


def correct(file: Path) -> None:
    """Replace a file of listens by one in which everything was played twice as long."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(file)
    place = table.schema.get_field_index("played_s")
    scratch = file.with_name(".corrected")
    pq.write_table(
        table.set_column(place, "played_s", pc.call_function("multiply", [table["played_s"], pa.scalar(2.0)])), scratch
    )
    scratch.replace(file)


def content(settings: Settings) -> dict[date, str]:
    with Lake(settings) as lake:
        versions = lake.day_versions("features.examples_homepage", day(0), day(11))
    return {d: version for d, (_, version) in versions.items()}


def spans(instance: dg.DagsterInstance, job: str) -> list[tuple[date, date]]:
    """Return the days of the successful runs of a job, oldest first."""
    runs = instance.get_runs(dg.RunsFilter(job_name=job, statuses=[dg.DagsterRunStatus.SUCCESS]))
    first, last = ([date.fromisoformat(run.tags[tag]) for run in reversed(runs)] for tag in (RANGE_START, RANGE_END))
    return list(zip(first, last, strict=True))
