import json
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from benchmarks.synthetic import LABELS, OUTPUTS, Shape, world
from ml.foundation.lake import Lake
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.lab.study.design import Variant
from ml.students.checkpoint import (
    Checkpoint,
    CheckpointError,
    checkpoint_digest,
    load_checkpoint,
    predict,
    save_checkpoint,
)
from ml.students.dataset import Dataset, TrainingSet, TrainingSetError, build_training_set, load
from ml.students.loop import Forgetting, remaining_rate
from ml.students.network import Ranker
from ml.students.train import (
    RESUME_FILE,
    centre_soft_labels,
    fit,
    keep_few_rows,
    shuffle_soft_labels,
    train,
    validation_metrics,
)
from ml.surfaces.spec import Surface
from ml.surfaces.techniques import techniques
from tests.support.known import the

pytestmark = pytest.mark.slow


def weights(checkpoint: Checkpoint) -> bytes:
    return (checkpoint.path / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def run(settings: Settings, training_set: TrainingSet, surface: Surface):
    def go(out_dir: Path, **changes) -> Checkpoint:
        arguments = {"technique": "interaction", "seed": 1, "out_dir": out_dir} | changes
        return train(settings, training_set, surface, **arguments)

    return go


@pytest.fixture(scope="module")
def student(run, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return run(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def held_out(settings: Settings, training_set: TrainingSet, surface: Surface):
    return load(settings, training_set, surface, training_set.eval_days, soft_labels=False)


def test_a_seed_determines_every_byte(run, student: Checkpoint, tmp_path: Path):
    again = run(tmp_path / "again")
    assert again.digest == student.digest == checkpoint_digest(again.path)
    assert weights(again) == weights(student)
    other = run(tmp_path / "other", seed=2)
    assert weights(other) != weights(student)


def test_the_number_of_threads_changes_nothing(
    settings: Settings, training_set: TrainingSet, surface: Surface, student: Checkpoint, tmp_path: Path
):
    torch.set_num_threads(2)
    more = settings.model_copy(update={"threads": 2})
    two = train(more, training_set, surface, technique="interaction", seed=1, out_dir=tmp_path)
    assert torch.get_num_threads() == 2
    assert two.digest == student.digest


class Stop(Exception):
    pass


@pytest.mark.parametrize("stop_at", [7, 44, 90])
def test_a_stopped_run_goes_on_to_the_same_bytes(run, student: Checkpoint, tmp_path: Path, stop_at: int):
    def stop(step: int, steps: int, loss: float) -> None:
        if step >= stop_at:
            raise Stop

    with pytest.raises(Stop):
        run(tmp_path, progress=stop, snapshot_every=5)
    assert (tmp_path / RESUME_FILE).exists()
    seen: list[int] = []
    done = run(tmp_path, progress=lambda step, steps, loss: seen.append(step), snapshot_every=5)
    assert min(seen) > stop_at - 5
    assert done.digest == student.digest
    assert not (tmp_path / RESUME_FILE).exists()


def test_a_killed_process_leaves_a_run_that_goes_on_to_the_same_bytes(
    settings: Settings, training_set: TrainingSet, surface: Surface, run, student: Checkpoint, tmp_path: Path
):
    (tmp_path / "set.json").write_text(training_set.to_json(), encoding="utf-8")
    (tmp_path / "surface.json").write_text(surface.model_dump_json(by_alias=True), encoding="utf-8")
    script = f"""
import time
from pathlib import Path
from ml.foundation.settings import Settings
from ml.students.dataset import TrainingSet
from ml.students.train import train
from ml.surfaces.spec import Surface
here = Path({str(tmp_path)!r})
train(
    Settings(home={str(settings.home)!r}, threads=1),
    TrainingSet.from_json((here / "set.json").read_text()),
    Surface.model_validate_json((here / "surface.json").read_text()),
    technique="interaction", seed=1, out_dir=here / "out", snapshot_every=3,
    progress=lambda step, steps, loss: time.sleep(0.05),
)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=PROJECT_ROOT, env=os.environ | {"PYTHONPATH": str(PROJECT_ROOT)}
    )
    deadline = time.monotonic() + 240
    while not (tmp_path / "out" / RESUME_FILE).exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "out" / "meta.json").exists()
    seen: list[int] = []
    done = run(tmp_path / "out", snapshot_every=3, progress=lambda step, steps, loss: seen.append(step))
    assert seen[0] > 1
    assert done.digest == student.digest


def test_the_snapshot_of_another_run_is_ignored(run, student: Checkpoint, tmp_path: Path):
    def stop(step: int, steps: int, loss: float) -> None:
        raise Stop

    with pytest.raises(Stop):
        run(tmp_path, seed=2, progress=stop, snapshot_every=1)
    assert run(tmp_path).digest == student.digest


def test_a_control_does_not_depend_on_soft_labels(
    settings: Settings, training_set: TrainingSet, surface: Surface, run, tmp_path: Path
):
    first = run(tmp_path / "a", technique="none")
    with Lake(settings) as lake:
        soft = lake.sql("select * from ml.soft_labels_homepage")
        zeros = pa.array([[0.0] * 4] * len(soft))
        lake.replace_days("ml.soft_labels_homepage", soft.set_column(4, "scores", zeros), set(soft["day"].to_pylist()))
        other = build_training_set(lake, surface, training_set.partition, LABELS)
    second = train(settings, other, surface, technique="none", seed=1, out_dir=tmp_path / "b")
    assert other.content_hash != training_set.content_hash
    assert weights(first) == weights(second)
    assert not [name for name in load_checkpoint(first.path)[0].state_dict() if "distillation" in name]


def test_evaluation_days_reach_neither_weights_nor_constants(home: Settings, surface: Surface, tmp_path: Path):
    first_day = home.first_day
    examples, soft = world(surface, Shape(first_day, 6, 60, users=9, items=9, teacher_noise=1.0))
    days = [first_day + timedelta(days=d) for d in range(6)]
    found = []
    for spoilt in (False, True):
        if spoilt:
            late = pc.call_function("greater_equal", [examples["day"], pa.scalar(days[4])])
            for name in ("label_ctr", "item_age_days"):
                index = examples.schema.get_field_index(name)
                spoilt_values = pc.call_function("if_else", [late, pa.scalar(1.0, examples[name].type), examples[name]])
                examples = examples.set_column(index, name, spoilt_values)
            index = examples.schema.get_field_index("user_id")
            spoilt_users = pc.call_function("if_else", [late, pa.scalar(77), examples["user_id"]])
            examples = examples.set_column(index, "user_id", spoilt_users)
        with Lake(home) as lake:
            lake.replace_days("features.examples_homepage", examples, days)
            lake.replace_days("ml.soft_labels_homepage", soft, days)
            made = build_training_set(lake, surface, days[-1] + timedelta(days=1), LABELS)
        assert made.train_days == tuple(days[:4])
        found.append(
            weights(train(home, made, surface, technique="interaction", seed=1, out_dir=tmp_path / str(spoilt)))
        )
    assert found[0] == found[1]


def test_a_reloaded_checkpoint_scores_as_the_ranker_in_memory(
    settings: Settings, training_set: TrainingSet, surface: Surface, student: Checkpoint, held_out
):
    data = load(settings, training_set, surface, training_set.train_days, soft_labels=True)
    fresh, _ = fit(data, surface, technique="interaction", seed=1)
    loaded, meta = load_checkpoint(student.path)
    assert list(loaded.surface.inputs) == list(surface.inputs)
    arrays = {name: column.numpy() for name, column in held_out.inputs.items()}
    expected, found = predict(fresh, arrays), predict(loaded, arrays, batch=97)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=2e-6)
    assert meta == json.loads((student.path / "meta.json").read_text())
    assert meta["rows"] == len(data) and meta["technique"] == "interaction" and meta["parameters"]["distillation"] > 0


@pytest.mark.parametrize("fault", ["no folder", "no weights", "format", "cut", "other surface"])
def test_a_broken_checkpoint_is_refused_by_path(student: Checkpoint, tmp_path: Path, fault: str):
    if fault != "no folder":
        meta = json.loads((student.path / "meta.json").read_text())
        if fault == "format":
            meta["format"] = 99
        if fault == "other surface":
            meta["surface"]["network"]["bottom"] = [5]
        (tmp_path / "meta.json").write_text(json.dumps(meta))
        if fault != "no weights":
            content = weights(student)
            (tmp_path / "model.safetensors").write_bytes(content[:-100] if fault == "cut" else content)
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        load_checkpoint(tmp_path)


def test_a_planted_taste_is_learnt_and_an_informed_teacher_helps_where_a_shuffled_one_does_not(
    settings: Settings, training_set: TrainingSet, surface: Surface, held_out
):
    data = load(settings, training_set, surface, training_set.train_days, soft_labels=True)
    auc = {}
    for name, technique, rows in (
        ("control", "none", data),
        ("student", "interaction", data),
        ("placebo", "interaction", shuffle_soft_labels(data, 1)),
    ):
        ranker, course = fit(rows, surface, technique=technique, seed=1)
        auc[name] = validation_metrics(ranker, held_out)["ctr"]["auc"]
        assert np.isfinite(course.losses).all() and (course.losses[1] > 0) == (technique != "none")
    assert auc["control"] > 0.6
    assert auc["student"] > auc["control"] + 0.02
    assert abs(auc["placebo"] - auc["control"]) < 0.5 * (auc["student"] - auc["control"])


@pytest.mark.parametrize("technique", techniques())
def test_every_technique_trains_repeats_for_a_seed_and_leaves_a_ranker_that_serves_as_its_control_does(
    settings: Settings, training_set: TrainingSet, surface: Surface, technique: str, tmp_path: Path
):
    changed = Variant("a", technique=technique).surface(surface)
    data = load(settings, training_set, changed, training_set.train_days[:2], soft_labels=True)
    first, course = fit(data, changed, technique=technique, seed=1)
    again, _ = fit(data, changed, technique=technique, seed=1)
    control, _ = fit(data, changed, technique="none", seed=1)
    assert np.isfinite(course.losses[1]) and course.losses[1] > 0

    def serving(ranker: Ranker) -> dict[str, torch.Tensor]:
        return {n: p for n, p in ranker.state_dict().items() if not n.startswith("distillation.")}

    assert all(torch.equal(value, serving(again)[name]) for name, value in serving(first).items())
    assert set(serving(first)) == set(serving(control))
    assert any(not torch.equal(value, serving(control)[name]) for name, value in serving(first).items())
    save_checkpoint(first, {"technique": technique}, tmp_path)
    loaded, _ = load_checkpoint(tmp_path)
    columns = {name: column.numpy()[:9] for name, column in data.inputs.items()}
    assert np.array_equal(predict(loaded, columns)["ctr"], predict(first, columns)["ctr"])


def test_shuffling_keeps_the_soft_labels_of_each_day_and_of_each_row_together(
    settings: Settings, training_set: TrainingSet, surface: Surface
):
    data = load(settings, training_set, surface, training_set.train_days, soft_labels=True)
    shuffled = shuffle_soft_labels(data, 1)
    assert not torch.equal(shuffled.soft_labels["click"], data.soft_labels["click"])
    for day in data.day.unique():
        rows = data.day == day
        before = torch.stack([data.soft_labels[name][rows] for name in OUTPUTS], dim=1)
        after = torch.stack([shuffled.soft_labels[name][rows] for name in OUTPUTS], dim=1)
        assert sorted(map(tuple, before.tolist())) == sorted(map(tuple, after.tolist()))


def test_centring_takes_a_users_level_out_of_the_soft_labels_and_keeps_the_order(
    settings: Settings, training_set: TrainingSet, surface: Surface
):
    data = load(settings, training_set, surface, training_set.train_days, soft_labels=True)
    head = surface.distillation.heads[0]
    assert (head.teacher_output, head.centre_by) == ("click", "user_id")
    centred = centre_soft_labels(data, surface)
    assert torch.equal(centred.soft_labels["watch"], data.soft_labels["watch"])
    before, after = data.soft_labels["click"].double(), centred.soft_labels["click"].double()
    for user in data.inputs["user_id"].unique()[:5]:
        rows = data.inputs["user_id"] == user
        level = (before[rows] - before.nanmean()).nansum() / (5 + (~before[rows].isnan()).sum())
        torch.testing.assert_close(after[rows], before[rows] - level, equal_nan=True, rtol=0, atol=1e-6)


def test_a_soft_label_that_is_missing_moves_no_level(surface: Surface):
    def rows(*labels: float) -> Dataset:
        count = torch.arange(len(labels))
        soft = {"click": torch.tensor(labels), "watch": torch.zeros(len(labels))}
        return Dataset({"user_id": torch.tensor([7, 7, 8])}, {}, soft, count, count, count)

    centred = centre_soft_labels(rows(1.0, float("nan"), 3.0), surface).soft_labels["click"]
    torch.testing.assert_close(centred, torch.tensor([1 + 1 / 6, float("nan"), 3 - 1 / 6]), equal_nan=True)
    assert centre_soft_labels(rows(*[float("nan")] * 3), surface).soft_labels["click"].isnan().all()


def test_ids_with_many_rows_lose_their_soft_labels_where_the_surface_says_so(surface: Surface):
    users = torch.tensor([1] * 6 + [2] * 3 + [3] * 3 + [4])
    count = torch.arange(len(users))
    soft = {"click": count.float(), "watch": count.float()}
    data = Dataset({"user_id": users}, {}, soft, count, count, count)
    assert keep_few_rows(data, surface) is data
    for share, kept in ((0.2, {4}), (0.5, {2, 3, 4}), (0.99, {2, 3, 4})):
        content = surface.model_dump(mode="json", by_alias=True)
        content["distillation"]["few_rows"] = {"input": "user_id", "share": share}
        found = keep_few_rows(data, Surface.model_validate(content)).soft_labels
        for name, label in found.items():
            learnt = ~label.isnan()
            assert set(users[learnt].tolist()) == kept and torch.equal(label[learnt], soft[name][learnt])


def test_the_learning_rate_falls_in_a_line_to_its_final_share():
    assert [remaining_rate(step, 5, 0.2) for step in range(5)] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    assert remaining_rate(3, 5, 1.0) == 1.0 and remaining_rate(0, 1, 0.1) == 1.0


def test_unknown_vectors_are_learnt(settings: Settings, training_set: TrainingSet, surface: Surface):
    data = load(settings, training_set, surface, training_set.train_days[:2], soft_labels=False)
    ranker, _ = fit(data, surface, technique="none", seed=1)
    assert the(torch.nn.Embedding, ranker.factors.tables["_user_id"]).weight[0].abs().max() > 0.01


def test_a_share_of_ids_is_forgotten_for_a_seed():
    rows = torch.ones((50_000, 4), dtype=torch.int64)
    once, again = (Forgetting(rows, 0.01, 5).part(slice(None)) for _ in range(2))
    assert torch.equal(once, again) and not torch.equal(once, Forgetting(rows, 0.01, 6).part(slice(None)))
    assert 1 - once.to(torch.float64).mean().item() == pytest.approx(0.01, abs=0.001)
    assert torch.equal(Forgetting(rows, 0.0, 5).part(slice(2, 4)), rows[2:4])


def test_validation_trains_without_the_last_days_and_measures_on_them(
    settings: Settings, training_set: TrainingSet, surface: Surface
):
    fit_days, validation_days = training_set.validation_split(surface.window.validation_days)
    assert fit_days == training_set.train_days[:-2]
    assert validation_days == training_set.train_days[-2:]
    data = load(settings, training_set, surface, fit_days, soft_labels=False)
    held_out = load(settings, training_set, surface, validation_days, soft_labels=False, after_ranking="serving")
    ranker, _ = fit(data, surface, technique="none", seed=1)
    tasks = validation_metrics(ranker, held_out)
    assert set(tasks) == {"ctr", "trail", "discovery"}
    assert 0.5 < tasks["ctr"]["auc"] < 1 and tasks["ctr"]["rows"] == 1400 and "r2" in tasks["trail"]


def test_what_cannot_be_trained_is_refused_with_the_reason(
    run, training_set: TrainingSet, surface: Surface, tmp_path: Path, settings: Settings
):
    with pytest.raises(ValueError, match="'non_serving' is neither"):
        run(tmp_path, technique="non_serving")
    with pytest.raises(TrainingSetError, match="2027"):
        load(settings, training_set, surface, [training_set.partition.replace(year=2027)], soft_labels=True)
    data = load(settings, training_set, surface, training_set.train_days[:1], soft_labels=True)
    data.labels["discovery"].fill_(torch.nan)
    with pytest.raises(ValueError, match="task discovery has no label in 700 rows"):
        fit(data, surface, technique="none", seed=1)
    data.labels["discovery"].zero_()
    data.soft_labels["click"].fill_(torch.nan)
    with pytest.raises(ValueError, match="none of 700 rows has a soft label"):
        fit(data, surface, technique="interaction", seed=1)
