"""From the YAML's technique to its class: that of the file with its name."""

import inspect
from collections.abc import Mapping
from importlib import import_module

import torch

from ml.distillation.technique import Scale, Technique, Widths
from ml.surfaces.spec import Surface
from ml.surfaces.techniques import NO_TECHNIQUE


def technique_class(name: str) -> type[Technique]:
    """Return the one technique that ``ml/distillation/<name>.py`` defines.

    Raises:
        ValueError: The file defines none, or several.
    """
    module = import_module(f"ml.distillation.{name}")
    defined = [
        kind
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, Technique) and kind.__module__ == module.__name__
    ]
    if len(defined) != 1:
        names = ", ".join(kind.__name__ for kind in defined) or "none"
        raise ValueError(f"{module.__file__}: expected one subclass of Technique, found {names}")
    return defined[0]


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
        return technique_class(surface.distillation.technique).build(surface, scales, widths)
