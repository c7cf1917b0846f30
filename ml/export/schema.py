"""The feature schema of a release: what the exported model takes, and where serving finds it."""

import hashlib
import json

from ml.surfaces.spec import Surface


def feature_schema(surface: Surface) -> dict[str, object]:
    """Return ``schema.json``: the inputs in the order of the ONNX signature, the outputs, and a hash of both.

    Every input names ``dtype``, ``shape`` of one row, ``type``, ``kind``, ``source`` (``<feature table>.<column>`` of a
    daily input, else null), ``default``, ``per_candidate`` and ``serving_value``. The hash changes with anything that
    would make a served value differ from the trained one.
    """
    inputs = [
        {
            "name": name,
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "type": spec.type,
            "kind": spec.kind,
            "source": spec.source,
            "default": spec.default,
            "per_candidate": spec.per_candidate,
            "serving_value": spec.serving_value,
        }
        for name, spec in surface.inputs.items()
    ]
    schema = {
        "surface": surface.name,
        "inputs": inputs,
        "outputs": [*({"name": name, "kind": task.kind} for name, task in surface.tasks.items()), _SCORE],
        "rank_by": surface.rank_by,
    }
    return {**schema, "hash": schema_hash(schema)}


def schema_hash(schema: dict[str, object]) -> str:
    """Return the hash of a feature schema, its own ``hash`` entry left out."""
    content = {name: value for name, value in schema.items() if name != "hash"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


_SCORE = {"name": "score", "kind": "score"}
