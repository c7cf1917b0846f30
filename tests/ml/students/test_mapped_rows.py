"""Rows in a file are learnt from as rows in memory are, and what is read of them does not depend on the parts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ml.foundation.settings import Settings
from ml.students import preprocessing, vocabulary
from ml.students.dataset import Dataset, TrainingSet, load
from ml.students.loop import Forgetting
from ml.students.preprocessing import Preprocessing
from ml.students.train import fit
from ml.students.vocabulary import distinct_ids
from ml.surfaces.columns import Input
from ml.surfaces.spec import Surface


def in_memory(data: Dataset) -> Dataset:
    def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in tensors.items()}

    return replace(
        data,
        inputs=copied(data.inputs),
        labels=copied(data.labels),
        soft_labels=copied(data.soft_labels),
        exposure_id=data.exposure_id.clone(),
        user_id=data.user_id.clone(),
        day=data.day.clone(),
        folder=None,
    )


@pytest.mark.slow
def test_a_ranker_learns_the_same_bytes_from_a_file_as_from_memory(
    settings: Settings, training_set: TrainingSet, surface: Surface
) -> None:
    data = load(settings, training_set, surface, training_set.train_days[:3], soft_labels=True)
    folder = settings.home / "training"
    assert data.folder == folder and not list(folder.iterdir())
    (one, course), (other, again) = (
        fit(rows, surface, technique="interaction", seed=1) for rows in (data, in_memory(data))
    )
    assert course == again
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


@pytest.mark.parametrize("width", [1, 2, 9])
def test_constants_are_those_of_all_rows_at_once_whatever_the_parts(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(width)
    values = (1e3 + rng.normal(size=(5000, width)) * rng.uniform(1e-2, 1e3, size=width)).astype(np.float32)
    spec = Input.model_validate({"kind": "request", "type": "vector", "length": width})
    for chunk in (5000, 317):
        monkeypatch.setattr(preprocessing, "_CHUNK", chunk)
        pre = Preprocessing.fit({"v": spec}, {"v": torch.from_numpy(values)})
        assert pre.mean.tolist() == values.mean(axis=0, dtype=np.float64).astype(np.float32).tolist()
        assert pre.deviation.tolist() == values.std(axis=0, dtype=np.float64).astype(np.float32).tolist()


def test_distinct_ids_do_not_depend_on_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = list(np.random.default_rng(0).integers(-50, 50, size=(2, 400)))
    monkeypatch.setattr(vocabulary, "_ROWS", 37)
    assert distinct_ids(columns).tolist() == np.unique(np.concatenate(columns)).tolist()


def test_what_is_forgotten_does_not_depend_on_the_parts() -> None:
    rows, drawn = torch.ones((150_000, 2), dtype=torch.int64), torch.Generator().manual_seed(3)
    blocks = [torch.rand((min(65_536, 150_000 - at), 2), generator=drawn) for at in range(0, 150_000, 65_536)]
    whole = (torch.cat(blocks) >= 0.1).to(torch.int64)
    forgetting = Forgetting(rows, 0.1, 3)
    for part in (slice(0, 7), slice(60_000, 140_000), slice(131_072, 131_080), slice(65_530, 65_536), slice(None)):
        assert torch.equal(forgetting.part(part), whole[part])
