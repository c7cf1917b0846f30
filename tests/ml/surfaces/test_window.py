"""The windows of a surface: evaluation and how far it may widen, and the days on which an outcome counts."""

from datetime import date, timedelta

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from assets.partitions import student_window
from ml.foundation.settings import EXAMPLES, Settings
from ml.surfaces.files import load_surface, load_surfaces
from ml.surfaces.keys import SpecError
from ml.surfaces.spec import Surface

HOMEPAGE = EXAMPLES / "simulator" / "surfaces" / "homepage.yaml"


def _with(tmp_path, **window: object) -> Surface:
    path = tmp_path / "homepage.yaml"
    path.write_text(yaml.safe_dump({"extends": str(HOMEPAGE), "window": window}))
    return load_surface(path)


def test_an_evaluation_widens_to_a_fortnight_unless_the_surface_says_otherwise(tmp_path) -> None:
    assert load_surface(HOMEPAGE).looks == (3, 14)
    assert _with(tmp_path, e_max=5).looks == (3, 5)
    assert _with(tmp_path, e_max=3).looks == (3, 3)
    assert _with(tmp_path, eval_days=21).looks == (21, 21)


@pytest.mark.parametrize(
    ("e_max", "told"),
    [(2, "e_max: 2 is less than eval_days: 3"), (0, "greater than or equal to 1"), (91, "less than"), ("x", "integer")],
)
def test_an_end_of_widening_that_cannot_be_is_refused_by_its_key(tmp_path, e_max: object, told: str) -> None:
    with pytest.raises(SpecError, match=told) as refused:
        _with(tmp_path, e_max=e_max)
    assert "homepage.yaml" in str(refused.value) and "window" in str(refused.value)


def test_the_end_of_widening_changes_no_ranker(tmp_path) -> None:
    plain, set_so, longer = load_surface(HOMEPAGE), _with(tmp_path, e_max=14), _with(tmp_path, e_max=20)
    assert plain.ranker_digest == set_so.ranker_digest == longer.ranker_digest
    assert plain.digest == _with(tmp_path).digest, (
        "a surface without the key has the digest that it had before there was one"
    )
    assert plain.digest != longer.digest


PARTITION = date(2026, 3, 1)


def _windowed(days: int, **window: int) -> Surface:
    content = yaml.safe_load(HOMEPAGE.read_text(encoding="utf-8")) | {"label_window_days": days}
    return Surface.model_validate(content | {"window": content["window"] | window})


@given(days=st.integers(1, 30), train=st.integers(1, 30), evaluated=st.integers(1, 9), further=st.integers(0, 5))
@pytest.mark.slow
def test_no_label_of_a_student_closes_after_what_uses_it(days: int, train: int, evaluated: int, further: int) -> None:
    """Labels of evaluated days close with the partition; those of training days when evaluation begins."""
    surface = _windowed(days, train_days=train, eval_days=evaluated)
    window = timedelta(days=days)
    learnt, judged = surface.training_days(PARTITION), surface.evaluation_days(PARTITION)
    assert (len(learnt), len(judged)) == (train, evaluated)
    assert judged[-1] + window == PARTITION and surface.partition_of(judged[-1]) == PARTITION
    assert learnt[-1] + window == judged[0]
    assert (PARTITION - learnt[0]).days == surface.reach_days
    mapping = student_window(surface)
    assert (mapping.start_offset, mapping.end_offset) == (-(PARTITION - learnt[0]).days, -days)
    widened = surface.evaluation_days(PARTITION, further)
    assert widened[: len(judged)] == judged and surface.further_days(PARTITION, widened[-1]) == further
    assert len(
        surface.evaluation_days(PARTITION, surface.further_days(PARTITION, surface.last_evaluation_day(PARTITION)))
    ) == max(14, evaluated)
    first = surface.first_partition(PARTITION)
    assert sum(day >= PARTITION for day in surface.training_days(first)) == min(
        surface.window.min_train_days, train
    ) or (train < surface.window.min_train_days)


def test_a_label_window_of_a_day_is_as_if_there_were_no_such_key() -> None:
    plain = load_surface(HOMEPAGE)
    assert plain.digest == _windowed(1).digest and plain.ranker_digest == _windowed(1).ranker_digest
    assert plain.digest != _windowed(2).digest and plain.ranker_digest != _windowed(2).ranker_digest
    assert plain.training_days(PARTITION)[-1] == PARTITION - timedelta(days=4)
    assert plain.evaluation_days(PARTITION) == [PARTITION - timedelta(days=i) for i in (3, 2, 1)]


@pytest.mark.parametrize("days", [0, 31, -1, 1.5, "x"])
def test_a_label_window_that_cannot_be_is_refused_by_its_key(tmp_path, days: object) -> None:
    path = tmp_path / "homepage.yaml"
    path.write_text(yaml.safe_dump({"extends": str(HOMEPAGE), "label_window_days": days}))
    with pytest.raises(SpecError, match="label_window_days"):
        load_surface(path)


def test_what_lands_late_within_the_label_window_counts_or_the_surface_is_refused(tmp_path) -> None:
    (tmp_path / "homepage.yaml").write_text(yaml.safe_dump({"extends": str(HOMEPAGE), "label_window_days": 7}))
    assert load_surfaces(Settings(surfaces_dir=tmp_path, late_horizon_days=7))["homepage"].label_window_days == 7
    with pytest.raises(SpecError, match="label_window_days: 7 is more than CROSSFADE_LATE_HORIZON_DAYS=6"):
        load_surfaces(Settings(surfaces_dir=tmp_path, late_horizon_days=6))
