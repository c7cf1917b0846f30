"""What a distillation technique is: heads and a loss that exist in training only."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from ml.surfaces.spec import Surface


@dataclass(frozen=True)
class Activations:
    """What a technique may read of one batch.

    Attributes:
        bottom: Output of the shared bottom, [n, width].
        towers: {task: output of its tower, [n, width]}.
        outputs: {task: logit or value that serves, [n]}.
        interaction: Output of the interaction branch, [n, width]; width 0 where there is none.
    """

    bottom: Tensor
    towers: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    interaction: Tensor


class Widths(NamedTuple):
    """Widths of what a technique may read: see ``Activations``."""

    bottom: int
    tower: int
    interaction: int


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of one teacher logit over the training rows that have it."""

    mean: float
    deviation: float

    @classmethod
    def fit(cls, soft_labels: Tensor) -> "Scale":
        """Fit on soft labels [n], NaN where missing; a constant logit gets deviation 1.

        Raises:
            ValueError: Not one soft label is there, or one is infinite.
        """
        present = soft_labels[~torch.isnan(soft_labels)].to(torch.float64)
        if not len(present):
            raise ValueError(f"none of {len(soft_labels)} rows has a soft label")
        if not torch.isfinite(present).all():
            raise ValueError(f"{int((~torch.isfinite(present)).sum())} of {len(soft_labels)} soft labels are infinite")
        deviation = float(present.std(correction=0))
        return cls(mean=float(present.mean()), deviation=deviation if deviation > 1e-9 else 1.0)


class Technique(nn.Module, ABC):
    """Heads that learn from the teacher beside the tasks; none of them serves.

    Attributes:
        owns_interaction: Whether the interaction branch learns from these heads alone: the gradient of the tasks stops
            where the branch enters the bottom.
    """

    owns_interaction: bool = False

    @classmethod
    @abstractmethod
    def build(cls, surface: Surface, scales: Mapping[str, Scale], widths: Widths) -> Self:
        """Create the technique as a surface sets it.

        Args:
            surface: Names the heads, and the widths of towers.
            scales: {teacher output: scale fitted on the training rows}.
            widths: Of what the technique may read.
        """

    @abstractmethod
    def heads(self, activations: Activations) -> dict[str, Tensor]:
        """Return {name: prediction [n]}, one per head, in the unit in which the loss compares it."""

    @abstractmethod
    def loss(self, activations: Activations, soft_labels: Mapping[str, Tensor], users: Tensor) -> Tensor:
        """Return the weighted loss to add to that of the tasks, a scalar.

        Args:
            activations: Of a batch of n rows.
            soft_labels: {teacher output: logit [n]}, NaN where missing.
            users: User of each row, int64 [n].
        """

    def backward(self, tasks: Tensor, distillation: Tensor, ranker: nn.Module) -> None:
        """Set the gradient of every parameter; those of tables of ids are sparse.

        Args:
            tasks: Loss of the tasks, a scalar.
            distillation: What ``loss`` returned.
            ranker: Has these heads.
        """
        (tasks + distillation).backward()


def masked_mean_square(prediction: Tensor, target: Tensor) -> Tensor:
    r"""Return the mean of squares over the rows that have a target.

    .. math:: \frac{1}{|P|} \sum_{i \in P} (p_i - t_i)^2, \quad P = \{i : t_i \text{ is not NaN}\}

    Args:
        prediction: [n].
        target: [n], NaN where missing.

    Returns:
        A scalar; 0 where no row has a target.
    """
    present = ~torch.isnan(target)
    error = torch.where(present, prediction - target.nan_to_num(), 0.0)
    return error.square().sum() / present.sum().clamp(min=1)


def masked_cross_entropy(logit: Tensor, target: Tensor) -> Tensor:
    """Return the mean binary cross-entropy over the rows that have a target, a scalar; 0 where none has.

    Args:
        logit: [n].
        target: Probability or label [n], NaN where missing.
    """
    present = ~torch.isnan(target)
    total = functional.binary_cross_entropy_with_logits(
        logit, target.nan_to_num(), weight=present.to(torch.float32), reduction="sum"
    )
    return total / present.sum().clamp(min=1)


def perceptron(width: int, layers: Sequence[int]) -> nn.Sequential:
    """Return linear layers of the given widths, each with a ReLU after it; no layers pass the input through."""
    widths = [width, *layers]
    modules: list[nn.Module] = []
    for before, after in pairwise(widths):
        modules += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*modules)
