"""The teachers of a home: one, or several side by side whose outputs heads and tasks name ``teacher/output``."""

from collections.abc import Iterable, Iterator, Mapping

from pydantic import BaseModel, ConfigDict, Field

from ml.foundation.names import near_name, nearest
from ml.foundation.settings import Settings
from ml.surfaces.spec import Surface, output_name
from ml.teacher.contract import Contract, ContractError, load_contract, teacher_contract


class LabelsOf(BaseModel):
    """Whose labels of a surface are read: those that one version of one teacher gave."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    teacher: str | None = Field(default=None, description="Its name; null where the home has one that needs none")
    version: str
    contract_hash: str
    outputs: tuple[str, ...] = Field(description="What the surface calls the entries of `scores`, in order")

    @classmethod
    def only(cls, contract: Contract) -> "LabelsOf":
        """Return the labels of a teacher that needs no name."""
        return cls(version=contract.version, contract_hash=contract.contract_hash, outputs=contract.tasks)

    def __str__(self) -> str:
        """Name it, its version and its contract."""
        return f"{f'{self.teacher} ' if self.teacher else ''}{self.version} ({self.contract_hash})"


def home_contracts(settings: Settings) -> dict[str, Contract]:
    """Return the contract of every teacher of a home by its name, in the order of the settings.

    Raises:
        ContractError: A contract is not there or cannot be used, is of a teacher of another name than the settings
            say, or two teachers hand over scores that nothing tells apart; says all that is wrong.
    """
    if not settings.teachers:
        contract = teacher_contract(settings)
        return {contract.name: contract}
    found: dict[str, Contract] = {}
    faults: list[str] = []
    for name, path in settings.teachers.items():
        try:
            found[name] = load_contract(path)
        except ContractError as error:
            faults.append(f"teachers.{name}: {error}")
    faults += _faults_of_names(settings, found)
    if faults:
        raise ContractError("\n".join(faults))
    return found


def contract_named(settings: Settings, name: str | None) -> Contract:
    """Return the contract of one of a home's teachers, whatever is wrong with others; None is the one without a name.

    Raises:
        ContractError: It is not there, cannot be used, or is of a teacher of another name.
    """
    if name is None:
        return teacher_contract(settings)
    contract = load_contract(settings.teachers[name])
    if faults := list(_faults_of_names(settings, {name: contract})):
        raise ContractError("\n".join(faults))
    return contract


def teacher_names(settings: Settings, surface: Surface) -> tuple[str | None, ...]:
    """Return the teachers that label a surface, without reading their contracts: None is the one without a name.

    Of several teachers these are the ones that the surface names, or all of them where it names none.
    """
    if not settings.teachers:
        return (None,)
    named = [name.split("/")[0] for name in surface.teacher_outputs if "/" in name]
    return tuple(name for name in settings.teachers if not named or name in named)


def contracts_of(settings: Settings, surface: Surface) -> dict[str | None, Contract]:
    """Return the contracts of the teachers that label a surface, by the names of ``teacher_names``.

    Raises:
        ContractError: As ``home_contracts``, or the surface names a teacher that the home has not, or an output in a
            way that may mean several teachers.
    """
    contracts = home_contracts(settings)
    named = faults_of_outputs(surface, kinds_by_teacher(contracts))
    faults = [f"{key}: {fault}" for key, fault in named] if settings.teachers or surface.prefixes_outputs else []
    if faults:
        raise ContractError(f"surface {surface.name}: {'; '.join(faults)}")
    if not settings.teachers:
        [contract] = contracts.values()
        return {None: contract}
    return {name: contracts[name] for name in teacher_names(settings, surface) if name is not None}


def labels_of(settings: Settings, surface: Surface) -> tuple[LabelsOf, ...]:
    """Return whose labels of a surface are read, and what it calls their outputs.

    Raises:
        ContractError: As ``contracts_of``.
    """
    prefixed = _are_prefixed(settings, surface)
    return tuple(
        LabelsOf(
            teacher=name,
            version=contract.version,
            contract_hash=contract.contract_hash,
            outputs=tuple(output_name(contract.name, task, prefixed=prefixed) for task in contract.tasks),
        )
        for name, contract in contracts_of(settings, surface).items()
    )


def kinds_of(settings: Settings, surface: Surface) -> dict[str, str]:
    """Return {output as a surface calls it: its kind} of every teacher that labels it."""
    prefixed = _are_prefixed(settings, surface)
    return {
        output_name(contract.name, task, prefixed=prefixed): kind
        for contract in contracts_of(settings, surface).values()
        for task, kind in contract.kinds.items()
    }


def other_teachers(settings: Settings, name: str | None) -> list[str]:
    """Return the home's other teachers: that these labelled a row does not say that ``name`` did so once."""
    return [other for other in settings.teachers if other != name]


def kinds_by_teacher(contracts: Mapping[str, Contract]) -> dict[str, dict[str, str]]:
    """Return {teacher: {output: its kind}}."""
    return {name: contract.kinds for name, contract in contracts.items()}


def faults_of_outputs(surface: Surface, teachers: Mapping[str, Mapping[str, str]]) -> Iterator[tuple[str, str]]:
    """Say of every output that a surface names what the teachers have not: the key, and what is wrong.

    Args:
        surface: Names outputs beside its tasks and in its heads.
        teachers: {teacher: {output: its kind}}.
    """
    every = [output_name(name, output, prefixed=True) for name, outputs in teachers.items() for output in outputs]
    for key, name in surface.named_outputs.items():
        teacher, _, output = name.rpartition("/")
        if teacher and teacher not in teachers:
            near = nearest(name, [f"{there}/{output}" for there in teachers if output in teachers[there]] or every)
            yield key, f"there is no teacher {teacher!r}{near}"
        elif teacher and output not in teachers[teacher]:
            own = [each for each in every if each.startswith(f"{teacher}/")]
            yield key, f"teacher {teacher!r} has no output {output!r}{nearest(name, own)}"
        elif not teacher and len(teachers) > 1:
            yield key, f"{name!r} does not say whose output it is: {_whose(name, teachers)}"
        elif not teacher and not any(name in outputs for outputs in teachers.values()):
            known = [each for outputs in teachers.values() for each in outputs]
            yield key, f"the teacher has no output {name!r}{nearest(name, known)}"


def _whose(output: str, teachers: Mapping[str, Mapping[str, str]]) -> str:
    """Say which outputs an unprefixed name may mean."""
    meant = [f"{name}/{near}" for name, outputs in teachers.items() if (near := near_name(output, outputs))]
    if meant:
        return f"write {' or '.join(meant)}"
    every = [f"{name}/{each}" for name, outputs in teachers.items() for each in outputs]
    return f"there are several teachers: {', '.join(every)}"


def _are_prefixed(settings: Settings, surface: Surface) -> bool:
    return len(settings.teachers) > 1 or surface.prefixes_outputs


def _faults_of_names(settings: Settings, found: Mapping[str, Contract]) -> Iterable[str]:
    """Say which contracts are of another teacher than the settings say, or cannot be told apart."""
    for name, contract in found.items():
        if contract.name != name:
            told = f"{settings.teachers[name]} is the contract of {contract.name!r}{_twice(contract, found)}"
            yield f"teachers.{name}: {told}"
    for name, (other, vector) in _same_vectors(found).items():
        yield (
            f"teachers.{name}: its embedding {vector!r} has the name of one of {other}'s: feature tables name a vector "
            f"alone, so give one of them another name"
        )
    scored = [(name, contract) for name, contract in found.items() if contract.scores]
    for place, (name, contract) in enumerate(scored):
        for other, earlier in scored[:place]:
            if contract.version == earlier.version and (both := sorted(set(contract.tasks) & set(earlier.tasks))):
                yield (
                    f"teachers.{name}: its landed scores of {both[0]!r} have the teacher_version {contract.version!r} "
                    f"of {other}'s: rows of teacher_scores name no teacher, so give one of them another version"
                )


def _same_vectors(found: Mapping[str, Contract]) -> dict[str, tuple[str, str]]:
    """Return {teacher: an earlier one, and an embedding that both have}."""
    first: dict[str, str] = {}
    twice: dict[str, tuple[str, str]] = {}
    for name, contract in found.items():
        for item in contract.embeddings:
            if first.setdefault(item.name, name) != name:
                twice[name] = first[item.name], item.name
    return twice


def _twice(contract: Contract, found: Mapping[str, Contract]) -> str:
    same = [name for name, other in found.items() if other.name == contract.name]
    if len(same) > 1:
        return f", as that of {' and '.join(same)} is: two teachers cannot have one name"
    return f": write `{contract.name}`, or mend `name` in the contract"
