"""The feature schema of a release (``schema.json``): all that serving knows about a model's inputs and outputs."""

import json
from dataclasses import dataclass

from ml.foundation.documents import Document
from ml.surfaces.columns import Input


class SchemaError(ValueError):
    """A feature schema that cannot be served; the message names the key."""


@dataclass(frozen=True)
class FeatureSchema:
    """Inputs and outputs of a released model, in the order of the graph.

    Attributes:
        inputs: As in the surface that it was trained for, embeddings and transforms aside.
        outputs: Task names and ``score``; each float32 [batch].
    """

    inputs: dict[str, Input]
    outputs: tuple[str, ...]

    @classmethod
    def parse(cls, content: bytes) -> "FeatureSchema":
        """Read ``schema.json``.

        Raises:
            SchemaError: A key is missing or breaks a rule.
        """
        try:
            document = json.loads(content)
            inputs = {entry["name"]: _input(entry) for entry in document["inputs"]}
            outputs = tuple(str(entry["name"]) for entry in document["outputs"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SchemaError(f"schema.json cannot be served: {error!r}") from error
        return cls(inputs, outputs)


def _input(entry: Document) -> Input:
    item = Input.model_validate(
        {
            "kind": entry["kind"],
            "type": entry["type"],
            "from": entry["source"],
            "default": entry["default"],
            "per_candidate": entry["per_candidate"],
            "serving_value": entry["serving_value"],
            "length": entry["shape"][0] if entry["shape"] else 1,
            "embedding": 1 if entry["type"] in ("id", "category") else 0,
        }
    )
    if (item.dtype, list(item.shape)) != (entry["dtype"], entry["shape"]):
        raise SchemaError(f"input {entry['name']!r} of type {item.type} has {entry['dtype']} {entry['shape']}")
    return item
