"""The gate's guards: every file of this folder is one, and holds it as ``GUARD``."""

from importlib import import_module
from pkgutil import iter_modules

from checks.guard import Guard
from ml.surfaces.spec import Surface


def _listed() -> tuple[Guard, ...]:
    """Return the guards of the folder, by number.

    Raises:
        ValueError: A guard has another name than its file, or the number of another guard.
    """
    found: dict[int, Guard] = {}
    for file in iter_modules(__path__):
        guard: Guard = import_module(f"{__name__}.{file.name}").GUARD
        if guard.name != file.name:
            raise ValueError(f"checks/guards/{file.name}.py: the guard's name is {guard.name!r}, not that of its file")
        if guard.number in found:
            other, free = found[guard.number].name, max(found) + 1
            raise ValueError(f"checks/guards/{file.name}.py: {guard.number} is the number of {other}; {free} is free")
        found[guard.number] = guard
    return tuple(found[number] for number in sorted(found))


GUARDS = _listed()
"""The gate."""


def check_thresholds(surface: Surface) -> None:
    """Refuse thresholds below ``gate: guards:`` that no guard takes.

    Raises:
        ValueError: A surface names a guard that takes none, or a threshold that the guard has not.
    """
    taken = {guard.name: guard.thresholds for guard in GUARDS if guard.thresholds}
    for name in surface.gate.guards:
        if name not in taken:
            allowed = ", ".join(taken) or "none does"
            raise ValueError(
                f"surface {surface.name}, gate: guards: {name!r} takes no thresholds here; allowed: {allowed}"
            )
        taken[name].of(surface, name)
