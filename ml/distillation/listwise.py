"""Listwise heads: an extra logit on a task's tower learns the teacher's order of a user's items, not its level."""

import torch
from torch import Tensor

from ml.distillation.auxiliary import Auxiliary

HEADS = {"task": True}


class Listwise(Auxiliary):
    r"""Auxiliary heads with a ranking loss over the rows of a user in a batch.

    .. math:: L = \sum_h w_h \frac{1}{|G_h|} \sum_{g \in G_h} -\sum_{i \in g} \mathrm{softmax}_g(z_h)_i
              \log \mathrm{softmax}_g(\hat z_h)_i

    with z the z-scored teacher logit and g the rows of one user that have it, two or more. Batches lie in the order of
    time, so such a list is about a session. ListNet ("Learning to Rank: From Pairwise Approach to Listwise Approach",
    ICML 2007) with the teacher's scores as relevance, as in "RankDistil: Knowledge Distillation for Ranking" (AISTATS
    2021): a user's level on the sister platform cancels.
    """

    def head_loss(self, prediction: Tensor, target: Tensor, users: Tensor) -> Tensor:
        """Return the loss of one head, a scalar; 0 where no user has two rows."""
        present = ~torch.isnan(target)
        _, group, sizes = torch.unique(users[present], return_inverse=True, return_counts=True)
        listed = sizes[group] > 1
        wanted = log_softmax_by(target[present], group, len(sizes)).exp()
        entropy = -(wanted * log_softmax_by(prediction[present], group, len(sizes)))
        return entropy[listed].sum() / (sizes > 1).sum().clamp(min=1)


def log_softmax_by(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Return the log of the softmax of ``values`` [n] within each group; ``group`` [n] counts from 0."""
    highest = torch.full((groups,), -torch.inf, dtype=values.dtype, device=values.device)
    highest = highest.scatter_reduce(0, group, values.detach(), "amax")
    apart = values - highest[group]
    total = torch.zeros(groups, dtype=values.dtype, device=values.device).index_add(0, group, apart.exp())
    return apart - total.log()[group]
