"""The bill of materials of a release names its model, teacher, data and software, and is one by its schema."""

import json

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from ml.foundation.code import locked_packages
from ml.foundation.sealed import DamagedError
from ml.releases.bill_of_materials import bill_of_materials
from ml.releases.release import manifest_of
from ml.teacher.contract import Teacher
from tests.support.shop import Shop

TEACHER = Teacher(
    name="sister", version="7", contract_hash="c" * 32, outputs=("ctr",), trained_through=None, license="CC-BY-4.0"
)


def _of_teacher(content: dict) -> None:
    content["teacher"] = TEACHER
    content["soft_labels"] = content["examples"][:2]


def test_it_is_one_by_its_schema_and_follows_from_manifest_verdict_and_lock(shop: Shop) -> None:
    candidate = shop.candidate(0, tamper=_of_teacher)
    verdict = shop.judge(candidate).verdict
    manifest = manifest_of(candidate)
    made = [bill_of_materials(manifest, verdict, release="r1", card="model_card.html") for _ in range(2)]
    assert made[0] == made[1] and JsonStrictValidator(SchemaVersion.V1_6).validate_str(made[0].decode()) is None
    bom = json.loads(made[0])
    parts = {part["bom-ref"]: part for part in bom["components"]}
    assert {part["type"] for part in parts.values()} == {"machine-learning-model", "data", "library"}
    teacher = parts["teacher"]
    assert (teacher["name"], teacher["version"], teacher["licenses"][0]["license"]["name"]) == (
        "sister",
        "7",
        "CC-BY-4.0",
    )
    model = bom["metadata"]["component"]
    assert model["hashes"] == [{"alg": "SHA-256", "content": manifest.onnx_sha256}]
    refs = [item["ref"] for item in model["modelCard"]["modelParameters"]["datasets"]]
    assert refs == ["training-examples", "evaluation-examples", "soft-labels"] and set(refs) < set(parts)
    [figure] = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert figure == {
        "type": "auc",
        "value": "0.8",
        "confidenceInterval": {"lowerBound": "0.79", "upperBound": "0.81"},
    }
    names = {part["name"] for part in parts.values() if part["type"] == "library"}
    assert names == set(locked_packages()) and "pkg:pypi/torch@2.13.0" in parts


def test_a_release_holds_it_and_is_damaged_without(shop: Shop) -> None:
    pointer = shop.release(0)
    release = shop.store.release("homepage", pointer.release)
    assert 'href="bom.cdx.json"' in (release.path / "model_card.html").read_text()
    path = release.path / "bom.cdx.json"
    assert json.loads(path.read_bytes())["metadata"]["component"]["version"] == pointer.release
    path.unlink()
    with pytest.raises(DamagedError, match=r"bom\.cdx\.json"):
        shop.store.release("homepage", pointer.release)
