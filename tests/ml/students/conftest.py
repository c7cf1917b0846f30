from datetime import date
from pathlib import Path

import pytest
import torch

from benchmarks.synthetic import LABELS, Shape, reduced, write_world
from ml.foundation.lake import Lake
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.students.dataset import TrainingSet, build_training_set
from ml.surfaces.files import load_surface
from ml.surfaces.spec import Surface

FIRST_DAY = date(2026, 1, 1)
PARTITION = date(2026, 1, 11)
KEEP = ("user_id", "item_id", "creator_id", "hour", "session_outcomes", "row", "content_embedding", "item_age_days")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def surface() -> Surface:
    """The homepage with few inputs and short windows: 8 training days, 2 evaluation days."""
    return reduced(
        load_surface(PROJECT_ROOT / "examples/simulator/surfaces/homepage.yaml"),
        (*KEEP, "item_ctr"),
        window={"train_days": 8, "eval_days": 2, "validation_days": 2, "min_train_days": 3},
        training={"batch_size": 128, "weight_decay": 1e-6, "epochs": 3, "learning_rate": 0.02, "patience": 2},
    )


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory, surface: Surface) -> Settings:
    """A home whose lake holds 10 days of examples and soft labels."""
    settings = Settings(home=tmp_path_factory.mktemp("students"), first_day=FIRST_DAY, threads=1)
    with Lake(settings) as lake:
        write_world(
            lake, surface, Shape(first_day=FIRST_DAY, days=10, rows_per_day=700, users=40, items=30, teacher_noise=0.2)
        )
    return settings


@pytest.fixture(scope="session")
def training_set(settings: Settings, surface: Surface) -> TrainingSet:
    with Lake(settings) as lake:
        return build_training_set(lake, surface, PARTITION, LABELS)


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    """An empty home."""
    return Settings(home=tmp_path / "home", first_day=FIRST_DAY, threads=1)
