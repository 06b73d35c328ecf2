"""tools/check_dataset.py says what is in a dataset, lists bad videos and exits accordingly."""

import json
import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from nlvideo.config import get_cfg
from nlvideo.data import MetadataCatalog, build_train_loader, get_dataset
from nlvideo.data.checks import check_records

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture()
def folder(tmp_path, make_video):
    """Two sound videos and a broken one, of two classes, by folder and by list."""
    for name in ("run/a.mp4", "walk/b.mp4"):
        make_video(tmp_path / "videos" / name, num_frames=4)
    (tmp_path / "videos/walk/c.mp4").write_bytes(b"nonsense" * 50)
    return tmp_path


def test_good_and_bad_datasets(folder, call_tool):
    name = f"folder:{folder}/videos"
    status, out, _ = call_tool("check_dataset", name, "--json", f"{folder}/found.json")
    assert status == 1 and f"{folder}/videos/walk/c.mp4: " in out and f"{name}: 3 videos, 1 bad, fingerprint " in out
    found = json.loads((folder / "found.json").read_text())
    assert (found["dataset"], found["complete"], found["num_bad"]) == (name, True, 1)
    assert [file["error"] is None for file in found["files"]] == [True, True, False]
    (folder / "videos/walk/c.mp4").unlink()
    status, out, _ = call_tool("check_dataset", name, "--num-workers", "2")
    assert status == 0 and f"{name}: 2 videos, 0 bad, fingerprint " in out and "key-frame distance" in out


def test_a_list_without_the_bad_ones_works_where_it_is(folder, call_tool):
    (folder / "lists").mkdir()
    for out in (folder / "fixed.csv", folder / "lists/fixed.csv"):
        assert call_tool("check_dataset", f"folder:{folder}/videos", "--fix-list", str(out))[0] == 1
        records = get_dataset(f"list:{out}")
        assert [r["file_name"] for r in records] == [f"{folder}/videos/{name}" for name in ("run/a.mp4", "walk/b.mp4")]
        assert [r["label"] for r in records] == [0, 1] and out.with_suffix(".classes.txt").read_text() == "run\nwalk\n"
    text = (folder / "fixed.csv").read_text()
    assert "videos/run/a.mp4" in text and str(folder) not in text


@pytest.mark.parametrize(
    "text, reason",
    [
        ("path,label\nrun/a.mp4,-1\nwalk/b.mp4,0\n", "has the label -1"),
        ('path,label\nrun/a.mp4,"2,-3"\nwalk/b.mp4,0\n', "has the label -3"),
        ("path,label,label_spans\nrun/a.mp4,1,-2 0 1\nwalk/b.mp4,0,0 0 1\n", "has label_spans with the label -2"),
    ],
)
def test_negative_labels_are_refused_as_training_refuses_them(folder, call_tool, text, reason):
    (folder / "videos/train.csv").write_text(text)
    name, fixed = f"list:{folder}/videos/train.csv", folder / "videos/fixed.csv"
    status, out, _ = call_tool("check_dataset", name, "--fix-list", str(fixed))
    assert status == 1 and f"run/a.mp4: {reason}, allowed: 0 or more\n" in out and f"{name}: 2 videos, 1 bad" in out
    assert [record["video_id"] for record in get_dataset(f"list:{fixed}")] == ["walk/b.mp4"]
    with pytest.raises(ValueError, match=reason.replace("has ", "run/a.mp4 has ")):
        check_records(name, get_dataset(name), 5, multi_label=True)
    status, out, _ = call_tool("check_dataset", f"list:{fixed}")
    assert status == 0 and "1 videos, 0 bad" in out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["list:/nothing.csv"], "there is no file /nothing.csv"),
        (["beacon_tain"], "unknown dataset 'beacon_tain'"),
        (["beacon_val", "--num-workers", "0"], "--num-workers: got 0, allowed: 1 or more"),
        (["beacon_val", "--clip-frames", "0"], "--clip-frames: got 0, allowed: 1 or more"),
        (["beacon_val", "--short-side", "0"], "--short-side: got 0, allowed: 1 or more"),
        (["beacon_val", "--sample", "0"], "--sample: got 0, allowed: 1 or more"),
        (
            ["beacon_val", "--sample", "2", "--fix-list", "x.csv"],
            "--fix-list: a list without the bad files needs a look",
        ),
    ],
)
def test_errors_are_one_line(call_tool, arguments, message):
    status, out, err = call_tool("check_dataset", *arguments)
    assert status == 2 and out == "" and message in err and err.count("\n") == 1


def test_no_file_is_replaced(folder, call_tool):
    name, out = f"folder:{folder}/videos", folder / "fixed.csv"
    out.write_text("mine")
    assert "fixed.csv: the file exists already" in call_tool("check_dataset", name, "--fix-list", str(out))[2]
    out.unlink()
    (folder / "fixed.classes.txt").write_text("others\n")
    assert "names other classes" in call_tool("check_dataset", name, "--fix-list", str(out))[2]
    assert "there is no folder" in call_tool("check_dataset", name, "--fix-list", f"{folder}/no/fixed.csv")[2]
    assert (folder / "fixed.classes.txt").read_text() == "others\n" and not out.exists()


def test_parts_that_hold_no_frame_are_bad(folder, call_tool):
    (folder / "spans.csv").write_text("path,label,start_sec,end_sec\n" + "".join(
        f"videos/run/a.mp4,{label},{times}\n" for label, times in ((0, "0,0.2"), (1, "5,6"), (1, "0.3,0.1"))
    ))  # fmt: skip
    name, out = f"list:{folder}/spans.csv", f"{folder}/good.csv"
    status, shown, _ = call_tool("check_dataset", name, "--fix-list", out)
    assert status == 1 and f"{name}: 3 videos, 2 bad, fingerprint " in shown
    assert "videos/run/a.mp4#2: no frames from 5 s to 6 s among 4 at 10 fps" in shown
    assert [(r["start_sec"], r["end_sec"]) for r in get_dataset(f"list:{out}")] == [(0.0, 0.2)]
    assert call_tool("check_dataset", f"list:{out}")[0] == 0


def test_names_that_are_not_utf8_in_every_tool(folder, call_tool):
    name = os.fsdecode(b"caf\xe9")
    os.rename(folder / "videos/walk", folder / "videos" / name)
    os.rename(folder / "videos" / name / "b.mp4", folder / "videos" / name / f"{name}.mp4")
    videos, listed = f"folder:{folder}/videos", f"list:{folder}/good.csv"
    status, out, _ = call_tool("check_dataset", videos, "--fix-list", f"{folder}/good.csv")
    assert status == 1 and "c.mp4: " in out and f"{videos}: 3 videos, 1 bad" in out
    assert call_tool("check_dataset", listed)[0] == 0
    assert MetadataCatalog.get(listed).classes == [name, "run"]
    status, out, _ = call_tool(
        "transcode_dataset", listed, f"{folder}/small", "--preset", "ultrafast", "--num-workers", "1"
    )
    assert status == 0 and [r["video_id"] for r in get_dataset(f"list:{folder}/small/good.csv")] == [
        f"{name}/{name}.mp4", "run/a.mp4"
    ]  # fmt: skip
    assert call_tool("make_shards", listed, f"{folder}/s.tar")[0] == 0
    assert {r["video_id"] for r in get_dataset(f"wds:{folder}/s.tar")} == {r["video_id"] for r in get_dataset(listed)}
    cfg = get_cfg()
    cfg.merge_from_list([
        "DATASETS.TRAIN", [listed], "MODEL.HEAD.NUM_CLASSES", 2, "SOLVER.CLIPS_PER_BATCH", 2, "INPUT.NUM_FRAMES", 4,
        "INPUT.FRAME_STRIDE", 1, "INPUT.SHORT_SIDE_RANGE", [24, 24], "INPUT.CROP_SIZE", 24, "DATALOADER.NUM_WORKERS", 1,
    ])  # fmt: skip
    batch = next(build_train_loader(cfg))
    assert batch["num_failed"] == 0 and f"videos/{name}/{name}.mp4" in batch["video_id"]


def test_a_sample_and_the_size_that_is_trained(folder, call_tool):
    name = f"folder:{folder}/videos"
    status, shown, _ = call_tool("check_dataset", name, "--sample", "1", "--short-side", "16", "--clip-frames", "4")
    assert status == 0 and f"{name}: 3 videos (1 of 3 files looked at), 0 bad" in shown
    assert "tools/transcode_dataset.py --short-side 16: 4.0 times by a short side of 16 pixels (now 32)" in shown


@pytest.mark.slow  # the first line of progress comes after 30 s
def test_ctrl_c_leaves_what_was_found(tmp_path, make_video):
    # More videos than any machine checks before the signal arrives.
    video, count = make_video(tmp_path / "a.mp4", num_frames=100, height=240, width=320), 3000
    (tmp_path / "list.txt").write_text("".join(f"{i}.mp4 0\n" for i in range(count)))
    for i in range(count):
        (tmp_path / f"{i}.mp4").symlink_to(video)
    command = [sys.executable, str(ROOT / "tools/check_dataset.py"), f"list:{tmp_path}/list.txt", "--num-workers", "1",
               "--json", f"{tmp_path}/found.json"]  # fmt: skip
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    # A shell's background jobs ignore the signal, and what they start inherits that.
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, **pipes, start_new_session=True, preexec_fn=listen)
    shown = ""
    while not re.search(rf"[1-9]\d*/{count}", shown):
        character = process.stderr.read(1)
        assert character, f"it ended before the signal: {shown}"
        shown += character
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in err and "stopped: " in out
    found = json.loads((tmp_path / "found.json").read_text())
    assert not found["complete"] and 0 < found["num_checked"] == len(found["files"]) < count
