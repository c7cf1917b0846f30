"""A teacher of every common framework answers as its own framework did: golden rows beside the model say so."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.frameworks import FRAMEWORKS, write_built
from ml.teacher.contract import load_contract
from ml.teacher.refused import TeacherRefused
from ml.teacher.runtime import validate

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_teacher_answers_as_its_own_framework_did(framework: str, tmp_path: Path) -> None:
    built = FRAMEWORKS[framework]()
    write_built(tmp_path, built, "teacher")
    validate(load_contract(tmp_path))
    golden = built[3]
    spoilt = np.array(golden["score_click"], dtype=np.float64)
    spoilt[3] += 0.01
    pq.write_table(pa.table(golden | {"score_click": spoilt}), tmp_path / "golden.parquet")
    with pytest.raises(TeacherRefused, match="golden row 4"):
        validate(load_contract(tmp_path))
