"""Videos in two datasets are found by file and by content, in small and in large datasets."""

import os
import shutil
import zlib

import pytest

from nlvideo.data import checks, get_dataset
from nlvideo.data.checks import find_shared_videos
from nlvideo.dataset_tools.shard_writing import write_shards


def make_records(folder, names, size=100_000):
    """Records of files of one size whose middles differ."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if not (folder / name).exists():
            content = bytearray(size)
            content[size // 2 : size // 2 + 8] = b"%08x" % zlib.crc32(f"{folder}{name}".encode())
            (folder / name).write_bytes(content)
    return [{"file_name": str(folder / name), "label": 0, "video_id": name} for name in names]


def test_nothing_is_shared(tmp_path):
    assert find_shared_videos(make_records(tmp_path / "a", "xyz"), make_records(tmp_path / "b", "xyzw")) == ([], 4)
    assert find_shared_videos([], make_records(tmp_path, "x")) == ([], 0)


@pytest.mark.parametrize("place", [os.link, os.symlink, shutil.copyfile])
def test_a_file_of_another_name(tmp_path, place):
    one, other = make_records(tmp_path / "a", "xyz"), make_records(tmp_path / "b", "uvw")
    place(one[1]["file_name"], tmp_path / "b/t")
    found = find_shared_videos(one, [*other, *make_records(tmp_path / "b", "t")])
    assert found[0] == [(one[1]["file_name"], str(tmp_path / "b/t"))]


def test_parts_of_one_file_and_what_is_not_there(tmp_path):
    records = [{**record, "start_sec": i} for i, record in enumerate(make_records(tmp_path, "x") * 4)]
    gone = [{"file_name": path, "video_id": path} for path in ("/nowhere/a.mp4", "s3://bucket/a.mp4")]
    assert len(find_shared_videos([*records[:2], *gone], [*records[2:], *gone])[0]) == 1


def test_folders_of_frames(tmp_path, make_frames):
    records = [{"file_name": make_frames(tmp_path / name, num_frames=2), "video_id": name} for name in "ab"]
    assert find_shared_videos(records[:1], records[1:])[0] == []
    assert len(find_shared_videos(records[:1], records)[0]) == 1


def test_members_of_shards(tmp_path):
    records = make_records(tmp_path / "a", "xyz")
    for name, chosen in (("train", records[:2]), ("test", records[1:])):
        write_shards(chosen, [f"{tmp_path}/{name}.tar"])
    train, test = (get_dataset(f"wds:{tmp_path}/{name}.tar") for name in ("train", "test"))
    ((one, other),) = find_shared_videos(train, test)[0]
    assert one in {r["file_name"] for r in train} and other in {r["file_name"] for r in test}
    assert len(find_shared_videos(train, records)[0]) == 2 and len(find_shared_videos(train, train)[0]) == 2


def test_of_large_datasets_some_are_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "MAX_COMPARED", 10)
    one = make_records(tmp_path / "a", [f"{i}.mp4" for i in range(40)], size=200)
    other = make_records(tmp_path / "b", [f"{i}.avi" for i in range(40)], size=200)
    shutil.copyfile(one[3]["file_name"], tmp_path / "b/3.mp4")
    shutil.copyfile(one[18]["file_name"], tmp_path / "b/odd.mp4")
    found = find_shared_videos(one, [*other, *make_records(tmp_path / "b", ["3.mp4", "odd.mp4"])])
    assert found[0] == [(one[3]["file_name"], str(tmp_path / "b/3.mp4"))], "those with equal ids are looked at"
    assert found[1] <= 12
