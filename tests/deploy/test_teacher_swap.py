"""Another teacher is pinned: labels stand side by side, students learn from one of them, what was released stays."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deploy.automation.days import range_tags
from deploy.automation.jobs import RELEASE_CHAIN
from deploy.definitions import build_definitions
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.operations.reproduce import reproduce
from ml.operations.trace import find_release
from ml.releases.store import ReleaseStore
from ml.stages.artifacts import find
from ml.stages.training_set import read_training_set
from ml.surfaces.files import load_surfaces
from ml.teacher.contract import teacher_contract
from ml.teacher.teachers import LabelsOf
from tests.support.known import present

ROOT = Path(__file__).resolve().parents[2]
SURFACE = "homepage"
MADE = RELEASE_CHAIN[: RELEASE_CHAIN.index("evaluation") + 1]


@pytest.fixture(scope="module")
def before(tiny_demo: Path) -> Settings:
    return Settings(home=tiny_demo, surfaces_dir=ROOT / "tests" / "surfaces", threads=1)


@pytest.fixture(scope="module")
def after(before: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The same home, with the pinned teacher's next version: other weights, another name."""
    folder = shutil.copytree(before.home / "teacher", tmp_path_factory.mktemp("next") / "teacher")
    contract = folder / "contract.yaml"
    [file] = folder.rglob("*.onnx")
    model = onnx.load(file)
    rng = np.random.default_rng(7)
    for weights in (w for w in model.graph.initializer if w.data_type == onnx.TensorProto.FLOAT and len(w.dims) == 2):
        values = numpy_helper.to_array(weights)
        noise = rng.normal(0, 0.1 * float(values.std()), values.shape).astype(np.float32)
        weights.CopyFrom(numpy_helper.from_array(values + noise, weights.name))
    onnx.save(model, file)
    contract.write_text(contract.read_text(encoding="utf-8").replace("version: ", "version: next-", 1), "utf-8")
    return before.model_copy(update={"teacher": contract})


def materialize(settings: Settings, keys: Sequence[str], **where: Any) -> None:
    job = build_definitions(settings).resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.from_config(str(settings.dagster_home)) as instance:
        job.execute_in_process(
            instance=instance, asset_selection=[dg.AssetKey([SURFACE, key]) for key in keys], **where
        )


def test_students_learn_from_the_pinned_teacher_alone_and_the_old_release_can_be_made_again(
    before: Settings, after: Settings
):
    assert before.last_day is not None
    surface, day = load_surfaces(before)[SURFACE], before.last_day
    store = ReleaseStore(before.artifacts_dir)
    champion, old = store.pointer(SURFACE), find(before, surface, "student", day).digest
    first, second = (teacher_contract(settings) for settings in (before, after))
    assert first.version != second.version and first.contract_hash != second.contract_hash

    materialize(after, ["soft_labels"], tags=range_tags(before.first_day, day))
    labels = f"lake.ml.soft_labels_{SURFACE}"
    with Lake(before) as lake:
        counted = (
            f"select contract_hash, count(*), count(distinct exposure_id), count(distinct day) from {labels} group by 1"
        )
        seen = {row[0]: row[1:] for row in lake.connection.execute(counted).fetchall()}
    assert set(seen) == {first.contract_hash, second.contract_hash}
    assert seen[first.contract_hash] == seen[second.contract_hash], "every exposure has a label of each version"

    materialize(after, MADE, partition_key=day.isoformat())
    training_set = read_training_set(after, surface, day)
    assert training_set.labels == (LabelsOf.only(second),)
    with Lake(before, snapshot=training_set.snapshot) as lake:
        joined = lake.sql(training_set.query)
        wanted = lake.sql(f"select exposure_id, scores from {labels} where contract_hash = ?", [second.contract_hash])
    of, learnt = (
        dict(zip(table["exposure_id"].to_pylist(), table["scores"].to_pylist(), strict=True))
        for table in (wanted, joined)
    )
    assert len(learnt) == joined.num_rows and all(of[exposure] == scores for exposure, scores in learnt.items())
    assert find(after, surface, "student", day).digest != old
    assert find(after, surface, "control", day).digest == find(before, surface, "control", day).digest

    release = find_release(store, SURFACE)
    assert store.pointer(SURFACE) == champion
    assert present(release.manifest.teacher).contract_hash == first.contract_hash
    assert reproduce(before, release).match == "bytes"
