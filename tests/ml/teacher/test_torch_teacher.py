"""A model of PyTorch becomes a teacher by the block of Python that the page shows."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from ml.foundation.settings import PROJECT_ROOT
from ml.teacher.contract import load_contract
from ml.teacher.runtime import open_teacher

pytestmark = pytest.mark.slow

PAGE = (PROJECT_ROOT / "docs" / "how-to" / "bring_a_teacher.md").read_text(encoding="utf-8")
[EXPORT] = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
CONTRACT = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.M | re.S)[0]


def test_the_pages_export_answers_as_torch_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    torch.manual_seed(1)
    exec(EXPORT.replace("Ranker().eval(),", "(model := Ranker().eval()),"), names)
    Path("contract.yaml").write_text(CONTRACT)
    assert [item["name"] for item in yaml.safe_load(CONTRACT)["inputs"]] == [
        "source_user_id",
        "item_clicks_7d",
        "device",
    ]
    Path("users.csv").write_text("id,index\n" + "".join(f"u{n},{n}\n" for n in range(1000)))
    teacher = open_teacher(load_contract(tmp_path / "contract.yaml"))
    rng = np.random.default_rng(2)
    rows = {
        "source_user_id": rng.integers(0, 1000, 50),
        "item_clicks_7d": rng.integers(0, 9, 50).astype(np.float32),
        "device": rng.integers(0, 3, 50),
    }
    try:
        scores = teacher.score(rows)
    finally:
        teacher.close()
    with torch.no_grad():
        expected = names["model"](*(torch.from_numpy(column) for column in rows.values())).numpy()
    np.testing.assert_allclose(np.ravel(scores), expected, rtol=1e-5, atol=1e-6)
