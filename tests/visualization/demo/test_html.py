"""Pieces of the page: what they say, and that no file name becomes part of the page."""

import base64
import io
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from nlvideo.visualization import heated_frames
from nlvideo.visualization.demo.html import (
    COLOURS,
    examples_html,
    frames_html,
    heading_html,
    image_uri,
    message_html,
    strip_html,
    timeline_html,
)
from nlvideo.visualization.demo.moments import Moment

EVIL = "<script>alert('x')</script>\".mp4"


def moment(name, score, start=0.0):
    return Moment(start, start + 0.8, [(name, score)], torch.zeros(3, 8, 4, 4, dtype=torch.uint8), [0.0] * 8)


def decode(uri):
    """The picture in an address, as an array."""
    kind, data = re.fullmatch(r"data:image/(\w+);base64,(.+)", uri).groups()
    return kind, np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_text_is_escaped():
    pieces = [
        message_html(EVIL), timeline_html([moment(EVIL, 0.5)], 0), examples_html([(EVIL, b"")]),
    ]  # fmt: skip
    for piece in pieces:
        assert "<script" not in piece and "&lt;script&gt;" in piece
        assert '".mp4' not in piece.replace("&quot;.mp4", "")


def test_an_error_is_announced():
    assert 'role="alert"' in message_html("bad", "error") and 'role="status"' in message_html("good")


def test_the_heading_says_which_model(inspector):
    assert "nlvideo: quickstart" in heading_html("quickstart", inspector)
    assert "8 classes: left, right," in heading_html("quickstart", inspector)
    assert "non-local block at res2.0" in heading_html("quickstart", inspector)


def test_the_heading_of_other_models(inspector):
    model = SimpleNamespace(predictor=SimpleNamespace(classes=[str(i) for i in range(400)]), blocks=[])
    assert "400 classes; no non-local block." in heading_html("plain", model)
    model.blocks = ["res3.1", "res3.3"]
    assert "400 classes; non-local blocks at res3.1, res3.3." in heading_html("i3d", model)


def test_the_timeline_has_a_column_for_each_moment():
    html = timeline_html([moment("up", 0.9), moment("down", 0.25, 0.8), moment("up", 0.5, 1.6)], selected=1)
    assert re.findall(r'data-index="(\d)"', html) == ["0", "1", "2"]
    assert re.findall(r'aria-pressed="(\w+)"', html) == ["false", "true", "false"]
    assert re.findall(r"height:(\d+)%", html) == ["90", "25", "50"]
    assert 'aria-label="0.8 to 1.6 s: down, 25%"' in html and "<span>2.4 s</span>" in html


def test_classes_keep_their_colour_and_the_rare_share_one():
    names = ["b", *"abcdefghb"]
    html = timeline_html([moment(name, 1.0) for name in names], 0)
    colours = re.findall(r"%;background:(#\w+)", html)
    assert colours[0] == colours[2] == colours[-1] == COLOURS[0]
    assert colours[-2] == colours[-3] and colours[-2] not in COLOURS
    assert len(set(colours)) == len(COLOURS) + 1


def test_frames_carry_their_number_and_the_mark():
    frames = np.arange(2 * 10 * 20 * 3, dtype=np.uint8).reshape(2, 10, 20, 3)
    html = frames_html(frames, (1, 4, 5), [0.0, 0.1])
    assert re.findall(r'data-t="(\d)"', html) == ["0", "1"] and 'data-position="1,4,5"' in html
    assert html.count("nl-mark") == 1 and html.index("nl-mark") > html.index('data-t="1"')
    # The middle of pixel (4, 5) of 10 x 20.
    assert "left:27.50%;top:45.00%" in html
    shown = [decode(uri)[1] for uri in re.findall(r'src="([^"]+)"', html)]
    assert all((a == b).all() for a, b in zip(shown, frames))


def test_large_frames_are_jpeg():
    assert decode(image_uri(np.zeros((112, 112, 3), np.uint8)))[0] == "png"
    kind, image = decode(image_uri(np.full((112, 113, 3), 90, np.uint8)))
    assert kind == "jpeg" and np.abs(image.astype(int) - 90).max() <= 2


def test_heat_lies_where_the_weight_is(inspector):
    clip = torch.full((3, 8, 64, 64), 100, dtype=torch.uint8)
    maps = inspector.attend(clip, "res2.0", (2, 32, 32))
    weights = torch.zeros_like(maps.weights)
    weights[0, 1, 2, 3] = 0.5  # of the keys' map, 4 x 8 x 8
    frames = heated_frames(replace(maps, weights=weights), 0)
    changed = np.argwhere((frames != heated_frames(replace(maps, weights=weights * 0), 0)).any(-1))
    assert changed.min(0).tolist() == [2, 16, 24] and changed.max(0).tolist() == [3, 23, 31]
    assert frames.shape == (8, 64, 64, 3) and frames.dtype == np.uint8


def test_the_strip_is_whole():
    strip = Image.new("RGB", (300, 40), (10, 200, 30))
    kind, image = decode(re.search(r'src="([^"]+)"', strip_html(strip)).group(1))
    assert image.shape == (40, 300, 3)
    assert image[20, 150].tolist() == pytest.approx([10, 200, 30], abs=3)
