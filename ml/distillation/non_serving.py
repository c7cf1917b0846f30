"""Non-serving towers: a task of the teacher that the surface lacks, learnt on the shared bottom."""

from collections.abc import Mapping, Sequence
from typing import Self

from torch import Tensor, nn

from ml.distillation.soft_heads import SoftHeads
from ml.distillation.technique import Activations, Scale, Widths, perceptron
from ml.surfaces.learning import DistillationHead
from ml.surfaces.spec import Surface

HEADS = {"task": False}


class NonServing(SoftHeads):
    """One tower with a logit per head on the shared bottom.

    Teaches a surface whose tasks have nothing in common with the teacher's, through the shared layers alone: the radio
    ranker of "Zero-shot Cross-domain Knowledge Distillation: A Case study on YouTube Music" (arXiv 2603.28994).
    Loss: ``SoftHeads``.

    Args:
        heads: Heads without a task.
        scales: {teacher output: scale fitted on the training rows}.
        bottom: Width of the shared bottom's output.
        tower: Widths of the layers of a tower.
    """

    def __init__(
        self, heads: Sequence[DistillationHead], scales: Mapping[str, Scale], bottom: int, tower: Sequence[int]
    ) -> None:
        super().__init__(heads, scales)
        width = tower[-1] if tower else bottom
        self.modules_of_heads.extend(nn.Sequential(perceptron(bottom, tower), nn.Linear(width, 1)) for _ in heads)

    @classmethod
    def build(cls, surface: Surface, scales: Mapping[str, Scale], widths: Widths) -> Self:
        """Create the heads of ``surface``."""
        return cls(surface.distillation.heads, scales, widths.bottom, surface.network.tower)

    def source(self, head: DistillationHead, activations: Activations) -> Tensor:
        """Return the output of the shared bottom, [n, width]."""
        return activations.bottom
