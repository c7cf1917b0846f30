"""Popularity as an ONNX model: what serves while nobody has earned to, with a ranker's inputs and outputs."""

from pathlib import Path

import torch
from torch import Tensor, nn

from ml.export.onnx import Export, export_module
from ml.students.network import TORCH
from ml.surfaces import expression
from ml.surfaces.spec import Surface

_LEAST = 1e-6
"""Rates are kept so far from 0 and 1: their logits stay finite."""


class Popularity(nn.Module):
    """Says of every task the value of its ``baseline`` input, as a logit where the task is binary.

    A task without a baseline is told as 0, the same for every item; ``rank_by`` orders by what is left.
    """

    def __init__(self, surface: Surface) -> None:
        super().__init__()
        self.surface = surface
        self.rank_by = expression.parse(surface.rank_by, surface.tasks)

    def forward(self, *columns: Tensor) -> tuple[Tensor, ...]:
        """Return an output per task and the score, float32 [n], for the inputs in their order, [n] or [n, length]."""
        given = dict(zip(self.surface.inputs, columns, strict=True))
        known = {task: self._value(given, task) for task, spec in self.surface.tasks.items() if spec.baseline}
        nothing = torch.zeros_like(next(iter(known.values())))
        outputs = {task: known.get(task, nothing) for task in self.surface.tasks}
        return *outputs.values(), self.rank_by(outputs, TORCH)

    def _value(self, given: dict[str, Tensor], task: str) -> Tensor:
        spec = self.surface.tasks[task]
        assert spec.baseline is not None
        value = torch.nan_to_num(given[spec.baseline], nan=self.surface.inputs[spec.baseline].default)
        if spec.kind == "regression":
            return value
        rate = value.clamp(_LEAST, 1 - _LEAST)
        return torch.log(rate) - torch.log1p(-rate)


def export_popularity(surface: Surface, out_path: Path) -> Export:
    """Export the popularity of a surface; equal specifications give equal bytes, as there is nothing else in it."""
    return export_module(Popularity(surface).eval(), surface, out_path)
