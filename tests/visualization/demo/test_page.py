"""The Gradio side without a browser: which component takes which part of an answer, and what the page offers."""

import base64
import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from nlvideo.visualization.demo.handlers import Answer, Shown
from nlvideo.visualization.demo.moments import Moment
from nlvideo.visualization.demo.page import _updates, build_page, heading_html, message_html

SKIPPED = "as it was"
NAMES = ["upload", "state", "message", "scores", "moments", "attention", "frames", "strip"]
EVIL = "<script>alert('x')</script>"
CLIP = torch.zeros(3, 8, 4, 4, dtype=torch.uint8)


def moment(name, score, start):
    return Moment(start, start + 0.8, [(name, score)], CLIP, [0.0] * 8)


SHOWN = Shown(facts=None, moments=[moment("up", 0.9, 0.0), moment("down", 0.25, 0.8)], index=1)


@pytest.fixture()
def updates():
    """``updates(answer, same_video) -> {component: update}``, without Gradio."""
    gradio = SimpleNamespace(skip=lambda: SKIPPED, update=lambda **values: values)
    return lambda answer, same_video=False: dict(zip(NAMES, _updates(gradio, answer, same_video), strict=True))


def test_a_video_fills_everything_and_frees_the_drop_area(updates):
    got = updates(Answer("m", "result", {"up": 1.0}, "f", "s", SHOWN))
    assert got["upload"] is None and got["state"] is SHOWN and ">m<" in got["message"]
    assert got["scores"] == {"value": {"up": 1.0}, "visible": True} and got["attention"] == {"visible": True}
    assert got["frames"] == "f" and got["strip"] == "s"


def test_the_timeline_names_each_moment_and_the_one_that_is_shown(updates):
    got = updates(Answer("m", shown=SHOWN))["moments"]
    assert got["choices"] == [("0.0 to 0.8 s: up, 90%", 0), ("0.8 to 1.6 s: down, 25%", 1)]
    assert got["value"] == 1 and got["visible"]


def test_while_it_is_looked_at_the_drop_area_is_taken_and_old_results_go(updates):
    got = updates(Answer("m", "busy"))
    assert got["upload"] == SKIPPED and got["state"] is None
    assert [got[name]["visible"] for name in ("scores", "moments", "attention")] == [False] * 3


def test_a_click_leaves_classes_and_drop_area(updates):
    got = updates(Answer("m", frames="f", strip="s", shown=SHOWN), same_video=True)
    assert got["upload"] == got["scores"] == SKIPPED and got["frames"] == "f"


def test_a_mistaken_click_changes_the_message_alone(updates):
    got = updates(Answer("m", "mistake"), same_video=True)
    assert ">m<" in got.pop("message") and set(got.values()) == {SKIPPED}


def test_text_is_escaped(inspector):
    for html in (message_html(EVIL), heading_html(EVIL, inspector)):
        assert "<script" not in html and "&lt;script&gt;" in html


def test_an_error_is_announced():
    assert 'role="status"' in message_html("good")
    assert all('role="alert"' in message_html("bad", kind) for kind in ("failed", "mistake"))


def test_the_heading_says_which_model(inspector):
    assert "nlvideo: quickstart" in heading_html("quickstart", inspector)
    assert "8 classes: left, right," in heading_html("quickstart", inspector)
    assert "non-local block at res2.0" in heading_html("quickstart", inspector)


def test_the_heading_of_other_models():
    model = SimpleNamespace(predictor=SimpleNamespace(classes=[str(i) for i in range(400)]), blocks=[])
    assert "400 classes; no non-local block." in heading_html("plain", model)
    model.blocks = ["res3.1", "res3.3"]
    assert "400 classes; non-local blocks at res3.1, res3.3." in heading_html("i3d", model)


@pytest.fixture()
def page(demo, monkeypatch):
    """The page as Gradio has it."""
    pytest.importorskip("gradio", reason="the page needs Gradio: pip install 'nlvideo[demo]'")
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "")  # put back afterwards
    return build_page(demo, "quickstart")


def test_no_click_is_offered_to_programs_and_the_model_serves_one_at_a_time(page):
    functions = list(page.fns.values())
    assert len(functions) == 5 and {function.api_visibility for function in functions} == {"private"}
    assert {(function.concurrency_id, function.concurrency_limit) for function in functions} == {("model", 1)}
    assert not page.analytics_enabled


def test_pictures_are_in_the_answer_and_not_in_files(page, demo):
    pictures = [block for block in page.blocks.values() if block.get_block_name() == "image"]
    assert len(pictures) == 2
    for block in pictures:
        data = block.postprocess(Image.new("RGB", (40, 20), (10, 200, 30))).url
        assert data.startswith("data:image/webp;base64,") and block.postprocess(None) is None
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))))
        assert image.shape == (20, 40, 3) and image[10, 20].tolist() == pytest.approx([10, 200, 30], abs=4)
    assert not [path for path in demo.uploads.path.rglob("*") if path.is_file()]
