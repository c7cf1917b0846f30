"""A teacher behind the Open Inference Protocol v2."""

import os
import time
from collections.abc import Mapping

import httpx
import numpy as np

from ml.foundation.documents import Document
from ml.teacher.answers import Batch, checked_rows, stored_scores, with_rank
from ml.teacher.contract import Contract, ContractError
from ml.teacher.refused import TeacherRefused, check_names, check_shape, missing_output
from ml.teacher.wire import OIP_TYPES, decode, encode

_RETRIED_STATUS = {429, 502, 503, 504}


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
        headers: dict[str, str] = {}
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
        n = checked_rows(self.contract, batch)
        arrays = {i.name: with_rank(batch[i.name], self._ranks[i.name]) for i in self.contract.inputs}
        binary = self.contract.endpoint is not None and self.contract.endpoint.binary
        wanted = list(dict.fromkeys(item.source for item in self.contract.outputs))
        content, headers = encode(self.contract, arrays, wanted, binary)
        response = self._request("POST", f"{self._path}/infer", content=content, headers=headers)
        return stored_scores(self.contract, decode(response, wanted, self._where), n, self._where)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def embed(self, batch: Batch) -> dict[str, np.ndarray]:
        """See ``TeacherModel.embed``: a contract with an endpoint has no embeddings."""
        return {}

    def _request(
        self, method: str, path: str, content: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        for attempt in range(self._ATTEMPTS):
            last = attempt == self._ATTEMPTS - 1
            try:
                response = self._client.request(method, path, content=content, headers=headers)
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
        check_names(self._where, self.contract.inputs, offered)
        ranks = {}
        for item in self.contract.inputs:
            found, shape = offered[item.name].get("datatype"), [int(d) for d in offered[item.name].get("shape", [])]
            if found != OIP_TYPES[item.dtype]:
                raise TeacherRefused(f"{self._where}: input {item.name!r} is {found}, the contract says {item.dtype}")
            check_shape(self._where, item, [None if d < 0 else d for d in shape])
            ranks[item.name] = len(shape)
        outputs = {item["name"] for item in metadata.get("outputs", [])}
        for item in self.contract.outputs:
            if item.source not in outputs:
                raise TeacherRefused(f"{self._where}: {missing_output(item, outputs)}")
        return ranks

    def _json(self, response: httpx.Response) -> Document:
        try:
            return response.json()
        except ValueError as error:
            raise TeacherRefused(f"{self._where}: answered no JSON: {response.text[:200]!r}") from error
