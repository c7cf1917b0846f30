"""A home with features in a real lake and releases in a real store; models are small graphs that show what they got."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
from onnx import TensorProto, helper

from ml.export.schema import feature_schema
from ml.features.tables import feature_tables
from ml.foundation.artifacts import Artifact, ArtifactStore
from ml.foundation.files import sha256_bytes
from ml.foundation.ids import id63_array
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.foundation.signing import Keyring
from ml.inference.snapshot import current_snapshot, publish
from ml.releases.champions import Mode, Pointer
from ml.releases.manifest import DayContent, Manifest
from ml.releases.promotion import Proposal
from ml.releases.store import ReleaseStore
from ml.releases.verdicts import Verdict, VerdictKey, now
from ml.surfaces.files import load_surfaces
from ml.surfaces.spec import Surface
from tests.support.verdicts import guards

DAY = date(2026, 1, 20)
USERS, ITEMS, CREATORS = 40, 60, 12
KNOWN = {"user_id": USERS, "item_id": ITEMS, "creator_id": CREATORS}


def graph_of(surface: Surface, number: int, *, rename: dict[str, str] | None = None, nan: bool = False) -> bytes:
    """An ONNX model whose every output is 1000 x number + the low digits of ids + the sum of numbers, small."""
    rename = rename or {}
    nodes, parts, inputs = [], [], []
    for name, item in surface.inputs.items():
        kind = TensorProto.INT64 if item.dtype == "int64" else TensorProto.FLOAT
        graph_name = rename.get(name, name)
        inputs.append(helper.make_tensor_value_info(graph_name, kind, ["batch", *item.shape]))
        value = graph_name
        if item.dtype == "int64":
            nodes.append(helper.make_node("Mod", [value, "hundred"], [f"{name}_mod"]))
            nodes.append(helper.make_node("Cast", [f"{name}_mod"], [f"{name}_float"], to=TensorProto.FLOAT))
            nodes.append(helper.make_node("Mul", [f"{name}_float", "hundredth"], [f"{name}_small"]))
            value = f"{name}_small"
        else:
            nodes.append(helper.make_node("Mul", [value, "small"], [f"{name}_small"]))
            value = f"{name}_small"
        if item.shape:
            nodes.append(helper.make_node("ReduceSum", [value, "axis"], [f"{name}_sum"], keepdims=0))
            value = f"{name}_sum"
        parts.append(value)
    nodes.append(helper.make_node("Sum", parts, ["total"]))
    names = [*surface.tasks, "score"]
    for name in names:
        nodes.append(helper.make_node("Add", ["total", "base"], [name if not nan else f"{name}_finite"]))
        if nan:
            nodes.append(helper.make_node("Div", [f"{name}_finite", "zero"], [name]))
    constants = {
        "hundred": np.array(100, np.int64),
        "hundredth": np.array(0.01, np.float32),
        "small": np.array(1e-7, np.float32),
        "axis": np.array([1], np.int64),
        "base": np.array(1000.0 * number, np.float32),
        "zero": np.array(0, np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "tiny",
        inputs,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch"]) for name in names],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def strings(prefix: str, numbers: range | np.ndarray) -> list[str]:
    return [f"{prefix}{number}" for number in numbers]


@dataclass
class Home:
    """Features, releases and the surfaces of one CROSSFADE home.

    With ``published``, a folder of published homes by day, publishing a day copies that home's snapshots.
    """

    settings: Settings
    published: Path | None = None
    surfaces: dict[str, Surface] = field(init=False)

    def __post_init__(self) -> None:
        self.surfaces = load_surfaces(self.settings)

    @property
    def store(self) -> ReleaseStore:
        return ReleaseStore(self.settings.artifacts_dir, keys=Keyring.of(self.settings))

    def write_features(self, lake: Lake, day: date = DAY, seed: int = 1) -> None:
        """Features of one day: all columns that both surfaces read, with nulls, in random row order."""
        rng = np.random.default_rng(seed)
        keys: dict[str, dict[str, np.ndarray]] = {}
        for name, declared in feature_tables(self.settings).items():
            known = [KNOWN[entity] for entity in declared.entity]
            if len(known) == 1:  # of two creators nothing is known
                numbers = [np.arange(known[0] - 2 if declared.entity == ("creator_id",) else known[0])]
            else:
                pairs = rng.permutation(known[0] * known[1])[: USERS * 4]
                numbers = [pairs // known[1], pairs % known[1]]
            keys[name] = {e: id63_array(strings(e[0], n)) for e, n in zip(declared.entity, numbers, strict=True)}
        sources = {
            item.source: item for surface in self.surfaces.values() for item in surface.inputs.values() if item.source
        }
        for table, key in keys.items():
            rows = len(next(iter(key.values())))
            columns: dict[str, Any] = {"day": pa.array([day] * rows), **{k: pa.array(v) for k, v in key.items()}}
            for source, item in sources.items():
                owner, column = source.split(".")
                if owner != table:
                    continue
                gone = rng.random(rows) < 0.15
                if column == "creator_id":
                    values = id63_array(strings("c", rng.integers(0, CREATORS, rows)))
                    columns[column] = pa.array(values, mask=gone)
                elif item.shape:
                    vectors = rng.normal(size=(rows, item.length)).astype(np.float32)
                    vectors = [None if g else v.tolist() for v, g in zip(vectors, gone, strict=True)]
                    columns[column] = pa.array(vectors, pa.list_(pa.float32()))
                elif item.dtype == "int64":
                    columns[column] = pa.array(id63_array(strings(column, rng.integers(0, 5, rows))), mask=gone)
                elif column in ("plays", "impressions", "tenure_days", "recency_days", "known"):
                    columns[column] = pa.array(rng.integers(0, 2**25, rows), mask=gone)
                else:
                    columns[column] = pa.array(rng.random(rows), mask=gone)
            table_rows = pa.table(columns).take(rng.permutation(rows))
            lake.replace_days(f"features.{table}", table_rows, [day])

    def publish(self, day: date = DAY, seed: int = 1) -> Path:
        if self.published is not None:
            shutil.copytree(self.published / str(day), self.settings.home / "serving", dirs_exist_ok=True)
            found = current_snapshot(self.settings)
            assert found is not None
            return found
        with Lake(self.settings) as lake:
            self.write_features(lake, day, seed)
            return publish(lake, self.settings, self.surfaces, day).path

    def candidate(self, surface: str, number: int, model: bytes | None = None, schema: bytes | None = None):
        spec = self.surfaces[surface]
        model = model if model is not None else graph_of(spec, number)
        schema = schema if schema is not None else json.dumps(feature_schema(spec)).encode()
        partition = DAY + timedelta(days=number)
        days = tuple(partition - timedelta(days=i) for i in (3, 2, 1))
        manifest = Manifest(
            surface=surface,
            partition=partition,
            kind="student",
            technique="auxiliary",
            snapshot=number,
            train_days=days[:2],
            eval_days=days[2:],
            examples=tuple(DayContent(day=day, rows=10, content_hash="0" * 32) for day in days),
            soft_labels=(),
            teacher=None,
            spec_digest=spec.digest,
            gate_digest=spec.gate.digest,
            dbt_manifest_hash=None,
            git_commit=None,
            seed=1,
            parameters=1,
            libraries={},
            checkpoint_sha256="c" * 64,
            onnx_sha256=sha256_bytes(model),
            feature_schema_hash=sha256_bytes(schema),
        )
        config = f'name: "{surface}"\nplatform: "onnxruntime_onnx"\nmax_batch_size: 0\n'.encode()
        files = {
            "model.onnx": model,
            "schema.json": schema,
            "manifest.json": manifest.to_bytes(),
            "config.pbtxt": config,
        }
        return ArtifactStore(self.settings.artifacts_dir).put(f"{surface}/onnx", str(partition), files)

    def promote(self, surface: str, number: int, **content: bytes) -> Pointer:
        """Make release ``number`` the champion: candidate, verdict, promotion."""
        return self.store.promote(surface, Proposal(*self.judged(surface, number, **content), "test", "test"))

    def challenge(self, surface: str, number: int, *, mode: Mode, share: float, **content: bytes) -> Pointer:
        """Serve release ``number`` beside the champion."""
        proposal = Proposal(*self.judged(surface, number, **content), "test", "test")
        return self.store.challenge(surface, proposal, mode=mode, share=share)

    def judged(self, surface: str, number: int, **content: bytes) -> tuple[Artifact, VerdictKey, date]:
        """Return candidate ``number`` with a verdict that lets it pass, the verdict's key, and its day."""
        candidate = self.candidate(surface, number, **content)
        key = self.store.verdict_key(self.surfaces[surface], candidate)
        partition = date.fromisoformat(candidate.partition)
        verdict = Verdict(
            key=key,
            partition=partition,
            decision="pass",
            guards=guards(silent="slices"),
            judged=dict(candidate.files),
            judged_at=now(),
        )
        self.store.verdicts.write(verdict)
        return candidate, key, partition


def number_of(release: str) -> int:
    """Return the number that a release of a tiny home writes into its scores."""
    return (date.fromisoformat(release[:10]) - DAY).days


def rank_body(surface: str = "homepage", user: str | None = "u1", items: int = 20, **more: Any) -> dict[str, Any]:
    candidates = [{"item_id": f"i{number}"} for number in range(items)]
    if surface == "homepage":
        candidates = [{**candidate, "container_id": "new"} for candidate in candidates]
    session = {"outcomes": ["skipped", "completed"]}
    return {"surface": surface, "user_id": user, "session": session, "candidates": candidates, "hour": 9, **more}


def feeds_of(surface: Surface, rows: int, seed: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    feeds = {}
    for name, item in surface.inputs.items():
        shape = (rows, *item.shape)
        if item.dtype == "int64":
            feeds[name] = rng.integers(0, 2**63 - 1, shape)
        else:
            feeds[name] = rng.random(shape, dtype=np.float32)
    return feeds


def tensors_of(feeds: dict[str, np.ndarray], client: Any) -> list[Any]:
    """Return rows as a stock client sends them; ``client`` is its module."""
    made = []
    for name, value in feeds.items():
        tensor = client.InferInput(name, list(value.shape), "INT64" if value.dtype == np.int64 else "FP32")
        tensor.set_data_from_numpy(value)
        made.append(tensor)
    return made


def infer_body(surface: Surface, rows: int = 2) -> dict[str, Any]:
    """Return the body of an inference request with JSON tensors."""
    inputs = []
    for name, value in feeds_of(surface, rows).items():
        datatype = "INT64" if value.dtype == np.int64 else "FP32"
        inputs.append({"name": name, "shape": list(value.shape), "datatype": datatype, "data": value.tolist()})
    return {"inputs": inputs}


def binary_request(surface: Surface, rows: int = 2) -> tuple[dict[str, Any], bytes]:
    """Return head and binary tensors of an inference request."""
    feeds = feeds_of(surface, rows)
    body = infer_body(surface, rows)
    for entry in body["inputs"]:
        del entry["data"]
        entry["parameters"] = {"binary_data_size": feeds[entry["name"]].nbytes}
    return body, b"".join(value.tobytes() for value in feeds.values())


def tiny_settings(home: Path, **changes: Any) -> Settings:
    return Settings(**{"home": home, "last_day": DAY, "threads": 1, "memory_limit": "500MB", **changes})


BROKEN = {
    "not an ONNX file": lambda home, spec: {"model": b"not a model"},
    "other inputs than its schema": lambda home, spec: {"model": graph_of(spec, 2, rename={"hour": "hours"})},
    "not finite": lambda home, spec: {"model": graph_of(spec, 2, nan=True)},
    "a feature that the snapshot lacks": lambda home, spec: {
        "schema": json.dumps(feature_schema(spec)).replace("feat_item.ctr", "feat_item.new_rate").encode()
    },
    "a schema without kinds": lambda home, spec: {
        "schema": json.dumps(feature_schema(spec)).replace('"kind"', '"sort"').encode()
    },
}
"""Releases that cannot be served."""


def wait_until(reached: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "not reached in time"
        time.sleep(0.01)
