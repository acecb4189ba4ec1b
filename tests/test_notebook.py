"""The notebook runs from its first cell to its last, and what it shows was made by it."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"
# Fewer epochs than a user wants: only that it runs is looked at.
SHORTER = {
    "old, 8, seed=1,": "old, 8, seed=1, pretrain_epochs=10, maxiter=2,",
    '"--no_report",': '"--no_report", "--pretrain_epochs", "10", "--maxiter", "2",',
}


@pytest.fixture
def place(tmp_path):
    """A folder like notebooks/, so that what the notebook writes does not stay there."""
    for name in ("data", "train.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "notebooks").mkdir()
    return tmp_path / "notebooks"


def test_the_notebook_runs(place, monkeypatch):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for before, after in SHORTER.items():
        cells = [cell for cell in notebook.cells if before in cell.source]
        assert len(cells) == 1
        cells[0].source = cells[0].source.replace(before, after)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(place)]))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    folder = {"metadata": {"path": str(place)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=folder).execute()


def test_its_outputs_are_kept_and_tell_nothing_of_the_machine():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    assert sum(bool(cell.outputs) for cell in code) >= 7
    pictures = [o for cell in code for o in cell.outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 2
    texts = re.sub(r'"image/png": "[^"]*"', "", NOTEBOOK.read_text())
    assert not re.search(r"site-packages|/home/|/tmp/|/work/|/root/", texts)
