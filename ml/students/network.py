"""The ranker: a shared-bottom multi-task network over embeddings, numbers and products of embeddings."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ml.distillation.technique import Activations, Technique, Widths, perceptron
from ml.modules.vocabulary import UNKNOWN_ROW
from ml.students.preprocessing import Preprocessing, key
from ml.surfaces import expression
from ml.surfaces.spec import Surface

SCORE = "score"
"""Name of the ranking score among the outputs."""

TORCH: dict[str, Any] = {"sigmoid": torch.sigmoid, "exp": torch.exp, "log1p": torch.log1p, "clip": torch.clamp}
"""Functions of ``rank_by`` over tensors."""

_EMBEDDING_DEVIATION = 0.1


class Ranker(nn.Module):
    """Embeddings, products and numbers -> bottom -> a tower per task -> a logit or value per task.

    Everything that serves is created before any distillation head, so that a student starts from the bits of the
    control of the same seed.

    Args:
        surface: Inputs, network, tasks and ranking score.
        preprocessing: Fitted on training rows.
        seed: Seed of the initial parameters.

    Attributes:
        distillation: Non-serving heads of a student; ``None`` in a control and in a ranker that serves.

    Raises:
        ValueError: Products of inputs that have no common embedding size, or a task named like an input or ``score``.
    """

    def __init__(self, surface: Surface, preprocessing: Preprocessing, seed: int) -> None:
        super().__init__()
        if clash := set(surface.tasks) & {SCORE, *surface.inputs}:
            raise ValueError(f"surface {surface.name}: {sorted(clash)} name both a task and an input or the score")
        self.surface = surface
        self.preprocessing = preprocessing
        self.rank_by = expression.parse(surface.rank_by, surface.tasks)
        self.products = tuple((left, right, self._size(left, right)) for left, right in surface.network.products)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._create()
        self.distillation: Technique | None = None

    def _create(self) -> None:
        inputs, network, pre = self.surface.inputs, self.surface.network, self.preprocessing
        self.embeddings = nn.ModuleDict()
        for vocabulary in dict.fromkeys(pre.vocabulary.values()):
            table = nn.Embedding(pre.sizes[vocabulary], inputs[vocabulary].embedding)
            nn.init.normal_(table.weight, std=_EMBEDDING_DEVIATION)
            with torch.no_grad():
                table.weight[UNKNOWN_ROW] = 0.0
            self.embeddings[key(vocabulary)] = table
        self.projections = nn.ModuleDict()
        for left, right, size in self.products:
            if self._is_vector(left, right):
                continue
            for name in (left, right):
                if inputs[name].type == "vector" and _projection(name, size) not in self.projections:
                    self.projections[_projection(name, size)] = nn.Linear(inputs[name].length, size)
        products = sum(size for *_, size in self.products)
        width = pre.width + sum(inputs[name].embedding for name in pre.ids) + products
        self.bottom = perceptron(width, network.bottom)
        bottom = network.bottom[-1] if network.bottom else width
        self.towers = nn.ModuleDict({key(task): perceptron(bottom, network.tower) for task in self.surface.tasks})
        self.widths = Widths(bottom, network.tower[-1] if network.tower else bottom, products)
        self.heads = nn.ModuleDict({key(task): nn.Linear(self.widths.tower, 1) for task in self.surface.tasks})

    def _is_vector(self, *names: str) -> bool:
        return all(self.surface.inputs[name].type == "vector" for name in names)

    def _size(self, left: str, right: str) -> int:
        inputs = self.surface.inputs
        if self._is_vector(left, right) and inputs[left].length == inputs[right].length:
            return inputs[left].length
        sizes = {inputs[name].embedding for name in (left, right) if inputs[name].type in ("id", "category")}
        if len(sizes) != 1 or not {inputs[left].type, inputs[right].type} <= {"id", "category", "vector"}:
            raise ValueError(
                f"surface {self.surface.name}: product [{left}, {right}] needs two ids of one embedding size, "
                "an id and a vector, or two vectors of one length"
            )
        return sizes.pop()

    def activations(self, rows: Tensor, dense: Tensor) -> Activations:
        """Run the network on preprocessed inputs.

        Args:
            rows: Embedding rows, int64 [n, ids].
            dense: Standardised numbers, float32 [n, width].
        """
        pre = self.preprocessing
        embedded = {
            name: self.embeddings[key(pre.vocabulary[name])](rows[:, index]) for index, name in enumerate(pre.ids)
        }

        def factor(name: str, size: int, raw: bool) -> Tensor:
            if name in embedded:
                return embedded[name]
            vector = dense[:, pre.slices[name]]
            return vector if raw else self.projections[_projection(name, size)](vector)

        factors = [
            factor(left, size, raw) * factor(right, size, raw)
            for left, right, size in self.products
            for raw in [self._is_vector(left, right)]
        ]
        products = torch.cat(factors, dim=1) if factors else dense[:, :0]
        bottom = self.bottom(torch.cat([dense, *embedded.values(), products], dim=1))
        towers = {task: self.towers[key(task)](bottom) for task in self.surface.tasks}
        outputs = {task: self.heads[key(task)](tower).squeeze(1) for task, tower in towers.items()}
        return Activations(bottom=bottom, towers=towers, outputs=outputs, products=products)

    def forward(self, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Score raw columns.

        Args:
            columns: {input: int64 or float32, [n] or [n, length]}.

        Returns:
            {task: logit or value, float32 [n]} and the ranking ``score``, float32 [n].
        """
        outputs = self.activations(*self.preprocessing(columns)).outputs
        return {**outputs, SCORE: self.rank_by(outputs, TORCH)}


def _projection(name: str, size: int) -> str:
    return f"{key(name)}_to_{size}"
