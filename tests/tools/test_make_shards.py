"""tools/make_shards.py, and training and testing on what it wrote."""

import json

import pytest


@pytest.fixture()
def folder(tmp_path, make_video):
    """Eight videos of two classes."""
    for i in range(8):
        make_video(tmp_path / f"videos/{'ab'[i % 2]}/{i}.mp4", num_frames=6, height=40)
    return tmp_path


@pytest.mark.slow
def test_shards_train_and_test_end_to_end(folder, run_tool, call_tool):
    pattern = f"{folder}/shards/s-{{0..2}}.tar"
    status, out, _ = call_tool("make_shards", f"folder:{folder}/videos", pattern)
    assert status == 0 and "8 videos, " in out and "wrote 3 shards, kept 0" in out and f"'wds:{pattern}'" in out
    names = str([f"wds:{pattern}"])
    options = ["--config-file", "configs/quickstart/instant_test.yaml", "DATASETS.TRAIN", names, "DATASETS.TEST", names,
               "MODEL.HEAD.NUM_CLASSES", "2", "OUTPUT_DIR", f"{folder}/out", "DATALOADER.NUM_WORKERS", "1"]  # fmt: skip
    done = run_tool("train_net.py", *options)
    assert "8 videos, 2 classes, 4 to 4 per class" in done.stdout + done.stderr
    lines = [json.loads(line) for line in (folder / "out/metrics.json").read_text().splitlines()]
    assert any("classification/top1" in line for line in lines), lines[-1]


def test_it_goes_on_and_overwrites_nothing(folder, call_tool):
    name, pattern = f"folder:{folder}/videos", f"{folder}/shards/s-{{0..2}}.tar"
    assert call_tool("make_shards", name, pattern)[0] == 0
    assert (folder / "shards/classes.txt").read_text() == "a\nb\n"
    (folder / "shards/s-1.tar").unlink()
    status, out, _ = call_tool("make_shards", name, pattern, "--num-workers", "1")
    assert status == 0 and "wrote 1 shards, kept 2 that were there" in out
    status, _, err = call_tool("make_shards", name, pattern, "--keep-order")
    assert status == 2 and "shards with other videos or without an index: " in err and err.count("\n") == 1
    assert "wrote 3 shards" in call_tool("make_shards", name, pattern, "--keep-order", "--overwrite")[1]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["beacon_val", "x.tar", "--num-workers", "0"], "--num-workers: got 0, allowed: 1 or more"),
        (["beacon_val", "*.tar"], "PATTERN: got *.tar, allowed: a range such as train-{000000..000099}.tar"),
        (["list:/nothing.csv", "x.tar"], "there is no file /nothing.csv"),
        (["wds:a.tar", "x.tar"], "DATASET: got wds:a.tar, whose videos are in shards already; allowed: other datasets"),
    ],
)
def test_errors_are_one_line(call_tool, arguments, message):
    status, out, err = call_tool("make_shards", *arguments)
    assert status == 2 and out == "" and message in err and err.count("\n") == 1
