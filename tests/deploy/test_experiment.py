"""Variants behind a real server: the experiment over HTTP, its A/A run, a killed one, and its report."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pyarrow as pa
import pytest

from deploy.serving.variants import serving_variants
from ml.experiments.analysis import effects, where
from ml.experiments.user_days import METRICS, USER_DAYS_TABLE
from ml.foundation.lake import Lake
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.inference.snapshot import current_snapshot
from ml.lab.live.design import Design
from ml.lab.live.live import LiveWorld
from ml.lab.live.run import NotRun, experiment_rows, plan
from ml.lab.live.variants import Variant, VariantStore
from ml.releases.store import ReleaseStore
from ml.surfaces.files import load_surfaces

pytestmark = pytest.mark.early

ONE = Design(
    name="one",
    description="One small world.",
    preset="tiny",
    surfaces_dir="tests/surfaces",
    worlds=(1,),
    variants={"control": "control", "student": "student"},
    days=4,
    requests_per_day=30,
    candidates=40,
    paired_share=0.5,
    interleaved_share=0.5,
)
AA = ONE.model_copy(update={"name": "one_aa", "variants": {"control": "control", "control_again": "control"}})

RUN = """
import multiprocessing
import sys
from pathlib import Path

if multiprocessing.current_process().name.startswith(("MainProcess", "SpawnProcess")):
    import ml.lab.live.run as run
    from ml.foundation.settings import Settings

    # In the processes of worlds too: the world is the home that a demo left.
    world = Settings(home=Path(sys.argv[2]), surfaces_dir=Path(sys.argv[4]), threads=1)
    run.prepare_world = lambda root, spec, tell: world

if __name__ == "__main__":
    from deploy.serving.variants import serving_variants
    from ml.lab.live.design import Design

    design = Design.model_validate_json(sys.argv[3])
    run.run_experiment(
        Settings(home=Path(sys.argv[1])),
        design,
        serving_variants,
        workers=1,
        report=lambda p: print(p.what, flush=True),
    )
"""


@pytest.fixture(scope="module")
def world(tiny_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A finished world, with surfaces that train fast."""
    surfaces = tmp_path_factory.mktemp("surfaces")
    for path in (PROJECT_ROOT / "tests" / "surfaces").glob("*.yaml"):
        (surfaces / path.name).write_text(f"extends: {path}\ntraining: {{epochs: 1, batch_size: 512}}\n")
    return Settings(home=tiny_demo, surfaces_dir=surfaces, threads=1)


def live_of(world: Settings, design: Design) -> LiveWorld:
    return LiveWorld(world, next(design.in_worlds()), design)


@pytest.fixture(scope="module")
def killed(world: Settings, tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, list[str]]:
    """An experiment that was killed while it served its second surface, and how to run it again."""
    root = tmp_path_factory.mktemp("experiment")
    script = root / "run.py"
    script.write_text(RUN)
    command = [
        sys.executable,
        str(script),
        str(root / "home"),
        str(world.home),
        ONE.model_dump_json(),
        str(world.surfaces_dir),
    ]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True, cwd=PROJECT_ROOT, env=environment
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "radio 2026" in line:
            os.killpg(process.pid, signal.SIGKILL)
            break
    process.wait()
    return Settings(home=root / "home"), command


def held(settings: Settings) -> pa.Table:
    with Lake(settings) as lake:
        return lake.sql(f"select * from lake.{USER_DAYS_TABLE} order by surface, estimate, arm, day, user_id")


def test_a_killed_experiment_keeps_its_surfaces_and_a_rerun_does_what_is_missing(
    world: Settings, killed: tuple[Settings, list[str]], monkeypatch: pytest.MonkeyPatch
):
    settings, command = killed
    before = held(settings)
    assert set(before["surface"].to_pylist()) == {"homepage"}
    champion = ReleaseStore(world.artifacts_dir).pointer("homepage")
    features = current_snapshot(world)
    subprocess.run(command, check=True, cwd=PROJECT_ROOT, env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)})
    after = held(settings)
    assert where(after, surface="homepage").equals(before)
    assert ReleaseStore(world.artifacts_dir).pointer("homepage") == champion and current_snapshot(world) == features

    monkeypatch.setattr("ml.lab.live.run.prepare_world", lambda *_: world)
    monkeypatch.setattr("ml.lab.live.run.world_settings", lambda *_: world)
    monkeypatch.setattr("ml.lab.live.run.is_ready", lambda *_: True)
    rows = experiment_rows(settings, ONE)
    assert len(rows) == len(after)
    split = where(rows, estimate="split")
    assert sum(split["requests"].to_pylist()) == 2 * 4 * 30
    variants = {user: set() for user in split["user_id"].to_pylist()}
    for user, variant in zip(split["user_id"].to_pylist(), split["arm"].to_pylist(), strict=True):
        variants[user].add(variant)
    assert all(len(own) == 1 for own in variants.values()) and len(set().union(*variants.values())) == 2
    paired = where(rows, estimate="paired")
    assert sum(paired["requests"].to_pylist()) == 2 * 2 * 4 * 15
    together = where(rows, estimate="interleaved")
    assert sum(together["requests"].to_pylist()) == 2 * 2 * 4 * 15
    both = [where(together, arm=arm).select(["surface", "day", "user_id", "requests"]) for arm in ONE.variants]
    assert both[0].equals(both[1]), "both variants answered the same requests"
    assert not where(together, arm="control")["engagement"].equals(where(together, arm="student")["engagement"])


def test_one_ranker_in_both_variants_gives_equal_figures_and_a_user_the_same_as_in_the_other_experiment(
    world: Settings, killed: tuple[Settings, list[str]]
):
    live, surface = live_of(world, AA), load_surfaces(world)["homepage"]
    placement = live.placement(surface)
    variants = placement.place(live.root)
    assert variants["control"].release == variants["control_again"].release
    rows = live.run(placement, serving_variants)
    found = effects(rows, "control")
    for effect in found:
        if effect.estimate == "paired":
            assert (effect.lift.estimate, effect.lift.lo, effect.lift.hi) == (0.0, 0.0, 0.0), effect.metric
    assert "engagement" in {effect.metric for effect in found} <= set(METRICS)

    names = ["release", "day", "user_id", "requests", *METRICS]
    there = where(held(killed[0]), surface="homepage", estimate="split", arm="control")
    here = where(rows, estimate="split", arm="control").sort_by([("day", "ascending"), ("user_id", "ascending")])
    assert here.select(names).equals(there.select(names))


def test_the_server_of_variants_names_them_and_knows_no_champion(world: Settings):
    live = live_of(world, ONE)
    variants = live.placement(load_surfaces(world)["homepage"]).place(live.root)
    with serving_variants(world, live.root, variants.values()) as url:
        ready = httpx.get(f"{url}/v2/models/homepage.student").json()
        assert ready["parameters"]["release"] == variants["student"].release != variants["control"].release
        assert httpx.get(f"{url}/v2/models/homepage").status_code == 404
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/v2/health/live")
    missing = Variant("homepage.x", "models/homepage/x", "none", "0" * 64)
    with pytest.raises(FileNotFoundError):
        VariantStore(live.root, [missing]).trusted_release("homepage.x", missing.release)


def test_a_teacher_that_learnt_live_days_is_refused(world: Settings):
    late = ONE.model_copy(update={"days": 8})
    with pytest.raises(ValueError, match=r"begins on 2026-01-04, and the teacher learnt up to 2026-01-04"):
        live_of(world, late).placement(load_surfaces(world)["homepage"])


def test_what_was_not_run_is_named_and_costed(tmp_path: Path):
    settings = Settings(home=tmp_path / "home")
    cost = plan(settings, ONE, workers=3)
    assert (cost.worlds, cost.worlds_to_make, cost.requests, cost.calls, cost.workers) == (1, 1, 60, 2 * 4 * 60, 1)
    with pytest.raises(NotRun, match=r"world tiny-1-\S+ is missing; run `crossfade experiment run one`"):
        experiment_rows(settings, ONE)
