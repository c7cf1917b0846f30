"""Interaction towers: the embeddings learn the soft label through their products, below all shared layers."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ml.distillation.soft_heads import SoftHeads
from ml.distillation.technique import Activations, Scale, perceptron
from ml.surfaces.spec import DistillationHead


class Interaction(SoftHeads):
    """One tower with a logit per head that reads the products of embeddings and nothing else.

    What crosses domains is which user likes which item, and that lives in the embeddings. The layers above them are
    left to the app's own labels, so the teacher's habits (its base rates, its bait) cannot crowd them: products of
    factors as the carrier of knowledge follow "Neural Factorization Machines" (arXiv 1708.05027), a tower that reads
    less than the model does follows the shallow tower of "Recommending What Video to Watch Next" (RecSys 2019).
    Loss: ``SoftHeads``.

    Args:
        heads: Heads without a task.
        scales: {teacher output: scale fitted on the training rows}.
        products: Width of all products of embeddings together.
        tower: Widths of the layers of a tower.

    Raises:
        ValueError: The network multiplies no embeddings.
    """

    def __init__(
        self, heads: Sequence[DistillationHead], scales: Mapping[str, Scale], products: int, tower: Sequence[int]
    ) -> None:
        super().__init__(heads, scales)
        if products == 0:
            raise ValueError("technique interaction needs network.products")
        width = tower[-1] if tower else products
        self.modules_of_heads.extend(nn.Sequential(perceptron(products, tower), nn.Linear(width, 1)) for _ in heads)

    def source(self, head: DistillationHead, activations: Activations) -> Tensor:
        """Return the products of embeddings, [n, width]."""
        return activations.products
