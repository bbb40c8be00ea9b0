"""Execute the notebook and keep what it shows: `python docs/execute.py` after changes to it or to what it calls."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOK = Path(__file__).parent / "notebook.ipynb"


def execute(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Return the notebook as executed in an empty folder, without what differs from machine to machine.

    The cache, which counts looks at a test split, is in that folder, too.
    """
    client = NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute(env={**os.environ, "HEADMASK_CACHE": str(folder / "cache")})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # When it ran.
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata.pop("language_info", None)
    return notebook


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        executed = execute(nbformat.read(NOTEBOOK, as_version=4), Path(folder))
    nbformat.write(executed, NOTEBOOK)
