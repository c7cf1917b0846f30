"""The bill of materials of a release: its model, its teacher, its data and its software, as CycloneDX 1.6 JSON.

The model is described by the model card of CycloneDX; the teacher and the days that the model learnt from are
components of their own. The bytes follow from manifest, verdict and lock alone.

Source: https://cyclonedx.org/docs/1.6/json/; its Python library has no model cards.
"""

import json
import re
import uuid
from collections.abc import Mapping
from typing import Any

from ml.export.files import MODEL
from ml.foundation.code import locked_packages
from ml.releases.manifest import DayContent, Manifest
from ml.releases.verdicts import Check, Verdict

Component = dict[str, Any]


def bill_of_materials(manifest: Manifest, verdict: Verdict, *, release: str, card: str) -> bytes:
    """Return the bill of materials of a release as CycloneDX JSON.

    Args:
        manifest: What the model was made of.
        verdict: What the gate measured.
        release: Id of the release.
        card: File of its model card, beside this one.
    """
    parts = [*_teachers(manifest), *_data(manifest), *_software(manifest)]
    model = _model(manifest, verdict, release, card)
    return document(f"{manifest.surface}/{release}", model, parts, {"timestamp": verdict.judged_at.isoformat()})


def document(name: str, about: Component, parts: list[Component], metadata: dict[str, str], **more: object) -> bytes:
    """Return a bill of materials as CycloneDX JSON.

    Args:
        name: What it is about, by which its serial number follows.
        about: The same as a component.
        parts: What that is made of.
        metadata: What else is said of the bill itself.
        more: What else stands in it.
    """
    bom = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'crossfade:{name}')}",
        "version": 1,
        "metadata": {**metadata, "component": about},
        "components": parts,
        "dependencies": [
            {"ref": about["bom-ref"], "dependsOn": [part["bom-ref"] for part in parts]},
            *({"ref": part["bom-ref"], "dependsOn": []} for part in parts),
        ],
        **more,
    }
    return (json.dumps(bom, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def libraries(versions: Mapping[str, str]) -> list[Component]:
    """Return Python packages as components, by name."""
    return [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{name}@{version}",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{name}@{version.replace('+', '%2B')}",
        }
        for name, version in sorted(versions.items())
    ]


def package_name(name: str) -> str:
    """Return a package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def properties(facts: Mapping[str, object]) -> list[dict[str, str]]:
    """Return what is known of some facts, under names of ours."""
    return [{"name": f"crossfade:{name}", "value": str(value)} for name, value in facts.items() if value is not None]


def _model(manifest: Manifest, verdict: Verdict, release: str, card: str) -> Component:
    measured = [check for guard in verdict.guards for check in guard.checks if check.interval is not None]
    return {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": f"{manifest.surface} ranker",
        "version": release,
        "hashes": [{"alg": "SHA-256", "content": manifest.onnx_sha256}],
        "externalReferences": [{"type": "model-card", "url": card}, {"type": "distribution", "url": MODEL}],
        "properties": properties(
            {
                "kind": manifest.kind,
                "git_commit": manifest.git_commit,
                "lake_snapshot": manifest.snapshot,
                "seed": manifest.seed,
                "parameters": manifest.parameters,
                "verdict": verdict.decision,
            }
        ),
        "modelCard": {
            "modelParameters": {
                **({} if manifest.kind == "popularity" else {"approach": {"type": "supervised"}}),
                "task": "ranking",
                "modelArchitecture": f"{manifest.kind}, technique {manifest.technique}",
                "datasets": [{"ref": part["bom-ref"]} for part in _data(manifest)],
            },
            "quantitativeAnalysis": {"performanceMetrics": [_metric(check) for check in measured]},
        },
    }


def _metric(check: Check) -> dict[str, Any]:
    assert check.interval is not None
    low, high = check.interval
    interval = {"lowerBound": str(low), "upperBound": str(high)}
    return {"type": check.name, "value": str(check.value), "confidenceInterval": interval}


def _teachers(manifest: Manifest) -> list[Component]:
    """Return the teachers whose soft labels were learnt or reported."""
    return [
        {
            "type": "machine-learning-model",
            "bom-ref": f"teacher {teacher.name}" if manifest.further_teachers else "teacher",
            "name": teacher.name,
            "version": teacher.version,
            **({"licenses": [{"license": {"name": teacher.license}}]} if teacher.license else {}),
            "properties": properties(
                {
                    "contract_hash": teacher.contract_hash,
                    "trained_through": teacher.trained_through,
                    "parameters": teacher.parameters,
                }
            ),
        }
        for teacher in manifest.teachers
    ]


def _data(manifest: Manifest) -> list[Component]:
    """Return the days that the model was trained and evaluated on, and its soft labels."""
    days = {"training": manifest.train_days, "evaluation": manifest.eval_days}
    found = {f"{name} examples": [d for d in manifest.examples if d.day in of] for name, of in days.items()}
    found["soft labels"] = list(manifest.soft_labels)
    if manifest.unshown_labels:
        found["unshown labels"] = list(manifest.unshown_labels)
    for held in manifest.vectors:
        found[f"vectors {held.table} {held.teacher} {held.teacher_version}"] = list(held.days)
    return [_dataset(manifest.surface, name, content) for name, content in found.items() if content]


def _dataset(surface: str, name: str, days: list[DayContent]) -> Component:
    hashes = {f"content_hash:{day.day}": day.content_hash for day in days}
    return {
        "type": "data",
        "bom-ref": name.replace(" ", "-"),
        "name": f"{surface} {name}",
        "data": [{"type": "dataset", "name": name}],
        "properties": properties({"rows": sum(day.rows for day in days), **hashes}),
    }


def _software(manifest: Manifest) -> list[Component]:
    """Return what the lock installs, in the versions that the model was made with where the manifest knows them."""
    return libraries(locked_packages() | {package_name(name): version for name, version in manifest.libraries.items()})
