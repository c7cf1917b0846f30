"""From the YAML's technique to its module."""

from collections.abc import Mapping

import torch

from ml.distillation.auxiliary import Auxiliary
from ml.distillation.direct import Direct
from ml.distillation.interaction import Interaction
from ml.distillation.listwise import Listwise
from ml.distillation.non_serving import NonServing
from ml.distillation.projected import Projected
from ml.distillation.representation import Representation
from ml.distillation.technique import Scale, Technique, Widths
from ml.surfaces.spec import Surface


def build_technique(surface: Surface, scales: Mapping[str, Scale], widths: Widths, seed: int) -> Technique | None:
    """Create the surface's technique; ``None`` where it has none.

    Args:
        surface: Names technique, heads and the widths of towers.
        scales: {teacher output: scale fitted on the training rows}.
        widths: Of what the technique may read.
        seed: Seed of the initial parameters of the heads.

    Raises:
        ValueError: A head learns an output that the teacher lacks.
    """
    heads = surface.distillation.heads
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        match surface.distillation.technique:
            case "none":
                return None
            case "auxiliary":
                return Auxiliary(heads, scales, widths.tower)
            case "non_serving":
                return NonServing(heads, scales, widths.bottom, surface.network.tower)
            case "direct":
                binary = frozenset(name for name, task in surface.tasks.items() if task.kind == "binary")
                return Direct(heads, binary)
            case "representation":
                return Representation(heads, scales, widths.bottom)
            case "interaction":
                return Interaction(heads, scales, widths.interaction)
            case "listwise":
                return Listwise(heads, scales, widths.tower)
            case "projected":
                return Projected(heads, scales, widths.tower)
