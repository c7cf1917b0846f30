"""The notebook of examples/ runs on a finished home, finds the lift that is stored, and lies in git without outputs."""

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from ml.foundation.settings import PROJECT_ROOT

NOTEBOOK = PROJECT_ROOT / "examples" / "look_inside.ipynb"
TELL = """
import json
found = {"lifts": lifts.to_dicts(), "released": release.id, "outputs": sorted(scores), "checks": checks.height}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def executed(tiny_demo: Path) -> Any:
    """The notebook as it is after it ran on the tiny demo, with a cell behind it that tells what it found."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(TELL))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROSSFADE_HOME", str(tiny_demo))
        # In the root of this checkout: the kernel imports ml from where it starts.
        return NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(PROJECT_ROOT)}}).execute()


@pytest.fixture(scope="module")
def told(executed: Any) -> dict[str, Any]:
    """What the notebook found."""
    return json.loads(executed.cells[-1].outputs[0].text)


def test_git_has_a_valid_notebook_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) > 5
    assert not [cell.id for cell in code if cell.outputs or cell.execution_count], (
        "jupyter nbconvert --clear-output --inplace examples/look_inside.ipynb"
    )


def test_it_finds_the_release_the_verdict_and_the_lift_that_are_stored(told: dict[str, Any], tiny_demo: Path) -> None:
    assert (tiny_demo / "artifacts" / "releases" / "homepage" / told["released"]).is_dir()
    assert "score" in told["outputs"] and told["checks"] > 20
    assert {lift["task"] for lift in told["lifts"]} == {"ctr", "discovery"}
    for lift in told["lifts"]:
        assert lift["lift"] == pytest.approx(lift["stored"], abs=1e-4)
        assert lift["low"] < lift["lift"] < lift["high"]
        # The same interval but for chance: of few users the evaluation's is wider.
        assert lift["stored low"] < lift["high"] and lift["low"] < lift["stored high"]


def test_it_draws_the_lift(executed: Any) -> None:
    drawn = [cell for cell in executed.cells if cell.metadata.get("picture")]
    assert len(drawn) == 1
    assert any("image/png" in output.get("data", {}) for output in drawn[0].outputs)


def test_it_changes_nothing(executed: Any, tiny_demo: Path, built_demo: Path) -> None:
    def written(home: Path) -> set[str]:
        folders = (home / "artifacts", home / "lake" / "data")
        return {str(path.relative_to(home)) for folder in folders for path in folder.rglob("*")}

    assert executed.cells and written(tiny_demo) == written(built_demo)
