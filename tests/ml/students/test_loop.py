import pytest
import torch

from ml.students.dataset import Dataset, TrainingSet, load
from ml.students.loop import unknown_if_unseen
from ml.students.optimizer import Recipe
from ml.students.train import first_validation_row, fit
from ml.surfaces.files import load_surface
from ml.surfaces.keys import SpecError
from ml.surfaces.learning import Training
from ml.surfaces.spec import Surface


def changed(surface: Surface, **training: float) -> Surface:
    return surface.model_copy(update={"training": surface.training.model_copy(update=training)})


@pytest.mark.slow
@pytest.mark.parametrize("technique", ["none", "interaction"])
def test_passes_end_where_the_validation_days_stop_improving_and_the_best_weights_are_kept(
    settings, training_set: TrainingSet, surface: Surface, technique: str
):
    data = load(settings, training_set, surface, training_set.train_days, soft_labels=True)
    ranker, course = fit(data, changed(surface, epochs=9, patience=1), technique=technique, seed=1)
    losses = [point.loss for point in course.points]
    assert course.passes == 1 + losses.index(min(losses)) and len(losses) == course.passes + 1 < 9
    assert all({"auc", "log_loss"} <= set(point.metrics["ctr"]) for point in course.points)
    before, newest = (-(-rows // 128) for rows in (6 * 700, 2 * 700))
    assert [point.steps for point in course.points] == [before * n for n in range(1, len(losses) + 1)]
    assert course.steps == before * course.passes + newest
    short, same = fit(data, changed(surface, epochs=course.passes, patience=9), technique=technique, seed=1)
    assert same.points == course.points[: course.passes]
    for name, value in ranker.state_dict().items():
        assert torch.equal(value, short.state_dict()[name]), name


@pytest.mark.slow
def test_without_a_day_to_hold_out_every_pass_is_made(settings, training_set: TrainingSet, surface: Surface):
    data = load(settings, training_set, surface, training_set.train_days[:2], soft_labels=False)
    assert first_validation_row(data, 2) == first_validation_row(data, 0) == len(data) == 1400
    assert first_validation_row(data, 1) == 700
    _, course = fit(data, changed(surface, epochs=2), technique="none", seed=1)
    assert course.passes == 2 and course.steps == 2 * 11 and course.points == ()


def test_a_gap_in_the_days_does_not_shorten_the_validation_days():
    days = torch.tensor([1, 1, 2, 9, 9, 12], dtype=torch.int32)
    count = torch.arange(6)
    assert first_validation_row(Dataset({}, {}, {}, count, count, days), 2) == 3


def test_ids_that_only_the_validation_days_have_are_unknown_there():
    seen, rows = torch.tensor([[1, 5], [2, 5]]), torch.tensor([[1, 2], [3, 5]])
    assert unknown_if_unseen(seen, rows).tolist() == [[1, 0], [0, 5]]


@pytest.mark.parametrize(
    ("rows", "batch"), [(100, 32), (9_000, 32), (29_000, 32), (70_000, 128), (180_000, 256), (10**8, 4_096)]
)
def test_batch_and_learning_rate_follow_from_the_rows_unless_they_are_given(rows: int, batch: int):
    recipe = Recipe.of(Training(), rows)
    assert recipe.batch_size == batch
    assert recipe.learning_rate == pytest.approx(0.004 * (batch / 256) ** 0.5)
    assert recipe.embedding_learning_rate == pytest.approx(0.01 / (1 - 0.999 ** (rows / batch)) ** 0.5)
    given = Recipe.of(Training(batch_size=64, learning_rate=0.1, embedding_learning_rate=0.3), rows)
    assert (given.batch_size, given.learning_rate, given.embedding_learning_rate) == (64, 0.1, 0.3)


def test_a_surface_that_was_tuned_for_adam_is_refused_with_what_to_write(tmp_path):
    path = tmp_path / "feed.yaml"
    path.write_text("name: feed\ntraining: {optimizer: adam, embedding_learning_rate: 0.01}\n")
    with pytest.raises(SpecError, match=r"feed\.yaml: training\.optimizer: adam has ended.*`training: \{\}`.*feed"):
        load_surface(path)
