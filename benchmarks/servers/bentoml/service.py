"""The champion's ONNX file behind BentoML, as its page on services shows.

https://docs.bentoml.com/en/latest/build-with-bentoml/services.html
"""

import os

import bentoml
import numpy as np
import onnxruntime


@bentoml.service(workers=1)
class Ranker:
    """One session with one thread, as Crossfade's server has."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
        self.types = {
            item.name: np.int64 if item.type == "tensor(int64)" else np.float32 for item in self.session.get_inputs()
        }
        self.names = [output.name for output in self.session.get_outputs()]

    @bentoml.api
    def predict(self, columns: dict) -> dict:
        """Score the candidates of one request."""
        feeds = {name: np.asarray(columns[name], dtype) for name, dtype in self.types.items()}
        return dict(zip(self.names, (value.tolist() for value in self.session.run(self.names, feeds)), strict=True))
