from pathlib import Path

import pytest

from benchmarks.synthetic import LABELS, Shape, write_world
from ml.evaluation.bootstrap import Interval
from ml.evaluation.diagnosis import Diagnosis, diagnose, judgement, other_settings, write_diagnosis
from ml.foundation.lake import ALIAS, FEATURES, Lake
from ml.foundation.settings import Settings
from ml.students.dataset import TrainingSet, build_training_set
from ml.surfaces.spec import Surface
from tests.support.known import present


@pytest.fixture(scope="module")
def informed(settings: Settings, training_set: TrainingSet, surface: Surface) -> Diagnosis:
    return diagnose(settings, training_set, surface, seeds=1)


@pytest.fixture(scope="module")
def hasty(surface: Surface) -> Surface:
    """The surface with fewer passes over its rows, and shorter steps, than its control needs."""
    return trained(surface, epochs=1, learning_rate=0.004, embedding_learning_rate=0.007)


@pytest.fixture(scope="module")
def untuned(settings: Settings, training_set: TrainingSet, hasty: Surface) -> Diagnosis:
    return diagnose(settings, training_set, hasty, seeds=1)


def trained(surface: Surface, **changes: float) -> Surface:
    return surface.model_copy(update={"training": surface.training.model_copy(update=changes)})


def gain(lo: float, hi: float) -> Interval:
    return Interval((lo + hi) / 2, lo, hi, (hi - lo) / 4, 0.7 * (hi - lo))


@pytest.mark.parametrize(
    ("student", "stacked", "expected"),
    [
        (gain(0.001, 0.009), None, "helps"),
        (gain(-0.009, -0.001), gain(0.01, 0.02), "hurts"),
        (gain(-0.001, 0.009), gain(0.01, 0.02), "promising"),
        (gain(-0.001, 0.001), gain(-0.001, 0.001), "nothing to learn"),
        (gain(-0.02, 0.03), gain(-0.001, 0.001), "nothing to learn"),
        (gain(0.001, 0.009), gain(-0.001, 0.001), "nothing to learn"),
        (gain(-0.02, 0.03), gain(-0.01, 0.02), "too few rows"),
        (gain(-0.001, 0.001), None, "too few rows"),
        (gain(-0.001, 0.001), gain(0.0001, 0.0009), "nothing to learn"),
    ],
)
def test_a_judgement_says_what_was_shown_then_what_could_be_then_what_cannot_be_seen(
    student: Interval, stacked: Interval | None, expected: str
):
    assert judgement(student, stacked) == expected
    assert judgement(student, stacked, "below its baseline") == "control untuned"


@pytest.mark.slow
def test_a_control_that_is_below_its_baseline_gets_no_advice(untuned: Diagnosis, tmp_path: Path):
    of = {task.task: task for task in untuned.tasks}
    assert of["ctr"].baseline is not None and of["ctr"].control < of["ctr"].baseline
    assert "below its baseline" in of["ctr"].untuned and of["ctr"].judgement == "control untuned"
    assert of["ctr"].student.lo > 0, "it would have been promised a gain"
    assert untuned.advice.startswith("No advice: the control is not tuned (ctr: ")
    markdown, *_ = write_diagnosis(untuned, tmp_path / "diagnosis.md")
    assert "**No advice: the control is not tuned" in markdown.read_text()


@pytest.mark.slow
def test_a_control_that_another_learning_rate_makes_better_gets_no_advice(
    settings: Settings, training_set: TrainingSet, surface: Surface
):
    slow = diagnose(
        settings, training_set, trained(surface, learning_rate=0.001, embedding_learning_rate=0.0005, epochs=2), seeds=1
    )
    reasons = [task.untuned for task in slow.tasks if task.untuned]
    assert any("better with three times its learning rates" in r or "better with 4 epochs" in r for r in reasons)
    assert slow.advice.startswith("No advice")


def test_other_settings_are_lower_and_higher_rates_and_fewer_and_more_epochs(surface: Surface):
    own, found = surface.training, other_settings(surface, 4_200)
    assert list(found) == ["a third of its learning rates", "three times its learning rates", "1 epoch", "6 epochs"]
    rates = [present(other.training.learning_rate) / present(own.learning_rate) for other in found.values()]
    assert rates == pytest.approx([1 / 3, 3, 1, 1])
    assert [other.training.epochs for other in found.values()] == [3, 3, 1, 6]
    assert list(other_settings(trained(surface, epochs=1), 4_200)) == [*list(found)[:2], "2 epochs"]


@pytest.mark.slow
def test_a_teacher_that_knows_is_found_to_help_and_its_shuffled_labels_are_not(informed: Diagnosis):
    [ctr] = [task for task in informed.tasks if task.task == "ctr"]
    assert ctr.judgement == "helps" and informed.advice.startswith("Distil: it helps")
    assert ctr.stacked is not None and ctr.stacked.lo > 0
    assert ctr.shuffled.lo < 0 < ctr.shuffled.hi
    assert ctr.teacher is not None and ctr.teacher.lo > 0.6 and ctr.teacher_ratio is not None
    assert informed.labelled_share == 1 and informed.train_rows == 6 * 700
    assert not any(task.untuned for task in informed.tasks)
    assert ctr.kept is not None and 0.4 < ctr.kept.lo < ctr.kept.estimate < 1.1
    assert ctr.kept.estimate == pytest.approx(ctr.student.estimate / ctr.stacked.estimate)


@pytest.mark.slow
def test_the_gain_is_shown_for_users_with_few_some_and_many_training_rows(informed: Diagnosis, tmp_path: Path):
    for task in informed.tasks:
        assert [part.name.split("_")[0] for part in task.slices] == ["few", "some", "many"]
        assert sum(part.rows for part in task.slices) == task.rows
        assert sum(part.users for part in task.slices) == task.users
        low, high = ([int(end) for end in part.history.split(" to ")] for part in (task.slices[0], task.slices[2]))
        assert max(low) < min(high)
    text = write_diagnosis(informed, tmp_path / "diagnosis.md")[0].read_text()
    assert "## Whom it helps" in text and "| few training rows |" in text


@pytest.mark.slow
def test_a_teacher_that_knows_nothing_is_not_advised(tmp_path: Path, settings: Settings, surface: Surface):
    home = settings.model_copy(update={"home": tmp_path})
    with Lake(home) as lake:
        first = settings.first_day
        write_world(
            lake, surface, Shape(first_day=first, days=10, rows_per_day=700, users=40, items=30, teacher_noise=1e4)
        )
        last = first.replace(day=first.day + 10)
        ignorant = build_training_set(lake, surface, last, LABELS)
    found = diagnose(home, ignorant, surface, seeds=1)
    assert all(task.judgement != "helps" for task in found.tasks) and not found.advice.startswith("Distil")
    [ctr] = [task for task in found.tasks if task.task == "ctr"]
    assert ctr.stacked is not None and ctr.stacked.lo < 0.002


@pytest.mark.slow
def test_the_diagnosis_reads_no_evaluation_day(
    tmp_path: Path, untuned: Diagnosis, settings: Settings, hasty: Surface, surface: Surface
):
    home = settings.model_copy(update={"home": tmp_path})
    with Lake(home) as lake:
        first = settings.first_day
        write_world(
            lake, surface, Shape(first_day=first, days=10, rows_per_day=700, users=40, items=30, teacher_noise=0.2)
        )
        eval_start = first.replace(day=first.day + 8)
        lake.connection.execute(
            f"update {ALIAS}.{FEATURES}.examples_{surface.name} set label_ctr = 1 - label_ctr where day >= ?",
            [eval_start],
        )
        last = first.replace(day=first.day + 10)
        poisoned = build_training_set(lake, surface, last, LABELS)
    assert diagnose(home, poisoned, hasty, seeds=1) == untuned


@pytest.mark.slow
def test_the_page_tells_the_advice_and_every_gain(informed: Diagnosis, tmp_path: Path):
    markdown, page, plot = write_diagnosis(informed, tmp_path / "diagnosis_homepage.md")
    text = markdown.read_text()
    assert f"**{informed.advice}**" in text and plot.stat().st_size > 10_000
    for task in informed.tasks:
        assert (
            f"{100 * task.student.estimate:+.2f} [{100 * task.student.lo:+.2f}, {100 * task.student.hi:+.2f}]" in text
        )
    assert "data:image/png;base64," in page.read_text()
    assert "## What the teacher's logits differ by" in text
    for parts in informed.teacher:
        assert f"| {parts.output} | {parts.deviation:.3g} | {100 * parts.user:.0f} % |" in text and parts.advice in text
    assert {parts.output for parts in informed.teacher} == {"click", "watch"}


def test_a_surface_without_a_technique_is_told_so(settings: Settings, training_set: TrainingSet, surface: Surface):
    none = surface.model_copy(update={"distillation": surface.distillation.model_copy(update={"technique": "none"})})
    with pytest.raises(ValueError, match="distils nothing"):
        diagnose(settings, training_set, none, seeds=1)
