import json
from pathlib import Path

import numpy as np
import pytest

from ml.students.dataset import Dataset, TrainingSet, load
from ml.students.space import ControlSpace, StudentSpace
from ml.students.train import shuffle_soft_labels
from ml.students.tune import GROUPS, Budget, Trial, TrialLog, gain_of, tune
from ml.surfaces.edit import changed, changes
from ml.surfaces.files import load_surface
from ml.surfaces.scaffold import TEMPLATES
from ml.surfaces.spec import Surface

ROOT = Path(__file__).resolve().parents[3]
FILES = [TEMPLATES / "surface.yaml", *sorted((ROOT / "examples").glob("*/surfaces/*.yaml"))]
BLOCKS = """extends: {base}
training:
  learning_rate: 0.01  # tuned
  # of ids
  embedding_learning_rate: 0.5
distillation:
  heads:
  - teacher_output: click
    weight: 2.0  # heavy

  # the rest
network: {{bottom: [32]}}
"""


@pytest.fixture(scope="module")
def rows(settings, training_set: TrainingSet, surface: Surface) -> tuple[Dataset, Dataset]:
    days = training_set.train_days
    data = load(settings, training_set, surface, days[:3], soft_labels=True)
    return data, load(settings, training_set, surface, days[3:4], soft_labels=False, after_ranking="serving")


@pytest.mark.slow
def test_a_killed_search_goes_on_to_the_same_trials_and_the_same_choice(
    rows: tuple[Dataset, Dataset], surface: Surface, tmp_path: Path
):
    budget, seen = Budget(seconds=1e6, settings=2), list[Trial]()
    whole = tune(*rows, surface, budget=budget, seed=1, log=TrialLog(tmp_path / "whole", "a"))
    lines = (tmp_path / "whole").read_text().split("\n\n")
    (tmp_path / "killed").write_text("\n\n".join(lines[:3]) + "\n\n" + lines[3][:40])
    log = TrialLog(tmp_path / "killed", "a")
    again = tune(*rows, surface, budget=budget, seed=1, log=log, report=lambda *said: seen.append(said[-1]))
    assert again.surface == whole.surface and len(seen) == len(whole.trials) - 3 > 0
    assert [(t.stage, t.setting, t.seed, t.unexplained) for t in again.trials] == [
        (t.stage, t.setting, t.seed, t.unexplained) for t in whole.trials
    ]
    assert not TrialLog(tmp_path / "killed", "b").trials, "of other rows or another file"
    spent = tune(*rows, surface, budget=Budget(0.0, 9), seed=1, log=TrialLog(tmp_path / "whole", "a"))
    assert spent.trials == whole.trials, "no minutes, no more trainings"


@pytest.mark.slow
def test_a_teacher_that_knows_nothing_is_not_listened_to(rows, surface: Surface):
    data, held_out = rows
    tuned = tune(shuffle_soft_labels(data, 1), held_out, surface, budget=Budget(0.0, 1), seed=1)
    assert tuned.student and tuned.student.setting is None and tuned.surface.distillation.technique == "none"
    assert tuned.surface.training == surface.training, "what is there stays"
    [control, student] = tuned.rows()
    assert control["stage"] == "control" and student["technique"] == surface.distillation.technique
    assert json.loads(json.dumps(tuned.to_json()))["student"]["setting"] is None


def test_the_error_of_a_gain_is_that_of_a_sum_over_users_and_of_a_mean_over_seeds():
    rng = np.random.default_rng(1)
    of_users, of_seeds = rng.normal(0.01, 0.02, (4000, 1, GROUPS)), rng.normal(0, 0.1, (4000, 3, 1)) / GROUPS
    gains = [gain_of(differences) for differences in of_users + of_seeds]
    spread = np.std([gain.estimate for gain in gains])
    assert spread == pytest.approx(np.sqrt(np.mean([gain.se**2 for gain in gains])), rel=0.05)
    diverged, fine = np.full((1, GROUPS), np.inf), np.full((1, GROUPS), 0.02)
    assert gain_of(diverged - fine).beyond(1.0) and not gain_of(fine - diverged).beyond(1.0)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.parent.name}-{path.stem}")
@pytest.mark.slow
def test_every_setting_can_be_written_and_nothing_else_in_the_file_changes(path: Path):
    text = path.read_text(encoding="utf-8").replace("__surface__", "podcasts")
    surface = load_surface(path, text)
    control = ControlSpace(surface, 30_000)
    student = StudentSpace(surface)
    settings = [
        (space, s)
        for space in (control, student)
        for s in [*space.first(), *space.around(space.first()[0]), *space.last()]
    ]
    assert len(settings) > 20
    for space, setting in settings:
        after = space.surface_of(setting)
        assert (after == surface) == (setting == space.present)
        made = changes(surface, after)
        new = changed(text, made)
        assert load_surface(path, new) == after
        assert changed(new, changes(after, surface)).count("#") == text.count("#")
        kept = [line for line in text.splitlines() if not line.lstrip().startswith(("-", "training", *after.inputs))]
        assert len(set(kept) - set(new.splitlines())) <= len(made), "one line for a value"


def test_a_file_in_blocks_that_extends_another_is_changed_in_place(tmp_path: Path):
    path = tmp_path / "homepage.yaml"
    path.write_text(BLOCKS.format(base=ROOT / "tests" / "surfaces" / "homepage.yaml"))
    surface = load_surface(path)
    control = ControlSpace(surface, 30_000)
    for space in (control, StudentSpace(surface)):
        for setting in [*space.first(), *space.around(space.first()[0])]:
            after = space.surface_of(setting)
            new = changed(path.read_text(), changes(surface, after))
            assert load_surface(path, new) == after, new
            assert "# the rest\n" in new and "# tuned" in new and "# of ids" in new
