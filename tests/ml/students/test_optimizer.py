import pytest
import torch

from benchmarks.vocabulary import batch_of, ranker_of
from ml.students.loop import training_step
from ml.students.optimizer import Recipe, RowwiseOptimizer, build_optimizer
from ml.students.train import deterministic
from ml.surfaces.spec import Surface

TABLES = ["factors.tables._user_id.weight", "factors.tables._item_id.weight", "branch.factors.tables._user_id.weight"]


@pytest.mark.parametrize("technique", ["none", "interaction"])
def test_a_step_moves_the_rows_of_its_batch_and_no_other(surface: Surface, technique: str):
    decaying = surface.model_copy(update={"training": surface.training.model_copy(update={"weight_decay": 0.1})})
    ranker = ranker_of(decaying, 3_000, technique)
    batch = batch_of(ranker, 64, seed=0)
    optimizer = build_optimizer(ranker, Recipe.of(decaying.training, 64))
    tables = dict(ranker.named_parameters())
    for _ in range(2):
        before = {name: tables[name].detach().clone() for name in TABLES}
        with deterministic():
            training_step(ranker, optimizer, batch)
        for name in TABLES:
            rows = batch.rows[:, ranker.preprocessing.ids.index(name.split("._")[1].removesuffix(".weight"))].unique()
            moved = (tables[name].detach() != before[name]).any(dim=1).nonzero().squeeze(1)
            assert set(moved.tolist()) <= set(rows.tolist()) and len(moved) > 0.5 * len(rows), name
            assert set(optimizer.state[tables[name]]["squares"].nonzero().squeeze(1).tolist()) <= set(rows.tolist())


def test_a_row_takes_the_step_of_adam_without_momentum_and_its_mean_square_fades_in_between():
    table = torch.nn.Embedding(5, 2, sparse=True)
    start = table.weight.detach().clone()
    optimizer = RowwiseOptimizer([table.weight], lr=0.5, weight_decay=0.2)
    gradients = {1: torch.tensor([3.0, 4.0]), 3: torch.tensor([0.0, 6.0])}
    batches = [[1, 3], [3], [1, 3]]
    for rows in batches:
        ids = torch.tensor(rows)
        (table(ids) * torch.stack([gradients[row] for row in rows])).sum().backward()
        optimizer.step()
        assert table.weight.grad is None
    expected, squares = start.clone(), dict.fromkeys(gradients, torch.zeros(()))
    for step, rows in enumerate(batches, start=1):
        for row, g in gradients.items():
            squares[row] = 0.999 * squares[row] + 0.001 * (g.square().mean() if row in rows else 0.0)
            if row in rows:
                expected[row] = 0.9 * expected[row] - 0.5 * g / (squares[row] / (1 - 0.999**step)).sqrt()
    torch.testing.assert_close(table.weight.detach(), expected)


def test_what_only_the_teacher_feeds_does_not_decay(surface: Surface):
    recipe = Recipe.of(surface.training.model_copy(update={"weight_decay": 0.1}), 64)
    for technique, decay in (("interaction", 0.0), ("none", 0.1)):
        ranker = ranker_of(surface, 300, technique)
        decays = {id(p): g["weight_decay"] for g in build_optimizer(ranker, recipe).param_groups for p in g["params"]}
        assert len(decays) == len(list(ranker.parameters()))
        for name, parameter in ranker.named_parameters():
            only_taught = name.startswith("branch.factors.tables.")
            assert decays[id(parameter)] == (decay if only_taught else 0.1), name


def test_the_gradient_of_ids_is_sparse_and_that_of_categories_is_not(surface: Surface):
    ranker = ranker_of(surface, 3_000, "none")
    kinds = {name: table.sparse for name, table in ranker.factors.tables.items()}
    assert kinds == {"_user_id": True, "_item_id": True, "_creator_id": True, "_hour": False}
