"""A release store with tiny but real candidates."""

import json
import multiprocessing
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from ml.evaluation.outcome import Outcome
from ml.export.schema import feature_schema
from ml.foundation.artifacts import Artifact, ArtifactStore
from ml.foundation.files import Bucket, sha256_bytes
from ml.foundation.signing import Keyring
from ml.releases import retention
from ml.releases.manifest import DayContent, Manifest
from ml.releases.promotion import Proposal
from ml.releases.refusals import PromotionRefused
from ml.releases.release import Champion
from ml.releases.store import ReleaseStore
from ml.releases.verdicts import Check, GuardResult, StoredVerdict, Verdict, VerdictKey, decide, now
from ml.surfaces.spec import Surface
from tests.support.verdicts import guards

CONFIG = b'name: "homepage"\nbackend: "onnxruntime"\nmax_batch_size: 0\n'


@dataclass
class Shop:
    """Makes candidates, judges and promotes them."""

    root: Path | Bucket
    surface: Surface
    lake: str | None = None
    keys: Keyring | None = None

    @property
    def store(self) -> ReleaseStore:
        return ReleaseStore(self.root, (lambda lake=self.lake: lake) if self.lake else None, self.keys)

    def of_lake(self, lake: str) -> "Shop":
        """The same folder, used by a lake."""
        return replace(self, lake=lake)

    def with_keys(self, keys: Keyring | None) -> "Shop":
        """The same folder, used with other keys, or none."""
        return replace(self, keys=keys)

    def candidate(
        self, day: int, model: bytes = b"", tamper: Callable[[dict[str, Any]], None] | None = None
    ) -> Artifact:
        partition = date(2026, 2, 1) + timedelta(days=day)
        model = model or f"model of {day}".encode()
        schema = json.dumps(feature_schema(self.surface)).encode()
        content: dict[str, Any] = {
            "surface": self.surface.name,
            "partition": partition,
            "kind": "student",
            "technique": "auxiliary",
            "snapshot": 100 + day,
            "train_days": (partition - timedelta(days=5), partition - timedelta(days=4)),
            "eval_days": (partition - timedelta(days=2), partition - timedelta(days=1)),
            "examples": tuple(
                DayContent(day=partition - timedelta(days=i), rows=1000, content_hash="0" * 32) for i in (5, 4, 2, 1)
            ),
            "soft_labels": (),
            "teacher": None,
            "spec_digest": self.surface.digest,
            "gate_digest": self.surface.gate.digest,
            "dbt_manifest_hash": "d" * 64,
            "git_commit": None,
            "seed": 1,
            "parameters": 1234,
            "libraries": {"torch": "2.13.0"},
            "checkpoint_sha256": "c" * 64,
            "onnx_sha256": sha256_bytes(model),
            "feature_schema_hash": sha256_bytes(schema),
        }
        if tamper:
            tamper(content)
        files = {
            "model.onnx": model,
            "config.pbtxt": CONFIG,
            "schema.json": schema,
            "manifest.json": Manifest(**content).to_bytes(),
        }
        return ArtifactStore(self.root).put(f"models/{self.surface.name}/onnx", str(partition), files)

    def partition(self, candidate: Artifact) -> date:
        return date.fromisoformat(candidate.partition)

    def judge(self, candidate: Artifact, outcome: Outcome = Outcome.PASS, **changes: Any) -> StoredVerdict:
        key = self.store.verdict_key(self.surface, candidate).model_copy(update=changes.pop("key", {}))
        check = Check(name="auc", outcome=outcome, value=0.8, threshold=">= 0.6", interval=(0.79, 0.81), n=9)
        quality = GuardResult(number=3, name="quality", outcome=outcome, reason="<b>as told</b>", checks=(check,))
        told = guards(quality, silent="score_shift" if key.champion is None else "slices")
        content = {
            "key": key,
            "partition": self.partition(candidate),
            "decision": decide(told),
            "guards": told,
            "judged": dict(candidate.files),
            "judged_at": now(),
        }
        return self.store.verdicts.write(Verdict(**content | changes))

    def promote(self, candidate: Artifact, key: VerdictKey | None = None, **options: Any):
        arguments = {"partition": self.partition(candidate), "by": "test", "reason": "because"} | options
        override = arguments.pop("override", None)
        key = key or self.store.verdict_key(self.surface, candidate)
        return self.store.promote(self.surface.name, Proposal(candidate, key, **arguments), override=override)

    def release(self, day: int):
        candidate = self.candidate(day)
        self.judge(candidate)
        return self.promote(candidate)


def _churn(shop: Shop, first: int) -> None:
    """Promote, roll back and retire, orphans of any age too, until killed."""
    retention._ORPHAN_AGE_S, day = 0.0, first
    while True:
        day += 1
        try:
            shop.release(day)
            if day % 3 == 0:
                shop.store.rollback("homepage", by="churn", reason="every third")
            shop.store.retire("homepage", keep=3)
        except PromotionRefused:
            continue


def killed_movers(shop: Shop, kills: int) -> None:
    """Let two processes move and tidy at once and kill both, again and again.

    The champion is whole at every look, nothing barred comes back, and the log stays whole.
    """
    dice, context = random.Random(3), multiprocessing.get_context("fork")
    shop = shop.of_lake("one")
    shop.release(0)
    for kill in range(kills):
        pair = [context.Process(target=_churn, args=(shop, 10_000 * kill + 100 * n)) for n in (1, 2)]
        for process in pair:
            process.start()
        end = time.monotonic() + dice.uniform(0.15, 0.5)
        while time.monotonic() < end:
            assert shop.store.champion("homepage") is not None
        for process in pair:
            process.kill()
            process.join()
        champion = opens_valid(shop.store)
        assert champion is not None and champion.release.id not in shop.store.barred("homepage")
    assert len(shop.store.history("homepage")) > 2 * kills


def served_version(config: str) -> int:
    """Return the one version that a ``config.pbtxt`` names."""
    model = text_format.Parse(config, import_module("tritonclient.grpc.model_config_pb2").ModelConfig())
    (version,) = model.version_policy.specific.versions
    return version


def opens_valid(store: ReleaseStore) -> Champion | None:
    """Assert that the store opens and that its repository names a whole release of its history; return the champion."""
    champion, history = store.champion("homepage"), store.history("homepage")
    assert [entry.number for entry in history] == list(range(1, len(history) + 1))
    config = "repository/homepage/config.pbtxt"
    if store.files.exists(config):
        version = served_version(store.files.read(config).decode())
        pointer = next(entry for entry in history if entry.version == version and entry.moves)
        assert sha256_bytes(store.files.read(f"repository/homepage/{version}/model.onnx")) == pointer.onnx_sha256
    return champion


def synced(store: ReleaseStore) -> None:
    """Assert that the repository can be brought in line with the pointer."""
    if store.sync_repository("homepage"):
        champion = store.champion("homepage")
        assert champion is not None
        config = store.files.read("repository/homepage/config.pbtxt").decode()
        assert served_version(config) == champion.pointer.version
