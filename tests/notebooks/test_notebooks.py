"""The notebooks run on every backend, and lie in the repository with their outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LINE = 'os.environ["KERAS_BACKEND"] = "torch"'


@pytest.mark.one_backend
@pytest.mark.parametrize("backend", ["torch", "jax", "tensorflow"])
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_on_any_backend_by_changing_one_line(path, backend, monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if LINE in cell.source]
    assert len(cells) == 1
    cells[0].source = cells[0].source.replace(LINE, LINE.replace("torch", backend))
    notebook.cells.append(nbformat.v4.new_code_cell("import keras\n\nkeras.backend.backend()"))
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(FOLDER)}}).execute()
    assert notebook.cells[-1].outputs[0].data["text/plain"] == repr(backend)


@pytest.mark.one_backend
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_kept(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert sum(bool(cell.outputs) for cell in cells) >= len(cells) - 2  # all but imports
    streams = [output for cell in cells for output in cell.outputs if output.output_type == "stream"]
    assert all(output.name == "stdout" for output in streams)  # no warnings
