"""Kills at random moments, many times: `make kills`. The tests kill the same parts once, at a chosen moment."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx

from deploy.serving.run import serving
from ml.foundation.lake import Lake
from ml.foundation.settings import EXAMPLES, PROJECT_ROOT, Settings
from ml.lab.study.analysis import lifts
from ml.lab.study.design import load_design
from ml.lab.study.report import study_rows
from ml.lab.study.run import TRIALS_TABLE
from ml.releases.store import ReleaseStore
from ml.surfaces.files import load_surface
from tests.support.instance import start
from tests.support.shop import Shop, killed_movers, opens_valid
from tests.support.tiny_home import Home, number_of, rank_body, tiny_settings

HOMEPAGE = EXAMPLES / "simulator" / "surfaces" / "homepage.yaml"
KILLS = int(os.environ.get("KILLS", "5"))
RELEASE_KILLS = int(os.environ.get("RELEASE_KILLS", "200"))
STUDY = """
one:
  description: Two small worlds.
  preset: tiny
  surfaces_dir: tests/surfaces
  seeds: [1]
  parts:
    - {worlds: [7, 8], variants: [student, student shuffled, auxiliary]}
    - {worlds: [7], variants: [student], dials: {teacher_days: [2], shared_taste: [0]}}
"""
RUN = """
import sys
from pathlib import Path
from ml.foundation.settings import Settings
from ml.lab.study.design import load_design
from ml.lab.study.run import run_study
if __name__ == "__main__":
    run_study(Settings(home=Path(sys.argv[1])), load_design("one", Path(sys.argv[2])), workers=2)
"""


def test_a_study_killed_at_random_moments_ends_with_the_table_of_an_undisturbed_one(tmp_path: Path):
    designs, script = tmp_path / "designs.yaml", tmp_path / "run.py"
    designs.write_text(STUDY)
    script.write_text(RUN)
    began = time.monotonic()
    assert study(script, tmp_path / "undisturbed", designs).wait() == 0
    whole = time.monotonic() - began

    home, moments, kills = tmp_path / "killed", random.Random(0), 0
    while kills < KILLS:
        process = study(script, home, designs)
        wait = moments.uniform(0.05, 0.6) * whole
        try:
            code = process.wait(timeout=wait)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            print(f"kill {kills} of {KILLS} after {wait:.1f} s: {len(held(home))} figures are kept", flush=True)
            continue
        assert code == 0
        print(f"finished before kill {kills + 1}; the rest starts from nothing", flush=True)
        home = tmp_path / f"killed-{kills}"
    assert study(script, home, designs).wait() == 0

    assert held(home) == held(tmp_path / "undisturbed")
    design = load_design("one", designs)
    tables = [lifts(study_rows(Settings(home=h), design), design) for h in (home, tmp_path / "undisturbed")]
    assert tables[0] == tables[1] and len(tables[0]) > 10


def test_releases_killed_at_random_moments_leave_a_valid_champion_and_no_half_release_is_served(tmp_path: Path):
    """Promotions, rollbacks and retirements in one process after another, while a server follows and a client asks."""
    home = Home(tiny_settings(tmp_path / "home"))
    home.publish()
    home.promote("homepage", 1)
    context, moments, stop = multiprocessing.get_context("forkserver"), random.Random(0), threading.Event()
    context.set_forkserver_preload(["tests.campaigns.campaign_kills"])
    answers: list[tuple[int, int, frozenset[int]]] = []

    def ask(url: str) -> None:
        with httpx.Client(base_url=url, timeout=30) as client:
            while not stop.is_set():
                answer = client.post("/rank", json=rank_body())
                content = answer.json()
                made_by = frozenset(int(item["score"] // 1000) for item in content["items"])
                answers.append((answer.status_code, number_of(content["release"]), made_by))

    with serving(home.settings, poll_s=0.02) as url:
        asking = threading.Thread(target=ask, args=(url,))
        asking.start()
        try:
            for kill in range(1, RELEASE_KILLS + 1):
                before = len(home.store.history("homepage"))
                process = context.Process(target=churn, args=(home.settings.home,))
                process.start()
                time.sleep(moments.uniform(0.1, 0.7))
                process.kill()
                process.join()
                assert process.exitcode == -signal.SIGKILL
                assert len(home.store.history("homepage")) >= before
                assert opens_valid(ReleaseStore(home.settings.artifacts_dir)) is not None
                if kill % 20 == 0:
                    moves = len(home.store.history("homepage"))
                    print(f"kill {kill} of {RELEASE_KILLS}: {moves} moves, {len(answers)} answers", flush=True)
        finally:
            stop.set()
            asking.join()
    assert len(home.store.history("homepage")) > RELEASE_KILLS / 4
    assert {status for status, *_ in answers} == {200}
    assert all(made_by == {number} for _, number, made_by in answers), "an answer of half a release"
    assert len({number for _, number, _ in answers}) > 10


def test_two_movers_and_tidiers_killed_at_random_moments_never_point_to_a_removed_folder(tmp_path: Path):
    killed_movers(Shop(tmp_path / "artifacts", load_surface(HOMEPAGE)), RELEASE_KILLS)


def churn(folder: Path) -> None:
    """Promote, roll back and retire until killed."""
    home = Home(tiny_settings(folder))
    number = max(number_of(name) for name in home.store.releases("homepage"))
    while True:
        number += 1
        home.promote("homepage", number)
        if number % 3 == 0:
            home.store.rollback("homepage", by="churn", reason="every third")
        if number % 5 == 0:
            home.store.retire("homepage", keep=3)


def study(script: Path, home: Path, designs: Path) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    return start([sys.executable, str(script), str(home), str(designs)], environment)


def held(home: Path) -> dict[tuple[str, ...], float]:
    """Return every figure of the lake, {(trial, task, slice, metric): value}."""
    with Lake(Settings(home=home)) as lake:
        if not lake.table_exists(TRIALS_TABLE):
            return {}
        rows = lake.sql(f"select trial, task, slice, metric, value from lake.{TRIALS_TABLE}").to_pylist()
    found = {tuple(row[key] for key in ("trial", "task", "slice", "metric")): row["value"] for row in rows}
    assert len(found) == len(rows), "a trial is in the lake twice"
    return found
