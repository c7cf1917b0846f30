"""Draws the picture of the notebook's page from a finished home: ``python docs/pictures/notebook.py HOME``."""

import base64
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "look_inside.ipynb"


def main(home: str) -> None:
    """Run the notebook on ``home`` and keep what the cell drew that says so in its metadata."""
    os.environ["CROSSFADE_HOME"] = str(Path(home).absolute())
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(ROOT)}}).execute()
    [cell] = [cell for cell in notebook.cells if cell.metadata.get("picture")]
    [png] = [output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]
    Path(__file__).with_name("notebook.png").write_bytes(base64.b64decode(png))


if __name__ == "__main__":
    main(sys.argv[1])
