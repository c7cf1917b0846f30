"""Worlds as homes of their own: simulated, landed, featured, labelled by a teacher of their own, and kept."""

import fcntl
import json
import shutil
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

from ml.features import build_arguments, project_hash, run_dbt
from ml.lake import Lake
from ml.landing.load import load_days
from ml.settings import Settings
from ml.simulator.presets import load_preset
from ml.simulator.write import write_landing
from ml.study.design import World, code_hash, digest, surfaces_dir
from ml.surfaces.spec import load_surfaces, teacher_end
from ml.teacher.contract import teacher_contract
from ml.teacher.demo import train_demo_teacher
from ml.teacher.labels import label_days

FIRST_DAY = date(2026, 1, 1)
READY_FILE = "world.json"
_CODE = ("ml/simulator", "ml/teacher/demo.py")

Say = Callable[[str], None]


def world_settings(home: Path, world: World) -> Settings:
    """Return the settings of a world's home. Arguments only: the environment of the study's own home says nothing."""
    last = FIRST_DAY + timedelta(days=load_preset(world.preset).days - 1)
    return Settings(
        home=home,
        source="simulator",
        landing_dir=home / "landing",
        teacher=home / "teacher" / "contract.yaml",
        surfaces_dir=surfaces_dir(world),
        first_day=FIRST_DAY,
        last_day=last,
        simulator_preset=world.preset,
        simulator_seed=world.seed,
        simulator_shared_taste=world.shared_taste,
        simulator_linked_share=world.linked_share,
        seed=world.seed,
        threads=1,
    )


def prepare_world(root: Path, world: World, say: Say = lambda message: None) -> Settings:
    """Return the home of a world with examples and soft labels of every day, making it if need be.

    A world is made once per state of simulator, dbt project and demo teacher, by one process at a time. One that was
    killed while it was made is made again from nothing.

    Args:
        root: Folder of all worlds.
        world: Which.
        say: Told each stage.
    """
    home = root / world.name
    settings = world_settings(home, world)
    identity = {
        "world": world.model_dump(mode="json"),
        "dbt_project": project_hash(),
        "code": code_hash(_CODE),
        "teacher_spec": digest(settings.teacher_spec.read_text(encoding="utf-8")) if settings.teacher_spec else None,
        "labels": {name: dict(surface.labels) for name, surface in load_surfaces(settings).items()},
    }
    root.mkdir(parents=True, exist_ok=True)
    with (root / f"{world.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _make(settings, identity, say)
    return settings


def _make(settings: Settings, identity: dict[str, object], say: Say) -> None:
    home = settings.home
    ready = home / READY_FILE
    if ready.exists() and json.loads(ready.read_text(encoding="utf-8")) == identity:
        return
    shutil.rmtree(home, ignore_errors=True)
    say("simulating")
    write_landing(settings)
    surfaces = load_surfaces(settings)
    assert settings.last_day is not None
    days = settings.days(settings.first_day, settings.last_day)
    with Lake(settings) as lake:
        say("landing")
        load_days(lake, settings, days, surfaces=set(surfaces))
    say("features")
    run_dbt(settings, build_arguments(settings, surfaces, ("base",), days[0], days[-1]))
    run_dbt(settings, build_arguments(settings, surfaces, ("ranking",), days[0], days[-1]))
    say("teacher")
    assert settings.teacher is not None
    train_demo_teacher(settings, teacher_end(settings, surfaces), settings.teacher.parent, settings.seed)
    contract = teacher_contract(settings)
    with Lake(settings) as lake:
        say("soft labels")
        for name in surfaces:
            label_days(lake, settings, name, contract, days)
    shutil.rmtree(settings.landing_dir or home / "landing", ignore_errors=True)
    scratch = ready.with_suffix(".tmp")
    scratch.write_text(json.dumps(identity), encoding="utf-8")
    scratch.replace(ready)
