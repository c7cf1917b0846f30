"""Open Inference Protocol v2 over REST: JSON tensors and the binary tensor data extension.

A binary request or response is a JSON head followed by raw little-endian tensors. ``Inference-Header-Content-Length``
holds the length of the head, ``binary_data_size`` of a tensor its share of the rest.
"""

import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeGuard, cast

import numpy as np
import orjson
import simdjson

from deploy.serving.limits import Limits
from ml.foundation.documents import is_list, is_object
from ml.inference.request import show

HEADER = "Inference-Header-Content-Length"
EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]

_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_REREAD_BYTES = 1024 * 1024

_DATATYPES = {"int64": "INT64", "float32": "FP32"}
_WIRE = {
    **{f"INT{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"UINT{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    **{f"FP{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
}
"""Element types as bytes, by name."""
_TAKEN = {
    "int64": frozenset(name for name in _WIRE if "INT" in name) | {"FP64"},
    "float32": frozenset(_WIRE),
}
"""Element types that a tensor is read from: whole numbers of any width, and what clients without types send."""
_EXACT = 2**53
"""Whole numbers up to this are exact as FP64."""
_BUFFERS: dict[str, tuple[Literal["i", "d"], type[np.number]]] = {
    "INT64": ("i", np.int64),
    "INT32": ("i", np.int64),
    "FP32": ("d", np.float64),
    "FP64": ("d", np.float64),
}
"""How simdjson hands over the numbers of a flat list, by datatype."""


class BadRequest(ValueError):
    """A request that is refused.

    Args:
        reason: What is wrong, with the offending value.
        status: HTTP status.
    """

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a model: ``dtype`` is ``int64`` or ``float32``, ``shape`` that of one row."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Values per row."""
        return math.prod(self.shape)

    @property
    def datatype(self) -> str:
        """Name of the element type in the protocol."""
        return _DATATYPES[self.dtype]

    def describe(self) -> dict[str, object]:
        """Return the tensor's entry in the model metadata; -1 is the batch dimension."""
        return {"name": self.name, "datatype": self.datatype, "shape": [-1, *self.shape]}


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A decoded request: ``feeds`` by input name, ``outputs`` as (name, binary) in the order asked for."""

    id: str | None
    feeds: dict[str, np.ndarray]
    outputs: list[tuple[str, bool]]

    @property
    def rows(self) -> int:
        """Rows to score."""
        return len(next(iter(self.feeds.values())))


def decode_request(
    body: bytes,
    header_length: str | None,
    inputs: Mapping[str, TensorSpec],
    outputs: Sequence[str],
    limits: Limits,
) -> InferRequest:
    """Read and check one inference request.

    Args:
        body: The HTTP body, decompressed.
        header_length: Value of ``Inference-Header-Content-Length``, if it was sent.
        inputs: Every input of the model; all of them are required.
        outputs: Output names of the model, all of them returned when the request names none.
        limits: Most rows, and most that JSON may hold.

    Raises:
        BadRequest: Something that the model cannot take.
    """
    head, binary = _split(body, header_length)
    check_bounds(head, limits.max_depth, limits.max_values)
    flat = _with_arrays(head) if header_length is None else None
    request = flat or _object(head)
    identifier = request.get("id")
    if type(identifier) is int:
        identifier = str(identifier)
    if identifier is not None and not isinstance(identifier, str):
        raise BadRequest(f"id must be a string, got {show(identifier)}")
    parameters = _parameters(request, "the request")
    feeds: dict[str, np.ndarray] = {}
    offset, batch = 0, None
    for entry in _entries(request, "inputs"):
        name = entry.get("name")
        if not isinstance(name, str) or name not in inputs:
            raise BadRequest(f"unknown input {show(name)}; the model takes {', '.join(inputs)}")
        if name in feeds:
            raise BadRequest(f"input {name!r} is given twice")
        spec = inputs[name]
        rows = _check_shape(entry, spec, limits.max_rows)
        if batch is not None and rows != batch:
            raise BadRequest(f"input {name!r} has {rows} rows, the inputs before it {batch}")
        batch = rows
        size = _parameters(entry, f"input {name!r}").get("binary_data_size")
        if size is None:
            feeds[name] = _from_json(entry, spec, rows)
        else:
            feeds[name] = _from_binary(binary, offset, size, entry, spec, rows)
            offset += cast("int", size)
    if offset != len(binary):
        raise BadRequest(f"{len(binary)} bytes follow the JSON head, the inputs account for {offset}")
    if missing := [name for name in inputs if name not in feeds]:
        raise BadRequest(f"missing input(s): {', '.join(missing)}")
    _check_finite(feeds)
    return InferRequest(identifier, feeds, _requested_outputs(request, parameters, outputs))


def encode_response(
    head: dict[str, object], request: InferRequest, values: Mapping[str, np.ndarray]
) -> tuple[bytes, dict[str, str]]:
    """Write one inference response.

    Args:
        head: ``model_name``, ``model_version`` and response parameters.
        request: Names the outputs wanted and how.
        values: float32 [batch] by output name.

    Returns:
        Body and HTTP headers.
    """
    outputs: list[dict[str, object]] = []
    chunks: list[bytes] = []
    for name, binary in request.outputs:
        value = values[name]
        entry: dict[str, object] = {"name": name, "datatype": "FP32", "shape": list(value.shape)}
        if binary:
            raw = value.astype("<f4", copy=False).tobytes()
            entry["parameters"] = {"binary_data_size": len(raw)}
            chunks.append(raw)
        else:
            entry["data"] = np.ascontiguousarray(value.reshape(-1))
        outputs.append(entry)
    if request.id is not None:
        head = {**head, "id": request.id}
    encoded = orjson.dumps({**head, "outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
    if not chunks:
        return encoded, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", HEADER: str(len(encoded))}
    return b"".join([encoded, *chunks]), headers


def decompress(body: bytes, encoding: str | None, limit: int) -> bytes:
    """Undo ``Content-Encoding`` (gzip or deflate) and refuse what would grow beyond ``limit`` bytes."""
    named = [name for part in (encoding or "").split(",") if (name := part.strip().lower()) not in ("", "identity")]
    if not named:
        return body
    encoding = named[0].removeprefix("x-")
    if len(named) > 1 or encoding not in ("gzip", "deflate"):
        told = f"Content-Encoding {', '.join(named)[:80]!r} is not known; one of gzip and deflate is"
        raise BadRequest(told, status=415)
    stream = zlib.decompressobj(31 if encoding == "gzip" else 15)
    try:
        plain = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise BadRequest(f"the body is not valid {encoding}: {error}") from error
    if len(plain) > limit:
        raise BadRequest(f"the decompressed body is larger than {limit} bytes", status=413)
    if not stream.eof or stream.unused_data:
        raise BadRequest(f"the {encoding} body is cut off or followed by other bytes")
    return plain


def parse_object(text: bytes, max_depth: int, max_values: int) -> dict[str, object]:
    """Read a JSON object that is no deeper and holds no more values than this."""
    check_bounds(text, max_depth, max_values)
    return _object(text)


def check_bounds(text: bytes, max_depth: int, max_values: int) -> None:
    """Refuse JSON that is too deep or holds too many values before any of it is built.

    Brackets and commas within strings count too at first: only text with more of them than a request has is read again
    without its strings.

    Raises:
        BadRequest: It is too deep or too large.
    """
    if len(text) <= max_depth:
        return
    values, depth = _extent(text)
    if (values > max_values or depth > max_depth) and len(text) <= _REREAD_BYTES:
        values, depth = _extent(_STRINGS.sub(b"", text))
    if depth > max_depth:
        raise BadRequest(f"the body has lists and objects {depth} deep; at most {max_depth} are read")
    if values > max_values:
        raise BadRequest(f"the body holds about {values} values; at most {max_values} are read")


def _extent(text: bytes) -> tuple[int, int]:
    """Return about how many values JSON holds, and how deep its lists and objects go; strings count as JSON."""
    array = np.frombuffer(text, np.uint8)
    folded = array & 0xDF  # braces become brackets
    marks = folded[(folded == ord("[")) | (folded == ord("]"))]
    steps = np.where(marks == ord("["), np.int8(1), np.int8(-1))
    depth = int(np.cumsum(steps, dtype=np.int32).max(initial=0))
    return int(np.count_nonzero(array == ord(","))) + int(np.count_nonzero(steps == 1)), depth


def _object(text: bytes) -> dict[str, object]:
    try:
        parsed = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is no valid JSON: {error}") from error
    if not is_object(parsed):
        raise BadRequest(f"the body must be a JSON object, got {show(parsed)}")
    return parsed


def _with_arrays(text: bytes) -> dict[str, object] | None:
    """Read a request whose data are flat lists of numbers straight into arrays; return ``None`` for any other.

    A Python object per number is most of what a JSON request costs. What is nested, repeated or wrong in any way goes
    through ``parse_object``, which can say what is wrong.
    """
    try:
        document = simdjson.Parser().parse(text)
        if not isinstance(document, simdjson.Object):
            return None
        request, entries = _all_but("inputs", document), document["inputs"]
        if not isinstance(entries, simdjson.Array):
            return None
        inputs = [_with_array(entry) for entry in entries]
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError):
        return None
    lists = 1 + 2 * len(inputs) + isinstance(request.get("outputs"), list)
    nested = np.count_nonzero(np.frombuffer(text, np.uint8) == ord("[")) != lists
    return None if nested else {**request, "inputs": inputs}


def _with_array(entry: object) -> dict[str, object]:
    if not isinstance(entry, simdjson.Object):
        raise TypeError
    datatype, data = entry["datatype"], entry["data"]
    if not isinstance(datatype, str) or not isinstance(data, simdjson.Array):
        raise TypeError
    kind, dtype = _BUFFERS[datatype]
    return {**_all_but("data", entry), "data": np.frombuffer(data.as_buffer(of_type=kind), dtype)}


def _all_but(left_out: str, found: simdjson.Object) -> dict[str, object]:
    keys = list(found)
    if len(set(keys)) != len(keys):  # of two equal keys simdjson takes the first, orjson the last
        raise ValueError
    return {key: _plain(found[key]) for key in keys if key != left_out}  # ``items`` would make all of it objects


def _plain(value: object) -> object:
    if isinstance(value, simdjson.Object):
        return value.as_dict()
    if isinstance(value, simdjson.Array):
        return cast("object", value.as_list())  # pyright: ignore[reportUnknownMemberType]
    return value


def _split(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    if header_length is None:
        return body, memoryview(b"")
    if not (header_length.isascii() and header_length.isdigit() and len(header_length) < 12):
        raise BadRequest(f"{HEADER} must be a count of bytes, got {header_length[:40]!r}")
    length = int(header_length)
    if length > len(body):
        raise BadRequest(f"{HEADER} is {length}, the body has {len(body)} bytes")
    return body[:length], memoryview(body)[length:]


def _entries(request: Mapping[str, object], key: str) -> list[dict[str, object]]:
    entries = request.get(key)
    objects = [entry for entry in entries if is_object(entry)] if is_list(entries) else []
    if not is_list(entries) or len(objects) != len(entries):
        raise BadRequest(f"{key} must be a list of objects, got {show(entries)}")
    return objects


def _parameters(entry: Mapping[str, object], what: str) -> Mapping[str, object]:
    parameters = entry.get("parameters")
    if parameters is None:
        return {}
    if not is_object(parameters):
        raise BadRequest(f"parameters of {what} must be an object, got {show(parameters)}")
    if "shared_memory_region" in parameters:
        raise BadRequest(f"{what} uses shared memory, which this server has not")
    return parameters


def _check_shape(entry: Mapping[str, object], spec: TensorSpec, max_batch: int) -> int:
    given = entry.get("datatype")
    if not isinstance(given, str) or given not in _TAKEN[spec.dtype]:
        cure = "; strings are hashed by /rank, not here" if given == "BYTES" else ""
        raise BadRequest(f"input {spec.name!r} must have datatype {spec.datatype}, got {show(given)}{cure}")
    shape = entry.get("shape")
    sizes = [size for size in shape if type(size) is int] if is_list(shape) else []
    if not is_list(shape) or len(sizes) != len(shape):
        raise BadRequest(f"shape of input {spec.name!r} must be a list of integers, got {show(shape)}")
    if not sizes or len(sizes) > 8 or [n for n in sizes[1:] if n != 1] != [n for n in spec.shape if n != 1]:
        raise BadRequest(f"input {spec.name!r} must have shape {[-1, *spec.shape]}, got {show(shape)}")
    if not 1 <= sizes[0] <= max_batch:
        raise BadRequest(f"input {spec.name!r} has {sizes[0]} rows; 1 to {max_batch} are served")
    return sizes[0]


def _is_array(value: object) -> TypeGuard[np.ndarray]:
    return isinstance(value, np.ndarray)


def _from_json(entry: Mapping[str, object], spec: TensorSpec, rows: int) -> np.ndarray:
    data = entry.get("data")
    if not (is_list(data) or _is_array(data)):
        raise BadRequest(f"input {spec.name!r} has neither binary_data_size nor a list as data")
    try:
        values = np.asarray(data)
    except (ValueError, OverflowError) as error:
        raise BadRequest(f"data of input {spec.name!r} is ragged or out of range: {str(error)[:120]}") from error
    if values.size != rows * spec.size:
        raise BadRequest(f"input {spec.name!r} has shape {[rows, *spec.shape]} but {values.size} values")
    kinds = "iuf" if spec.dtype == "float32" or entry.get("datatype") == "FP64" else "iu"
    if values.dtype.kind not in kinds:
        raise BadRequest(f"data of input {spec.name!r} is not all {spec.datatype}")
    return _converted(values, spec, rows)


def _converted(values: np.ndarray, spec: TensorSpec, rows: int) -> np.ndarray:
    """Return numbers of any type as those of the model; a whole number stays what it is or is refused."""
    if spec.dtype == "int64" and values.dtype.kind == "f" and not (np.abs(values) <= _EXACT).all():
        told = "is FP64, which holds whole numbers up to 2^53 exactly, and has others: send INT64"
        raise BadRequest(f"input {spec.name!r} {told}")
    if spec.dtype == "int64" and values.dtype.kind == "f" and (values != np.floor(values)).any():
        raise BadRequest(f"input {spec.name!r} must have datatype INT64 and holds fractions")
    if spec.dtype == "int64" and values.dtype == np.uint64 and (values > np.iinfo(np.int64).max).any():
        raise BadRequest(f"data of input {spec.name!r} is not all INT64")
    with np.errstate(over="ignore"):
        return values.astype(spec.dtype, copy=False).reshape(rows, *spec.shape)


def _from_binary(
    binary: memoryview, offset: int, size: object, entry: Mapping[str, object], spec: TensorSpec, rows: int
) -> np.ndarray:
    wire = _WIRE[str(entry["datatype"])]
    expected = rows * spec.size * wire.itemsize
    if type(size) is not int or size != expected:
        raise BadRequest(f"binary_data_size of input {spec.name!r} must be {expected} for its shape, got {show(size)}")
    if "data" in entry:
        raise BadRequest(f"input {spec.name!r} has both data and binary_data_size")
    if offset + size > len(binary):
        raise BadRequest(f"the body ends within the binary data of input {spec.name!r}")
    values = np.frombuffer(binary, wire, rows * spec.size, offset)
    return _converted(values if values.flags.aligned else values.copy(), spec, rows)


def _check_finite(feeds: Mapping[str, np.ndarray]) -> None:
    numbers = {name: value for name, value in feeds.items() if value.dtype == np.float32}
    if numbers and not np.isfinite(np.concatenate([value.reshape(-1) for value in numbers.values()])).all():
        name = next(name for name, value in numbers.items() if not np.isfinite(value).all())
        raise BadRequest(f"input {name!r} holds a value that is not finite")


def _requested_outputs(
    request: Mapping[str, object], parameters: Mapping[str, object], outputs: Sequence[str]
) -> list[tuple[str, bool]]:
    default = _flag(parameters, "binary_data_output")
    if not request.get("outputs"):
        return [(name, default) for name in outputs]
    wanted: dict[str, bool] = {}
    for entry in _entries(request, "outputs"):
        name = entry.get("name")
        if not isinstance(name, str) or name not in outputs:
            raise BadRequest(f"unknown output {show(name)}; the model gives {', '.join(outputs)}")
        if name in wanted:
            raise BadRequest(f"output {name!r} is asked for twice")
        options = _parameters(entry, f"output {name!r}")
        if options.get("classification"):
            raise BadRequest(f"output {name!r} asks for classification, which this server has not")
        wanted[name] = _flag(options, "binary_data", default)
    return list(wanted.items())


def _flag(parameters: Mapping[str, object], key: str, default: bool = False) -> bool:
    value = parameters.get(key, default)
    if not isinstance(value, bool):
        raise BadRequest(f"{key} must be true or false, got {show(value)}")
    return value
