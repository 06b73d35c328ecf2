"""The test protocols that docs/testing.md lists: their keys are valid, and each decodes a video once."""

import re
from math import prod
from pathlib import Path

import av
import pytest
import torch

from nlvideo.config import load_cfg
from nlvideo.data import VideoReader, build_test_loader

ROOT = Path(__file__).resolve().parents[2]
NUM_FRAMES = 30
# Small clips and frames; what a protocol is about stays.
SMALL = [
    "INPUT.NUM_FRAMES",
    "4",
    "INPUT.FRAME_STRIDE",
    "2",
    "MODEL.HEAD.NUM_CLASSES",
    "2",
    "DATALOADER.NUM_WORKERS",
    "0",
]


def protocols():
    """Name, overrides and number of views of each row of the table; rows build on the one that they call "the same"."""
    text = (ROOT / "docs/testing.md").read_text().split("## Protocols")[1].split("###")[0]
    found, base = [], []
    for name, keys, views in re.findall(r"^\| ([^|]+) \| ([^|]*TEST[^|]*) \| ([\d x]+) \|$", text, re.MULTILINE):
        options = re.search(r"`(TEST\.[^`]*)`", keys)[1].split()
        options = [*base, *options] if keys.startswith("the same") else options
        base = options
        found.append(pytest.param(options, prod(map(int, views.split(" x "))), id=name))
    return found


def test_the_table_is_read():
    names = [parameter.id for parameter in protocols()]
    assert len(names) == 10 and {"30 views (default)", "ten-crop", "mmaction2"} <= set(names)
    assert "AuthorsClips" in protocols()[2].values[0] and "TEST.FLIP" in protocols()[2].values[0]


@pytest.fixture(scope="module")
def data(tmp_path_factory, make_video):
    """Overrides for a test set of one landscape video."""
    folder = tmp_path_factory.mktemp("video")
    make_video(
        folder / "a.mp4", num_frames=NUM_FRAMES, height=64, width=96, codec="libx264", pix_fmt="yuv420p", crf="5"
    )
    (folder / "list.txt").write_text("a.mp4 1\n")
    return ["DATASETS.TEST", str([f"list:{folder / 'list.txt'}"])]


@pytest.mark.parametrize("options, num_views", protocols())
def test_each_protocol_opens_and_decodes_a_video_once(data, options, num_views, monkeypatch):
    opened, decoded = [], []
    container_open, close = av.open, VideoReader.close

    def spy(self):
        decoded.append(self.num_decoded)
        close(self)

    monkeypatch.setattr(
        av, "open", lambda path, *rest, **more: opened.append(path) or container_open(path, *rest, **more)
    )
    monkeypatch.setattr(VideoReader, "close", spy)
    cfg = load_cfg(None, [*SMALL, *data, *options])
    ((sample,),) = build_test_loader(cfg, cfg.DATASETS.TEST[0])
    size = cfg.TEST.CROP_SIZE or cfg.TEST.SHORT_SIDE
    assert sample["video"].shape == (num_views, 3, 4, size, size if cfg.TEST.CROP_SIZE else size * 3 // 2)
    assert len(opened) == 1
    assert len(decoded) == 1 and decoded[0] <= NUM_FRAMES


@pytest.mark.parametrize("num_crops", [1, 3, 10])
def test_crops_of_one_clip_show_the_same_frames(data, frame_index, num_crops):
    options = ["TEST.NUM_CLIPS", "2", "TEST.NUM_CROPS", str(num_crops), "TEST.SHORT_SIDE", "64", "TEST.CROP_SIZE", "48"]
    ((sample,),) = build_test_loader(load_cfg(None, [*SMALL, *data, *options]), str(data[1])[2:-2])
    for view, clip in enumerate(sample["video"]):
        start = 0 if view < num_crops else NUM_FRAMES - 7
        assert [frame_index(frame) for frame in clip.permute(1, 2, 3, 0).numpy()] == [start + 2 * i for i in range(4)]
    assert num_crops < 10 or torch.equal(sample["video"][1], sample["video"][0].flip(-1))
