"""From the YAML's technique to its module."""

from collections.abc import Mapping

import torch

from ml.distillation.auxiliary import Auxiliary
from ml.distillation.non_serving import NonServing
from ml.distillation.technique import Scale, Technique
from ml.surfaces.spec import Surface


def build_technique(
    surface: Surface, scales: Mapping[str, Scale], widths: tuple[int, int], seed: int
) -> Technique | None:
    """Create the surface's technique; ``None`` where it has none.

    Args:
        surface: Names technique, heads and the widths of towers.
        scales: {teacher output: scale fitted on the training rows}.
        widths: Of the outputs of the shared bottom and of a task's tower.
        seed: Seed of the initial parameters of the heads.

    Raises:
        ValueError: A head learns an output that the teacher lacks.
    """
    heads = surface.distillation.heads
    bottom, tower = widths
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        match surface.distillation.technique:
            case "none":
                return None
            case "auxiliary":
                return Auxiliary(heads, scales, tower)
            case "non_serving":
                return NonServing(heads, scales, bottom, surface.network.tower)
