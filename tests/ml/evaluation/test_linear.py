import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from checks.guards.quality import trained_enough
from ml.evaluation.linear import against_control, linear_scores
from ml.evaluation.report import markdown_summary, print_report, surface_report
from ml.evaluation.results import Evaluation, LinearGain
from ml.students.dataset import Dataset
from ml.surfaces.files import load_surface
from ml.surfaces.scaffold import TEMPLATES
from ml.surfaces.spec import Surface

USERS, ITEMS, ROWS = 60, 40, 6_000


@pytest.fixture(scope="module")
def surface() -> Surface:
    path = TEMPLATES / "surface.yaml"
    whole = load_surface(path, path.read_text(encoding="utf-8").replace("__surface__", "podcasts"))
    names = ("user_id", "item_id", "item_ctr")
    inputs = {name: spec for name, spec in whole.inputs.items() if name in names}
    return whole.model_copy(update={"inputs": inputs})


@pytest.fixture(scope="module")
def days() -> tuple[Dataset, Dataset, np.ndarray]:
    """Rows to learn, rows to judge, and the true logit of these: levels of user and item, and a number."""
    rng = np.random.default_rng(1)
    users, items, number = rng.integers(USERS, size=ROWS), rng.integers(ITEMS, size=ROWS), rng.random(ROWS)
    logit = rng.normal(size=USERS)[users] + rng.normal(size=ITEMS)[items] + 4 * number - 3
    label = (rng.random(ROWS) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    ids = {"user_id": torch.from_numpy(users), "item_id": torch.from_numpy(items + 1000)}
    inputs = {**ids, "item_ctr": torch.from_numpy(number).float()}
    empty = torch.zeros(ROWS, dtype=torch.int64)
    data = Dataset(inputs, {"ctr": torch.from_numpy(label)}, {}, empty, ids["user_id"], empty)
    cut = ROWS * 2 // 3
    return data.select(slice(0, cut)), data.select(slice(cut, None)), logit[cut:]


def test_the_linear_model_finds_levels_and_numbers_and_a_control_below_it_is_said_to_be(surface: Surface, days):
    train, judged, truth = days
    linear = linear_scores(train, judged, surface)
    assert np.corrcoef(linear["ctr"], truth)[0, 1] > 0.93
    control = {"ctr": judged.inputs["item_ctr"].numpy()}
    [below] = against_control(linear, control, judged, surface, seed=1)
    assert below.undertrained and below.gain == pytest.approx(below.linear - below.control) and below.n == len(judged)
    [fine] = against_control(linear, {"ctr": truth}, judged, surface, seed=1)
    assert not fine.undertrained and fine.lo < fine.gain < 0.02


GAIN = LinearGain("ctr", "auc", 0.7, 0.66, 0.04, 0.02, 0.06, 900)


def test_an_undertrained_control_is_a_warning_of_the_gate_and_stands_in_report_and_card(world: Any) -> None:
    fine = replace(GAIN, task="trail", gain=-0.1, lo=-0.2, hi=0.1)
    told = replace(world.evaluation, linear=(GAIN, fine))
    assert Evaluation.from_json(told.to_json()).linear == told.linear
    unranked = replace(told, linear=(*told.linear, replace(GAIN, task="discovery")))
    assert [str(check.outcome) for check in trained_enough(unranked, world.surface)] == ["warn", "pass"]
    assert trained_enough(world.evaluation, world.surface) == []
    options = {"rows": {"train": 1, "test": 1}, "defaulted_input_share": None, "parameters": {}}
    report = surface_report(told, world.surface, **options, verdict=None, release=None)
    stream = io.StringIO()
    print_report({"surfaces": {"homepage": report}}, Console(file=stream, width=200))
    for text in (markdown_summary(told, world.surface), stream.getvalue()):
        assert str(GAIN) in text and "trail: the control is undertrained" not in text
