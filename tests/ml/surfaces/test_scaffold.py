"""What a new user gets who changes nothing in a scaffolded surface."""

from datetime import date, timedelta
from pathlib import Path

import pytest
import torch

from benchmarks.synthetic import LABELS, Shape, write_world
from ml.evaluation.diagnosis import diagnose
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.students.dataset import build_training_set
from ml.surfaces.files import load_surface
from ml.surfaces.scaffold import scaffold

pytestmark = pytest.mark.slow

FIRST_DAY = date(2026, 1, 1)


@pytest.mark.parametrize(("days", "rows_per_day", "users"), [(13, 1000, 200), (31, 500, 300)], ids=["week", "month"])
def test_a_scaffolded_surface_learns_from_a_strong_teacher(
    tmp_path: Path, days: int, rows_per_day: int, users: int
) -> None:
    torch.set_num_threads(1)
    [path, *_] = scaffold("podcasts", tmp_path, surfaces_dir=tmp_path / "surfaces")
    surface = load_surface(path)
    settings = Settings(home=tmp_path / "home", first_day=FIRST_DAY, threads=1)
    of = {"users": users, "items": users // 2, "teacher_noise": 0.3, "popularity": 0.7}
    with Lake(settings) as lake:
        write_world(lake, surface, Shape(first_day=FIRST_DAY, days=days, rows_per_day=rows_per_day, **of))
        last = FIRST_DAY + timedelta(days=days)
        training_set = build_training_set(lake, surface, last, LABELS)
    [ctr] = diagnose(settings, training_set, surface, seeds=1).tasks
    assert ctr.judgement == "helps" and ctr.student.lo > 0.02, ctr
    assert ctr.control > 0.55 and ctr.shuffled.estimate < ctr.student.lo, ctr
