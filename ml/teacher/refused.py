"""Why a teacher is refused, and the checks of names and shapes that a file and an endpoint share."""

from collections.abc import Iterable, Mapping

from ml.teacher.contract import TeacherInput, TeacherOutput


class TeacherRefused(ValueError):
    """A teacher that breaks its contract; the message names the file or URL and the input or output."""


def check_names(where: str, inputs: Iterable[TeacherInput], found: Mapping[str, object]) -> None:
    """Refuse a model whose inputs are others than the contract's."""
    declared = {item.name for item in inputs}
    for name in sorted(declared - set(found)):
        raise TeacherRefused(f"{where}: has no input {name!r} of the contract; it has {sorted(found)}")
    for name in sorted(set(found) - declared):
        raise TeacherRefused(f"{where}: wants input {name!r}, which the contract omits")


def check_shape(where: str, item: TeacherInput, shape: list[int | None]) -> None:
    """Refuse an input of another shape than the contract's; the shape is the model's, the batch first."""
    wanted = [[None, *item.shape]] if item.shape else [[None], [None, 1]]
    if shape and shape[0] is not None:
        raise TeacherRefused(f"{where}: input {item.name!r} has the fixed batch size {shape[0]}; make it dynamic")
    if not any(
        len(shape) == len(option) and all(a is None or a == b for a, b in zip(shape[1:], option[1:], strict=True))
        for option in wanted
    ):
        shown = ", ".join("n" if d is None else str(d) for d in shape)
        raise TeacherRefused(f"{where}: input {item.name!r} has shape [{shown}], the contract says {list(item.shape)}")


def missing_output(where: str, item: TeacherOutput, found: Iterable[str]) -> str:
    """Say that a model lacks an output."""
    return f"{where}: has no output {item.source!r} (task {item.task!r}) of the contract; it has {sorted(found)}"
