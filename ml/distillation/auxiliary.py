"""Auxiliary heads: an extra logit on a task's tower learns what the teacher says about the same row."""

from collections.abc import Mapping, Sequence
from typing import Self

from torch import Tensor, nn

from ml.distillation.soft_heads import SoftHeads
from ml.distillation.technique import Activations, Scale, Widths
from ml.surfaces.learning import DistillationHead
from ml.surfaces.spec import Surface

HEADS = {"task": True}


class Auxiliary(SoftHeads):
    """One linear logit per head on the tower of its task.

    The serving logit never meets the soft label, so a teacher whose base rate is off does not bias it: "Bridging the
    Gap: Unpacking the Hidden Challenges in Knowledge Distillation for Online Ranking Systems" (arXiv 2408.14678);
    across domains: "Zero-shot Cross-domain Knowledge Distillation: A Case study on YouTube Music" (arXiv 2603.28994).
    Loss: ``SoftHeads``.

    Args:
        heads: Heads, each with a task.
        scales: {teacher output: scale fitted on the training rows}.
        tower: Width of a tower's output.
    """

    def __init__(self, heads: Sequence[DistillationHead], scales: Mapping[str, Scale], tower: int) -> None:
        super().__init__(heads, scales)
        self.modules_of_heads.extend(nn.Linear(tower, 1) for _ in heads)

    @classmethod
    def build(cls, surface: Surface, scales: Mapping[str, Scale], widths: Widths) -> Self:
        """Create the heads of ``surface``."""
        return cls(surface.distillation.heads, scales, widths.tower)

    def source(self, head: DistillationHead, activations: Activations) -> Tensor:
        """Return the output of the tower of the head's task, [n, width]."""
        assert head.task is not None, head
        return activations.towers[head.task]
