"""Direct distillation: the serving output itself learns the soft label, beside the hard one."""

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from ml.distillation.soft_heads import head_name
from ml.distillation.technique import Activations, Scale, Technique, Widths, masked_cross_entropy, masked_mean_square
from ml.surfaces.learning import DistillationHead
from ml.surfaces.spec import Surface

HEADS = {"task": True, "centre_by": False}


class Direct(Technique):
    r"""No head at all: the loss of a task's serving output against the teacher's, added to that against the label.

    .. math:: L = \sum_h w_h \frac{1}{|P_h|} \sum_{i \in P_h} \ell_h(o_{h,i}, t_{h,i})

    where l is the cross-entropy of the logit o with the teacher's probability sigmoid(t) for a binary task, and the
    square error for a regression. The classic form (Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural
    Network", arXiv 1503.02531, at temperature 1), kept as a baseline: a teacher whose base rate is off biases what
    serves (arXiv 2408.14678).

    Args:
        heads: Heads, each with a task.
        binary: Names of the binary tasks.
    """

    def __init__(self, heads: Sequence[DistillationHead], binary: frozenset[str]) -> None:
        super().__init__()
        self.specs = tuple(heads)
        self.binary = binary

    @classmethod
    def build(cls, surface: Surface, scales: Mapping[str, Scale], widths: Widths) -> Self:
        """Create the losses of ``surface``; the teacher's logits are taken in their own unit."""
        binary = frozenset(name for name, task in surface.tasks.items() if task.kind == "binary")
        return cls(surface.distillation.heads, binary)

    def heads(self, activations: Activations) -> dict[str, Tensor]:
        """Return {head: the serving output of its task [n]}."""
        return {head_name(spec): activations.outputs[str(spec.task)] for spec in self.specs}

    def loss(self, activations: Activations, soft_labels: Mapping[str, Tensor], users: Tensor) -> Tensor:
        """Return the weighted sum of the heads' losses, a scalar."""
        total = activations.bottom.new_zeros(())
        for spec, output in zip(self.specs, self.heads(activations).values(), strict=True):
            label = soft_labels[spec.teacher_output]
            if spec.task in self.binary:
                found = masked_cross_entropy(output, torch.sigmoid(label))
            else:
                found = masked_mean_square(output, label)
            total = total + spec.weight * found
        return total
