"""Why a teacher is refused, and the checks of names and shapes that a file and an endpoint share."""

from collections.abc import Collection, Iterable, Iterator

from ml.foundation.names import near_name
from ml.teacher.contract import TeacherEmbedding, TeacherInput, TeacherOutput


class TeacherRefused(ValueError):
    """A teacher that breaks its contract; the message names the file or URL and the input or output."""


def name_faults(inputs: Iterable[TeacherInput], found: Collection[str]) -> Iterator[str]:
    """Say which inputs of the contract a model has not, and which of the model's the contract omits."""
    declared = {item.name for item in inputs}
    for name in sorted(declared - set(found)):
        yield f"has no input {name!r} of the contract; it has {sorted(found)}{_meant(name, set(found) - declared)}"
    for name in sorted(set(found) - declared):
        yield f"wants input {name!r}, which the contract omits"


def check_names(where: str, inputs: Iterable[TeacherInput], found: Collection[str]) -> None:
    """Refuse a model whose inputs are others than the contract's."""
    if faults := list(name_faults(inputs, found)):
        raise TeacherRefused(f"{where}: {'; '.join(faults)}")


def shape_fault(item: TeacherInput, shape: list[int | None]) -> str | None:
    """Say how an input has another shape than the contract's; the shape is the model's, the batch first."""
    wanted = [[None, *item.shape]] if item.shape else [[None], [None, 1]]
    if shape and shape[0] is not None:
        return f"input {item.name!r} has the fixed batch size {shape[0]}; make it dynamic"
    if not any(
        len(shape) == len(option) and all(a is None or a == b for a, b in zip(shape[1:], option[1:], strict=True))
        for option in wanted
    ):
        shown = ", ".join("n" if d is None else str(d) for d in shape)
        return f"input {item.name!r} has shape [{shown}], the contract says {list(item.shape)}"
    return None


def check_shape(where: str, item: TeacherInput, shape: list[int | None]) -> None:
    """Refuse an input of another shape than the contract's."""
    if fault := shape_fault(item, shape):
        raise TeacherRefused(f"{where}: {fault}")


def missing_output(item: TeacherOutput | TeacherEmbedding, found: Collection[str]) -> str:
    """Say that a model lacks an output."""
    what = f"task {item.task!r}" if isinstance(item, TeacherOutput) else f"embedding {item.name!r}"
    return f"has no output {item.source!r} ({what}) of the contract; it has {sorted(found)}{_meant(item.source, found)}"


def _meant(name: str, found: Iterable[str]) -> str:
    near = near_name(name, found)
    return f"; did you mean {near!r}?" if near else ""
