"""The wire format of the Open Inference Protocol v2 over REST: requests to a teacher, and its answers."""

import json
from collections.abc import Collection, Mapping

import httpx
import numpy as np

from ml.teacher.contract import Contract
from ml.teacher.refused import TeacherRefused

OIP_TYPES = {
    "bool": "BOOL",
    **{f"{sign.lower()}int{bits}": f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
    "string": "BYTES",
}
_NUMPY = {name: np.dtype(dtype) for dtype, name in OIP_TYPES.items() if dtype != "string"}


def encode(
    contract: Contract, arrays: Mapping[str, np.ndarray], outputs: list[str], binary: bool
) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of a request.

    Args:
        contract: Names and types of the inputs.
        arrays: The inputs, as the model's own shapes want them.
        outputs: Outputs to ask for.
        binary: Binary tensors, or JSON.
    """
    inputs: list[dict[str, object]] = []
    blobs: list[bytes] = []
    for item in contract.inputs:
        array = np.ascontiguousarray(arrays[item.name])
        entry: dict[str, object] = {"name": item.name, "shape": list(array.shape), "datatype": OIP_TYPES[item.dtype]}
        if binary:
            blobs.append(_bytes(array))
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


def _bytes(array: np.ndarray) -> bytes:
    if array.dtype.kind != "O":
        return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    texts = (str(text).encode() for text in array.reshape(-1))
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def decode(response: httpx.Response, wanted: Collection[str], where: str) -> dict[str, np.ndarray]:
    """Return the outputs that were asked for; whatever else the endpoint sends is passed over.

    Raises:
        TeacherRefused: The answer breaks the protocol, or a value that was asked for is null.
    """
    content = response.content
    length = int(response.headers.get("Inference-Header-Content-Length", len(content)))
    answers: dict[str, np.ndarray] = {}
    try:
        offset = length
        for entry in json.loads(content[:length])["outputs"]:
            size = entry.get("parameters", {}).get("binary_data_size")
            begin, offset = offset, offset + (size or 0)
            if entry["name"] not in wanted:
                continue
            if entry["datatype"] not in _NUMPY:
                raise TeacherRefused(f"{where}: output {entry['name']!r} is {entry['datatype']}, no tensor of numbers")
            dtype = _NUMPY[entry["datatype"]].newbyteorder("<")
            if size is None:
                values = _numbers(entry, dtype, where)
            else:
                values = np.frombuffer(content[begin:offset], dtype=dtype)
            answers[entry["name"]] = values.reshape(entry["shape"])
    except (KeyError, TypeError, OverflowError, AttributeError) as error:
        raise TeacherRefused(f"{where}: the answer is no Open Inference Protocol v2: {error!r}") from error
    except ValueError as error:
        if isinstance(error, TeacherRefused):
            raise
        raise TeacherRefused(f"{where}: the answer is no Open Inference Protocol v2: {error!r}") from error
    return answers


def _numbers(entry: dict[str, object], dtype: np.dtype, where: str) -> np.ndarray:
    data = np.asarray(entry["data"], dtype=object).reshape(-1)
    for place, value in enumerate(data):
        if value is None:
            raise TeacherRefused(
                f"{where}: value {place} of output {entry['name']!r} is null; a teacher has a score for every row"
            )
    return data.astype(dtype)
