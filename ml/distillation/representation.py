"""Representation hints: the shared layer itself must tell the teacher's logits."""

from collections.abc import Mapping, Sequence
from typing import Self

from torch import Tensor, nn

from ml.distillation.soft_heads import SoftHeads
from ml.distillation.technique import Activations, Scale, Widths
from ml.surfaces.learning import DistillationHead
from ml.surfaces.spec import Surface

HEADS = {"task": False}


class Representation(SoftHeads):
    """One linear map per head from the shared bottom onto the teacher's logit.

    A hint in the sense of "FitNets: Hints for Thin Deep Nets" (arXiv 1412.6550), with the teacher's logits as the hint:
    a foreign teacher shows no hidden layer. Unlike ``NonServing`` nothing lies between the shared layer and the logit,
    so that the layer has to hold it linearly. Loss: ``SoftHeads``.

    Args:
        heads: Heads without a task.
        scales: {teacher output: scale fitted on the training rows}.
        bottom: Width of the shared bottom's output.
    """

    def __init__(self, heads: Sequence[DistillationHead], scales: Mapping[str, Scale], bottom: int) -> None:
        super().__init__(heads, scales)
        self.modules_of_heads.extend(nn.Linear(bottom, 1) for _ in heads)

    @classmethod
    def build(cls, surface: Surface, scales: Mapping[str, Scale], widths: Widths) -> Self:
        """Create the heads of ``surface``."""
        return cls(surface.distillation.heads, scales, widths.bottom)

    def source(self, head: DistillationHead, activations: Activations) -> Tensor:
        """Return the output of the shared bottom, [n, width]."""
        return activations.bottom
