"""Every head by the stock tools: trained, tested, its predictions, its export, and a report."""

import json

import pytest

from nlvideo.modeling import HEAD, LinearHead

SIZES = (32, 48)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in HEAD if issubclass(HEAD.get(name), LinearHead)])
def test_a_head_by_the_stock_tools(name, tiny_opts, video_lists, tmp_path, call_tool):
    """Also on larger frames than in training, and with the mean of logits."""
    opts = ["MODEL.HEAD.NAME", name, "MODEL.HEAD.CLASS_WEIGHTS", "balanced", "MODEL.HEAD.FOCAL_GAMMA", "1.0"]
    status, out, err = call_tool("train_net", *tiny_opts, *opts)
    assert status == 0, out + err
    folder = str(tmp_path / "out")
    for size in SIZES:
        larger = ["TEST.SHORT_SIDE", str(size), "TEST.CROP_SIZE", str(size), "TEST.AVERAGE", "logits"]
        status, out, err = call_tool("train_net", "--eval-only", "--resume", *tiny_opts, *opts, *larger)
        assert status == 0, out + err
        exported = str(tmp_path / f"{size}.pt2")
        status, out, err = call_tool("export_model", "--model", folder, "--output", exported, *larger)
        assert status == 0, out + err
    video = video_lists[1].removeprefix("list:").replace("val.txt", "val0.mp4")
    scores = str(tmp_path / "scores.json")
    status, out, err = call_tool("predict", "--model", folder, "--input", video, "--json", scores)
    assert status == 0, out + err
    (row,) = json.loads((tmp_path / "scores.json").read_text())["videos"]
    assert sum(row["scores"]) == pytest.approx(1, abs=1e-4) and len(row["scores"]) == 4
    status, out, err = call_tool("report", folder)
    assert status == 0, out + err
