"""An app's own technique and network: found in its folder, part of the surface, held to what ours are held to."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from ml.export.own_code import contract_faults
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.students.checkpoint import CheckpointError, load_checkpoint
from ml.students.dataset import TrainingSet
from ml.students.train import train
from ml.surfaces.files import load_surface
from ml.surfaces.keys import SpecError
from ml.surfaces.own import own_module
from ml.surfaces.spec import Surface

TECHNIQUE = '''"""Half: an extra logit on half of a task's tower."""

from torch import nn

from ml.distillation.soft_heads import SoftHeads

HEADS = {"task": True}


class Half(SoftHeads):
    def __init__(self, heads, scales, width):
        super().__init__(heads, scales)
        self.width = width
        self.modules_of_heads.extend(nn.Linear(width, 1) for _ in heads)

    @classmethod
    def build(cls, surface, scales, widths):
        return cls(surface.distillation.heads, scales, widths.tower // 2)

    def source(self, head, activations):
        return activations.towers[head.task][:, : self.width]
'''
PAGE = (PROJECT_ROOT / "docs" / "how-to" / "add_a_technique.md").read_text(encoding="utf-8")
NETWORK = '''"""Gated: each unit of the bottom is weighed by the numbers."""

import torch
from torch import Tensor, nn

from ml.distillation.technique import Activations
from ml.students.network import Ranker
from ml.students.preprocessing import key


''' + PAGE.partition("```python\n")[2].partition("```")[0]
"""What the page shows, as a file."""

LOSS_OF_ROWS = """
    def loss(self, activations, soft_labels, users):
        return activations.bottom.sum(1)
"""
DRAWN_LATER = """    def __init__(self, *given):
        super().__init__(*given)
        self.late = nn.Linear(3, 3)

    def activations"""

Written = Callable[..., Path]


@pytest.fixture
def written(tmp_path: Path, surface: Surface) -> Written:
    """Write an app's folder, or an edit of it, and return its surface's file."""

    def write(half: str = TECHNIQUE, gated: str = NETWORK, **changes: dict[str, object]) -> Path:
        content = surface.model_dump(mode="json", by_alias=True)
        content["distillation"] = {
            "technique": "half",
            "heads": [{"task": "ctr", "teacher_output": "click", "weight": 1.0}],
        }
        content["network"] |= {"module": "gated", "options": {"sharpness": 2.0}}
        for part, values in changes.items():
            content[part] |= values
        texts = {"techniques/half.py": half, "networks/gated.py": gated}
        for name, text in {**texts, "surfaces/homepage.yaml": yaml.safe_dump(content)}.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / "surfaces" / "homepage.yaml"

    return write


@pytest.mark.slow
def test_an_apps_own_technique_and_network_train_and_export_as_ours_do(
    written: Written, settings: Settings, training_set: TrainingSet, tmp_path: Path
) -> None:
    file = written()
    surface = load_surface(file)
    assert list(contract_faults(surface)) == [], "built, trained, exported and held against torch"
    train(settings, training_set, surface, technique="half", seed=1, out_dir=tmp_path / "student")
    ranker, _ = load_checkpoint(tmp_path / "student")
    assert (type(ranker).__name__, type(ranker.distillation).__name__) == ("Gated", "Half")

    written(gated=NETWORK.replace("torch.sigmoid", "torch.tanh"))
    edited = load_surface(file)
    assert edited.digest != surface.digest and edited.ranker_digest != surface.ranker_digest
    own_module.cache_clear()  # as in another process
    with pytest.raises(CheckpointError, match=r"networks/gated\.py is not what it was .* or train again"):
        load_checkpoint(tmp_path / "student")
    assert not list(tmp_path.rglob("__pycache__")), "nothing is written into an app's folder"


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"half": TECHNIQUE.replace("[:, : self.width]", "")}, r"mat1 and mat2"),
        ({"half": TECHNIQUE + LOSS_OF_ROWS}, "the loss of rows with soft labels is no finite scalar"),
        ({"half": "import nothing_there\nHEADS = {'task': True}\n"}, r"half\.py: cannot be imported: ModuleNotFound"),
        (
            {"gated": NETWORK.replace("class Gated(Ranker)", "class Gated(nn.Module)")},
            r"one subclass of Ranker, found none",
        ),
        (
            {"gated": NETWORK.replace("    def activations", DRAWN_LATER)},
            "from the bits of its control: late.bias, late.weight",
        ),
        ({"gated": NETWORK.replace("found.bottom *", "found.bottom[:, 1:] *")}, "must match the size"),
    ],
    ids=["another width", "a loss of rows", "an import", "no ranker", "parameters drawn later", "a narrow bottom"],
)
def test_code_that_breaks_the_contract_is_told(texts: dict[str, str], message: str, written: Written) -> None:
    surface = load_surface(written(**texts))
    torch.manual_seed(0)
    assert re.search(message, next(contract_faults(surface), "no fault"), re.DOTALL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distillation": {"technique": "hafl"}}, r"'hafl' is no technique; 'half' is near"),
        ({"network": {"module": "gatd"}}, r"no networks/gatd\.py; did you mean 'gated'"),
        ({"network": {"module": None}}, r"options are read by the app's own network"),
        ({"distillation": {"code": "0" * 64}}, r"distillation\.code: .* never written by hand"),
        ({"distillation": {"heads": [{"teacher_output": "click", "weight": 1}]}}, r"names task None, which is no task"),
    ],
)
def test_a_surface_names_what_is_in_the_folder(
    changes: dict[str, dict[str, object]], message: str, written: Written
) -> None:
    with pytest.raises(SpecError, match=message):
        load_surface(written(**changes))


def test_a_file_by_the_name_of_one_of_ours_is_refused(written: Written) -> None:
    file = written(distillation={"technique": "auxiliary"})
    assert load_surface(file).distillation.code is None
    (file.parent.parent / "techniques" / "auxiliary.py").write_text(TECHNIQUE, encoding="utf-8")
    with pytest.raises(SpecError, match=r"'auxiliary' is one of ours"):
        load_surface(file)


def test_a_surface_without_own_code_has_the_digest_that_it_had(surface: Surface) -> None:
    content = surface.model_dump(mode="json")
    assert "code" not in content["distillation"] and not {"module", "code", "options"} & content["network"].keys()
    assert Surface.model_validate(surface.model_dump(mode="json", by_alias=True)) == surface
