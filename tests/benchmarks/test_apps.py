"""The worlds of `make apps` and `make teachers` are what their names say."""

from datetime import date
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks import apps
from benchmarks.synthetic import PARTS, Shape, world
from ml.evaluation.teacher_parts import shares
from ml.students.space import ControlSpace, StudentSpace
from ml.surfaces.files import load_surface
from ml.surfaces.scaffold import scaffold
from ml.surfaces.spec import Surface


@pytest.fixture(scope="module")
def surface(tmp_path_factory: pytest.TempPathFactory) -> Surface:
    folder = tmp_path_factory.mktemp("app")
    [path, *_] = scaffold("podcasts", folder, surfaces_dir=folder / "surfaces")
    return load_surface(path)


@pytest.mark.parametrize("part", PARTS)
def test_a_teacher_knows_the_part_of_the_world_that_it_is_said_to_know(surface: Surface, part: str) -> None:
    of = {"users": 300, "items": 100, "teacher_noise": 0.3, "popularity": 0.7, "activity": 0.9, "seed": 0}
    examples, soft_labels = world(surface, Shape(date(2026, 1, 1), 5, 2_000, knows=(part,), **of))
    rows, labels = examples.sort_by("exposure_id"), soft_labels.sort_by("exposure_id")
    logits = np.array(labels["scores"].to_pylist())[:, 0]
    found = shares(logits, rows["user_id"].to_numpy(), rows["item_id"].to_numpy())
    assert found[list[str](PARTS).index(part)] > 0.8


def test_the_best_known_settings_can_be_trained_for_every_app(surface: Surface) -> None:
    found = yaml.safe_load(Path(apps.SETTINGS).read_text(encoding="utf-8"))
    assert set(found) == set(apps.APPS)
    for of in found.values():
        control = ControlSpace(surface, 1_000)
        tuned = StudentSpace(control.surface_of({**control.present, **of["control"]})).surface_of(of["student"])
        assert tuned.distillation.technique == of["student"]["technique"] and tuned.distillation.heads
