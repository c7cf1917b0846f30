"""Inference with a frozen teacher: an ONNX file or an Open Inference Protocol endpoint behind one interface.

``open_teacher`` validates before it hands out a model, so that nothing is ever labelled with a malformed teacher.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import httpx
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto

from ml.teacher.contract import Contract, ContractError, TeacherInput, TeacherOutput

MAX_MODEL_BYTES = 1 << 31
"""A protobuf, and with it an ONNX file, cannot be larger than 2 GiB."""

_BLOCK = 64
_PROBE_ROWS = 7
_PROBE_TOLERANCE = 1e-3
_PICKLES = {".pkl", ".pickle", ".joblib"}
_STANDARD_DOMAINS = {"", "ai.onnx", "ai.onnx.ml"}
_ELEMENTS = {
    "bool": TensorProto.BOOL,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
}
_OIP_TYPES = {"bool": "BOOL", "int32": "INT32", "int64": "INT64", "float32": "FP32", "float64": "FP64"}
_OIP_NUMPY = {v: np.dtype(k) for k, v in _OIP_TYPES.items()} | {"FP16": np.dtype("float16")}
_RETRIED_STATUS = {429, 502, 503, 504}

Batch = Mapping[str, np.ndarray]
"""Inputs by contract name: arrays [n] or [n, k] of the contract's dtype."""


class TeacherRefused(ValueError):
    """A teacher that breaks its contract; the message names the file or URL and the input or output."""


class TeacherModel(Protocol):
    """A teacher that can score; several threads may do so at once."""

    contract: Contract
    parameters: int | None

    def score(self, batch: Batch) -> np.ndarray:
        """Score a batch.

        Args:
            batch: Every input of the contract.

        Returns:
            float64 [n, outputs] in contract order: logits, or values where the contract says so. Probabilities are
            turned into logits; one outside [0, 1] becomes NaN.

        Raises:
            TeacherRefused: The answer has another shape than the contract says, or the endpoint fails.
        """
        ...

    def close(self) -> None:
        """Release what the model holds."""
        ...


class OnnxTeacher:
    """A teacher in an ONNX file, run by onnxruntime on the CPU, each batch by the thread that brings it.

    A batch is padded to a multiple of 64 rows: with one thread and whole blocks, a row's bits do not depend on its
    place in the batch, on the batch's size or on the machine's number of cores.

    Args:
        contract: Names the file.

    Raises:
        TeacherRefused: The file breaks the contract, or onnxruntime cannot load it.
    """

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self._where = str(contract.model_path)
        self.parameters: int | None
        graph_inputs, self.parameters = _check_graph(contract)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(self._where, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises a type per status code, without a public base class
            raise TeacherRefused(f"{self._where}: onnxruntime cannot load it: {error}") from error
        self._ranks = {name: len(shape) for name, (_, shape) in graph_inputs.items()}
        self._fetched = list(dict.fromkeys(item.source for item in contract.outputs))

    def score(self, batch: Batch) -> np.ndarray:
        """See ``TeacherModel.score``."""
        n = _rows(self.contract, batch)
        feed = {i.name: _padded(_with_rank(batch[i.name], self._ranks[i.name])) for i in self.contract.inputs}
        try:
            answers = self._session.run(self._fetched, feed)
        except Exception as error:  # see __init__
            raise TeacherRefused(f"{self._where}: a batch of {n} rows failed: {error}") from error
        padded = -(-n // _BLOCK) * _BLOCK
        return _logits(self.contract, dict(zip(self._fetched, answers, strict=True)), padded, self._where)[:n]

    def close(self) -> None:
        """Drop the session."""
        del self._session


class EndpointTeacher:
    """A teacher behind the Open Inference Protocol v2 (REST; JSON or binary tensors).

    Args:
        contract: Names the endpoint.

    Raises:
        TeacherRefused: The endpoint is not ready, or its metadata breaks the contract.
    """

    _ATTEMPTS = 4

    def __init__(self, contract: Contract) -> None:
        if contract.endpoint is None:
            raise ContractError(f"teacher {contract.name!r} {contract.version!r} has no endpoint")
        self.contract = contract
        self.parameters: int | None = None
        endpoint = contract.endpoint
        version = f"/versions/{endpoint.model_version}" if endpoint.model_version else ""
        self._path = f"/v2/models/{endpoint.model}{version}"
        self._where = f"{endpoint.url.rstrip('/')}{self._path}"
        headers = {}
        if endpoint.token_env:
            token = os.environ.get(endpoint.token_env)
            if not token:
                raise TeacherRefused(f"{self._where}: environment variable {endpoint.token_env} holds no token")
            headers["Authorization"] = f"Bearer {token}"
        self._client = httpx.Client(base_url=endpoint.url.rstrip("/"), timeout=endpoint.timeout_s, headers=headers)
        try:
            self._ranks = self._check_metadata()
        except BaseException:
            self.close()
            raise

    def score(self, batch: Batch) -> np.ndarray:
        """See ``TeacherModel.score``."""
        n = _rows(self.contract, batch)
        arrays = {i.name: _with_rank(batch[i.name], self._ranks[i.name]) for i in self.contract.inputs}
        binary = self.contract.endpoint is not None and self.contract.endpoint.binary
        wanted = list(dict.fromkeys(item.source for item in self.contract.outputs))
        content, headers = _encode(self.contract, arrays, wanted, binary)
        response = self._request("POST", f"{self._path}/infer", content=content, headers=headers)
        return _logits(self.contract, _decode(response, self._where), n, self._where)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _request(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        for attempt in range(self._ATTEMPTS):
            last = attempt == self._ATTEMPTS - 1
            try:
                response = self._client.request(method, path, **kwargs)
            except httpx.TransportError as error:
                if last:
                    raise TeacherRefused(f"{self._where}: {type(error).__name__}: {error}") from error
            else:
                if response.is_success:
                    return response
                if last or response.status_code not in _RETRIED_STATUS:
                    raise TeacherRefused(f"{self._where}: HTTP {response.status_code}: {response.text[:500]}")
            time.sleep(0.2 * 2**attempt)
        raise AssertionError("unreachable")

    def _check_metadata(self) -> dict[str, int]:
        metadata = self._json(self._request("GET", self._path))
        offered = {item["name"]: item for item in metadata.get("inputs", [])}
        _same_names(self._where, self.contract, offered)
        ranks = {}
        for item in self.contract.inputs:
            found, shape = offered[item.name].get("datatype"), [int(d) for d in offered[item.name].get("shape", [])]
            if found != _OIP_TYPES[item.dtype]:
                raise TeacherRefused(f"{self._where}: input {item.name!r} is {found}, the contract says {item.dtype}")
            _check_shape(self._where, item, [None if d < 0 else d for d in shape])
            ranks[item.name] = len(shape)
        outputs = {item["name"] for item in metadata.get("outputs", [])}
        for item in self.contract.outputs:
            if item.source not in outputs:
                raise TeacherRefused(_missing_output(self._where, item, outputs))
        return ranks

    def _json(self, response: httpx.Response) -> dict[str, Any]:
        try:
            return response.json()
        except ValueError as error:
            raise TeacherRefused(f"{self._where}: answered no JSON: {response.text[:200]!r}") from error


def open_teacher(contract: Contract) -> TeacherModel:
    """Open and validate a teacher.

    Raises:
        TeacherRefused: It breaks its contract, or its answers on probe rows are unusable: NaN, infinite, of another
            shape, or dependent on the other rows of the batch.
        ContractError: Its scores are landed, so there is nothing to open; or its file is missing.
    """
    if contract.scores:
        raise ContractError(f"teacher {contract.name!r} {contract.version!r} has landed scores and no model")
    model = EndpointTeacher(contract) if contract.endpoint else OnnxTeacher(contract)
    try:
        _probe(model)
    except BaseException:
        model.close()
        raise
    return model


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


def default_batch(contract: Contract, rows: int) -> dict[str, np.ndarray]:
    """Return ``rows`` rows in which every input takes the contract's default."""
    return {item.name: np.full((rows, *item.shape), item.default, dtype=item.dtype) for item in contract.inputs}


def _probe(model: TeacherModel) -> None:
    contract = model.contract
    where = str(contract.model_path) if contract.model else f"{contract.endpoint.url if contract.endpoint else ''}"
    rng = np.random.default_rng(0)
    defaults = default_batch(contract, _PROBE_ROWS)
    mixed = {name: column.copy() for name, column in defaults.items()}
    for item in contract.inputs:
        for row in range(1, _PROBE_ROWS):
            mixed[item.name][row] = _probe_value(item, row, rng)
    probes = {"every input at its default": defaults, "varied inputs": mixed}
    for what, batch in probes.items():
        scores = model.score(batch)
        bad = np.argwhere(~np.isfinite(scores))
        if len(bad):
            row, column = bad[0]
            output = contract.outputs[column]
            raise TeacherRefused(
                f"{where}: output {output.source!r} (task {output.task!r}, {output.kind}) is {scores[row, column]} "
                f"or out of range on a probe row ({what}): {_row_of(batch, row)}"
            )
    together = model.score(mixed)
    for row in range(2):
        alone = model.score({name: column[row : row + 1] for name, column in mixed.items()})
        gap = np.abs(alone[0] - together[row])
        if not (gap <= _PROBE_TOLERANCE * (1 + np.abs(together[row]))).all():
            output = contract.outputs[int(gap.argmax())]
            raise TeacherRefused(
                f"{where}: output {output.source!r} of a row depends on the other rows of its batch "
                f"({alone[0].tolist()} alone, {together[row].tolist()} among {_PROBE_ROWS})"
            )


def _probe_value(item: TeacherInput, row: int, rng: np.random.Generator) -> Any:
    """Values that any teacher must bear: 0, 1, and small non-negative numbers or unknown ids."""
    if row <= 2:
        return row - 1
    if item.dtype == "bool":
        return rng.integers(0, 2, size=item.shape)
    if item.dtype in ("int32", "int64"):
        return rng.integers(0, np.iinfo(item.dtype).max if row > 4 else 24, size=item.shape)
    return np.abs(rng.normal(size=item.shape))


def _row_of(batch: Batch, row: int) -> str:
    text = ", ".join(f"{name}={column[row].tolist()}" for name, column in batch.items())
    return text if len(text) <= 400 else text[:400] + " ..."


def _rows(contract: Contract, batch: Batch) -> int:
    n = len(batch[contract.inputs[0].name])
    for item in contract.inputs:
        column = batch[item.name]
        if column.shape != (n, *item.shape) or column.dtype != np.dtype(item.dtype):
            raise ValueError(
                f"input {item.name!r}: {column.dtype}{list(column.shape)} given, {item.dtype}{[n, *item.shape]} wanted"
            )
    return n


def _with_rank(column: np.ndarray, rank: int) -> np.ndarray:
    """Give a scalar column the trailing 1 that a graph with inputs of shape [n, 1] wants."""
    return column.reshape(-1, 1) if column.ndim == 1 and rank == 2 else column


def _padded(column: np.ndarray) -> np.ndarray:
    """Repeat the last row up to a whole number of blocks."""
    missing = -len(column) % _BLOCK
    return np.concatenate([column, np.repeat(column[-1:], missing, axis=0)]) if missing else column


def _logits(contract: Contract, answers: Mapping[str, Any], n: int, where: str) -> np.ndarray:
    scores = np.empty((n, len(contract.outputs)))
    for column, item in enumerate(contract.outputs):
        if item.source not in answers:
            raise TeacherRefused(_missing_output(where, item, answers))
        values = answers[item.source]
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
            kind = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
            raise TeacherRefused(f"{where}: output {item.source!r} is {kind}, no tensor of numbers")
        scores[:, column] = item.to_score(_column(values, item, n, where))
    return scores


def _column(values: np.ndarray, item: TeacherOutput, n: int, where: str) -> np.ndarray:
    if values.shape == (n,) and not item.index:
        return values
    if values.ndim == 2 and len(values) == n:
        width = values.shape[1]
        if item.index is None and width == 1:
            return values[:, 0]
        if item.index is None:
            raise TeacherRefused(f"{where}: output {item.source!r} has {width} columns; the contract needs `index`")
        if item.index < width:
            return values[:, item.index]
        raise TeacherRefused(f"{where}: output {item.source!r} has {width} columns, index is {item.index}")
    raise TeacherRefused(
        f"{where}: output {item.source!r} has shape {list(values.shape)} for {n} rows, wanted [n] or [n, k]"
    )


# --- the ONNX file, before onnxruntime sees it ---


def _check_graph(contract: Contract) -> tuple[dict[str, tuple[int, list[int | None]]], int]:
    """Check the file against the contract; return its inputs as (element type, shape) and its parameter count."""
    path = contract.model_path
    model = _parse(path)
    _check_operators(path, model)
    _check_external_data(contract, model)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs: dict[str, tuple[int, list[int | None]]] = {}
    for value in model.graph.input:
        if value.name in weights:
            continue
        if not value.type.HasField("tensor_type"):
            raise TeacherRefused(f"{path}: input {value.name!r} is a {value.type.WhichOneof('value')}, no tensor")
        tensor = value.type.tensor_type
        if not tensor.HasField("shape"):
            raise TeacherRefused(f"{path}: input {value.name!r} has no shape")
        dims = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
        inputs[value.name] = (tensor.elem_type, dims)
    _same_names(str(path), contract, inputs)
    for item in contract.inputs:
        element, shape = inputs[item.name]
        if element != _ELEMENTS[item.dtype]:
            found = TensorProto.DataType.Name(element).lower()
            raise TeacherRefused(f"{path}: input {item.name!r} is {found}, the contract says {item.dtype}")
        _check_shape(str(path), item, shape)
    outputs = {value.name: value for value in model.graph.output}
    for item in contract.outputs:
        if item.source not in outputs:
            raise TeacherRefused(_missing_output(str(path), item, outputs))
        if not outputs[item.source].type.HasField("tensor_type"):
            kind = outputs[item.source].type.WhichOneof("value")
            raise TeacherRefused(f"{path}: output {item.source!r} is a {kind}, no tensor (skl2onnx: zipmap=False)")
    return inputs, sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type in _FLOATS)


_FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}


def _parse(path: Path) -> onnx.ModelProto:
    size = path.stat().st_size
    if size > MAX_MODEL_BYTES:
        raise TeacherRefused(f"{path}: {size} bytes, an ONNX file has at most {MAX_MODEL_BYTES}")
    with path.open("rb") as file:
        head = file.read(8)
    if (head[0:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05") or path.suffix in _PICKLES:
        raise TeacherRefused(f"{path}: a pickle, which is never loaded; export the teacher to ONNX")
    if head[:4] == b"PK\x03\x04":
        raise TeacherRefused(f"{path}: a zip archive (a torch or keras checkpoint?); export the teacher to ONNX")
    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except Exception as error:  # protobuf's DecodeError depends on its backend
        raise TeacherRefused(f"{path}: no ONNX file: {error}") from error
    if not model.graph.node or not model.opset_import:
        raise TeacherRefused(f"{path}: no ONNX file: it holds no graph")
    return model


def _graphs(model: onnx.ModelProto) -> Iterator[tuple[Any, Any]]:
    """Yield (nodes, initializers) of the graph, of every subgraph and of every function of the model."""
    pending: list[Any] = [model.graph, *model.functions]
    while pending:
        graph = pending.pop()
        yield graph.node, getattr(graph, "initializer", ())
        for node in graph.node:
            for attribute in node.attribute:
                pending += [attribute.g] if attribute.HasField("g") else []
                pending += attribute.graphs


def _check_operators(path: Path, model: onnx.ModelProto) -> None:
    own = {(function.domain, function.name) for function in model.functions}
    for nodes, _ in _graphs(model):
        for node in nodes:
            if node.domain not in _STANDARD_DOMAINS and (node.domain, node.op_type) not in own:
                raise TeacherRefused(
                    f"{path}: node {node.name!r} needs the custom operator {node.domain}::{node.op_type}; "
                    f"only standard ONNX operators are run"
                )


def _check_external_data(contract: Contract, model: onnx.ModelProto) -> None:
    path = contract.model_path
    listed = set(contract.data_paths)
    for nodes, initializers in _graphs(model):
        held = [a.t for node in nodes for a in node.attribute if a.HasField("t")]
        held += [t for node in nodes for a in node.attribute for t in a.tensors]
        for tensor in (*initializers, *held):
            if tensor.data_location != TensorProto.EXTERNAL:
                continue
            location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
            target = (path.parent / location).resolve()
            if not target.is_relative_to(contract.folder.resolve()):
                raise TeacherRefused(f"{path}: weight {tensor.name!r} lies in {target}, outside the contract's folder")
            if target not in listed:
                raise TeacherRefused(
                    f"{path}: weight {tensor.name!r} lies in {location!r}, which `data_files` of the contract omits"
                )


# --- what file and endpoint share ---


def _same_names(where: str, contract: Contract, found: Mapping[str, object]) -> None:
    declared = {item.name for item in contract.inputs}
    for name in sorted(declared - set(found)):
        raise TeacherRefused(f"{where}: has no input {name!r} of the contract; it has {sorted(found)}")
    for name in sorted(set(found) - declared):
        raise TeacherRefused(f"{where}: wants input {name!r}, which the contract omits")


def _check_shape(where: str, item: TeacherInput, shape: list[int | None]) -> None:
    wanted = [[None, *item.shape]] if item.shape else [[None], [None, 1]]
    if shape and shape[0] is not None:
        raise TeacherRefused(f"{where}: input {item.name!r} has the fixed batch size {shape[0]}; make it dynamic")
    if not any(
        len(shape) == len(option) and all(a is None or a == b for a, b in zip(shape[1:], option[1:], strict=True))
        for option in wanted
    ):
        shown = ", ".join("n" if d is None else str(d) for d in shape)
        raise TeacherRefused(f"{where}: input {item.name!r} has shape [{shown}], the contract says {list(item.shape)}")


def _missing_output(where: str, item: TeacherOutput, found: Iterable[str]) -> str:
    return f"{where}: has no output {item.source!r} (task {item.task!r}) of the contract; it has {sorted(found)}"


# --- the wire format of the Open Inference Protocol v2 ---


def _encode(
    contract: Contract, arrays: Mapping[str, np.ndarray], outputs: list[str], binary: bool
) -> tuple[bytes, dict[str, str]]:
    inputs: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for item in contract.inputs:
        array = np.ascontiguousarray(arrays[item.name])
        entry: dict[str, Any] = {"name": item.name, "shape": list(array.shape), "datatype": _OIP_TYPES[item.dtype]}
        if binary:
            blobs.append(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = array.reshape(-1).tolist()
        inputs.append(entry)
    parameters = {"parameters": {"binary_data": True}} if binary else {}
    header = json.dumps({"inputs": inputs, "outputs": [{"name": name, **parameters} for name in outputs]}).encode()
    if not binary:
        return header, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(header))}
    return b"".join([header, *blobs]), headers


def _decode(response: httpx.Response, where: str) -> dict[str, np.ndarray]:
    content = response.content
    length = int(response.headers.get("Inference-Header-Content-Length", len(content)))
    answers: dict[str, np.ndarray] = {}
    try:
        offset = length
        for entry in json.loads(content[:length])["outputs"]:
            dtype = _OIP_NUMPY[entry["datatype"]].newbyteorder("<")
            size = entry.get("parameters", {}).get("binary_data_size")
            if size is None:
                values = np.asarray(entry["data"], dtype=dtype)
            else:
                values = np.frombuffer(content[offset : offset + size], dtype=dtype)
                offset += size
            answers[entry["name"]] = values.reshape(entry["shape"])
    except (ValueError, KeyError, TypeError) as error:
        raise TeacherRefused(f"{where}: the answer is no Open Inference Protocol v2: {error!r}") from error
    return answers
