from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.settings import PROJECT_ROOT
from ml.students.dataset import Dataset
from ml.study.design import ARMS, Design, World, load_design
from ml.study.trials import relabelled
from ml.surfaces.spec import ON_TASKS, load_surface

KEYS = {"shuffled": "day", "within_item": "item_id", "within_user": "user_id"}


def dataset(n: int, seed: int) -> Dataset:
    rng = np.random.default_rng(seed)
    ids = {name: torch.from_numpy(rng.integers(1, 4, n)) for name in ("user_id", "item_id")}
    day = torch.from_numpy(np.sort(rng.integers(0, 3, n)))
    click = torch.arange(n, dtype=torch.float32)
    return Dataset(ids, {}, {"click": click, "watch": 2 * click}, torch.arange(n), ids["user_id"], day)


@given(n=st.integers(1, 40), seed=st.integers(0, 99), labels=st.sampled_from(sorted(KEYS)))
@settings(max_examples=60, deadline=None)
def test_swapped_labels_stay_in_their_day_and_group_and_outputs_of_a_row_stay_together(n: int, seed: int, labels: str):
    data = dataset(n, seed)
    other = relabelled(data, labels, seed)  # type: ignore[arg-type]
    assert torch.equal(other.soft_labels["watch"], 2 * other.soft_labels["click"])
    key = data.day if labels == "shuffled" else data.inputs[KEYS[labels]]

    def held(d: Dataset) -> Counter[tuple[int, int, float]]:
        columns = (data.day.tolist(), key.tolist(), d.soft_labels["click"].tolist())
        return Counter(zip(*columns, strict=True))

    assert held(data) == held(other)


def test_a_null_moves_labels_and_a_seed_repeats_it():
    data = dataset(400, 1)
    for labels in ("shuffled", "noise", "within_item", "within_user"):
        first, again, other = (relabelled(data, labels, seed).soft_labels["click"] for seed in (1, 1, 2))
        assert torch.equal(first, again) and not torch.equal(first, other)
        assert (first != data.soft_labels["click"]).float().mean() > 0.5
    assert relabelled(data, "as_is", 1) is data


def test_noise_leaves_missing_labels_missing():
    data = dataset(50, 1)
    data.soft_labels["click"][::5] = float("nan")
    noise = relabelled(data, "noise", 1).soft_labels["click"]
    assert torch.equal(noise.isnan(), data.soft_labels["click"].isnan())


def test_an_arm_changes_only_what_it_names():
    surface = load_surface(PROJECT_ROOT / "ml/surfaces/homepage.yaml")
    assert ARMS["student"].surface(surface) == surface
    heads = ARMS["weight_x3"].surface(surface).distillation.heads
    assert [h.weight for h in heads] == pytest.approx([3 * h.weight for h in surface.distillation.heads])
    assert all(h.centre_by is None for h in ARMS["uncentred"].surface(surface).distillation.heads)
    bare = ARMS["without_ids"].surface(surface)
    assert not any(spec.type == "id" for spec in bare.inputs.values())
    assert all("_id" not in name for pair in bare.network.products for name in pair)
    assert set(surface.inputs) - set(bare.inputs) == {"user_id", "item_id", "creator_id"}


@pytest.mark.parametrize("name", ["homepage", "radio"])
def test_every_technique_fits_the_heads_of_every_surface(name: str):
    surface = load_surface(PROJECT_ROOT / f"ml/surfaces/{name}.yaml")
    for arm in ARMS.values():
        changed = arm.surface(surface).distillation
        assert changed.technique == (arm.technique or surface.distillation.technique)
        assert [h.teacher_output for h in changed.heads] == [h.teacher_output for h in surface.distillation.heads]
        assert all((h.task is not None) == (changed.technique in ON_TASKS) for h in changed.heads)


def test_a_study_lists_controls_before_arms_and_the_teacher_once_per_surface():
    design = Design(name="t", description="", preset="tiny", worlds=(1,), seeds=(1, 2), arms=("student", "without_ids"))
    assert [arm.name for arm in design.all_arms] == ["control", "control_without_ids", "student", "without_ids"]
    trials = list(design.trials(World(preset="tiny", seed=1)))
    assert len(trials) == 2 * (1 + 2 * 4) and sum(t.arm.name == "teacher" for t in trials) == 2


def test_what_a_study_lacks_is_named():
    with pytest.raises(ValueError, match=r"no study 'huge'; there are \['demo', 'full', 'quick', 'techniques'\]"):
        load_design("huge")
    with pytest.raises(ValueError, match=r"no arms \['magic'\]"):
        Design(name="t", description="", preset="tiny", worlds=(1,), seeds=(1,), arms=("magic",))


def test_no_world_that_settings_were_chosen_on_is_in_a_study():
    for name in ("quick", "demo", "techniques", "full"):
        assert not {1, 101, 102} & set(load_design(name).worlds)
