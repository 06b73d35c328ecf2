"""tools/index_dataset.py."""

import os

from nlvideo.dataset_tools import indexing
from nlvideo.errors import ProcessDied


def test_indexes_once_and_lists_what_fails(tmp_path, make_video, call_tool):
    make_video(tmp_path / "videos" / "jump" / "a.mp4")
    make_video(tmp_path / "videos" / "run" / "b.mp4")
    name, index = f"folder:{tmp_path / 'videos'}", str(tmp_path / "index")
    status, out, _ = call_tool("index_dataset", name, "--index-dir", index)
    assert "2 videos indexed, 0 known before, 0 to be read from their beginning, 0 failed" in out and status == 0
    assert sum(len(names) for _, _, names in os.walk(index)) == 2
    (tmp_path / "videos" / "run" / "c.mp4").write_text("not a video")
    status, out, _ = call_tool("index_dataset", name, "--index-dir", index)
    assert status == 1 and "c.mp4: " in out and "0 videos indexed, 2 known before" in out


def test_a_file_that_ends_its_process_is_named(tmp_path, make_video, call_tool, monkeypatch):
    def deadly(function, items, num_workers):
        yield 1, ProcessDied("the process died")
        yield 0, function(items[0])

    monkeypatch.setattr(indexing, "map_in_processes", deadly)
    for name in "ab":
        make_video(tmp_path / f"videos/jump/{name}.mp4")
    status, out, _ = call_tool("index_dataset", f"folder:{tmp_path}/videos", "--index-dir", f"{tmp_path}/index")
    assert status == 1 and "b.mp4: the process died\n" in out and "1 videos indexed, 0 known before" in out


def test_wrong_arguments(tmp_path, make_video, call_tool):
    make_video(tmp_path / "jump" / "a.mp4")
    status, _, errors = call_tool("index_dataset", f"folder:{tmp_path}", "--index-dir", "x", "--num-workers", "0")
    assert status == 2 and "--num-workers: got 0" in errors
    status, _, errors = call_tool("index_dataset", f"folder:{tmp_path}", "--index-dir", "s3://bucket/index")
    assert status == 2 and "index_dir: got 's3://bucket/index', allowed: a local path" in errors
