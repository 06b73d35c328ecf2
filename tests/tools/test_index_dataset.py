"""tools/index_dataset.py."""

import os


def test_indexes_once_and_lists_what_fails(tmp_path, make_video, run_tool):
    make_video(tmp_path / "jump" / "a.mp4")
    make_video(tmp_path / "run" / "b.mp4")
    name, index = f"folder:{tmp_path}", str(tmp_path / "index")
    done = run_tool("index_dataset.py", name, "--index-dir", index)
    assert "2 videos indexed, 0 known before, 0 to be read from their beginning, 0 failed" in done.stdout
    assert sum(len(names) for _, _, names in os.walk(index)) == 2
    (tmp_path / "run" / "c.mp4").write_text("not a video")
    done = run_tool("index_dataset.py", name, "--index-dir", index, code=1)
    assert "c.mp4: " in done.stdout and "0 videos indexed, 2 known before" in done.stdout


def test_wrong_number_of_workers(tmp_path, make_video, run_tool):
    make_video(tmp_path / "jump" / "a.mp4")
    done = run_tool("index_dataset.py", f"folder:{tmp_path}", "--index-dir", "x", "--num-workers", "0", code=2)
    assert "--num-workers: got 0" in done.stderr
