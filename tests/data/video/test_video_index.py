"""The index of a video, and its cache on disk."""

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from nlvideo.data import IndexCache, VideoDecodeError, VideoReader
from nlvideo.data.video.paths import member_path
from nlvideo.data.video.video_index import NO_STAMP, VideoIndex, shown_order, to_stamps
from nlvideo.dataset_tools.indexing import index_videos


def make(pts, keys, hidden=None):
    """An index of packets in the order of the file."""
    stamps, hidden = to_stamps(pts), hidden or [False] * len(pts)
    order = shown_order(stamps, hidden)
    return VideoIndex(
        stamps=stamps,
        stamp_kind="pts",
        sizes=np.full(len(pts), 9),
        keys=np.array([place in keys for place in range(len(pts))]),
        position=np.arange(len(pts)) if order is None else order,
        times=np.arange(len(pts) if order is None else len(order)),
        time_base=Fraction(1, 10),
        fps=10.0,
        counted=order is None,
    )


def test_frames_are_ranks_of_timestamps():
    index = make([100, 103, 101, 102, 105, 104], keys=[0])
    assert index.position.tolist() == [0, 2, 3, 1, 5, 4] and index.frame_at.tolist() == [0, 3, 1, 2, 5, 4]
    assert [index.find(stamp) for stamp in (100, 104, 99, 106, None)] == [0, 5, -1, -1, -1]


def test_decoding_starts_at_the_key_frame_shown_no_later():
    # I P B B | I B B P: the two B after the second I are shown before it and need the P before.
    index = make([0, 3, 1, 2, 6, 4, 5, 7], keys=[0, 4])
    assert [index.start_of(frame) for frame in range(8)] == [0, 0, 0, 0, 0, 0, 4, 4]


def test_hidden_packets_are_no_frames_but_may_be_where_decoding_starts():
    index = make([0, 1, 2, 3, 4], keys=[0, 2], hidden=[True, True, True, False, False])
    assert index.num_frames == 2 and index.frame_at.tolist() == [-1, -1, -1, 0, 1]
    assert [index.start_of(frame) for frame in (0, 1)] == [2, 2]


@pytest.mark.parametrize("pts", [[0, None, 2], [None, None], [0, 1, 1]])
def test_timestamps_that_order_nothing(pts):
    index = make(pts, keys=[0])
    assert index.counted and not index.can_seek and index.num_frames == len(pts)
    assert index.start_of(len(pts) - 1) == 0
    assert (NO_STAMP in index.stamps) == (None in pts)
    assert [index.stamp_of(packet) for packet in (*range(len(pts)), len(pts), None)] == [*pts, None, None]


@pytest.fixture
def cached(tmp_path, make_video):
    """(path of a video, cache with its index)."""
    path = make_video(tmp_path / "a.mp4", num_frames=30, bf="2", preset="medium")
    with VideoReader(path, index_dir=tmp_path / "index"):
        pass
    return path, IndexCache(tmp_path / "index")


def test_cache_gives_back_what_it_took(cached):
    path, cache = cached
    index = cache.load(path)
    with VideoReader(path) as video:
        expected = video._index
    for name in ("stamps", "sizes", "keys", "position", "times"):
        assert (getattr(index, name) == getattr(expected, name)).all(), name
    assert (index.time_base, index.fps, index.geometry) == (expected.time_base, expected.fps, (32, 48, 0, False))


def test_later_openings_read_no_packets(cached, monkeypatch, frame_index):
    path, cache = cached
    monkeypatch.setattr("nlvideo.data.video.frame_decoder.scan_packets", pytest.fail)
    with VideoReader(path, index_dir=cache.folder) as video:
        assert (video.height, video.width, video.rotation, video.num_frames, video.num_decoded) == (32, 48, 0, 30, 0)
        assert [frame_index(frame) for frame in video.get_frames([29, 3, 14])] == [29, 3, 14]


def test_a_changed_file_is_indexed_anew(cached, make_video):
    path, cache = cached
    make_video(path, num_frames=12)
    assert cache.load(path) is None
    with VideoReader(path, index_dir=cache.folder) as video:
        assert video.num_frames == 12
    assert cache.load(path).num_frames == 12
    os.utime(path, (1, 1))
    assert cache.load(path) is None


@pytest.mark.parametrize("damage", [b"", b"{}\n", b"\xff\xfe", b"[1]\n", None])
def test_a_damaged_entry_is_replaced(cached, damage):
    path, cache = cached
    with open(cache.file_of(path), "rb") as file:
        data = file.read()
    with open(cache.file_of(path), "wb") as file:
        file.write(data[:-1] if damage is None else damage)
    assert cache.load(path) is None
    with VideoReader(path, index_dir=cache.folder) as video:
        assert video.num_frames == 30
    assert cache.load(path).num_frames == 30


@pytest.mark.parametrize("offset, value", [(-31 * 8, 10**6), (-9 * 8, 0)], ids=["frames", "times"])
def test_an_entry_with_impossible_values_is_replaced(cached, offset, value):
    path, cache = cached
    with open(cache.file_of(path), "rb+") as file:
        file.seek(offset, os.SEEK_END)
        file.write(value.to_bytes(8, "little"))
    assert cache.load(path) is None
    with VideoReader(path, index_dir=cache.folder) as video:
        assert video.get_frames([29]).shape == (1, 32, 48, 3)


def test_a_file_that_is_replaced_while_it_is_read(tmp_path, make_video, monkeypatch):
    path, cache = make_video(tmp_path / "a.mp4"), IndexCache(tmp_path / "index")
    real_open = VideoReader._open

    def open_and_replace(self, index, check=False):
        real_open(self, index, check)
        os.utime(path, (1, 1))

    monkeypatch.setattr(VideoReader, "_open", open_and_replace)
    with VideoReader(path, index_dir=cache.folder):
        assert os.path.exists(cache.file_of(path)) and cache.load(path) is None


def test_a_damaged_first_frame_costs_no_video(tmp_path, make_video, monkeypatch, frame_index):
    path, real = make_video(tmp_path / "a.mp4", num_frames=5), VideoReader.get_frames

    def get_frames(self, indices):
        if 0 in indices:
            raise VideoDecodeError(path, "the first frame is damaged")
        return real(self, indices)

    monkeypatch.setattr(VideoReader, "get_frames", get_frames)
    for _ in range(2):  # without and with its index
        with VideoReader(path, index_dir=tmp_path / "index") as video:
            assert frame_index(video.get_frames([3])[0]) == 3
    assert IndexCache(tmp_path / "index").load(path).geometry is None


def test_a_folder_that_cannot_be_written_costs_no_video(cached, tmp_path):
    path, _ = cached
    (tmp_path / "file").write_text("not a folder")
    with VideoReader(path, index_dir=tmp_path / "file") as video:
        assert video.num_frames == 30


def test_nothing_is_left_behind(cached):
    path, cache = cached
    left = [name for _, _, names in os.walk(cache.folder) for name in names]
    assert left == [os.path.basename(cache.file_of(path))]


def test_index_of_a_data_set(tmp_path, make_video, make_frames):
    paths = [make_video(tmp_path / f"{k}.mp4") for k in range(3)]
    (tmp_path / "bad.mp4").write_text("not a video")
    folder = make_frames(tmp_path / "frames", num_frames=2)
    everything = [*paths, paths[0], folder, str(tmp_path / "bad.mp4")]
    first = index_videos(everything, tmp_path / "index", num_workers=2)
    assert (first.num_indexed, first.num_known, first.num_slow) == (3, 0, 0)
    assert [path for path, _ in first.failed] == [str(tmp_path / "bad.mp4")]
    again = index_videos(everything, tmp_path / "index")
    assert (again.num_indexed, again.num_known, again.failed) == (0, 3, first.failed)


def test_members_of_a_shard_are_cached_too(tmp_path, make_video):
    videos = [Path(make_video(tmp_path / f"{count}.mp4", num_frames=count)).read_bytes() for count in (3, 5)]
    shard = tmp_path / "shard.tar"
    shard.write_bytes(b"".join(videos))
    places = [(0, len(videos[0])), (len(videos[0]), len(videos[1]))]
    for _ in range(2):
        for (offset, size), count in zip(places, (3, 5)):
            with VideoReader(member_path(str(shard), offset, size), index_dir=tmp_path / "index") as video:
                assert video.num_frames == count
    assert len(list((tmp_path / "index").rglob("*.index"))) == 2


def test_others_may_read_the_index(cached):
    """A shared folder of indices is made by one user and read by many, as far as the umask allows."""
    path, cache = cached
    os.unlink(cache.file_of(path))
    before = os.umask(0o022)
    try:
        with VideoReader(path, index_dir=cache.folder):
            pass
    finally:
        os.umask(before)
    assert os.stat(cache.file_of(path)).st_mode & 0o777 == 0o644
