"""Run notebooks/quickstart.ipynb again and keep its outputs.

    python scripts/run_notebook.py

What the notebook writes is deleted again. Warnings are left out: scanpy's says that Jupyter has no
widgets here.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOK = FOLDER / "quickstart.ipynb"


def main() -> None:
    """Run the notebook and write it with its outputs."""
    os.environ["PYTHONWARNINGS"] = "ignore"
    before = set(FOLDER.iterdir())
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    folder = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(notebook, timeout=1800, kernel_name="python3", resources=folder).execute()
    for path in set(FOLDER.iterdir()) - before:
        remove = shutil.rmtree if path.is_dir() else Path.unlink
        remove(path)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
