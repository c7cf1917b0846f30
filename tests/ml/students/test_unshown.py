"""Pairs that nobody was shown teach the branch and nothing else; without them every byte is as it was."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from benchmarks.synthetic import CONTRACT_HASH, LABELS, OUTPUTS, TEACHER_VERSION, Shape, write_world
from ml.features.unshown import unshown_table
from ml.foundation.lake import Lake
from ml.foundation.settings import EXAMPLES, Settings
from ml.lab.study.trials import relabelled
from ml.students.dataset import Dataset, TrainingSet, TrainingSetError, build_training_set, load
from ml.students.loop import training_step
from ml.students.optimizer import Recipe, build_optimizer
from ml.students.train import (
    build_ranker,
    centre_soft_labels,
    fit,
    keep_few_rows,
    prepare,
    shuffle_soft_labels,
    train,
)
from ml.surfaces.files import load_surface
from ml.surfaces.keys import SpecError
from ml.surfaces.spec import Surface
from ml.surfaces.techniques import NO_TECHNIQUE, techniques
from ml.teacher.labels import unshown_rows
from tests.support.known import present

FIRST = date(2026, 1, 1)
PARTITION = date(2026, 1, 11)
TAUGHT = [name for name, listed in techniques().items() if listed.heads.branch]


def changed(surface: Surface, **distillation: object) -> Surface:
    content = surface.model_dump(mode="json", by_alias=True)
    content["distillation"] |= distillation
    return Surface.model_validate(content)


def write_pairs(lake: Lake, surface: Surface, days: list[date], rng: np.random.Generator) -> None:
    """Write three pairs per exposure: its user with items of other exposures of its day, labelled at random."""
    columns = ["day", "exposure_id", "ts", *surface.branch_inputs]
    for day in days:
        shown = lake.sql(f"select {', '.join(columns)} from lake.features.examples_{surface.name} where day = ?", [day])
        n = shown.num_rows
        lent, items = (
            shown.take(pa.array(np.repeat(np.arange(n), 3))),
            shown.take(pa.array(rng.integers(n, size=3 * n))),
        )
        pairs = {
            name: (items if name in ("item_id", "creator_id", "content_embedding") else lent)[name] for name in columns
        }
        keys = {
            "day": pairs["day"],
            "pair_id": pa.array(rng.permutation(3 * n) + 10_000 * day.toordinal()),
            "exposure_id": lent["exposure_id"],
        }
        table = pa.table({**pairs, **keys, "drawn_by": pa.array(["uniform 3"] * 3 * n)})
        lake.replace_days(unshown_table(surface.name), table.take(pa.array(rng.permutation(3 * n))), [day])
        labels = {
            **keys,
            "teacher_version": pa.array([TEACHER_VERSION] * 3 * n),
            "contract_hash": pa.array([CONTRACT_HASH] * 3 * n),
            "scores": pa.array(list(rng.normal(size=(3 * n, len(OUTPUTS))))),
            "defaulted_inputs": pa.array(np.full(3 * n, 8, dtype=np.int32)),
        }
        lake.replace_days(unshown_rows(surface.name).labels, pa.table(labels), [day])


@pytest.fixture(scope="module")
def surfaces(surface: Surface) -> SimpleNamespace:
    short = surface.model_copy(update={"training": surface.training.model_copy(update={"epochs": 2})})
    return SimpleNamespace(without=short, with_pairs=changed(short, unshown={"per_exposure": 3}))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, surfaces: SimpleNamespace) -> Settings:
    """A home whose lake holds 10 days, the first 8 with pairs."""
    settings = Settings(home=tmp_path_factory.mktemp("unshown"), first_day=FIRST, threads=1)
    with Lake(settings) as lake:
        write_world(lake, surfaces.with_pairs, Shape(first_day=FIRST, days=10, rows_per_day=150, users=20, items=15))
        write_pairs(lake, surfaces.with_pairs, [FIRST + timedelta(days=i) for i in range(8)], np.random.default_rng(1))
    return settings


def built(home: Settings, surface: Surface) -> TrainingSet:
    with Lake(home) as lake:
        return build_training_set(lake, surface, PARTITION, LABELS)


@pytest.fixture(scope="module")
def sets(home: Settings, surfaces: SimpleNamespace) -> SimpleNamespace:
    return SimpleNamespace(without=built(home, surfaces.without), with_pairs=built(home, surfaces.with_pairs))


@pytest.fixture(scope="module")
def data(home: Settings, surfaces: SimpleNamespace, sets: SimpleNamespace) -> Dataset:
    return load(home, sets.with_pairs, surfaces.with_pairs, sets.with_pairs.train_days, soft_labels=True)


def pairs_of(data: Dataset) -> Dataset:
    return present(data.unshown).rows


def parameters(ranker: torch.nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in ranker.named_parameters()}


@pytest.mark.slow
def test_a_training_set_names_the_pairs_of_its_training_days_and_without_them_is_what_it_was(
    sets: SimpleNamespace,
) -> None:
    unshown = sets.with_pairs.unshown
    assert unshown.days == list(sets.with_pairs.train_days) and set(unshown.rows.values()) == {450}
    assert set(unshown.coverage.values()) == {1.0} and unshown.drawn_by == "uniform 3"
    assert TrainingSet.from_json(sets.with_pairs.to_json()) == sets.with_pairs
    assert "unshown" not in sets.without.to_json() and sets.without.content_hash == sets.with_pairs.content_hash


@pytest.mark.slow
def test_pairs_are_read_beside_the_exposures_that_lent_them_their_user(data: Dataset, home: Settings) -> None:
    unshown = present(data.unshown)
    assert len(unshown.rows) == 3 * len(data) and (unshown.of.diff() >= 0).all()
    assert torch.equal(unshown.rows.inputs["user_id"], data.inputs["user_id"][unshown.of])
    assert unshown.rows.labels == {} and torch.equal(unshown.rows.day, data.day[unshown.of])
    with Lake(home) as lake:
        found = lake.sql(f"select pair_id, scores[1] as score from lake.{unshown_rows('homepage').labels}")
    scores = dict(zip(found["pair_id"].to_pylist(), found["score"].to_pylist(), strict=True))
    wanted = torch.tensor([scores[int(key)] for key in unshown.rows.exposure_id[:50]], dtype=torch.float32)
    assert torch.equal(unshown.rows.soft_labels["click"][:50], wanted)


def test_rows_that_are_chosen_keep_their_own_pairs(data: Dataset) -> None:
    chosen = torch.tensor([40, 7, 300])
    few = data.select(chosen)
    assert present(few.unshown).of.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    every = present(data.unshown)
    wanted = torch.cat([every.rows.exposure_id[every.of == row] for row in chosen])
    assert torch.equal(pairs_of(few).exposure_id, wanted)
    assert len(pairs_of(data.select(slice(10, 12)))) == 6


@pytest.mark.slow
def test_the_control_and_a_student_without_pairs_are_the_same_bytes_where_pairs_lie_beside_the_rows(
    data: Dataset, surfaces: SimpleNamespace
) -> None:
    for technique in (NO_TECHNIQUE, "interaction"):
        bare, _ = fit(replace(data, unshown=None), surfaces.without, technique=technique, seed=1)
        beside, _ = fit(data, surfaces.without, technique=technique, seed=1)
        assert all(torch.equal(b, beside.state_dict()[name]) for name, b in bare.state_dict().items())
    control, _ = fit(data, surfaces.with_pairs, technique=NO_TECHNIQUE, seed=1)
    without, _ = fit(replace(data, unshown=None), surfaces.without, technique=NO_TECHNIQUE, seed=1)
    assert all(torch.equal(b, control.state_dict()[name]) for name, b in without.state_dict().items())


@pytest.mark.slow
def test_a_student_learns_pairs_in_as_many_steps_and_to_the_same_bytes_each_time(
    home: Settings, surfaces: SimpleNamespace, sets: SimpleNamespace, tmp_path: Path
) -> None:
    def run(surface: Surface, training_set: TrainingSet, folder: str):
        return train(home, training_set, surface, technique="interaction", seed=1, out_dir=tmp_path / folder)

    first, again = (run(surfaces.with_pairs, sets.with_pairs, folder) for folder in ("first", "again"))
    without = run(surfaces.without, sets.without, "without")
    assert first.digest == again.digest != without.digest
    told, bare = (cast("dict[str, Any]", checkpoint.meta) for checkpoint in (first, without))
    assert told["validation"]["points"][0]["steps"] == bare["validation"]["points"][0]["steps"]
    assert told["unshown"] == {"drawn_by": "uniform 3", "rows": 3_600} and "unshown" not in bare


@pytest.mark.parametrize("technique", TAUGHT)
def test_a_step_on_pairs_changes_the_branch_and_its_heads_alone(
    data: Dataset, surfaces: SimpleNamespace, technique: str
) -> None:
    """Of every technique that teaches the branch: what the tasks learn in a step is the same to the last bit."""
    surface = changed(surfaces.with_pairs, technique=technique)

    def after(rows: Dataset) -> dict[str, Tensor]:
        ranker = build_ranker(rows, surface, technique=technique, seed=1)
        batches = prepare(ranker, rows, torch.device("cpu")).part(slice(100, 228))
        optimizer = build_optimizer(ranker, Recipe.of(surface.training, len(rows)))
        training_step(ranker, optimizer, batches)
        return parameters(ranker)

    bare, taught = after(replace(data, unshown=None)), after(data)
    differing = {name.split(".")[0] for name, value in taught.items() if not torch.equal(value, bare[name])}
    assert differing == {"branch", "distillation"}
    unlabelled = replace(
        pairs_of(data), soft_labels={n: torch.full_like(v, torch.nan) for n, v in pairs_of(data).soft_labels.items()}
    )
    nothing_said = after(replace(data, unshown=replace(present(data.unshown), rows=unlabelled)))
    assert all(torch.allclose(value, bare[name], atol=1e-6) for name, value in nothing_said.items())


@pytest.mark.slow
@pytest.mark.parametrize("technique", TAUGHT)
def test_the_branch_predicts_pairs_that_it_learnt(data: Dataset, surfaces: SimpleNamespace, technique: str) -> None:
    """With one label per user and item, what pairs say shows in the heads' prediction of them."""
    surface, pairs = changed(surfaces.with_pairs, technique=technique), pairs_of(data)
    key = (pairs.inputs["user_id"] % 7 - 3) * (pairs.inputs["item_id"] % 5 - 2)
    said = replace(pairs, soft_labels={name: key.to(torch.float32) for name in pairs.soft_labels})
    rows = replace(data, unshown=replace(present(data.unshown), rows=said))

    def agreement(given: Dataset) -> float:
        ranker, _ = fit(given, surface, technique=technique, seed=1)
        read = prepare(ranker, rows, torch.device("cpu"))
        with torch.inference_mode():
            activations = ranker.activations(*present(read.unshown).whole())
            predicted = present(ranker.distillation).heads(activations)["watch"]
        return float(torch.corrcoef(torch.stack([predicted, key.to(torch.float32)]))[0, 1])

    assert agreement(rows) > agreement(replace(rows, unshown=None)) + 0.2


@pytest.mark.parametrize("labels", ["shuffled", "noise", "within_item", "within_user"])
def test_placebos_change_the_labels_of_pairs_as_they_change_those_of_exposures(data: Dataset, labels: str) -> None:
    before, after = pairs_of(data), pairs_of(relabelled(data, labels, seed=3))  # type: ignore[arg-type]
    assert (after.soft_labels["click"] != before.soft_labels["click"]).float().mean() > 0.5
    assert torch.equal(after.exposure_id, before.exposure_id)
    if labels == "noise":
        return
    group = {"shuffled": before.day, "within_item": before.inputs["item_id"], "within_user": before.inputs["user_id"]}[
        labels
    ]
    for value in group.unique()[:3]:
        mine = group == value
        assert torch.equal(
            after.soft_labels["click"][mine].sort().values, before.soft_labels["click"][mine].sort().values
        )


def test_shuffling_pairs_leaves_the_exposures_as_they_were_shuffled_without(data: Dataset) -> None:
    bare = shuffle_soft_labels(replace(data, unshown=None), 5)
    assert torch.equal(shuffle_soft_labels(data, 5).soft_labels["watch"], bare.soft_labels["watch"])


def test_pairs_of_users_with_many_rows_lose_their_labels_as_the_exposures_do(
    data: Dataset, surfaces: SimpleNamespace
) -> None:
    few = keep_few_rows(data, changed(surfaces.with_pairs, few_rows={"input": "user_id", "share": 0.5}))
    gone, gone_of_pairs = (torch.isnan(rows.soft_labels["click"]) for rows in (few, pairs_of(few)))
    assert gone.any() and not gone.all() and torch.equal(gone_of_pairs, gone[present(data.unshown).of])


def test_pairs_are_centred_by_the_level_of_the_exposures(data: Dataset, surfaces: SimpleNamespace) -> None:
    """The level of a user is the exposures'; a pair of the same user moves by as much, so that the two compare."""
    centred = centre_soft_labels(data, surfaces.with_pairs)
    moved = data.soft_labels["click"] - centred.soft_labels["click"]
    pairs = pairs_of(data).soft_labels["click"] - pairs_of(centred).soft_labels["click"]
    torch.testing.assert_close(pairs, moved[present(data.unshown).of], atol=1e-5, rtol=0)
    assert torch.equal(pairs_of(centred).soft_labels["watch"], pairs_of(data).soft_labels["watch"])


FAULTS = {
    "update lake.{pairs} set drawn_by = 'popular 3' where day = '2026-01-03'": r"pairs of 2026-01-03 were drawn by "
    r"'popular 3', not by 'uniform 3' as the surface declares: materialize homepage/unshown_labels",
    "delete from lake.{pairs} where day between '2026-01-04' and '2026-01-05'": "no pair .* on 2026-01-04 to",
    "delete from lake.{labels} where day = '2026-01-02'": "450 pairs of 2026-01-02 have no label of this teacher, none",
    "update lake.{labels} set teacher_version = '0' where day = '2026-01-02' and pair_id % 2 = 0": "225 of another",
    "alter table lake.{pairs} drop column item_id": "has no column 'item_id', which the branch reads",
}


@pytest.fixture
def undone(home: Settings) -> Iterator[Lake]:
    """The lake; its pairs and labels are put back afterwards."""
    tables = unshown_table("homepage"), unshown_rows("homepage").labels
    with Lake(home) as lake:
        kept = {table: lake.sql(f"select * from lake.{table}") for table in tables}
        yield lake
        for table, rows in kept.items():
            lake.connection.execute(f"drop table if exists lake.{table}")
            lake.replace_days(table, rows, [])


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_pairs_that_are_not_what_is_declared_are_refused(undone: Lake, surfaces: SimpleNamespace, fault: str) -> None:
    undone.connection.execute(fault.format(pairs=unshown_table("homepage"), labels=unshown_rows("homepage").labels))
    with pytest.raises(TrainingSetError, match=FAULTS[fault]):
        build_training_set(undone, surfaces.with_pairs, PARTITION, LABELS)


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        ("{per_exposures: 4}", "unshown.per_exposures: unknown key; did you mean 'per_exposure'"),
        ("{per_exposure: 4, rule: uniforn}", "unshown.rule: .*did you mean 'uniform'"),
        ("{per_exposure: 0}", "unshown.per_exposure: "),
        ("{per_exposure: 4}\n  technique: auxiliary", "technique auxiliary does not teach: leave it out.*interaction"),
    ],
)
def test_a_wrong_declaration_is_named_with_what_is_near(tmp_path: Path, declared: str, reason: str) -> None:
    heads = "" if "auxiliary" not in declared else "\n  heads: [{task: ctr, teacher_output: click, weight: 1}]"
    file = tmp_path / "homepage.yaml"
    text = f"extends: {EXAMPLES / 'simulator/surfaces/homepage.yaml'}\ndistillation:\n  unshown: {declared}{heads}\n"
    file.write_text(text)
    with pytest.raises(SpecError, match=reason):
        load_surface(file)
