"""Inference with a frozen teacher: an ONNX file or an Open Inference Protocol endpoint behind one interface.

``open_teacher`` validates before it hands out a model, so that nothing is ever labelled with a malformed teacher.
"""

from collections.abc import Iterable, Iterator, Sequence

from ml.foundation.settings import CPU
from ml.teacher import trial
from ml.teacher.answers import TeacherModel
from ml.teacher.contract import Contract, ContractError
from ml.teacher.endpoint import EndpointTeacher
from ml.teacher.graph import check_graph
from ml.teacher.onnx_teacher import OnnxTeacher
from ml.teacher.probe import probe
from ml.teacher.refused import TeacherRefused


def open_teacher(contract: Contract, providers: Sequence[str] = (CPU,)) -> TeacherModel:
    """Open and validate a teacher.

    An ONNX file is tried in a process of its own first: one that never answers, or takes its process down, is refused.

    Args:
        contract: The teacher.
        providers: What onnxruntime shall run a file on.

    Raises:
        TeacherRefused: It breaks its contract, or its answers on probe rows are unusable: NaN, infinite, of another
            shape, dependent on the other rows of the batch, late, or others than its golden rows say.
        ContractError: Its scores are landed, so there is nothing to open; or its file is missing.
    """
    if contract.scores:
        raise ContractError(f"teacher {contract.name!r} {contract.version!r} has landed scores and no model")
    if contract.endpoint is None:
        graph = check_graph(contract)
        trial.passed(contract, providers)
        return OnnxTeacher(contract, providers, graph)
    model = EndpointTeacher(contract)
    try:
        probe(model)
    except BaseException:
        model.close()
        raise
    return model


def faults_of_models(contracts: Iterable[Contract], providers: Sequence[str] = (CPU,)) -> Iterator[str]:
    """Open each teacher that has a model, and say of those that are refused why: one does not hide the next."""
    for contract in contracts:
        if contract.scores:
            continue
        try:
            open_teacher(contract, providers).close()
        except (TeacherRefused, ContractError) as error:
            yield str(error)


def validate(contract: Contract) -> int | None:
    """Validate a teacher and return the number of its parameters, where that can be known.

    Raises:
        TeacherRefused, ContractError: See ``open_teacher``. Landed scores are validated when they are read.
    """
    if contract.scores:
        return None
    model = open_teacher(contract)
    model.close()
    return model.parameters
