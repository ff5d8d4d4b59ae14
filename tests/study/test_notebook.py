"""The notebook of the thesis runs from its first cell to its last, and shows its figures."""

import base64
import os
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("lightning")

NOTEBOOK = Path(__file__).parents[2] / "examples" / "thesis.ipynb"
SOURCE = Path(__file__).parents[2] / "src"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the kernel's own packages
def test_a_bar_in_a_notebook_without_widgets_is_text_and_warns_of_nothing(tmp_path, monkeypatch):
    outputs = execute(
        "import sys, warnings; warnings.simplefilter('error'); sys.modules['ipywidgets'] = None\n"
        "from triaffect.text import progress_bar\n"
        "print(list(progress_bar(range(3), desc='images')))",
        tmp_path,
        monkeypatch,
    )
    assert outputs["stdout"] == "[0, 1, 2]\n"
    assert "images: 100%" in outputs["stderr"]


def execute(code, folder, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{SOURCE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python", "language": "python"}
    nbclient.NotebookClient(notebook, timeout=100, resources={"metadata": {"path": str(folder)}}).execute()
    texts = {"stdout": "", "stderr": ""}
    for output in notebook.cells[0].outputs:
        texts[output.name] += output.text
    return texts


@pytest.mark.timeout(900)  # of CPU time it takes half a minute; a busy machine makes it minutes
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the kernel's own packages
def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{SOURCE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.metadata.kernelspec.name = "python3"
    client = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    pictures = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 7
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "Total number of images in train set: 792" in printed
    assert "va: epoch 4/4" in printed
    assert "Warning" not in printed
    assert (tmp_path / "thesis" / "multi-task" / "curves.png").is_file()
    if keep := os.environ.get("TRIAFFECT_NOTEBOOK"):  # to look at the rendered form
        nbformat.write(notebook, keep)
