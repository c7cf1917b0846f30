"""Heads that regress the standardised teacher logit; the loss that ``auxiliary`` and ``non_serving`` share."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ml.distillation.technique import Activations, Scale, Technique, masked_mean_square
from ml.surfaces.learning import DistillationHead


class SoftHeads(Technique):
    r"""Heads whose loss is the mean square error on the z-scored teacher logit, over all rows with a soft label.

    .. math:: L = \sum_h w_h \frac{1}{|P_h|} \sum_{i \in P_h}
              \Big(\hat{z}_{h,i} - \frac{t_{h,i} - \mu_h}{\sigma_h}\Big)^2

    with teacher logit t, its mean and deviation over the training rows, and weight w of the head.

    Args:
        heads: Heads of the surface, each with its weight.
        scales: {teacher output: scale fitted on the training rows}.

    Raises:
        ValueError: A head learns an output that has no scale.
    """

    scale: Tensor

    def __init__(self, heads: Sequence[DistillationHead], scales: Mapping[str, Scale]) -> None:
        super().__init__()
        for head in heads:
            if head.teacher_output not in scales:
                raise ValueError(f"the teacher has no output {head.teacher_output!r}; it has {sorted(scales)}")
        self.specs = tuple(heads)
        self.modules_of_heads = nn.ModuleList()
        fitted = [(scales[head.teacher_output].mean, scales[head.teacher_output].deviation) for head in heads]
        self.register_buffer("scale", torch.tensor(fitted, dtype=torch.float32).reshape(-1, 2))

    def heads(self, activations: Activations) -> dict[str, Tensor]:
        """Return {head: predicted z-score of the teacher's logit [n]}."""
        return {
            head_name(spec): module(self.source(spec, activations)).squeeze(1)
            for spec, module in zip(self.specs, self.modules_of_heads, strict=True)
        }

    @abstractmethod
    def source(self, head: DistillationHead, activations: Activations) -> Tensor:
        """Return what the module of ``head`` reads, [n, width]."""

    def loss(self, activations: Activations, soft_labels: Mapping[str, Tensor], users: Tensor) -> Tensor:
        """Return the weighted sum of the heads' losses, a scalar."""
        total = activations.bottom.new_zeros(())
        for index, (spec, prediction) in enumerate(zip(self.specs, self.heads(activations).values(), strict=True)):
            target = (soft_labels[spec.teacher_output] - self.scale[index, 0]) / self.scale[index, 1]
            total = total + spec.weight * self.head_loss(prediction, target, users)
        return total

    def head_loss(self, prediction: Tensor, target: Tensor, users: Tensor) -> Tensor:
        """Return the loss of one head, a scalar: the mean square error on the z-scored logits, NaN where missing."""
        return masked_mean_square(prediction, target)


def head_name(head: DistillationHead) -> str:
    """Return a name that is unique among the heads of a surface."""
    return head.teacher_output if head.task is None else f"{head.task}/{head.teacher_output}"
