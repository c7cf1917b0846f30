import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from benchmarks.synthetic import OUTPUTS, Shape, reduced, world
from ml.distillation.catalog import build_technique
from ml.distillation.technique import Scale
from ml.export.onnx import Export, edge_columns, export, inspect, parity, session_of
from ml.export.schema import feature_schema, schema_hash
from ml.export.triton import config_pbtxt
from ml.foundation.settings import PROJECT_ROOT
from ml.students.checkpoint import load_checkpoint, predict, save_checkpoint
from ml.students.columns import to_arrays
from ml.students.network import Ranker
from ml.students.preprocessing import Preprocessing
from ml.surfaces.files import load_surface
from ml.surfaces.spec import Surface
from tests.support.known import the

KEEP = ("user_id", "item_id", "hour", "session_outcomes", "row", "content_embedding", "item_age_days", "user_ctr")


@pytest.fixture(scope="module")
def surface() -> Surface:
    return reduced(load_surface(PROJECT_ROOT / "examples/simulator/surfaces/homepage.yaml"), (*KEEP, "item_ctr"))


@pytest.fixture(scope="module")
def arrays(surface: Surface) -> dict[str, np.ndarray]:
    torch.set_num_threads(1)
    examples, _ = world(surface, Shape(date(2026, 1, 1), 2, 400, users=50, items=40, teacher_noise=1.0))
    return to_arrays(examples, surface.inputs, "logged")


@pytest.fixture(scope="module")
def student(surface: Surface, arrays, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a student with distillation heads and parameters far from zero."""
    folder = tmp_path_factory.mktemp("student")
    columns = {name: torch.from_numpy(values) for name, values in arrays.items()}
    ranker = Ranker(surface, Preprocessing.fit(surface.inputs, columns), seed=1)
    ranker.distillation = build_technique(surface, dict.fromkeys(OUTPUTS, Scale(0.0, 1.0)), ranker.widths, 1)
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter *= 3
    save_checkpoint(ranker, {"technique": "auxiliary"}, folder)
    return folder


@pytest.fixture(scope="module")
def exported(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    return export(student, tmp_path_factory.mktemp("onnx") / "model.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("rows", ["seeded", "real"])
def test_torch_and_onnxruntime_agree_at_every_size_and_on_edge_rows(student: Path, exported: Export, arrays, rows: str):
    ranker, _ = load_checkpoint(student)
    found = parity(ranker, exported.path, (1, 2, 333, 1000), arrays if rows == "real" else None)
    assert list(found) == ["batch 1", "batch 2", "batch 333", "batch 1000", "edge", "bounds", "known ids"]
    for case, differences in found.items():
        assert list(differences) == ["ctr", "trail", "discovery", "score"]
        assert max(differences.values()) < 2e-5, case


@pytest.mark.slow
def test_parity_sees_another_model(student: Path, exported: Export):
    ranker, _ = load_checkpoint(student)
    with torch.no_grad():
        the(torch.nn.Linear, ranker.heads["_ctr"]).bias.add_(0.01)
    found = parity(ranker, exported.path, (2,))
    assert found["batch 2"]["ctr"] == pytest.approx(0.01, rel=0.1) and found["batch 2"]["trail"] < 1e-5
    with torch.no_grad():
        the(torch.nn.Linear, ranker.heads["_ctr"]).bias.fill_(torch.nan)
    assert parity(ranker, exported.path, (2,))["edge"]["ctr"] == float("inf")


@pytest.mark.slow
def test_no_row_gives_nan_and_all_unknown_ids_score_alike(student: Path, exported: Export):
    ranker, _ = load_checkpoint(student)
    columns = edge_columns(ranker.surface, 200)
    for values in session_of(exported.path).run(None, columns):
        assert np.isfinite(the(np.ndarray, values)).all()
    one = {name: np.repeat(values[:1], 3, axis=0) for name, values in columns.items()}
    one["user_id"] = np.array([-1, 2**63 - 1, 424242])
    scores = predict(ranker, one)["score"]
    # Rows of one batch go through different vector instructions on some processors, which round the last bit otherwise.
    np.testing.assert_allclose(scores, np.repeat(scores[:1], 3), rtol=1e-6)


@pytest.mark.slow
def test_the_file_is_clean(exported: Export, surface: Surface):
    facts = inspect(exported.path)
    assert facts["checker"] is None
    assert facts["symbolic_batch"]
    assert facts["opset"] == 20
    assert facts["custom_domains"] == [] and facts["distillation"] == [] and not facts["external_data"]
    assert facts["bytes"] == exported.size == exported.path.stat().st_size
    assert not {"Loop", "If", "Scan"} & set(facts["operators"])
    expected = {name: [spec.dtype, ["batch", *spec.shape]] for name, spec in surface.inputs.items()}
    assert facts["inputs"] == expected and list(facts["inputs"]) == list(surface.inputs)
    assert facts["outputs"] == {name: ["float32", ["batch"]] for name in exported.outputs}


def test_nothing_about_the_machine_stays_in_the_file(exported: Export):
    content = exported.path.read_bytes()
    for trace in (b".py", str(PROJECT_ROOT).encode(), b"namespace"):
        assert trace not in content


@pytest.mark.slow
def test_another_process_exports_the_same_bytes(student: Path, exported: Export, tmp_path: Path):
    script = (
        "from pathlib import Path; from ml.export.onnx import export; "
        f"print(export(Path({str(student)!r}), Path({str(tmp_path)!r}) / 'model.onnx').digest)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == exported.digest


def test_inspection_finds_what_must_not_be_there(exported: Export, tmp_path: Path):
    model = onnx.load(exported.path)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(2, np.float32), "ranker.distillation.x.weight"))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    model.graph.node[0].domain = "com.example"
    onnx.save(model, tmp_path / "bad.onnx")
    facts = inspect(tmp_path / "bad.onnx")
    assert facts["distillation"] == ["ranker.distillation.x.weight"]
    assert not facts["symbolic_batch"]
    assert facts["custom_domains"] == ["com.example"]
    assert facts["checker"] is not None
    (tmp_path / "cut.onnx").write_bytes(exported.path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"cut\.onnx"):
        inspect(tmp_path / "cut.onnx")


def test_the_triton_configuration_is_read_off_the_signature(exported: Export):
    service = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    from google.protobuf import text_format

    config = text_format.Parse(config_pbtxt("homepage", exported.path, 1000), service.ModelConfig())
    assert (config.name, config.backend, config.max_batch_size) == ("homepage", "onnxruntime", 0)
    dims = {tensor.name: list(tensor.dims) for tensor in (*config.input, *config.output)}
    assert dims["user_id"] == [-1] and dims["content_embedding"] == [-1, 8] and dims["score"] == [-1]
    kinds = {tensor.name: service.DataType.Name(tensor.data_type) for tensor in config.input}
    assert kinds["user_id"] == "TYPE_INT64" and kinds["item_age_days"] == "TYPE_FP32"
    assert not config.HasField("version_policy"), "a release says which version is served"
    assert config.parameters["max_batch"].string_value == "1000"


def test_the_schema_follows_the_signature_and_its_hash_everything_in_it(exported: Export, surface: Surface):
    schema = feature_schema(surface)
    assert [entry["name"] for entry in the(list, schema["inputs"])] == list(exported.inputs)
    assert [entry["name"] for entry in the(list, schema["outputs"])] == list(exported.outputs)
    ages = next(entry for entry in the(list, schema["inputs"]) if entry["name"] == "item_age_days")
    assert ages == {
        "name": "item_age_days", "dtype": "float32", "shape": [], "type": "number", "kind": "daily",
        "source": "feat_item.age_days", "default": 365.0, "per_candidate": False, "serving_value": None,
    }  # fmt: skip
    assert schema["hash"] == schema_hash(schema) == feature_schema(surface)["hash"]
    content = surface.model_dump(mode="json", by_alias=True)
    content["inputs"]["item_age_days"]["default"] = 7
    assert feature_schema(Surface.model_validate(content))["hash"] != schema["hash"]


@pytest.mark.slow
def test_a_control_exports_to_the_signature_of_its_student(student: Path, exported: Export, tmp_path: Path):
    shutil.copytree(student, tmp_path / "control")
    ranker, meta = load_checkpoint(student)
    ranker.distillation = None
    save_checkpoint(ranker, meta | {"technique": "none"}, tmp_path / "control")
    assert export(tmp_path / "control", tmp_path / "control.onnx").digest == exported.digest


@pytest.mark.slow
def test_bounded_tables_of_ids_are_exported_as_they_were_trained(surface: Surface, arrays, tmp_path: Path):
    content = reduced(surface, ("user_id", "item_id", "hour", "item_ctr")).model_dump(mode="json", by_alias=True)
    content["inputs"]["user_id"]["id_table"] = {"min_count": 2, "max_ids": 5, "hash_buckets": 3}
    content["inputs"]["item_id"]["id_table"] = {"max_ids": 5, "hash_buckets": 3, "unseen": "bucket"}
    bounded = Surface.model_validate(content)
    columns = {name: torch.from_numpy(arrays[name]) for name in bounded.inputs}
    ranker = Ranker(bounded, Preprocessing.fit(bounded.inputs, columns), seed=1)
    save_checkpoint(ranker, {"technique": "none"}, tmp_path / "checkpoint")
    restored, _ = load_checkpoint(tmp_path / "checkpoint")
    exported = export(tmp_path / "checkpoint", tmp_path / "model.onnx")
    found = parity(restored, exported.path, (1, 333))
    assert "shared rows" in found and max(max(case.values()) for case in found.values()) < 2e-5
    assert inspect(exported.path)["custom_domains"] == []
    tables = {t.name: t.dims[0] for t in onnx.load(exported.path).graph.initializer if ".tables." in t.name}
    assert {rows for name, rows in tables.items() if "_id." in name} == {9}, "unknown, five of their own, three shared"
    one = {name: np.repeat(arrays[name][:1], 6, axis=0) for name in bounded.inputs}
    one["item_id"] = np.array([-1, 2**63 - 1, -(2**63), 424242, 7, 1])  # each has a bucket, and not the unknown row
    scores = the(np.ndarray, session_of(exported.path).run(["score"], one)[0])
    assert 1 < len(set(np.round(scores, 6).tolist())) <= 3
