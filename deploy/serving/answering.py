"""One request of the protocol, however it came, answered by a model."""

import time
from dataclasses import dataclass
from functools import partial

import numpy as np

from deploy.serving.engine import Served
from deploy.serving.limits import Limits
from deploy.serving.metrics import Metrics
from deploy.serving.protocol import InferRequest, decode_request, encode_response
from deploy.serving.work import Work

INLINE_ROWS = 256
"""Up to so many rows are scored on the event loop: handing them to a thread costs more than scoring them."""


@dataclass(frozen=True)
class Inferred:
    """What a model gave for one request of the protocol, and the seconds that it ran."""

    served: Served
    asked: InferRequest
    values: dict[str, np.ndarray]
    run_seconds: float

    def encoded(self) -> tuple[bytes, dict[str, str]]:
        """Return body and headers of the answer."""
        label, name = self.served.label, self.served.released.surface
        head = {"model_name": name, "model_version": self.served.version, "parameters": label}
        return encode_response(head, self.asked, self.values)


async def infer_by(
    served: Served, body: bytes, header_length: str | None, work: Work, metrics: Metrics, limits: Limits
) -> Inferred:
    """Read a request of the protocol and let the model answer it."""
    model = served.released.model
    read = partial(decode_request, body, header_length, served.released.tensors, model.outputs, limits)
    asked = await work.read(body, read)
    names = [name for name, _ in asked.outputs]
    began = time.perf_counter()
    values = await work.do(lambda: run(served, asked.feeds, names, metrics), aside=asked.rows > INLINE_ROWS)
    return Inferred(served, asked, values, time.perf_counter() - began)


def run(served: Served, feeds: dict[str, np.ndarray], outputs: list[str], metrics: Metrics) -> dict[str, np.ndarray]:
    """Let the model score rows, and count them."""
    metrics.rows.labels(served.released.surface).inc(len(next(iter(feeds.values()))))
    return served.released.model.run(feeds, outputs)
