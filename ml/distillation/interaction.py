"""The taught branch: embeddings of its own learn who likes what from the teacher alone, and serve as features."""

from collections.abc import Mapping, Sequence
from typing import Self

from torch import Tensor, nn

from ml.distillation.soft_heads import SoftHeads
from ml.distillation.technique import Activations, Scale, Widths
from ml.surfaces.learning import DistillationHead
from ml.surfaces.spec import Surface

HEADS = {"task": False, "branch": True}


class Interaction(SoftHeads):
    """One linear head per soft label on the interaction branch, which learns from these heads and nothing else.

    What crosses domains is which user likes which item. A few positive labels per user cannot teach embeddings that,
    and embeddings that must also carry soft labels lose what the app's own labels had taught them. So the branch has
    embeddings of its own; the tasks read its output as they read any feature, and their gradient stops there. The
    control has the same branch, taught by the tasks. Heads of their own on an inner layer follow "FitNets"
    (arXiv 1412.6550), features that the next model takes as they are follow "Practical Lessons from Predicting Clicks
    on Ads at Facebook" (ADKDD 2014), products of factors follow "Neural Factorization Machines" (arXiv 1708.05027).
    Loss: ``SoftHeads``. The weight only balances the heads: nothing else sees their gradient.

    Args:
        heads: Heads without a task.
        scales: {teacher output: scale fitted on the training rows}.
        width: Width of the branch's output.

    Raises:
        ValueError: The network has no interaction branch.
    """

    owns_interaction = True

    def __init__(self, heads: Sequence[DistillationHead], scales: Mapping[str, Scale], width: int) -> None:
        super().__init__(heads, scales)
        if width == 0:
            raise ValueError("technique interaction teaches network.interaction, which is missing")
        self.modules_of_heads.extend(nn.Linear(width, 1) for _ in heads)

    @classmethod
    def build(cls, surface: Surface, scales: Mapping[str, Scale], widths: Widths) -> Self:
        """Create the heads of ``surface``."""
        return cls(surface.distillation.heads, scales, widths.interaction)

    def source(self, head: DistillationHead, activations: Activations) -> Tensor:
        """Return the output of the branch, [n, width]."""
        return activations.interaction
