"""docs/tour.ipynb runs from its first cell to its last, and holds nothing of the machine that it was written on."""

import base64
import io
import os
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.slow

nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).resolve().parents[1]
TOUR = ROOT / "docs" / "tour.ipynb"
CLASSES = {"circle", "fall", "rise", "shake"}


def read_tour():
    """The notebook as it is committed."""
    return nbformat.read(TOUR, as_version=4)


def code_of(notebook, words):
    """The one code cell that has these words."""
    (cell,) = [cell for cell in notebook.cells if cell.cell_type == "code" and words in cell.source]
    return cell


def replace_once(cell, old, new):
    """Change a value in a cell, which must be there."""
    assert cell.source.count(old) == 1, old
    cell.source = cell.source.replace(old, new)


def printed(cell):
    """What a cell prints."""
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def picture(cell):
    """The picture that a cell shows."""
    (shown,) = [output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]
    return Image.open(io.BytesIO(base64.b64decode(shown)))


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook after a run in an empty folder, with fewer videos and epochs; and the folder."""
    folder, notebook = tmp_path_factory.mktemp("tour"), read_tour()
    replace_once(code_of(notebook, "EPOCHS = "), "EPOCHS = 35", "EPOCHS = 1")
    replace_once(code_of(notebook, "CLASSES = "), "range(30)", "range(4)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
            patch.setenv(name, str(tmp_path_factory.mktemp("jupyter")))
        place = {"metadata": {"path": str(folder)}}
        nbclient.NotebookClient(notebook, timeout=500, kernel_name="python3", resources=place).execute()
    return notebook, folder


def test_the_folder_is_checked_and_a_network_is_trained_on_a_part_of_it(executed):
    notebook, folder = executed
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*/videos/*/*.mp4"))
    assert files == [f"output/tour/videos/{name}/{i:03}.mp4" for name in sorted(CLASSES) for i in range(4)]
    assert "16 videos, 0 bad" in printed(code_of(notebook, "check_dataset"))
    log = printed(code_of(notebook, "train_net"))
    assert "MODEL.HEAD.NUM_CLASSES 0 -> 4" in log and "Results of classification" in log
    assert (folder / "output/tour/run/model_final.pth").is_file()
    # All that it writes is in one place, which git ignores.
    assert [path.name for path in folder.iterdir()] == ["output"]


def test_the_report_and_the_confusion_are_shown(executed):
    notebook, _ = executed
    (shown,) = code_of(notebook, "srcdoc").outputs
    assert "&lt;html" in shown.data["text/html"] and ">circle&lt;" in shown.data["text/html"].replace("&gt;", ">")
    rows = [line.split() for line in printed(code_of(notebook, "confusion")).splitlines()]
    assert set(rows[0]) == CLASSES
    # A quarter of the videos of each class.
    assert {row[0]: sum(map(int, row[1:])) for row in rows[2:]} == dict.fromkeys(CLASSES, 1)


def test_a_new_video_is_labelled_and_explained(executed):
    notebook, _ = executed
    scores = dict(line.split() for line in printed(code_of(notebook, "Predictor(")).splitlines())
    assert scores.keys() == CLASSES and sum(map(float, scores.values())) == pytest.approx(1, abs=0.01)
    for words in ("vstack", "draw_film_strip(", "draw_heat_strip("):
        width, height = picture(code_of(notebook, words)).size
        assert width > 400 and height > 200, words


def test_no_cell_warns(executed):
    notebook, _ = executed
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.get("name") != "stderr", output.text
            assert "Traceback" not in output.get("text", "")


@pytest.mark.parametrize("is_there", [True, False])
def test_the_first_cell_installs_nlvideo_where_it_is_missing(monkeypatch, is_there):
    interactive = pytest.importorskip("IPython.core.inputtransformer2")
    ran = []

    class Shell:
        """Takes the place of IPython's."""

        def run_line_magic(self, name, words):
            ran.append((name, words.format(NLVIDEO="..")))

    monkeypatch.setattr("importlib.util.find_spec", lambda name: sys if is_there else None)
    first = next(cell for cell in read_tour().cells if cell.cell_type == "code")
    exec(interactive.TransformerManager().transform_cell(first.source), {"get_ipython": Shell})
    assert ran == ([] if is_there else [("pip", "install --quiet ..")])
    assert (TOUR.parent / ".." / "setup.py").is_file()


def test_the_notebook_is_committed_without_outputs_and_paths_of_a_machine():
    notebook = read_tour()
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.metadata and not cell.get("outputs") and cell.get("execution_count") is None
    text = TOUR.read_text(encoding="utf8")
    assert not any(path in text for path in ("/home", "/root", "/tmp", "/Users", str(ROOT), os.path.expanduser("~")))
    assert len(text) < 30_000


def test_links_of_the_notebook_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", "".join(cell.source for cell in read_tour().cells))
    assert len(links) >= 3
    for target in links:
        assert (TOUR.parent / target).is_file(), target
