"""Worlds as homes of their own: simulated, landed, featured, labelled by teachers of their own, and kept."""

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ml.features.build import Stage, build_arguments, build_ranges, run_dbt
from ml.features.projects import project_hash
from ml.foundation.code import code_hash
from ml.foundation.documents import digest, load_yaml
from ml.foundation.lake import Lake
from ml.foundation.settings import EXAMPLES, Settings
from ml.lab.demo_teacher import train_demo_teacher
from ml.lab.kuairand import log_days
from ml.lab.simulator.presets import load_preset
from ml.lab.sources import write_raw_files
from ml.lab.study.design import KUAIRAND, OWN_TEACHER, World, WorldTeacher, surfaces_dir
from ml.landing.load import load_days
from ml.surfaces.files import load_surfaces
from ml.surfaces.spec import teacher_end
from ml.teacher.contract import Contract, load_contract, teacher_contract, write_contract
from ml.teacher.labels import label_days, unavailable_inputs
from ml.teacher.vectors import embed_days

FIRST_DAY = date(2026, 1, 1)
READY_FILE = "world.json"
VECTORS = {
    "viewer": {"entity": "user_id", "inputs": ["source_user_id", "history_embedding"]},
    "video": {"entity": "item_id", "inputs": ["source_item_id", "source_creator_id", "content_embedding"]},
}
"""Vectors of the demo teacher in worlds that have some; elsewhere its file is as it always was."""
_CODE = ("ml/lab/simulator", "ml/lab/demo_teacher.py")

Say = Callable[[str], None]


def worlds_dir(study: Settings) -> Path:
    """Return the folder of the worlds of a home's studies."""
    return study.home / "study" / "worlds"


def world_settings(study: Settings, world: World) -> Settings:
    """Return the settings of a world's home. Arguments only: the environment of the study's own home says nothing.

    Args:
        study: Settings of the home whose study it is.
        world: Which.

    Raises:
        ValueError: The world is KuaiRand's and ``study`` names no folder of it.
    """
    home = worlds_dir(study) / world.name
    common: dict[str, Any] = {
        "home": home,
        "app": EXAMPLES / ("kuairand" if world.preset == KUAIRAND else "simulator"),
        "landing_dir": home / "landing",
        "teacher": home / "teacher" / "contract.yaml",
        "surfaces_dir": surfaces_dir(world),
        "seed": world.seed,
        "threads": 1,
    }
    if world.preset == KUAIRAND:
        if study.kuairand_dir is None:
            raise ValueError(f"world {world.name}: set CROSSFADE_KUAIRAND_DIR to the unpacked KuaiRand-Pure folder")
        first, last = log_days(study.kuairand_dir)
        if world.homepage_tabs is not None:
            common["kuairand_homepage_tabs"] = world.homepage_tabs
        logs = study.kuairand_dir.absolute()
        return Settings(**common, source="kuairand", kuairand_dir=logs, first_day=first, last_day=last)
    return Settings(
        **common,
        source="simulator",
        first_day=FIRST_DAY,
        last_day=FIRST_DAY + timedelta(days=load_preset(world.preset).days - 1),
        simulator_preset=world.preset,
        simulator_seed=world.seed,
        simulator_shared_taste=world.shared_taste,
        simulator_linked_share=world.linked_share,
    )


def prepare_world(study: Settings, world: World, say: Say = lambda message: None) -> Settings:
    """Return the home of a world with examples and soft labels of every day, making it if need be.

    A world is made once per state of simulator, dbt project and demo teacher, by one process at a time. One that was
    killed while it was made is made again from nothing.

    Args:
        study: Settings of the home whose study it is.
        world: Which.
        say: Told each stage.
    """
    settings = world_settings(study, world)
    identity = {
        "world": world.model_dump(mode="json", exclude_defaults=True),
        "dbt_project": project_hash(settings),
        "code": code_hash(_CODE),
        "teacher_spec": digest(settings.teacher_spec.read_text(encoding="utf-8")) if settings.teacher_spec else None,
        "labels": {name: dict(surface.labels) for name, surface in load_surfaces(settings).items()},
    }
    if world.preset == KUAIRAND:
        identity |= {"days": [str(settings.first_day), str(settings.last_day)]}
    with _alone(worlds_dir(study), world):
        _make(settings, world, identity, say)
    return settings


def prepare_teacher(
    settings: Settings, world: World, teacher: WorldTeacher, say: Say = lambda message: None
) -> Contract:
    """Return a teacher of a prepared world whose soft labels are in its lake, making both if need be.

    One that knows less is trained (on fewer days, or without inputs that the app lacks) or withholds inputs when it
    labels; its labels lie beside those of the world's own teacher, under a version of their own.

    Args:
        settings: The world's home, as ``prepare_world`` returned it.
        world: The world.
        teacher: Which one.
        say: Told each stage.
    """
    folder = settings.home / teacher.name
    if teacher == OWN_TEACHER:
        return load_contract(folder)
    ready = folder / READY_FILE
    identity = {"world": (settings.home / READY_FILE).read_text(encoding="utf-8"), "teacher": teacher.model_dump()}
    with _alone(settings.home.parent, world):
        if not (ready.exists() and json.loads(ready.read_text(encoding="utf-8")) == identity):
            shutil.rmtree(folder, ignore_errors=True)
            say(f"soft labels of {teacher.name}")
            _make_teacher(settings, world, teacher, folder)
            _publish(ready, identity)
    return load_contract(folder)


def is_ready(study: Settings, world: World, teacher: WorldTeacher = OWN_TEACHER) -> bool:
    """Tell whether a world and a teacher of it were made, be it by an older state of the code."""
    home = worlds_dir(study) / world.name
    return (home / READY_FILE).exists() and (teacher == OWN_TEACHER or (home / teacher.name / READY_FILE).exists())


@contextmanager
def _alone(root: Path, world: World) -> Iterator[None]:
    root.mkdir(parents=True, exist_ok=True)
    with (root / f"{world.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _publish(ready: Path, identity: dict[str, object]) -> None:
    scratch = ready.with_suffix(".tmp")
    scratch.write_text(json.dumps(identity), encoding="utf-8")
    scratch.replace(ready)


def _make_teacher(settings: Settings, world: World, teacher: WorldTeacher, folder: Path) -> None:
    surfaces = load_surfaces(settings)
    assert settings.last_day is not None and settings.teacher_spec is not None
    folder.mkdir()
    if teacher.days or teacher.defaulted == 0:
        through = teacher_end(settings, surfaces)
        spec = load_yaml(settings.teacher_spec)
        if teacher.defaulted == 0:
            spec["inputs"] = {name: item for name, item in spec["inputs"].items() if not item.get("source_only")}
        spec_file = folder / "spec.yaml"
        spec_file.write_text(yaml.safe_dump(spec, sort_keys=False), encoding="utf-8")
        first = through - timedelta(days=teacher.days - 1) if teacher.days else settings.first_day
        less = settings.model_copy(update={"teacher_spec": spec_file, "first_day": max(first, settings.first_day)})
        train_demo_teacher(less, through, folder, settings.seed)
    else:
        assert settings.teacher is not None
        shutil.copytree(settings.teacher.parent, folder, dirs_exist_ok=True)
    contract = load_contract(folder)
    named = contract.model_copy(update={"version": f"{contract.version}+{teacher.name}"})
    write_contract(named, folder / "contract.yaml")
    contract = load_contract(folder)
    days = settings.days(settings.first_day, settings.last_day)
    with Lake(settings) as lake:
        for name in surfaces:
            withheld: tuple[str, ...] = ()
            if teacher.defaulted:
                absent = unavailable_inputs(lake, name, contract)
                rest = [item.name for item in contract.inputs if item.name not in absent]
                more = round(teacher.defaulted * len(contract.inputs)) - len(absent)
                order = np.random.default_rng(world.seed).permutation(len(rest))
                withheld = tuple(rest[i] for i in order[: max(more, 0)])
            label_days(lake, settings, name, contract, days, withheld=withheld)


def _with_vectors(settings: Settings) -> Settings:
    """Return the settings with a specification of the demo teacher that has vectors."""
    assert settings.teacher_spec is not None
    spec = settings.home / "teacher.yaml"
    content = load_yaml(settings.teacher_spec) | {"vectors": VECTORS}
    spec.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return settings.model_copy(update={"teacher_spec": spec})


def _make(settings: Settings, world: World, identity: dict[str, object], say: Say) -> None:
    home = settings.home
    ready = home / READY_FILE
    if ready.exists() and json.loads(ready.read_text(encoding="utf-8")) == identity:
        return
    shutil.rmtree(home, ignore_errors=True)
    say("raw files")
    write_raw_files(settings)
    surfaces = load_surfaces(settings)
    assert settings.last_day is not None
    days = settings.days(settings.first_day, settings.last_day)
    with Lake(settings) as lake:
        say("landing")
        load_days(lake, settings, days, surfaces=set(surfaces))
        ranges = build_ranges(lake, days)
    say("features")
    stages: tuple[Stage, ...] = ("base", "ranking")
    for stage, (first, last) in product(stages, ranges):
        run_dbt(settings, build_arguments(settings, surfaces, (stage,), first, last))
    say("teacher")
    assert settings.teacher is not None
    trained = _with_vectors(settings) if world.vectors else settings
    train_demo_teacher(trained, teacher_end(settings, surfaces), settings.teacher.parent, settings.seed)
    contract = teacher_contract(settings)
    with Lake(settings) as lake:
        say("soft labels")
        for name in surfaces:
            label_days(lake, settings, name, contract, days)
        if world.vectors:
            say("vectors")
            embed_days(lake, settings, contract, surfaces, days)
    shutil.rmtree(settings.landing_dir or home / "landing", ignore_errors=True)
    _publish(ready, identity)
