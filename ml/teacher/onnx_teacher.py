"""A teacher in an ONNX file."""

import logging
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from ml.foundation.settings import CPU
from ml.teacher.answers import Batch, checked_rows, stored_scores, with_rank
from ml.teacher.contract import Contract
from ml.teacher.graph import Graph, check_graph
from ml.teacher.refused import TeacherRefused

log = logging.getLogger(__name__)

_BLOCK = 64
_SECONDS_A_BATCH = 600


class OnnxTeacher:
    """A teacher in an ONNX file, run by onnxruntime, each batch by the thread that brings it.

    A batch is padded to a multiple of 64 rows: with one thread and whole blocks, a row's bits do not depend on its
    place in the batch, on the batch's size or on the machine's number of cores.

    Args:
        contract: Names the file.
        providers: What onnxruntime shall run it on, the first that it can; a GPU rounds otherwise than a CPU.
        graph: What ``check_graph`` found of the file, where it was asked already.

    Raises:
        TeacherRefused: The file breaks the contract, or onnxruntime cannot load it.
    """

    def __init__(self, contract: Contract, providers: Sequence[str] = (CPU,), graph: Graph | None = None) -> None:
        self.contract = contract
        self._where = str(contract.model_path)
        self._graph = graph or check_graph(contract)
        self.parameters: int | None = self._graph.parameters
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        source: str | bytes = self._where
        if self._graph.adapted is not None:
            folder = str(contract.model_path.parent)
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
            source = self._graph.adapted.SerializeToString()
        try:
            self._session = ort.InferenceSession(source, options, providers=_usable(providers))
        except Exception as error:  # onnxruntime raises a type per status code, without a public base class
            raise TeacherRefused(f"{self._where}: onnxruntime cannot load it: {error}") from error
        self.provider = _used(self._session, providers)
        self._fetched = list(self._graph.fetched.values())

    def score(self, batch: Batch) -> np.ndarray:
        """See ``TeacherModel.score``."""
        n = checked_rows(self.contract, batch)
        answers = dict(zip(self._graph.fetched, self._run(self._fetched, batch, n), strict=True))
        padded = -(-n // _BLOCK) * _BLOCK
        return stored_scores(self.contract, answers, padded, self._where, self._graph.columns)[:n]

    def embed(self, batch: Batch) -> dict[str, np.ndarray]:
        """See ``TeacherModel.embed``."""
        n, names = checked_rows(self.contract, batch), self._graph.vectors
        found: dict[str, np.ndarray] = {}
        for name, values in zip(names, self._run(list(names.values()), batch, n), strict=True):
            if values.ndim != 2 or len(values) < n or not values.shape[1]:
                raise TeacherRefused(f"{self._where}: embedding {name!r} has shape {list(values.shape)} for {n} rows")
            found[name] = values[:n].astype(np.float32, copy=False)
        return found

    def _run(self, fetched: list[str], batch: Batch, n: int) -> Sequence[Any]:
        ranks = self._graph.ranks
        feed = {i.name: _padded(with_rank(batch[i.name], ranks[i.name])) for i in self.contract.inputs}
        options = ort.RunOptions()
        options.log_severity_level = 4
        watch = threading.Timer(_SECONDS_A_BATCH, setattr, (options, "terminate", True))
        watch.daemon = True
        watch.start()
        try:
            return self._session.run(fetched, feed, options)
        except Exception as error:  # see __init__
            late = f" (no answer within {_SECONDS_A_BATCH} s)" if options.terminate else ""
            raise TeacherRefused(f"{self._where}: a batch of {n} rows failed{late}: {error}") from error
        finally:
            watch.cancel()

    def close(self) -> None:
        """Drop the session."""
        del self._session


def _usable(providers: Sequence[str]) -> list[str]:
    """Return the providers that this installation has; the CPU, which it always has, is the last."""
    there = ort.get_available_providers()
    return [*(name for name in providers if name in there and name != CPU), CPU]


def _used(session: ort.InferenceSession, providers: Sequence[str]) -> str:
    """Return the provider that runs the session, and say aloud where it is not the one that was wanted."""
    used = session.get_providers()[0]
    if used != providers[0]:
        log.warning(
            "the teacher runs on %s, not on %s: this installation of onnxruntime offers %s",
            used,
            providers[0],
            ", ".join(ort.get_available_providers()),
        )
    return used


def _padded(column: np.ndarray) -> np.ndarray:
    """Repeat the last row up to a whole number of blocks."""
    missing = -len(column) % _BLOCK
    return np.concatenate([column, np.repeat(column[-1:], missing, axis=0)]) if missing else column
