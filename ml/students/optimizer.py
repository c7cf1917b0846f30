"""The optimiser of control and student: AdamW for the layers, row-wise Adam without momentum for embeddings."""

from dataclasses import dataclass
from math import log2

import torch
from torch import Tensor, nn

from ml.students.network import Ranker
from ml.surfaces.learning import Training

_EPSILON = 1e-8
_SQUARES_DECAY = 0.999
_STEPS_OF_A_PASS = 700
_BATCHES = (32, 4_096)
_USUAL_BATCH, _LAYER_RATE, _EMBEDDING_RATE = 256, 0.004, 0.01
_TAUGHT_SHARE = 2.0


class RowwiseOptimizer(torch.optim.AdamW):
    r"""AdamW, but a table with sparse gradients moves only in the rows that a batch names.

    A row w of width d with gradient g in step t, last touched k steps ago, keeps one running mean of its squares:

    .. math:: v \leftarrow \beta^k v + \tfrac{1 - \beta}{d} \lVert g \rVert^2, \quad
              w \leftarrow (1 - \eta\lambda)\, w - \eta\, \frac{g}{\sqrt{v / (1 - \beta^t)} + 10^{-8}}

    with beta = 0.999: what Adam ("Adam: A Method for Stochastic Optimization", arXiv 1412.6980) does to a row whose
    gradient is zero in between, but for the momentum, which would go on to move it there. So a step costs what its
    batch costs, however many ids there are. One mean per row as in FBGEMM's partially row-wise Adam. The decay is
    decoupled ("Decoupled Weight Decay Regularization", arXiv 1711.05101), for the layers in every step and for a row in
    the steps that touch it.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient; the gradients of tables are used up."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad.is_sparse:
                    self._move_rows(parameter, parameter.grad.coalesce(), group["lr"], group["weight_decay"])
                    parameter.grad = None
        super().step()

    def _move_rows(self, table: nn.Parameter, gradient: Tensor, rate: float, decay: float) -> None:
        rows, values = gradient.indices()[0], gradient.values()
        state = self.state[table]
        if not state:
            state["step"] = torch.zeros(())  # AdamW asks for one in every state that it loads
            state["squares"] = torch.zeros(len(table), device=table.device)
            state["touched"] = torch.zeros(len(table), device=table.device)
        state["step"] += 1
        step = float(state["step"])
        kept = _SQUARES_DECAY ** (step - state["touched"][rows])
        squares = kept * state["squares"][rows] + (1.0 - _SQUARES_DECAY) * values.square().mean(dim=1)
        state["squares"][rows] = squares
        state["touched"][rows] = step
        moved = table[rows] * (1.0 - rate * decay) if decay else table[rows]
        size = (squares / (1.0 - _SQUARES_DECAY**step)).sqrt() + _EPSILON
        table[rows] = moved - rate * values / size.unsqueeze(1)


@dataclass(frozen=True)
class Recipe:
    """How a ranker is trained, every number filled in; fields as in ``Training`` of the surface."""

    batch_size: int
    learning_rate: float
    embedding_learning_rate: float
    final_rate: float
    weight_decay: float
    epochs: int
    patience: int
    unknown_share: float

    @classmethod
    def of(cls, training: Training, rows: int) -> "Recipe":
        """Fill in what the surface leaves to the number of rows.

        The batch is such that a pass takes about 700 steps: a power of two from 32 to 4,096. The learning rate of the
        layers grows with its square root ("On the SDEs and Scaling Rules for Adaptive Gradient Algorithms", arXiv
        2205.10287); that of the embeddings, each of which a step sees once or never, does not. It is 0.01 in a long
        pass; in a short one of s steps, where the correction 1 - 0.999^s of the running mean shortens every step, it is
        larger by the root of that.
        """
        batch = training.batch_size or _batch_size(rows)
        rate = training.learning_rate or _LAYER_RATE * (batch / _USUAL_BATCH) ** 0.5
        seen = 1.0 - _SQUARES_DECAY ** max(rows / batch, 1.0)
        return cls(
            batch_size=batch,
            learning_rate=rate,
            embedding_learning_rate=training.embedding_learning_rate or _EMBEDDING_RATE / seen**0.5,
            final_rate=training.final_rate,
            weight_decay=training.weight_decay,
            epochs=training.epochs,
            patience=training.patience,
            unknown_share=training.unknown_share,
        )


def _batch_size(rows: int) -> int:
    return int(min(max(2 ** round(log2(max(rows, 1) / _STEPS_OF_A_PASS)), _BATCHES[0]), _BATCHES[1]))


def build_optimizer(ranker: Ranker, recipe: Recipe) -> RowwiseOptimizer:
    """Return the optimiser of a ranker; embeddings have a learning rate of their own.

    Embeddings that only the teacher feeds learn twice as fast, since the soft label of every row says more than the
    click of few, and do not decay: their gradients say nothing about how much the app's own labels need them.
    """
    tables = {name: module.weight for name, module in ranker.named_modules() if isinstance(module, nn.Embedding)}
    taught_alone = ranker.distillation is not None and ranker.distillation.owns_interaction
    taught = {name for name in tables if taught_alone and name.startswith("branch.")}
    rate = recipe.embedding_learning_rate
    groups = [
        {"params": [p for p in ranker.parameters() if not any(p is table for table in tables.values())]},
        {"params": [table for name, table in tables.items() if name not in taught], "lr": rate},
        {"params": [tables[name] for name in sorted(taught)], "lr": _TAUGHT_SHARE * rate, "weight_decay": 0.0},
    ]
    given = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay, "fused": True}
    return RowwiseOptimizer([group for group in groups if group["params"]], **given)
