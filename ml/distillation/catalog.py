"""From the YAML's technique to its class: that of the file with its name."""

from collections.abc import Mapping
from importlib import import_module

import torch

from ml.distillation.technique import Scale, Technique, Widths
from ml.surfaces.own import class_of, own_module
from ml.surfaces.spec import Surface
from ml.surfaces.techniques import NO_TECHNIQUE


def technique_class(name: str, code: str | None = None) -> type[Technique]:
    """Return the one technique that ``ml/distillation/<name>.py``, or the app's file of this hash, defines.

    Raises:
        ValueError: The file defines none, or several, or is not there.
    """
    module = import_module(f"ml.distillation.{name}") if code is None else own_module("techniques", name, code)
    return class_of(module, Technique)


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
    if surface.distillation.technique == NO_TECHNIQUE:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        named = technique_class(surface.distillation.technique, surface.distillation.code)
        return named.build(surface, scales, widths)
