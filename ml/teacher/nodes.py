"""Scoring on the nodes of a Ray cluster.

Every batch is a stateless task, so that Ray itself runs it again where a worker or a node is lost. Workers need the
same installation, but no file of the home: the teacher comes to them as bytes, rows and scores as Arrow and numpy.
"""

import socket
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pyarrow as pa

from ml.foundation.cluster import ClusterError, connected
from ml.foundation.code import code_hash
from ml.foundation.settings import CPU
from ml.teacher.answers import TeacherModel
from ml.teacher.columns import InputColumns
from ml.teacher.contract import CONTRACT_FILE, Contract, load_contract, write_contract
from ml.teacher.refused import TeacherRefused
from ml.teacher.runtime import open_teacher
from ml.teacher.scoring import Key, Scored, Scorer, in_order, score

_WAITING_PER_CPU = 2
"""A batch is scored while the next one travels."""


@dataclass(frozen=True)
class Packed:
    """A teacher as bytes, and what must be the same where it scores.

    Attributes:
        contract: The contract; where its files lie is of no meaning elsewhere.
        contract_hash: Hash of contract and files.
        files: {name in the contract: content}.
        versions: {library or folder: version} of code that the bits of a score depend on.
        providers: What onnxruntime shall run it on.
    """

    contract: Contract
    contract_hash: str
    files: dict[str, bytes]
    versions: dict[str, str]
    providers: tuple[str, ...]


def pack(contract: Contract, providers: Sequence[str] = (CPU,)) -> Packed:
    """Read a teacher's files."""
    files = {name: contract.file(name).read_bytes() for name in contract.files}
    return Packed(contract, contract.contract_hash, files, _versions(), tuple(providers))


def unpack(packed: Packed) -> TeacherModel:
    """Open and validate a teacher that came as bytes.

    Raises:
        TeacherRefused: The bytes are others than were packed, or code has another version here.
    """
    if packed.versions != _versions():
        raise TeacherRefused(f"{socket.gethostname()} has {_versions()}, the labelling has {packed.versions}")
    with tempfile.TemporaryDirectory(prefix="teacher-") as folder:
        for name, content in packed.files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        write_contract(packed.contract, Path(folder) / CONTRACT_FILE)
        contract = load_contract(Path(folder))
        if contract.contract_hash != packed.contract_hash:
            raise TeacherRefused(
                f"teacher {contract.name!r} {contract.version!r} came to {socket.gethostname()} with the hash "
                f"{contract.contract_hash}, it left with {packed.contract_hash}"
            )
        return open_teacher(contract, packed.providers)


@contextmanager
def on_nodes(
    address: str, contract: Contract, columns: InputColumns, providers: Sequence[str] = (CPU,)
) -> Iterator[Scorer]:
    """Connect to a cluster and yield what scores on its nodes.

    Args:
        address: As ``Settings.ray_address``.
        contract: A teacher in an ONNX file.
        columns: Turns batches into its inputs.
        providers: What onnxruntime shall run it on; each node takes the first that it has.

    Raises:
        ClusterError: Ray is not installed, the cluster cannot be reached, or it lost a batch more often than Ray tries.
        TeacherRefused, ColumnError: As in one process; raised while scores are read.
    """
    with connected(address) as ray:
        teacher = pack(contract, providers)
        packed = ray.put(teacher)
        task = ray.remote(scheduling_strategy="SPREAD")(_score)

        def submit(batch: pa.RecordBatch) -> object:
            # A reference within a list is handed on as it is: a worker fetches the teacher once, not with every batch.
            return task.remote([packed], teacher.contract_hash, columns, batch)

        def result(reference: object) -> Scored:
            try:
                return ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except ray.exceptions.RayError as error:
                raise ClusterError(f"CROSSFADE_RAY_ADDRESS={address}: {error}") from error

        def scored(batches: Iterable[tuple[Key, pa.RecordBatch]]) -> Iterator[tuple[Key, Scored]]:
            cpus = int(ray.cluster_resources().get("CPU", 1))
            yield from in_order(submit, result, batches, _WAITING_PER_CPU * max(cpus, 1))

        yield scored


_opened: dict[str, TeacherModel] = {}
"""The teacher that a worker process scores with, by its hash."""


def _score(packed: list[Any], contract_hash: str, columns: InputColumns, rows: pa.RecordBatch) -> Scored:
    """Score one batch in a worker."""
    import ray

    if contract_hash not in _opened:
        _opened.clear()
        _opened[contract_hash] = unpack(ray.get(packed[0]))
    node = f"{socket.gethostname()} {ray.get_runtime_context().get_node_id()[:8]}"
    return score(_opened[contract_hash], columns, rows, node)


def _versions() -> dict[str, str]:
    return {"onnxruntime": ort.__version__, "numpy": np.__version__, "ml/teacher": code_hash(["ml/teacher"])}
