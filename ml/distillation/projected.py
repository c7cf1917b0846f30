"""Auxiliary heads whose gradient gives way: what would undo a step of the tasks is taken out of it."""

import torch
from torch import Tensor, nn

from ml.distillation.auxiliary import Auxiliary

HEADS = {"task": True}


class Projected(Auxiliary):
    r"""Auxiliary heads with a remedy for conflicting gradients.

    .. math:: g = g_T + g_D - \min\Big(0, \frac{\langle g_D, g_T \rangle}{\lVert g_T \rVert^2}\Big)\, g_T

    with the gradients of tasks (T) and distillation (D) on the parameters that both reach. "Gradient Surgery for
    Multi-Task Learning" (arXiv 2001.06782, NeurIPS 2020), one-sided: the tasks are what serves, so only the heads
    give way. Costs a second backward pass. Loss: ``SoftHeads``.
    """

    def backward(self, tasks: Tensor, distillation: Tensor, ranker: nn.Module) -> None:
        """Set the gradient of every parameter, the heads' share projected where it opposes the tasks'."""
        parameters = list(ranker.parameters())
        hard = torch.autograd.grad(tasks, parameters, retain_graph=True, allow_unused=True)
        soft = torch.autograd.grad(distillation, parameters, allow_unused=True)
        both = [(h, s) for h, s in zip(hard, soft, strict=True) if h is not None and s is not None]
        agreement = torch.stack([(h * s).sum() for h, s in both]).sum()
        length = torch.stack([(h * h).sum() for h, _ in both]).sum()
        kept = float(1.0 - (agreement / length.clamp(min=torch.finfo(length.dtype).tiny)).clamp(max=0.0))
        for parameter, h, s in zip(parameters, hard, soft, strict=True):
            if h is not None and s is not None:
                parameter.grad = kept * h + s
            else:
                parameter.grad = s if h is None else h
